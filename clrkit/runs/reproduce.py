"""The runs of a preset: which there are, where they are stored, and which of them to show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.fields import to_dict
from clrkit.experiments.grid import Preset
from clrkit.runs.store import CHECKOUT, Run, Store
from clrkit.runs.timing import seconds_expected, seconds_per_epoch

RESULTS_VARIABLE = "CLRKIT_RESULTS"  # environment variable: the results folder of a notebook's kernel
REFERENCE = "the committed reference"  # a source of evidence


def project_root() -> Path:
    """The folder with `notebooks/`: the working folder, one above it, or clrkit's checkout."""
    here = Path.cwd()
    candidates = [here, *here.parents, CHECKOUT]
    return next((folder for folder in candidates if list(folder.glob("notebooks/00_*.ipynb"))), here)


def open_store(preset: str) -> Store:
    """The store of a notebook: in CLRKIT_RESULTS if that is set, else in `results` of the project."""
    return Store(Path(os.environ.get(RESULTS_VARIABLE) or project_root() / "results"), preset)


@dataclass(frozen=True)
class Evidence:
    """Runs for figures and claims.

    Attributes:
        runs: finished runs of the preset.
        source: "own runs", "the committed reference" or "own runs, incomplete: ...".
    """

    runs: list[Run]
    source: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [run.record for run in self.runs]


def gather(preset: Preset, store: Store) -> Evidence:
    """The own runs if all exist, else the reference if it is complete, else the own runs that exist.

    Raises:
        ConfigError: if there are none at all.
    """
    refuse_empty(preset, store)
    wanted = complete(preset.runs)
    own = store.find_all(wanted)
    if len(own) == len(wanted):
        return Evidence(own, "own runs")
    reference = store.reference.find_all(wanted)
    if len(reference) == len(wanted):
        return Evidence(reference, REFERENCE)
    if not own:
        raise ConfigError(empty(preset, store))
    return Evidence(own, f"own runs, incomplete: {len(own)} of {len(wanted)}")


def refuse_empty(preset: Preset, store: Store) -> None:
    """Raise ConfigError if there are no runs at all. This does not read the data set, as run keys do."""
    if not store.folders() and not store.reference.folders():
        raise ConfigError(empty(preset, store))


def empty(preset: Preset, store: Store) -> str:
    return (
        f"{store.folder} holds no runs of preset {preset.name}; make them with: "
        f"python -m clrkit reproduce --preset {preset.name}"
    )


def complete(stages: Sequence[Stage]) -> list[Stage]:
    """The stages and all their parents, each once, parents first."""
    return list(dict.fromkeys(link for stage in stages for link in stage.chain))


def plan(stages: Sequence[Stage], store: Store) -> list[dict[str, Any]]:
    """One dict per run, parents included: stage, key, state, share done, expected seconds, config."""
    wanted = complete(stages)
    states = [store.state(stage) for stage in wanted]
    known = {} if all(state == "cached" for state, _ in states) else seconds_per_epoch(store, wanted)
    rows = []
    for stage, (state, share) in zip(wanted, states, strict=True):
        seconds = seconds_expected(stage, known) if state != "cached" else 0.0
        rows.append(
            {
                "stage": stage.name,
                "key": store.path(stage).name.rpartition("-")[2],
                "state": state,
                "share": round(share, 4),
                "seconds": None if seconds is None else round(seconds * (1 - share), 1),
                "config": to_dict(stage),
            }
        )
    return rows

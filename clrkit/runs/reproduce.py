"""The whole experiment: what the runs of a preset are, which are there, and how the others are made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrkit.config import Stage, to_dict
from clrkit.errors import ConfigError
from clrkit.experiments.grid import Preset
from clrkit.notebook.papermill import RESULTS_VARIABLE
from clrkit.runs.store import Run, Store
from clrkit.runs.timing import seconds_expected, seconds_per_epoch


def project_root() -> Path:
    """The folder with `notebooks/`: the working folder or one around it, else clrkit's checkout."""
    here = Path.cwd()
    candidates = [here, *here.parents, Path(__file__).parents[2]]
    return next((folder for folder in candidates if list(folder.glob("notebooks/00_*.ipynb"))), here)


def open_store(preset: str) -> Store:
    """The store a notebook uses: `results` in the project, or wherever a headless run says."""
    return Store(Path(os.environ.get(RESULTS_VARIABLE) or project_root() / "results"), preset)


REFERENCE = "the committed reference"


@dataclass(frozen=True)
class Evidence:
    """Runs to draw figures and conclusions from, and where they come from.

    Attributes:
        runs: finished runs of the preset.
        source: "own runs", "the committed reference" or "own runs, incomplete".
    """

    runs: list[Run]
    source: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [run.record for run in self.runs]


def gather(preset: Preset, store: Store) -> Evidence:
    """Own runs if the preset's are all there, else the reference, else the own ones there are.

    Raises:
        ConfigError: if there are neither.
    """
    refuse_empty(preset, store)
    wanted = complete(preset.runs)
    own, reference = store.find_all(wanted), store.reference.find_all(wanted)
    if len(own) == len(wanted):
        return Evidence(own, "own runs")
    if len(reference) == len(wanted):
        return Evidence(reference, REFERENCE)
    if not own:
        raise ConfigError(empty(preset, store))
    return Evidence(own, f"own runs, incomplete: {len(own)} of {len(wanted)}")


def refuse_empty(preset: Preset, store: Store) -> None:
    """Raise ConfigError where there is no run at all: without the data set, which names the runs."""
    if not store.folders() and not store.reference.folders():
        raise ConfigError(empty(preset, store))


def empty(preset: Preset, store: Store) -> str:
    return (
        f"{store.folder} holds no runs of preset {preset.name}; make them with: "
        f"python -m clrkit reproduce --preset {preset.name}"
    )


def complete(stages: Sequence[Stage]) -> list[Stage]:
    """The stages and all they build on, each once, parents first."""
    return list(dict.fromkeys(link for stage in stages for link in stage.chain))


def plan(stages: Sequence[Stage], store: Store) -> list[dict[str, Any]]:
    """What making these runs would take: per run its stage, key, state, share done and expected seconds."""
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

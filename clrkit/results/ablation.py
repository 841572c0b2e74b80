"""Ablations: what is recorded along one setting while the others are fixed, what is missing, what is best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clrkit.config import Stage
from clrkit.errors import ConfigError, known
from clrkit.experiments.ablation_settings import (
    FACTORS,
    OUTCOMES,
    Point,
    depends,
    network_of,
    run_at,
    standard_point,
    supervised_at,
    text_of,
    values_in,
)
from clrkit.experiments.grid import Preset
from clrkit.results.records import links
from clrkit.results.statistics import SEEDS_NEEDED, mean_and_error, mean_and_half_width
from clrkit.results.text import decimal
from clrkit.runs.checksums import ChecksumError
from clrkit.runs.store import Run, Store, progress_noted, read_run
from clrkit.runs.timing import Kind, median_seconds, seconds_expected

RunsByValue = list[tuple[Any, Run]]  # runs, each with the setting's value


class Recorded:
    """The finished runs of a store and its reference. Each is read once; `refresh` reads new ones."""

    def __init__(self, store: Store) -> None:
        self.store, self.reference = store, store.reference
        self.runs: dict[Any, Run | None] = {}
        self.names: dict[Stage, str] = {}
        self.times: dict[Kind, float] = {}
        self.damaged: dict[Path, str] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look for new and deleted runs; return whether there may be any. Damaged runs are left out."""
        folders = [*self.reference.folders(), *self.store.folders()]
        if folders == [*self.runs] and not self.damaged:
            return False
        self.damaged = {}
        self.runs = {folder: self.runs.get(folder) or self.read(folder) for folder in folders}
        self.times = median_seconds(run for run in self.runs.values() if run)
        return True

    def read(self, folder: Path) -> Run | None:
        """Read a run; None, with a note, if it is damaged."""
        try:
            return read_run(folder)
        except ChecksumError as damage:
            self.damaged[folder] = damage.problem
            return None

    @property
    def left_out(self) -> str:
        """A sentence on the damaged runs; empty without any."""
        if not self.damaged:
            return ""
        first, more = next(iter(self.damaged.values())), len(self.damaged) - 1
        others = f", and {more} more {'is' if more == 1 else 'are'} damaged" if more else ""
        return f"{first}{others}; left out here, see: python -m clrkit check."

    @property
    def own_runs(self) -> list[Run]:
        """The runs of the store itself."""
        return [run for folder, run in self.runs.items() if run and folder.parent == self.store.runs]

    def find(self, config: Stage) -> Run | None:
        """The store's run, or else the reference's."""
        return self.own(config) or self.runs.get(self.reference.runs / self.name(config))

    def own(self, config: Stage) -> Run | None:
        """The store's run."""
        return self.runs.get(self.store.runs / self.name(config))

    def name(self, config: Stage) -> str:
        """The name of a run's folder."""
        if config not in self.names:
            self.names[config] = self.store.path(config).name
        return self.names[config]

    def todo(self, configs: Iterable[Stage]) -> tuple[list[Stage], float | None]:
        """The runs still to make, in order, and the seconds that takes, if known."""
        links = dict.fromkeys(chain.from_iterable(config.chain for config in configs))
        lacking = [link for link in links if not self.own(link)]
        seconds = [seconds_expected(link, self.times) for link in lacking]
        if None in seconds:
            return lacking, None
        noted = [progress_noted(self.store.runs / self.name(link)) or (0, 1) for link in lacking]
        left = [1 - step / total for step, total in noted]
        return lacking, sum(each * (whole or 0.0) for each, whole in zip(left, seconds, strict=True))


@dataclass(frozen=True)
class Series:
    """The runs along one setting.

    Attributes:
        outcome: what is measured.
        along: the setting that varies.
        held: values of the other settings.
        runs: recorded runs that measure the outcome.
        supervised: runs of the same network on the labels alone.
        missing: runs that are not recorded, with the setting's value.
        sources: where the recorded runs come from.
    """

    outcome: str
    along: str
    held: Point
    runs: RunsByValue
    supervised: RunsByValue
    missing: list[tuple[Any, Stage]]
    sources: str

    @property
    def cells(self) -> pd.DataFrame:
        """Mean, standard error and seeds by value."""
        return summary(self.runs)

    @property
    def lacking(self) -> list[Any]:
        """Values for which seeds are missing."""
        return list(dict.fromkeys(value for value, _ in self.missing))


@dataclass(frozen=True)
class Ablation:
    """The settings of a preset's runs, and the values each may take, rising."""

    preset: Preset
    recorded: Recorded
    choices: Mapping[str, tuple[Any, ...]]
    configs: dict[Any, Stage | None] = field(default_factory=dict, repr=False)

    @property
    def standard(self) -> dict[str, Any]:
        """The preset's value of every setting."""
        return standard_point(self.preset)

    @property
    def varied(self) -> list[str]:
        """The settings with more than one value."""
        return [name for name, values in self.choices.items() if len(values) > 1]

    def series(self, outcome: str, along: str, **held: Any) -> Series:
        """The runs along a setting; settings not given in `held` have the preset's value.

        Raises:
            ConfigError: for an unknown outcome or setting, naming the nearest, or one the outcome does not
                depend on.
        """
        known(outcome, [*OUTCOMES], "outcome")
        for name in (along, *held):
            known(name, [*FACTORS], "setting")
        if not depends(outcome, along):
            raise ConfigError(f"The {OUTCOMES[outcome]} does not depend on {along}.")
        held = {**self.standard, **held}
        points = [(value, {**held, along: value}) for value in self.choices[along]]
        wanted = [(value, config) for value, point in points for config in self.at(outcome, point) if config]
        runs = [(value, run) for value, config in wanted if (run := self.recorded.find(config))]
        missing = [(value, config) for value, config in wanted if not self.recorded.find(config)]
        alone = [(value, run) for value, point in points for run in self.alone(outcome, point)]
        return Series(outcome, along, held, runs, alone, missing, self.sources(runs))

    def at(self, outcome: str, point: Point) -> list[Stage | None]:
        """The runs of a point, each once; None if the head has no such layer."""
        needed = {name: value for name, value in point.items() if depends(outcome, name)}
        return list(dict.fromkeys(self.config(outcome, needed, seed) for seed in self.preset.grid.seeds))

    def config(self, outcome: str, point: Point, seed: int) -> Stage | None:
        """The run of a point and seed, computed once."""
        place = (outcome, seed, *point.items())
        if place not in self.configs:
            alone = outcome == "supervised"
            make = partial(supervised_at, self.preset) if alone else partial(run_at, self.preset, outcome)
            self.configs[place] = make(point, seed)
        return self.configs[place]

    def alone(self, outcome: str, point: Point) -> list[Run]:
        """Supervised runs of the network that is measured; none for a probe, which uses all labels."""
        if outcome == "linear":
            return []
        width = network_of(self.preset).width if outcome == "distilled" else point["width"]
        about = {"fraction": point["fraction"], "width": width}
        configs = [self.config("supervised", about, seed) for seed in self.preset.grid.seeds]
        return [run for config in configs if config and (run := self.recorded.find(config))]

    def sources(self, runs: RunsByValue) -> str:
        """The owners of runs, in words."""
        own = {run.folder.parent == self.recorded.store.runs for _, run in runs}
        names = {True: "own runs", False: "the committed reference"}
        return " and ".join(name for key, name in names.items() if key in own)

    def says(self, series: Series) -> str:
        """The best value of a series, or those it cannot be distinguished from, and which runs are missing.

        Values with fewer seeds than others are left out. One value is called best only if the 95% interval
        (Student's t over paired seeds) of its lead over every other value is above 0. This needs no
        correction for the number of values: it happens by chance in at most 5% of cases, which is reached if
        two values are equally good. Fewer than three seeds decide nothing.
        """
        lacking = ", ".join(text_of(series.along, value) for value in series.lacking)
        return self.best(series) + (f" Runs are missing at {lacking}." if lacking and series.runs else "")

    def best(self, series: Series) -> str:
        """A sentence on the best value and its lead, or on the values it cannot be distinguished from."""
        cells = series.cells.sort_values("mean", ascending=False, ignore_index=True)
        if cells.empty:
            return "Nothing is recorded here."
        cells = cells[cells["seeds"] == cells["seeds"].max()]
        best, *others = cells["value"]
        named = {
            value: f"{text_of(series.along, value)} ({decimal(mean)}%)"
            for value, mean in zip(cells["value"], cells["mean"], strict=True)
        }
        if not others:
            return f"Only {named[best]} is recorded."
        leads = {other: paired_leads(series.runs, best, other) for other in others}
        fewest = min(map(len, leads.values()))
        if fewest < SEEDS_NEEDED:
            seeds = "no seed" if not fewest else "1 seed" if fewest == 1 else f"{fewest} seeds"
            return (
                f"{named[best]} is highest, over {seeds} in common; fewer than {SEEDS_NEEDED} decide nothing."
            )
        image = 100 / series.runs[0][1].record["dataset"]["evaluation"]
        if alike := [named[other] for other in others if not leads_by_more(leads[other], image)]:
            return f"{named[best]} is highest; not distinguishable over {fewest} seeds: {', '.join(alike)}."
        lead, half = mean_and_half_width(leads[others[0]])
        interval = f"{decimal(lead)} ± {decimal(half)} points (95% interval, {fewest} seeds)"
        return f"{named[best]} is best, {interval} above the next, {named[others[0]]}."


def leads_by_more(leads: Sequence[float] | np.ndarray, image: float) -> bool:
    """Whether the 95% interval of a lead is above 0, and the lead larger than one test image (percent)."""
    mean, half_width = mean_and_half_width(leads)
    return mean > max(half_width, image + 1e-9)


def ablation(preset: Preset, store: Store, **tried: Any) -> Ablation:
    """Every value of a setting in the preset or in own runs, and further values to try.

    Raises:
        ConfigError: for an unknown setting, naming the nearest, or a value it cannot have.
    """
    recorded, standard = Recorded(store), standard_point(preset)
    points = [standard, *(values_in(run.record["stage"], run.record["config"]) for run in recorded.own_runs)]
    for name, value in tried.items():
        known(name, [*FACTORS], "setting")
        if value is not None:
            run_at(preset, "distilled", {name: value}, seed=0)
            points.append({name: type(standard[name])(value)})
    values = {name: {point[name] for point in points if name in point} for name in FACTORS}
    grid = preset.grid
    values["fraction"] |= {each.fraction for each in grid.labelled}
    values["head_layers"] |= {*grid.head_layers}
    values["tap_layer"] |= {*grid.tap_layers}
    values["width"] |= {network.width for network in grid.networks}
    values["memory"] |= {False, True} if grid.memory_size else set()
    for cross in grid.ablations:
        for name, each in cross.settings.items():
            values[name] |= {*each}
    return Ablation(preset, recorded, {name: tuple(sorted(found)) for name, found in values.items()})


def summary(runs: RunsByValue, metric: str = "top1") -> pd.DataFrame:
    """Columns `value`, `mean` (%), `stderr` and `seeds`, in the order of the values in `runs`."""
    rows = [(value, 100 * run.metrics[metric]) for value, run in runs]
    cells = pd.DataFrame(rows, columns=["value", "accuracy"]).astype({"value": object, "accuracy": float})
    return mean_and_error(cells.groupby("value", sort=False)["accuracy"]).astype({"value": object})


def paired_leads(runs: RunsByValue, one: Any, other: Any) -> list[float]:
    """How much (points) one value's accuracy exceeds another's, for each seed that both have.

    Between different pretrainings, seeds on the same one share its luck: their leads are averaged.
    """
    found = {(value, run.record["config"]["seed"]): run for value, run in runs}
    leads = defaultdict[int, list[float]](list)
    for seed in [seed for value, seed in found if value == one and (other, seed) in found]:
        high, low = found[one, seed], found[other, seed]
        base, other_base = (links(run.record["config"])[-1] for run in (high, low))
        lead = 100 * (high.metrics["top1"] - low.metrics["top1"])
        leads[seed if base == other_base else base["seed"]].append(lead)
    return [float(np.mean(each)) for each in leads.values()]


def ablation_runs_found(preset: Preset, store: Store) -> dict[Stage, Run]:
    """The finished runs of the preset's ablation grid: the store's, or else the reference's."""
    wanted = [run for point in grid_points(preset) for run in runs_at(preset, *point)]
    found = ((config, store.find(config) or store.reference.find(config)) for config in wanted)
    return {config: run for config, run in found if run}


def grid_points(preset: Preset) -> Iterator[tuple[str, str, Any]]:
    """Setting, outcome and value of every point along an axis of the preset's ablation grid."""
    for name in FACTORS:
        for outcome in OUTCOMES:
            crosses = [cross for cross in preset.grid.ablations if outcome in cross.outcomes]
            values = {each for cross in crosses for each in cross.settings.get(name, ())}
            if depends(outcome, name):
                yield from ((name, outcome, each) for each in sorted(values))


def runs_at(preset: Preset, name: str, outcome: str, each: Any) -> list[Stage]:
    """The runs of a point, each once; none if the head has no such layer."""
    runs = (run_at(preset, outcome, {name: each}, seed) for seed in preset.grid.seeds)
    return list(dict.fromkeys(run for run in runs if run))

"""Fine-tuned accuracy along one setting, the others held: what is recorded, what is missing, its figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from clrkit.config import Finetune, Stage, Supervised, known, locate, to_dict, with_fields
from clrkit.drawing import FINETUNED, SUPERVISED, Drawing, canvas, line
from clrkit.figures import TOP1, caption, listed
from clrkit.frames import fraction_name, frame, summarise
from clrkit.grid import Preset
from clrkit.runs import Run, Store

# Names of the settings, and where they are in a fine-tuned run. A head's depth comes before its tap layer:
# a layer that the head does not have is an error.
FIELDS = {
    "fraction": "fraction",
    "head_layers": "pretrain.head_layers",
    "tap_layer": "tap_layer",
    "width": "pretrain.width",
    "temperature": "pretrain.temperature",
    "color_strength": "pretrain.color_strength",
}
MEANINGS = {
    "fraction": "labels",
    "head_layers": "layers of the projection head",
    "tap_layer": "head layer started from (0: encoder's output)",
    "width": "width of the network",
    "temperature": "temperature of NT-Xent",
    "color_strength": "strength of the colour distortion",
}

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """The runs along one setting, each with the setting's value.

    Attributes:
        along: the setting.
        held: values of all settings where they are not varied.
        tuned, supervised: the recorded runs.
        missing: the fine-tuned runs that are not recorded.
        sources: where the recorded ones come from.
    """

    along: str
    held: Point
    tuned: list[tuple[Any, Run]]
    supervised: list[tuple[Any, Run]]
    missing: list[tuple[Any, Finetune]]
    sources: str


@dataclass(frozen=True)
class Ablation:
    """The settings of a preset's fine-tuned runs, and the values each may take, rising."""

    experiment: Preset
    store: Store
    choices: Mapping[str, tuple[Any, ...]]

    @property
    def standard(self) -> dict[str, Any]:
        """The preset's value of every setting; the network is the one whose head it varies."""
        values = to_dict(self.experiment.finetune)
        width = self.experiment.grid.networks[0].width
        return {name: value_of(values, name) for name in FIELDS} | {"width": width}

    @property
    def varied(self) -> list[str]:
        """The settings with more than one value."""
        return [name for name, values in self.choices.items() if len(values) > 1]

    def series(self, along: str, **held: Any) -> Series:
        """What is recorded along a setting. Settings that are not held have the preset's value.

        Raises:
            ConfigError: for an unknown setting, naming the nearest.
        """
        for name in (along, *held):
            known(name, list(FIELDS), "setting")
        held = {**self.standard, **held}
        points = [(value, {**held, along: value}) for value in self.choices[along]]
        wanted = [(value, config) for value, point in points for config in self.tuned(point)]
        alone = [(value, config) for value, point in points for config in self.supervised(point)]
        tuned = [(value, run) for value, config in wanted if (run := self.find(config))]
        supervised = [(value, run) for value, config in alone if (run := self.find(config))]
        missing = [(value, config) for value, config in wanted if not self.find(config)]
        return Series(along, held, tuned, supervised, missing, self.sources(run for _, run in tuned))

    def find(self, config: Stage) -> Run | None:
        """The own run, else the reference's."""
        return self.store.find(config) or self.store.reference.find(config)

    def sources(self, runs: Iterator[Run]) -> str:
        """Where runs come from, in words."""
        own = {run.folder.parent == self.store.runs for run in runs}
        names = {True: "own runs", False: "the committed reference"}
        return " and ".join(name for key, name in names.items() if key in own)

    def tuned(self, point: Point) -> Iterator[Finetune]:
        """The fine-tuned runs of a point, one a seed; none where the head has no such layer."""
        if point["tap_layer"] > point["head_layers"]:
            return
        changes = {field: point[name] for name, field in FIELDS.items()} | self.recipe(point)
        for seed in self.experiment.grid.seeds:
            yield with_fields(self.experiment.finetune, {**changes, "seed": seed})

    def supervised(self, point: Point) -> Iterator[Supervised]:
        """The same network trained on the labels alone, one run a seed."""
        for seed in self.experiment.grid.seeds:
            changes = {"width": point["width"], **self.recipe(point), "seed": seed}
            yield with_fields(self.experiment.supervised, changes)

    def recipe(self, point: Point) -> dict[str, Any]:
        """Fraction, epochs and batch size, which go together in a preset."""
        recipes = {each.fraction: asdict(each) for each in self.experiment.grid.labelled}
        return recipes.get(point["fraction"], {"fraction": point["fraction"]})

    def draw(self, series: Series) -> Drawing:
        """The mean over seeds with bars of one standard error; hollow markers where runs are missing."""
        tuned, supervised = summary(series.tuned), summary(series.supervised)
        places = {value: place for place, value in enumerate(self.choices[series.along])}
        title = f"Fine-tuned accuracy by {series.along.replace('_', ' ')}"
        with canvas(title, self.subtitle(series, tuned), height=4.0) as (figure, (axes,)):
            for cells, look, name in (
                (supervised, SUPERVISED, "supervised"),
                (tuned, FINETUNED, "pretrained, then fine-tuned"),
            ):
                if len(cells):
                    line(axes, cells["value"].map(places), cells, look, label=name)
            mark_missing(axes, sorted({places[value] for value, _ in series.missing}))
            axes.set_xticks(range(len(places)), [label(series.along, value) for value in places])
            axes.set(
                xlim=(-0.4, len(places) - 0.6), ylim=(0, 100), xlabel=MEANINGS[series.along], ylabel=TOP1
            )
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3)
        cells = pd.concat([tuned.assign(method="fine-tuned"), supervised.assign(method="supervised")])
        return Drawing("ablation", title, figure, cells, self.alt(series, tuned))

    def subtitle(self, series: Series, cells: pd.DataFrame) -> str:
        held = [f"{name} {label(name, series.held[name])}" for name in self.varied if name != series.along]
        if not len(cells):
            return f"no runs are recorded here; {', '.join(held)}"
        runs = frame(run.record for _, run in series.tuned)
        return f"{caption(runs, self.experiment.name, cells)}\n{', '.join([series.sources, *held])}"

    def alt(self, series: Series, cells: pd.DataFrame) -> str:
        known_points = listed((label(series.along, value) for value in cells["value"]), cells["mean"])
        runs = len(series.missing)
        lacking = f" {runs} run{'s are' if runs > 1 else ' is'} missing." if runs else ""
        return f"Fine-tuned accuracy by {series.along}: {known_points or 'nothing is recorded'}.{lacking}"


def ablation(experiment: Preset, store: Store, **tried: Any) -> Ablation:
    """Every value that a setting has in the preset or in own runs, and values that are to be `tried`.

    Raises:
        ConfigError: for an unknown setting, naming the nearest, or a value it cannot have.
    """
    grid = experiment.grid
    records = [to_dict(experiment.finetune)]
    records += [run.record["config"] for run in store.all() if run.record["stage"] == "finetune"]
    values = {name: {value_of(record, name) for record in records} for name in FIELDS}
    values["fraction"] |= {each.fraction for each in grid.labelled}
    values["head_layers"] |= set(grid.head_layers)
    values["tap_layer"] |= set(grid.tap_layers)
    values["width"] |= {network.width for network in grid.networks}
    for name, value in tried.items():
        known(name, list(FIELDS), "setting")
        if value is not None:
            config = with_fields(experiment.finetune, {FIELDS[name]: value})
            values[name].add(value_of(to_dict(config), name))
    return Ablation(experiment, store, {name: tuple(sorted(found)) for name, found in values.items()})


def value_of(config: Mapping[str, Any], name: str) -> Any:
    """A setting's value in a fine-tuned run's config, given as a dict."""
    return reduce(lambda inner, field: inner[field], locate(Finetune(), FIELDS[name]), config)


def label(name: str, value: Any) -> str:
    return fraction_name(value) if name == "fraction" else f"{value:g}"


def summary(runs: Sequence[tuple[Any, Run]]) -> pd.DataFrame:
    """Mean, standard error and seeds by value."""
    if not runs:
        return pd.DataFrame(columns=["value", "mean", "stderr", "seeds"])
    # One by one, since a frame of many has an order of its own.
    rows = [frame([run.record]).assign(value=value) for value, run in runs]
    return summarise(pd.concat(rows, ignore_index=True), ["value"])


def mark_missing(axes: Axes, places: Sequence[int]) -> None:
    """Hollow markers on the axis where runs are missing."""
    style: Any = {"color": FINETUNED.color, "mfc": "white", "marker": FINETUNED.marker, "ls": ""}
    if places:
        at = axes.get_xaxis_transform()
        axes.plot(places, [0.04] * len(places), transform=at, label="runs are missing", **style)

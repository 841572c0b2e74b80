"""The settings that the ablation lab varies: name, address, and the runs at a point of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import product
from operator import getitem
from typing import Any

from clrkit.config import Distill, Network, Stage, Supervised
from clrkit.errors import known
from clrkit.experiments.fields import locate, to_dict, with_fields
from clrkit.experiments.grid import AblationGrid, Preset

Point = Mapping[str, Any]

# What is measured, with the number of stages it depends on: pretraining, fine-tuning, distillation.
OUTCOMES = {"linear": "linear probe", "finetuned": "fine-tuned", "distilled": "distilled student"}
CHAIN = ("pretrain", "finetune", "distill")
CHAIN_LENGTHS = {"linear": 1, "finetuned": 2, "distilled": 3}
# Where the configs of recorded stages lie in that of a distilled run.
PLACES = {"pretrain": ("teacher", "pretrain"), "probe": ("teacher",), "finetune": ("teacher",), "distill": ()}


@dataclass(frozen=True)
class Factor:
    """A setting that can be varied.

    Attributes:
        field: its address, see `clrkit.experiments.fields`.
        name: label of a control.
        meaning: label of an axis.
    """

    field: str
    name: str
    meaning: str


# The head's depth stands before the tap layer: a tap layer beyond the head is an error.
FACTORS = {
    "fraction": Factor("finetune.fraction", "label fraction", "labels"),
    "head_layers": Factor("pretrain.head_layers", "head depth", "layers of the projection head"),
    "tap_layer": Factor("finetune.tap_layer", "start layer", "head layer started from (0: encoder)"),
    "width": Factor("pretrain.width", "network size", "width of the pretrained network"),
    "temperature": Factor("pretrain.temperature", "temperature", "temperature of NT-Xent"),
    "color_strength": Factor(
        "pretrain.color_strength", "colour strength", "strength of the colour distortion"
    ),
    "crop_area": Factor("pretrain.crop_area", "crop area", "smallest crop, part of the image"),
    "batch_size": Factor("pretrain.batch_size", "batch size", "images in a batch of pretraining"),
    "memory": Factor("pretrain.memory", "memory", "memory of further negatives"),
    "distill_temperature": Factor(
        "distill.temperature", "distill temperature", "temperature of distillation"
    ),
    "label_weight": Factor(
        "distill.label_weight", "distill mix", "weight of the labels in distillation (1 - alpha)"
    ),
}


def text_of(name: str, value: Any) -> str:
    """The value of a setting for readers, such as "10%" or "0.5x"."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name in ("fraction", "crop_area"):
        return f"{100 * value:g}%"
    return f"{value:g}x" if name == "width" else f"{value:g}"


def depends(outcome: str, setting: str) -> bool:
    """True if an outcome depends on a setting."""
    stage, _, _ = FACTORS[setting].field.partition(".")
    return stage in CHAIN[: CHAIN_LENGTHS[outcome]]


def network_of(preset: Preset) -> Network:
    """The network that the lab varies; also the student of its distillation."""
    return preset.grid.ablated or preset.grid.networks[0]


def standard_point(preset: Preset) -> dict[str, Any]:
    """The preset's value of every setting."""
    return values_in("distill", to_dict(preset.distill)) | {"width": network_of(preset).width}


def values_in(stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a recorded config, given as a dict, has a value of."""
    found = {}
    for name, factor in FACTORS.items():
        path, place = locate(Distill(), factor.field), PLACES.get(stage)
        if place is not None and path[: len(place)] == place:
            with suppress(KeyError):
                found[name] = reduce(getitem, path[len(place) :], config)
    return found


def run_at(preset: Preset, outcome: str, point: Point, seed: int) -> Stage | None:
    """The run that measures an outcome at a point; settings that are not given have the preset's value.

    None if the head has no such tap layer.

    Raises:
        ConfigError: for an unknown outcome or setting, or an impossible value.
    """
    known(outcome, [*OUTCOMES], "outcome")
    for name in point:
        known(name, [*FACTORS], "setting")
    point = {**standard_point(preset), **point}
    if outcome != "linear" and point["tap_layer"] > point["head_layers"]:
        return None
    changes = {FACTORS[name].field: value for name, value in point.items() if depends(outcome, name)}
    changes |= {f"finetune.{name}": value for name, value in recipe(preset, point["fraction"]).items()}
    changes |= {"seed": seed, "pretrain.seed": preset.grid.pretrain_seed}
    if point["memory"]:
        changes["pretrain.memory_size"] = preset.grid.memory_size
        changes["pretrain.memory_momentum"] = preset.grid.memory_momentum
    network = network_of(preset)
    teacher = replace(preset.finetune, pretrain=replace(preset.pretrain, network=network))
    whole = with_fields(replace(preset.distill, teacher=teacher, network=network), changes)
    if outcome == "linear":
        return preset.probed(whole.teacher.pretrain)
    return whole.teacher if outcome == "finetuned" else whole


def supervised_at(preset: Preset, point: Point, seed: int) -> Supervised:
    """The same network trained on the labels alone."""
    network = replace(network_of(preset), width=point["width"])
    changes = {**recipe(preset, point["fraction"]), "seed": seed}
    return with_fields(replace(preset.supervised, network=network), changes)


def recipe(preset: Preset, fraction: float) -> dict[str, Any]:
    """Fraction, epochs and batch size, which a preset sets together."""
    recipes = {each.fraction: asdict(each) for each in preset.grid.labelled}
    return recipes.get(fraction, {"fraction": fraction})


def ablation_runs(preset: Preset) -> tuple[Stage, ...]:
    """Every run of the lab's recorded grid."""
    return tuple(dict.fromkeys(run for cross in preset.grid.ablations for run in runs_of(preset, cross)))


def with_ablations(preset: Preset, wanted: bool) -> tuple[Stage, ...]:
    """Every run of a preset, with those of the lab's grid if they are wanted."""
    return (*preset.runs, *(ablation_runs(preset) if wanted else ()))


def runs_of(preset: Preset, cross: AblationGrid) -> Iterator[Stage]:
    for seed, values in product(preset.grid.seeds, product(*cross.settings.values())):
        point = dict(zip(cross.settings, values, strict=True))
        for outcome in cross.outcomes:
            if run := run_at(preset, outcome, point, seed):
                yield run

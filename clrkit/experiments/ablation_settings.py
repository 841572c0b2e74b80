"""The settings of the ablation lab: what each is called, where it is in a run, and the runs at a point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import product
from typing import Any

from clrkit.config import Distill, Network, Stage, Supervised, known, to_dict
from clrkit.experiments.fields import locate, with_fields
from clrkit.experiments.grid import AblationGrid, Preset

Point = Mapping[str, Any]

# What is measured, from the stage nearest to pretraining on: a later one depends on more settings.
OUTCOMES = {"linear": "linear probe", "finetuned": "fine-tuned", "distilled": "distilled student"}
FIRST_PARTS = {"linear": "teacher.pretrain.", "finetuned": "teacher.", "distilled": ""}


@dataclass(frozen=True)
class Factor:
    """A setting one may vary.

    Attributes:
        field: its place in a distilled run, which holds the runs it builds on.
        name: for a control.
        meaning: for the axis of a figure.
    """

    field: str
    name: str
    meaning: str


# A head's depth comes before its tap layer: a layer that the head does not have is an error.
FACTORS = {
    "fraction": Factor("teacher.fraction", "label fraction", "labels"),
    "head_layers": Factor("teacher.pretrain.head_layers", "head depth", "layers of the projection head"),
    "tap_layer": Factor("teacher.tap_layer", "start layer", "head layer started from (0: encoder)"),
    "width": Factor("teacher.pretrain.network.width", "network size", "width of the pretrained network"),
    "temperature": Factor("teacher.pretrain.temperature", "temperature", "temperature of NT-Xent"),
    "color_strength": Factor(
        "teacher.pretrain.augmentation.color_strength", "colour strength", "strength of the colour distortion"
    ),
    "crop_area": Factor(
        "teacher.pretrain.augmentation.crop_area", "crop area", "smallest crop, part of the image"
    ),
    "batch_size": Factor("teacher.pretrain.batch_size", "batch size", "images in a batch of pretraining"),
    "memory": Factor("teacher.pretrain.memory", "memory", "memory of further negatives"),
    "distill_temperature": Factor("temperature", "distill temperature", "temperature of distillation"),
    "label_weight": Factor("label_weight", "distill mix", "weight of the labels in distillation (1 - alpha)"),
}


def text_of(name: str, value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name in ("fraction", "crop_area"):
        return f"{100 * value:g}%"
    return f"{value:g}x" if name == "width" else f"{value:g}"


def depends(outcome: str, setting: str) -> bool:
    """Whether what is measured depends on a setting."""
    return FACTORS[setting].field.startswith(FIRST_PARTS[outcome])


def network_of(preset: Preset) -> Network:
    """The network that the lab varies, and the student of its distillation."""
    return preset.grid.ablated or preset.grid.networks[0]


def standard_point(preset: Preset) -> dict[str, Any]:
    """The preset's value of every setting."""
    values = to_dict(preset.distill)
    return {name: value_of(values, name) for name in FACTORS} | {"width": network_of(preset).width}


def value_of(distilled: Mapping[str, Any], name: str) -> Any:
    """A setting's value in a distilled run's config, given as a dict."""
    return reduce(lambda inner, field: inner[field], locate(Distill(), FACTORS[name].field), distilled)


def values_in(stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a recorded run's config, given as a dict, has a value of."""
    place = {"pretrain": "teacher.pretrain.", "probe": "teacher.", "finetune": "teacher.", "distill": ""}
    found = {}
    for name, setting in FACTORS.items():
        if stage in place and setting.field.startswith(place[stage]):
            with suppress(KeyError):
                path = locate(Distill(), setting.field)[place[stage].count(".") :]
                found[name] = reduce(lambda inner, field: inner[field], path, config)
    return found


def run_at(preset: Preset, outcome: str, point: Point, seed: int) -> Stage | None:
    """The run that measures an outcome at a point, where settings not given have the preset's value.

    None where the head has no layer of that number.

    Raises:
        ConfigError: for an unknown outcome or setting, naming the nearest, or an impossible value.
    """
    known(outcome, [*OUTCOMES], "outcome")
    for name in point:
        known(name, [*FACTORS], "setting")
    point = {**standard_point(preset), **point}
    if outcome != "linear" and point["tap_layer"] > point["head_layers"]:
        return None
    changes = {FACTORS[name].field: value for name, value in point.items() if depends(outcome, name)}
    changes |= {f"teacher.{name}": value for name, value in recipe(preset, point["fraction"]).items()}
    if point["memory"]:
        changes["teacher.pretrain.memory_size"] = preset.grid.memory_size
        changes["teacher.pretrain.memory_momentum"] = preset.grid.memory_momentum
    network, seeds = network_of(preset), {"seed": seed, "pretrain.seed": preset.grid.pretrain_seed}
    teacher = replace(preset.finetune, pretrain=replace(preset.pretrain, network=network))
    whole = with_fields(replace(preset.distill, teacher=teacher, network=network), {**changes, **seeds})
    if outcome == "linear":
        return preset.probed(whole.teacher.pretrain)
    return whole.teacher if outcome == "finetuned" else whole


def supervised_at(preset: Preset, point: Point, seed: int) -> Supervised:
    """The same network trained on the labels alone."""
    network = replace(network_of(preset), width=point["width"])
    return with_fields(
        replace(preset.supervised, network=network), {**recipe(preset, point["fraction"]), "seed": seed}
    )


def recipe(preset: Preset, fraction: float) -> dict[str, Any]:
    """Fraction, epochs and batch size, which go together in a preset."""
    recipes = {each.fraction: asdict(each) for each in preset.grid.labelled}
    return recipes.get(fraction, {"fraction": fraction})


def ablation_runs(preset: Preset) -> tuple[Stage, ...]:
    """Every run of the lab's recorded grid."""
    found = (run for cross in preset.grid.ablations for run in runs_of(preset, cross))
    return tuple(dict.fromkeys(found))


def with_ablations(preset: Preset, wanted: bool) -> tuple[Stage, ...]:
    """Every run of a preset, and where they are wanted those of the lab's grid."""
    return (*preset.runs, *(ablation_runs(preset) if wanted else ()))


def runs_of(preset: Preset, cross: AblationGrid) -> Iterator[Stage]:
    for seed, values in product(preset.grid.seeds, product(*cross.settings.values())):
        point = dict(zip(cross.settings, values, strict=True))
        for outcome in cross.outcomes:
            if run := run_at(preset, outcome, point, seed):
                yield run

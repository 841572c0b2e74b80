"""What a run is: every setting in frozen dataclasses, one per stage.

A stage's config contains the config of the stage it builds on (`Finetune.pretrain`, `Distill.teacher`), so
it describes the whole chain and its key changes with anything upstream. Base learning rates are stored;
scaled ones are derived. Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, get_type_hints

from clrkit.errors import ConfigError

DATASETS = ("tinted_mnist", "cifar10", "cifar100", "stl10", "imagenet", "folder", "images")
TORCHVISION = "torchvision:"  # begins the name of any other classification set of torchvision
Resize = Literal["tf2", "tf1"]  # of evaluation views, see clrkit.data.resize
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def setting(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    choices: tuple[Any, ...] = (),
    prefix: str = "",
    keyed: bool = True,
    added: bool = False,
    needs: str = "",
) -> Any:
    """A field with its meaning and bounds: `low` <= value <= `high`, value > `above`.

    `prefix` begins further values besides `choices`. `keyed` is false where the field does not change the
    mathematics. `added` is a field that runs were recorded without: at its default, which must never change,
    it does what was done before. `needs` names a field without which this one does nothing.
    """
    bounds = {"help": help, "low": low, "high": high, "above": above, "choices": choices, "prefix": prefix}
    return field(default=default, metadata=bounds | {"keyed": keyed, "added": added, "needs": needs})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs: checks types and bounds; an integer where a float is meant becomes one."""

    def __post_init__(self) -> None:
        hints = types_of(type(self))  # type: ignore[arg-type]
        for item in fields(self):
            value, wanted = getattr(self, item.name), hints[item.name]
            if wanted is float and type(value) in (int, float):
                try:
                    value = float(value) + 0.0  # -0 as 0, so that equal configs have equal keys
                except OverflowError:
                    raise ConfigError(f"{item.name} is too large; it must be a finite number.") from None
                object.__setattr__(self, item.name, value)
            if type(value) is not wanted:
                raise ConfigError(f"{item.name} must be {KINDS.get(wanted, wanted.__name__)}, not {value!r}.")
            if item.metadata:
                check_bounds(item.name, value, item.metadata)


@cache
def types_of(kind: type[Any]) -> dict[str, Any]:
    """Types of a config's fields; cached, since resolving annotations is slow."""
    return get_type_hints(kind)


def check_bounds(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if bounds["choices"] and value not in bounds["choices"]:
        prefix = bounds["prefix"]
        if prefix and isinstance(value, str) and re.fullmatch(rf"{prefix}\w+(:\w+=[\w.-]+)*", value):
            return
        other = f" or {prefix}NAME" if prefix else ""
        raise ConfigError(
            f"{name} must be one of {', '.join(map(str, bounds['choices']))}{other}, not {value!r}."
        )
    if isinstance(value, str | bool):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, not {value}.")
    if abs(value) >= 2**63 and isinstance(value, int):
        raise ConfigError(f"{name} is too large; whole numbers end at 2^63.")
    if value <= bounds["above"]:
        raise ConfigError(f"{name} must be above {bounds['above']:g}, not {value}.")
    if value < bounds["low"]:
        raise ConfigError(f"{name} must be at least {bounds['low']:g}, not {value}.")
    if value > bounds["high"]:
        raise ConfigError(f"{name} must be at most {bounds['high']:g}, not {value}.")


def check_tap(tap: int, layers: int) -> None:
    """Raise ConfigError for a `tap` deeper than the head's `layers`."""
    if tap > layers:
        raise ConfigError(f"tap_layer must be at most {layers}, the depth of the projection head, not {tap}.")


@dataclass(frozen=True, kw_only=True)
class Data(Config):
    """The images."""

    dataset: str = setting("tinted_mnist", "images to use", choices=DATASETS, prefix=TORCHVISION)
    root: str = setting("", "folder (or zip, tar) of the images; not needed for tinted_mnist", keyed=False)
    labels_csv: str = setting("", "CSV of file,label for a folder without class folders", keyed=False)
    left_out: str = setting("", "file that lists images of the set `images` to leave out", keyed=False)
    image_size: int = setting(28, "side of a training image, pixels", low=8)
    evaluation: str = setting(
        "test",
        "part to evaluate on; 'validation' is cut from training",
        choices=("test", "validation"),
    )


@dataclass(frozen=True, kw_only=True)
class Network(Config):
    """The encoder (clrkit.resnet)."""

    depth: int = setting(
        8,
        "layers: 8, 14, 20 for small images on a CPU, 18 to 200 as in the paper",
        choices=(8, 14, 20, 18, 34, 50, 101, 152, 200),
    )
    width: float = setting(1.0, "channel multiplier", above=0)
    sk_ratio: float = setting(0.0, "selective-kernel ratio; 0: plain, the paper's SK: 0.0625", low=0, high=1)
    stem: str = setting("stride2", "first layers", choices=("imagenet", "cifar", "stride2"))


@dataclass(frozen=True, kw_only=True)
class Augmentation(Config):
    """Random views (clrkit.augment)."""

    crop_area: float = setting(0.08, "smallest crop, as a part of the image's area", above=0, high=1)
    flip: bool = setting(True, "mirror half of the views")
    color_strength: float = setting(1.0, "strength of the colour distortion; 0: none", low=0, high=1.25)
    brightness: str = setting(
        "multiplied", "brightness is multiplied (SimCLRv2) or added (v1)", choices=("multiplied", "added")
    )
    blur: bool = setting(False, "blur half of the views")


@dataclass(frozen=True, kw_only=True)
class Optimizer(Config):
    """The optimiser and its schedule (clrkit.optim): warmup, then cosine."""

    optimizer: str = setting("lars", "update rule", choices=("lars", "sgd", "adamw"))
    learning_rate: float = setting(0.1, "base learning rate, before scaling with the batch", above=0)
    scaling: str = setting(
        "none", "the rate grows with the batch size B by B/256 or sqrt(B)", choices=("none", "linear", "sqrt")
    )
    momentum: float = setting(0.9, "momentum (AdamW: its first beta)", low=0, high=0.9999)
    weight_decay: float = setting(0.0, "weight decay", low=0)
    warmup_epochs: float = setting(0.0, "epochs of linear warmup", low=0)


@dataclass(frozen=True, kw_only=True)
class Stage(Config):
    """A stage of training; its subclasses are what can be run."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    parent: ClassVar[str] = ""

    epochs: int = setting(30, "passes over the images", low=1)
    batch_size: int = setting(256, "images a step", low=2)
    seed: int = setting(0, "seed of weights, order, augmentation and label draw", low=0, high=2**32 - 1)
    precision: str = setting(
        "float32",
        "of the networks in training; bfloat16: autocast, with weights, statistics and losses in float32",
        choices=("float32", "bfloat16"),
        added=True,
    )
    micro_batch: int = setting(
        0, "images of a batch computed at once (batch norm sees these alone); 0: all", low=0, added=True
    )
    optimizer: Optimizer = Optimizer()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch and not 2 <= self.micro_batch <= self.batch_size:
            raise ConfigError(
                f"micro_batch must be 0 or from 2 to {self.batch_size}, the batch_size of {self.name}, "
                f"not {self.micro_batch}."
            )
        if self.optimizer.warmup_epochs > self.epochs:
            raise ConfigError(
                f"warmup_epochs must be at most {self.epochs}, the epochs of {self.name}, "
                f"not {self.optimizer.warmup_epochs:g}."
            )

    @property
    def source(self) -> Stage | None:
        """The stage this one builds on."""
        return getattr(self, self.parent) if self.parent else None

    @property
    def chain(self) -> tuple[Stage, ...]:
        """What this stage builds on, first things first, and the stage itself."""
        return (*(self.source.chain if self.source else ()), self)

    @property
    def images(self) -> Data:
        """The data set of the chain."""
        first = self.chain[0]
        assert isinstance(first, Pretrain | Supervised)
        return first.data


@dataclass(frozen=True, kw_only=True)
class Pretrain(Stage):
    """Stage 1: contrastive pretraining without labels."""

    name: ClassVar[str] = "pretrain"

    data: Data = Data()
    network: Network = Network()
    augmentation: Augmentation = Augmentation()
    temperature: float = setting(0.1, "temperature of NT-Xent", above=0)
    head_layers: int = setting(3, "layers of the projection head", low=1, high=8)
    head_dim: int = setting(128, "width of the projection head's last layer", low=2)
    summed_views: bool = setting(
        False,
        "sum the two views' losses as the official code, not their mean as the paper: twice the gradient, "
        "which changes batch norm's parameters and plain SGD, not layers that LARS adapts",
        added=True,
    )
    two_pass: bool = setting(
        True,
        "compare the whole batch's projections although it is computed in micro-batches, with a second "
        "forward pass; false: each micro-batch's alone, so fewer negatives",
        added=True,
        needs="micro_batch",
    )
    memory: bool = setting(False, "take a momentum queue's projections as negatives too (MoCo)", added=True)
    memory_size: int = setting(65536, "projections in the queue", low=1, added=True, needs="memory")
    memory_momentum: float = setting(
        0.999,
        "share of the old weights that a step of the momentum network keeps",
        low=0,
        high=1,
        added=True,
        needs="memory",
    )
    monitor_epochs: int = setting(
        5, "epochs between measurements of kNN accuracy; always at both ends", low=1, keyed=False
    )

    @property
    def images(self) -> Data:
        """The data set; of the set `images` without its labels, so that these can change afterwards."""
        return dataclasses.replace(self.data, labels_csv="") if self.data.dataset == "images" else self.data


@dataclass(frozen=True, kw_only=True)
class Probe(Stage):
    """Linear evaluation: a linear classifier and kNN on frozen features, all labels."""

    name: ClassVar[str] = "probe"
    parent: ClassVar[str] = "pretrain"

    pretrain: Pretrain = Pretrain()
    optimizer: Optimizer = Optimizer(optimizer="sgd", learning_rate=0.1, scaling="linear")
    neighbours: int = setting(20, "neighbours that vote in kNN", low=1)


@dataclass(frozen=True, kw_only=True)
class Labelled(Stage):
    """What the stages that see labels share."""

    fraction: float = setting(0.1, "part of the labelled training images to learn from", above=0, high=1)
    label_list: str = setting("", "file that lists the labelled images by name, in place of a fraction")
    augmentation: Augmentation = Augmentation(color_strength=0.0)


@dataclass(frozen=True, kw_only=True)
class Supervised(Labelled):
    """Baseline: the same network trained on the labels alone."""

    name: ClassVar[str] = "supervised"

    data: Data = Data()
    network: Network = Network()


@dataclass(frozen=True, kw_only=True)
class Finetune(Labelled):
    """Stage 2: the whole network trained on few labels, from a layer of the projection head."""

    name: ClassVar[str] = "finetune"
    parent: ClassVar[str] = "pretrain"

    pretrain: Pretrain = Pretrain()
    tap_layer: int = setting(1, "head layer the classifier sits on; 0 is the encoder's output", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tap(self.tap_layer, self.pretrain.head_layers)


@dataclass(frozen=True, kw_only=True)
class Distill(Stage):
    """Stage 3: a student learns the fine-tuned teacher's softened outputs."""

    name: ClassVar[str] = "distill"
    parent: ClassVar[str] = "teacher"

    teacher: Finetune = Finetune()
    network: Network = Network()
    augmentation: Augmentation = Augmentation(color_strength=0.0)
    temperature: float = setting(1.0, "temperature of both softmaxes", above=0)
    label_weight: float = setting(0.0, "weight of the label term: 1 - alpha of Eq. 3", low=0, high=1)
    transfer: str = setting("all", "images that are distilled on", choices=("all", "labelled"))
    self_temperature: float = setting(
        0.0,
        "temperature at which the teacher is first distilled into itself; 0: not",
        low=0,
        added=True,
    )

    @property
    def source(self) -> Stage:
        """The teacher: fine-tuned, or after that distilled into itself."""
        if not self.self_temperature:
            return self.teacher
        itself = {"network": self.teacher.pretrain.network, "temperature": self.self_temperature}
        plain = {"label_weight": 0.0, "transfer": "all", "self_temperature": 0.0}
        return dataclasses.replace(self, **itself, **plain)  # type: ignore[arg-type]


STAGES: tuple[type[Stage], ...] = (Pretrain, Probe, Supervised, Finetune, Distill)

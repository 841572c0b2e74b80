"""Released TensorFlow checkpoints as clrkit models, without TensorFlow.

`read_checkpoint` gives a file's variables under canonical names, which are those of the TF1 checkpoints
(`base_model/conv2d_3/kernel`); `convert` turns such variables into a model's config and state dict:

    config, state = convert(read_checkpoint("r50_1x_sk0/model.ckpt-250228"))
    model = Model(config)
    model.load_state_dict(state)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from clrkit.config import Network
from clrkit.model import HeadLayer, Model, ModelConfig
from clrkit.resnet import BASIC_BLOCKS, BOTTLENECK_BLOCKS, ResNet
from clrkit.weights.tensor_bundle import CheckpointError, TensorBundle, object_graph

SK_RATIO = 0.0625  # of every released selective-kernel network
EMA = "ema_model/"  # prefix of the momentum encoder's copies
CLASSIFIER = "head_supervised/linear_layer/dense"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
HEAD_LAYER = re.compile(r"head_contrastive/nl_(\d{1,2})/")
OPTIMIZER_SLOTS = ("Momentum", "LARSOptimizer", "Adam", "Adam_1")
# What a checkpoint holds beside the model: steps, counters, optimiser.
BOOKKEEPING = re.compile(
    r"^(global_step|save_counter|beta[12]_power|optimizer/.*|_CHECKPOINTABLE_OBJECT_GRAPH)$"
)
DEPTHS = (18, 34, *BOTTLENECK_BLOCKS)
SHOWN = 5  # names in a message

Variables = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


def read_checkpoint(prefix: str | Path, *, model_only: bool = False) -> dict[str, np.ndarray]:
    """The variables in a checkpoint: the model's by canonical name, others by their name in the file.

    Args:
        prefix: of a TF1 or TF2 checkpoint (`model.ckpt-250228`), its `.index` file, or the folder of a
            checkpoint or a SavedModel.
        model_only: leave out steps and the optimiser's slots, which are as large as the model.

    Raises:
        CheckpointError: for a file that is damaged, or whose variables have no names.
    """
    bundle = TensorBundle(prefix)
    names = variable_names(bundle)
    canonical = canonical_names(names.values())
    variables = {canonical[name]: bundle.read(key) for key, name in names.items()}
    if model_only:
        return variables
    rest = [key for key, entry in bundle.entries.items() if key not in names and entry.dtype != "string"]
    return variables | {key: bundle.read(key) for key in rest}


def variable_names(bundle: TensorBundle) -> dict[str, str]:
    """Name in TensorFlow of every model variable in the file, by its key there.

    A TF1 file is keyed by these names; a TF2 file by paths through its objects, and its object graph, stored
    as one more tensor, has the names.
    """
    keys = [key for key in bundle.entries if not is_bookkeeping(key)]
    if OBJECT_GRAPH not in bundle.entries:
        return {key: key for key in keys}
    names = object_graph(b"".join(bundle.strings(OBJECT_GRAPH)))
    if nameless := [key for key in keys if not names.get(key)]:
        raise CheckpointError(f"{bundle.index} has no names for its variables {listed(nameless)}.")
    uses = Counter(names[key] for key in keys)
    if twice := [key for key in keys if uses[names[key]] > 1]:
        raise CheckpointError(f"{bundle.index} has one name for several variables: {listed(twice)}.")
    return {key: names[key] for key in keys}


def is_bookkeeping(name: str) -> bool:
    """Whether a variable or key is no part of the model: a step, a counter, the optimiser's."""
    slot = ".OPTIMIZER_SLOT" in name or name.rpartition("/")[2] in OPTIMIZER_SLOTS
    return slot or BOOKKEEPING.match(name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")) is not None


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Canonical name of each variable; a name that is none of the official code's stays as it is.

    Keras numbers layers through the whole program, so those of a TF2 file are numbered anew, from 0 in each
    scope.
    """
    found = {name: Parsed.of(name) for name in names}
    firsts: dict[tuple[str, str], int] = {}
    for parsed in found.values():
        if parsed and parsed.keras:
            firsts[parsed.counter] = min(parsed.number, firsts.get(parsed.counter, parsed.number))
    canonical = {name: parsed.canonical(firsts) if parsed else name for name, parsed in found.items()}
    if len(set(canonical.values())) < len(canonical):
        twice = [name for name, uses in Counter(canonical.values()).items() if uses > 1]
        raise CheckpointError(f"The checkpoint has two variables for each of {listed(twice)}.")
    return canonical


@dataclass(frozen=True)
class Parsed:
    """A variable's place: prefix of the copy, scope, layer, number among the layers of its kind, leaf.

    `keras` tells that the number counts through a whole program (TF1 counts through the encoder).
    """

    keras: bool
    copy: str
    scope: str
    layer: str
    number: int
    leaf: str

    PATTERN = re.compile(
        r"^(?P<copy>ema_model/)?(?P<scope>base_model|resnet|head_contrastive/(?:nl|l)_\d+|"
        r"projection_head/nl_\d+|head_supervised/linear_layer)/(?:.*/)?"
        r"(?P<layer>conv2d|dense|(?:sync_)?batch_normalization)(?:_(?P<number>\d+))?/"
        r"(?P<leaf>kernel|bias|gamma|beta|moving_mean|moving_variance)"
        r"(?P<average>/ExponentialMovingAverage)?(?::0)?$"
    )

    @classmethod
    def of(cls, name: str) -> Parsed | None:
        match = cls.PATTERN.match(name)
        if not match:
            return None
        copy = EMA if match["copy"] or match["average"] else ""
        scope = match["scope"].replace("resnet", "base_model").replace("projection_head", "head_contrastive")
        layer = match["layer"].removeprefix("sync_")
        number, keras = int(match["number"] or 0), match["scope"] != "base_model"
        return cls(keras, copy, scope.replace("/l_0", "/nl_0"), layer, number, match["leaf"])

    @property
    def counter(self) -> tuple[str, str]:
        """Layers with the same counter were numbered together."""
        return f"{self.copy}{self.scope}", self.layer

    def canonical(self, firsts: Mapping[tuple[str, str], int]) -> str:
        number = self.number - firsts.get(self.counter, 0)
        return f"{self.copy}{self.scope}/{self.layer}{f'_{number}' if number else ''}/{self.leaf}"


def convert(
    variables: Variables,
    *,
    tap_layer: int | None = None,
    sk_ratio: float | None = None,
    ema: bool = False,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A model's config, read off the variables' names and shapes, and its state dict: float32 copies.

    Args:
        variables: arrays by canonical name, in TensorFlow's layouts.
        tap_layer: head layer the classifier was trained on. Shapes do not tell the encoder's output (0, the
            default where it fits) from a hidden layer; the models fine-tuned on 1% and 10% of the labels
            have 1.
        sk_ratio: of the selective kernels, where it is neither 0 nor 0.0625, or where the variables do not
            show it: depth 18 and 34 with a CIFAR stem look the same with and without (0 is the default).
        ema: take the momentum encoder's copies (`ema_model/...`) where there are any.

    Raises:
        CheckpointError: naming the variables that are missing, unknown, of a wrong shape or not finite.
    """
    chosen = select(variables, ema)
    config = infer({name: array.shape for name, array in chosen.items()}, tap_layer, sk_ratio)
    with torch.device("meta"):
        model = Model(config)
    places = tensors(model)
    compare(chosen, places)
    state = {place.key: place.tensor(chosen[name]) for name, place in places.items()}
    # PyTorch counts batches; nothing reads the count while momentum is fixed.
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    return config, state | counters


def select(variables: Variables, ema: bool) -> dict[str, np.ndarray]:
    """The variables of the model, or of its momentum copy, in float32; all must be finite there."""
    canonical = canonical_names(name for name in variables if not is_bookkeeping(name))
    named = {new: np.asarray(variables[old]) for old, new in canonical.items()}
    model = {name: array for name, array in named.items() if not name.startswith(EMA)}
    if ema:
        copies = {name.removeprefix(EMA): array for name, array in named.items() if name.startswith(EMA)}
        if not copies:
            raise CheckpointError("The checkpoint has no momentum encoder (no variable ema_model/...).")
        model = {name: array for name, array in model.items() if name.startswith(CLASSIFIER)} | copies
    if broken := [name for name, array in model.items() if array.dtype.kind not in "fiu"]:
        raise CheckpointError(f"These variables are no numbers: {listed(broken)}.")
    with np.errstate(over="ignore"):
        model = {name: array.astype(np.float32, copy=False) for name, array in model.items()}
    if broken := [name for name, array in model.items() if not np.isfinite(array).all()]:
        raise CheckpointError(
            f"These variables hold numbers that are not finite in float32: {listed(broken)}."
        )
    return model


def infer(shapes: Shapes, tap_layer: int | None, sk_ratio: float | None) -> ModelConfig:
    """The model whose variables these most likely are; `compare` then tells what does not fit."""
    layers = max((int(found[1]) + 1 for found in map(HEAD_LAYER.match, shapes) if found), default=0)
    dim = width_of(shapes, f"head_contrastive/nl_{layers - 1}/")
    classes, classifier = width_of(shapes, f"{CLASSIFIER}/"), shapes.get(f"{CLASSIFIER}/kernel", ())
    network = infer_network(shapes, sk_ratio)
    if tap_layer is None:
        features = round(512 * network.width) * (4 if network.depth in BOTTLENECK_BLOCKS else 1)
        tap_layer = layers if classifier and classifier[0] == dim != features else 0
    elif not 0 <= tap_layer <= layers:
        raise CheckpointError(
            f"tap_layer must be from 0 to {layers}, the layers of the head, not {tap_layer}."
        )
    head = {"head_layers": layers, "head_dim": dim} if dim else {}
    return ModelConfig(network=network, classes=classes, tap_layer=tap_layer, **head)


def width_of(shapes: Shapes, scope: str) -> int:
    """Channels that come out of a layer, by whichever of its variables is there; 0 without any."""
    return next((shape[-1] for name, shape in shapes.items() if name.startswith(scope) and shape), 0)


def infer_network(shapes: Shapes, sk_ratio: float | None) -> Network:
    """Width and stem from the first convolutions; depth and selective kernels from how many there are."""
    first = shapes.get("base_model/conv2d/kernel", ())
    if len(first) != 4 or 0 in first:
        raise CheckpointError(
            "The checkpoint has no first convolution, base_model/conv2d/kernel; "
            f"it holds {listed(shapes) or 'no variables'}."
        )
    deep = shapes.get("base_model/conv2d_1/kernel", ())[:2] == (3, 3)
    imagenet = deep or first[0] == 7
    ratios = (SK_RATIO,) if deep else (0.0,) if imagenet else (0.0, SK_RATIO)
    ratios = ratios if sk_ratio is None else (sk_ratio,)
    found = sum(name.startswith("base_model/conv2d") for name in shapes)
    width, stem = first[3] * (2 if deep else 1) / 64, "imagenet" if imagenet else "cifar"
    candidates = [
        Network(depth=d, width=width, sk_ratio=ratio, stem=stem) for d in DEPTHS for ratio in ratios
    ]
    return min(candidates, key=lambda network: abs(convolutions(network) - found))


def convolutions(network: Network) -> int:
    """How many convolutions a network has."""
    basic, selective = network.depth in BASIC_BLOCKS, network.sk_ratio > 0
    blocks = (BASIC_BLOCKS if basic else BOTTLENECK_BLOCKS)[network.depth]
    stem = 3 if selective and network.stem == "imagenet" else 1
    return stem + len(blocks) + sum(blocks) * (2 if basic else 5 if selective else 3)


def compare(variables: Variables, places: Mapping[str, Place]) -> None:
    """Refuse whatever does not fit, by name."""
    shapes = {
        name: (array.shape, places[name].official_shape)
        for name, array in variables.items()
        if name in places
    }
    problems = {
        "has no": places.keys() - variables.keys(),
        "has variables that no SimCLR model has:": variables.keys() - places.keys(),
        "has shapes that do not fit together:": [
            f"{n} {a} for {b}" for n, (a, b) in shapes.items() if a != b
        ],
    }
    told = [f"{what} {listed(names)}" for what, names in problems.items() if names]
    if told:
        raise CheckpointError(f"The checkpoint {'; it '.join(told)}.")


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many there are beside them."""
    names = sorted(names)
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True)
class Place:
    """Where a TensorFlow variable goes: key in the state dict, and the shape it has there."""

    key: str
    shape: tuple[int, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """TensorFlow's kernels are (height, width, in, out) and (in, out)."""
        return {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(self.shape), tuple(range(len(self.shape))))

    @property
    def official_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[self.axes.index(axis)] for axis in range(len(self.shape)))

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array.transpose(self.axes), dtype=np.float32, order="C"))


def tensors(model: Model) -> dict[str, Place]:
    """Place of every official variable in a model, by canonical name."""
    places = {f"base_model/{name}": place for name, place in encoder_tensors(model.encoder, "encoder.")}
    for index, layer in enumerate(cast(Iterable[HeadLayer], model.head)):
        scope, key = f"head_contrastive/nl_{index}", f"head.{index}"
        places[f"{scope}/dense/kernel"] = Place(f"{key}.linear.weight", tuple(layer.linear.weight.shape))
        places |= {f"{scope}/{name}": place for name, place in norm(layer.bn, 0, f"{key}.bn")}
    if model.classifier is not None:
        for leaf, name in (("kernel", "weight"), ("bias", "bias")):
            shape = tuple(getattr(model.classifier, name).shape)
            places[f"{CLASSIFIER}/{leaf}"] = Place(f"classifier.{name}", shape)
    return places


def encoder_tensors(encoder: ResNet, key: str = "") -> Iterator[tuple[str, Place]]:
    """Convolutions and batch norms, counted apart in the order in which the network is built.

    That is the order of the official code: in a block the shortcut comes first, then the main path.
    """
    convolutions = norms = 0
    for name, module in encoder.named_modules(prefix=key.rstrip(".")):
        if isinstance(module, nn.Conv2d):
            suffix = f"_{convolutions}" if convolutions else ""
            yield f"conv2d{suffix}/kernel", Place(f"{name}.weight", tuple(module.weight.shape))
            convolutions += 1
        elif isinstance(module, nn.BatchNorm2d):
            yield from norm(module, norms, name)
            norms += 1


def norm(module: nn.BatchNorm2d, number: int, key: str) -> Iterator[tuple[str, Place]]:
    """A batch norm's variables; the one of a head's last layer has no beta."""
    leaves = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    for leaf, name in leaves.items():
        if getattr(module, name) is not None:
            suffix = f"_{number}" if number else ""
            yield f"batch_normalization{suffix}/{leaf}", Place(f"{key}.{name}", (module.num_features,))

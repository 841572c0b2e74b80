"""Convert the released TensorFlow checkpoints to clrkit models, without TensorFlow.

`read_checkpoint` reads a file's variables under canonical names, those of the TF1 checkpoints
(`base_model/conv2d_3/kernel`); `convert` turns them into a model's config and state dict:

    config, state = convert(read_checkpoint("r50_1x_sk0/model.ckpt-250228"))
    model = Model(config)
    model.load_state_dict(state)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clrkit.config import Network
from clrkit.model import Model, ModelConfig
from clrkit.resnet import BASIC_BLOCKS, BOTTLENECK_BLOCKS
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
MODEL_VARIABLE = re.compile(
    r"^(?P<copy>ema_model/)?(?P<scope>base_model|resnet|head_contrastive/(?:nl|l)_\d+|"
    r"projection_head/nl_\d+|head_supervised/linear_layer)/(?:.*/)?"
    r"(?P<layer>conv2d|dense|(?:sync_)?batch_normalization)(?:_(?P<number>\d+))?/"
    r"(?P<leaf>kernel|bias|gamma|beta|moving_mean|moving_variance)"
    r"(?P<average>/ExponentialMovingAverage)?(?::0)?$"
)
LEAVES = {
    "conv2d": {"kernel": "weight"},
    "dense": {"kernel": "weight", "bias": "bias"},
    "batch_normalization": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
}
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # TensorFlow's kernels are (height, width, in, out) and (in, out)
TO_TENSORFLOW = {4: (2, 3, 1, 0), 2: (1, 0)}
DEPTHS = (18, 34, *BOTTLENECK_BLOCKS)
SHOWN = 5  # names in a message

Variables = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def read_checkpoint(prefix: str | Path, *, model_only: bool = False) -> dict[str, np.ndarray]:
    """Read a checkpoint: model variables by canonical name, others by their name in the file.

    Args:
        prefix: of a TF1 or TF2 checkpoint (`model.ckpt-250228`), its `.index` file, or the folder of a
            checkpoint or a SavedModel.
        model_only: leave out steps and optimiser slots, which are as large as the model.

    Raises:
        CheckpointError: if the file is damaged, or its variables have no names.
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
    """TensorFlow's name of every model variable, by its key in the file.

    Keys of a TF1 file are these names. Keys of a TF2 file are paths through its objects; its object graph,
    stored as one more tensor, has the names.
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
    """Whether a variable or key belongs to steps, counters or the optimiser, not to the model."""
    slot = ".OPTIMIZER_SLOT" in name or name.rpartition("/")[2] in OPTIMIZER_SLOTS
    return slot or BOOKKEEPING.match(name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")) is not None


class Layer(NamedTuple):
    """A layer of the official code: its scope, its kind, and its number among the layers of this kind."""

    scope: str
    kind: str
    number: int

    def variable(self, leaf: str, first: int = 0) -> str:
        """Canonical name of one of its variables, with layers numbered from `first`."""
        number = self.number - first
        return f"{self.scope}/{self.kind}{f'_{number}' if number else ''}/{leaf}"


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Canonical name of each variable; names that the official code does not use stay as they are.

    Keras numbers layers through the whole program, so layers of a TF2 file are renumbered from 0 in each
    scope.
    """
    found = {name: match for name in names if (match := MODEL_VARIABLE.match(name))}
    layers = {name: layer_of(match) for name, match in found.items()}
    firsts: dict[tuple[str, str], int] = {}
    for name, layer in layers.items():
        if found[name]["scope"] != "base_model":  # TF1 counts from 0 already
            place = layer.scope, layer.kind
            firsts[place] = min(layer.number, firsts.get(place, layer.number))
    canonical = {
        name: layers[name].variable(found[name]["leaf"], firsts.get(layers[name][:2], 0))
        if name in layers
        else name
        for name in names
    }
    uses = Counter(canonical.values())
    if twice := [name for name, count in uses.items() if count > 1]:
        raise CheckpointError(f"The checkpoint has two variables for each of {listed(twice)}.")
    return canonical


def layer_of(match: re.Match[str]) -> Layer:
    """The layer of a variable, by canonical scope and kind."""
    copy = EMA if match["copy"] or match["average"] else ""
    scope = match["scope"].replace("resnet", "base_model").replace("projection_head", "head_contrastive")
    kind = match["layer"].removeprefix("sync_")
    return Layer(copy + scope.replace("/l_0", "/nl_0"), kind, int(match["number"] or 0))


def convert(
    variables: Variables,
    *,
    tap_layer: int | None = None,
    sk_ratio: float | None = None,
    ema: bool = False,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Infer a model's config from names and shapes of variables, and make its state dict: float32 copies.

    Args:
        variables: arrays by canonical name, in TensorFlow's layouts.
        tap_layer: head layer the classifier was trained on. Shapes do not distinguish the encoder's output
            (0, the default if it fits) from a hidden layer; models fine-tuned on 1% and 10% of the labels
            have 1.
        sk_ratio: of the selective kernels, if it is neither 0 nor 0.0625, or if the variables do not show it:
            depth 18 and 34 with a CIFAR stem look the same with and without (the default is 0).
        ema: take the momentum encoder's copies (`ema_model/...`).

    Raises:
        CheckpointError: naming variables that are missing, unknown, not finite or of a wrong shape.
    """
    chosen = select(variables, ema)
    config = infer({name: array.shape for name, array in chosen.items()}, tap_layer, sk_ratio)
    with torch.device("meta"):
        model = Model(config)
    state, keys = model.state_dict(), state_keys(model)
    check_fit(chosen, {name: official_shape(state[key]) for name, key in keys.items()})
    converted = {key: to_tensor(chosen[name]) for name, key in keys.items()}
    # PyTorch counts batches; nothing reads the count while momentum is fixed.
    return config, converted | {key: torch.tensor(0) for key in state if key.endswith("num_batches_tracked")}


def select(variables: Variables, ema: bool) -> dict[str, np.ndarray]:
    """The variables of the model, or of its momentum copy, in float32; all must be finite there."""
    canonical = canonical_names([name for name in variables if not is_bookkeeping(name)])
    named = {new: np.asarray(variables[old]) for old, new in canonical.items()}
    model = {name: array for name, array in named.items() if not name.startswith(EMA)}
    if ema:
        copies = {name.removeprefix(EMA): array for name, array in named.items() if name.startswith(EMA)}
        if not copies:
            raise CheckpointError("The checkpoint has no momentum encoder (no variable ema_model/...).")
        model = {name: array for name, array in model.items() if name.startswith(CLASSIFIER)} | copies
    if broken := [name for name, array in model.items() if array.dtype.kind not in "fiu"]:
        raise CheckpointError(f"These variables are not numbers: {listed(broken)}.")
    with np.errstate(over="ignore"):
        model = {name: array.astype(np.float32, copy=False) for name, array in model.items()}
    if broken := [name for name, array in model.items() if not np.isfinite(array).all()]:
        raise CheckpointError(
            f"These variables have values that are not finite in float32: {listed(broken)}."
        )
    return model


def infer(shapes: Shapes, tap_layer: int | None, sk_ratio: float | None) -> ModelConfig:
    """The config that these shapes most likely come from; `check_fit` then finds what does not fit."""
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
    """Output channels of a layer, by any of its variables; 0 without any."""
    return next((shape[-1] for name, shape in shapes.items() if name.startswith(scope) and shape), 0)


def infer_network(shapes: Shapes, sk_ratio: float | None) -> Network:
    """Width and stem by the first convolutions; depth and selective kernels by the number of them."""
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
    """Number of convolutions of a network."""
    basic, selective = network.depth in BASIC_BLOCKS, network.sk_ratio > 0
    blocks = (BASIC_BLOCKS if basic else BOTTLENECK_BLOCKS)[network.depth]
    stem = 3 if selective and network.stem == "imagenet" else 1
    return stem + len(blocks) + sum(blocks) * (2 if basic else 5 if selective else 3)


def state_keys(model: Model) -> dict[str, str]:
    """Key in the state dict of every official variable of a model, by canonical name.

    The encoder's layers are numbered in the order in which the official code builds them: in a block first
    the shortcut, then the main path.
    """
    places: list[tuple[Layer, str]] = []
    counts = Counter[str]()
    for key, module in model.encoder.named_modules(prefix="encoder"):
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            kind = "conv2d" if isinstance(module, nn.Conv2d) else "batch_normalization"
            places.append((Layer("base_model", kind, counts[kind]), key))
            counts[kind] += 1
    for index in range(len(model.head)):
        scope = f"head_contrastive/nl_{index}"
        places.append((Layer(scope, "dense", 0), f"head.{index}.linear"))
        places.append((Layer(scope, "batch_normalization", 0), f"head.{index}.bn"))
    places.append((Layer("head_supervised/linear_layer", "dense", 0), "classifier"))
    state = model.state_dict()
    return {
        layer.variable(leaf): f"{key}.{name}"
        for layer, key in places
        for leaf, name in LEAVES[layer.kind].items()
        if f"{key}.{name}" in state  # some layers have no bias
    }


def official_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor in TensorFlow's layout."""
    return tuple(tensor.shape[axis] for axis in TO_TENSORFLOW.get(tensor.ndim, range(tensor.ndim)))


def to_tensor(array: np.ndarray) -> Tensor:
    """A copy in PyTorch's layout."""
    return torch.from_numpy(np.array(array.transpose(TO_TORCH.get(array.ndim)), dtype=np.float32, order="C"))


def check_fit(variables: Variables, expected: Shapes) -> None:
    """Raise CheckpointError for variables that are missing, unknown or of a wrong shape."""
    wrong = [
        f"{name} {array.shape} for {expected[name]}"
        for name, array in variables.items()
        if name in expected and array.shape != expected[name]
    ]
    problems = {
        "has no": expected.keys() - variables.keys(),
        "has variables that no SimCLR model has:": variables.keys() - expected.keys(),
        "has shapes that do not fit together:": wrong,
    }
    found = [f"{what} {listed(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"The checkpoint {'; it '.join(found)}.")


def listed(names: Iterable[str]) -> str:
    """The first few names in order, and the number of the others."""
    names = sorted(names)
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")

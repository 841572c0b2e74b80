"""The weights of the official numbers, where they go in clrkit, and the checkpoints made of them."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clrkit.resnet import ResNet
from clrkit.weights.tensor_bundle import TensorBundle

GOLDEN = Path(__file__).parents[1] / "golden"

Numbers = Mapping[str, Any]
Comparison = Callable[[str, Any, Any], None]  # the fixture `exact` with a bound


def tensorflow_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 weight drawn from a (salted) canonical name, in TensorFlow's layout as `shape`."""
    normal = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(shape)
    values = {
        "kernel": lambda: normal * np.sqrt(1 / np.prod(shape[:-1])),
        "gamma": lambda: 1 + 0.1 * normal,
        "moving_variance": lambda: np.exp(0.1 * normal),
        "Momentum": lambda: 0.01 * normal,
    }.get(name.rpartition("/")[2], lambda: 0.1 * normal)()
    return values.astype(np.float32)


def tensorflow_axes(dimensions: int) -> tuple[int, ...]:
    """Where the axes of TensorFlow's kernels, (height, width, in, out) and (in, out), are in PyTorch's."""
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(dimensions, tuple(range(dimensions)))


def in_tensorflow(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter, or its gradient, in TensorFlow's layout."""
    return parameter.permute(tensorflow_axes(parameter.ndim))


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight drawn from its canonical TensorFlow name; `shape` and result are in PyTorch's layout."""
    axes = tensorflow_axes(len(shape))
    values = tensorflow_weight(name, tuple(shape[axis] for axis in axes))
    return torch.from_numpy(values.transpose(np.argsort(axes)).copy())


def encoder_tensors(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and statistics by canonical name.

    Convolutions and batch norms are counted apart, in the order in which the network is built.
    """
    tensors: dict[str, torch.Tensor] = {}
    counts = {nn.Conv2d: 0, nn.BatchNorm2d: 0}
    for module in encoder.modules():
        kind = next((kind for kind in counts if isinstance(module, kind)), None)
        if kind is None:
            continue
        suffix = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        if isinstance(module, nn.Conv2d):
            tensors[f"base_model/conv2d{suffix}/kernel"] = module.weight
        else:
            tensors |= batch_norm_tensors(f"base_model/batch_normalization{suffix}", module)
    return tensors


def head_tensors(head: nn.Sequential) -> dict[str, torch.Tensor]:
    """Parameters and statistics of a projection head by canonical name."""
    tensors: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(head):
        name = f"head_contrastive/nl_{index}"
        tensors[f"{name}/dense/kernel"] = layer.linear.weight
        tensors |= batch_norm_tensors(f"{name}/batch_normalization", layer.bn)
    return tensors


def classifier_tensors(classifier: nn.Linear) -> dict[str, torch.Tensor]:
    scope = "head_supervised/linear_layer/dense"
    return {f"{scope}/kernel": classifier.weight, f"{scope}/bias": classifier.bias}


def batch_norm_tensors(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    places = {
        "gamma": module.weight,
        "beta": module.bias,
        "moving_mean": module.running_mean,
        "moving_variance": module.running_var,
    }
    return {f"{name}/{leaf}": tensor for leaf, tensor in places.items() if tensor is not None}


@torch.no_grad()
def fill(tensors: dict[str, torch.Tensor]) -> None:
    """Give every tensor the values of its name."""
    for name, tensor in tensors.items():
        tensor.copy_(weight(name, tuple(tensor.shape)))


# Stages of the encoder


def nchw(array: np.ndarray) -> torch.Tensor:
    """Images or maps in PyTorch's layout."""
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def stages(encoder: ResNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the layers give that the official code has names for; `final_avg_pool` is the last."""
    taken: dict[str, torch.Tensor] = {}
    last_convolution = [module for module in encoder.stem if isinstance(module, nn.Conv2d)][-1]
    layers = {"initial_conv": last_convolution, "initial_max_pool": encoder.stem, "final_avg_pool": encoder}
    layers |= {f"block_group{index}": group for index, group in enumerate(encoder.groups, 1)}
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, out, name=name: taken.update({name: out}))
        for name, layer in layers.items()
    ]
    encoder(images)
    for hook in hooks:
        hook.remove()
    assert len(taken) == 7
    return taken


def same_stages(exact: Comparison, part: str, ours: Mapping[str, torch.Tensor], read: Numbers) -> None:
    """Channel means and deviations and two corners of the maps, and all of the pooled features."""
    exact(part, ours["final_avg_pool"], read["final_avg_pool"])
    for name in ours.keys() - {"final_avg_pool"}:
        maps = ours[name].permute(0, 2, 3, 1)
        assert maps.shape[1:] == tuple(read[f"{name}/shape"][1:])
        seen = {
            "tl": maps[0, :4, :4, :8],
            "br": maps[-1, -4:, -4:, -8:],
            "ch_mean": maps.mean((0, 1, 2)),
            "ch_std": maps.std((0, 1, 2), unbiased=False),
        }
        stored = [leaf for leaf in seen if f"{name}/{leaf}" in read]
        assert "br" in stored
        for leaf in stored:
            exact(part, seen[leaf], read[f"{name}/{leaf}"])


def under(read: Numbers, scope: str) -> dict[str, Any]:
    """The numbers below a name, without it."""
    return {
        name.removeprefix(f"{scope}/"): value for name, value in read.items() if name.startswith(f"{scope}/")
    }


# Checkpoints


def rebuild_checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint that the official code wrote, put together again in `folder`; returns its prefix.

    Args:
        name: one of the folders of tests/golden: "tf1_ckpt_r50_eighth_sk0", "tf1_ckpt_r50_eighth_sk1" (TF1;
            the second with momenta), "tf2_ckpt_r18_eighth_sk0_cifar32" (TF2, object-based) and
            "tf2_saved_model_r18_eighth_sk0_cifar32" (the variables of its SavedModel).
        folder: where to write; made where it is not there.

    The bytes are the official ones: weights by the formula, the rest as stored. Only the momenta of the TF2
    checkpoint, which come of training, are zeros; reading them fails, as their checksums do not fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in (GOLDEN / name).iterdir():
        if file.name != "rest.npz":
            shutil.copyfile(file, folder / file.name)
    bundle = TensorBundle(GOLDEN / name)
    prefix = folder / bundle.index.stem
    data = Path(f"{prefix}.data-00000-of-00001")
    if not data.exists():
        data.write_bytes(data_file(bundle, GOLDEN / name / "rest.npz", canonical_keys(name)))
    return prefix


def canonical_keys(name: str) -> dict[str, str]:
    """Salted canonical names of the keys that are not canonical themselves."""
    kind = {"tf2_ckpt": "ckpt", "tf2_save": "savedmodel"}.get(name[:8])
    if kind is None:
        return {}
    with np.load(GOLDEN / "tf2_r18_eighth_sk0_cifar32.npz") as read:
        pairs = zip(read[f"{kind}_keys"].tolist(), read[f"{kind}_canonical"].tolist(), strict=True)
        return {key: str(read["salt"]) + canonical for key, canonical in pairs if canonical}


def data_file(bundle: TensorBundle, rest: Path, canonical: dict[str, str]) -> bytes:
    """All tensors of a checkpoint, each where the index says."""
    data = bytearray(max(entry.offset + entry.size for entry in bundle.entries.values()))
    with np.load(rest) as stored:
        for key, entry in bundle.entries.items():
            if key in stored:
                values = stored[key].tobytes()
            elif "/.OPTIMIZER_SLOT/" in key:
                continue
            else:
                values = tensorflow_weight(canonical.get(key, key), entry.shape).tobytes()
            data[entry.offset : entry.offset + entry.size] = values
    return bytes(data)

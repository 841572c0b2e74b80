"""The weights the official numbers were computed with, and where they go in a clrkit network."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight drawn from its canonical TensorFlow name; `shape` and result are in PyTorch's layout."""
    flat = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), tuple(range(len(shape))))
    seed = zlib.crc32(name.encode()) & 0xFFFFFFFF
    # TensorFlow's kernels are (height, width, in, out) and (in, out).
    normal = np.random.RandomState(seed).standard_normal([shape[axis] for axis in flat])
    values = {
        "kernel": lambda: normal / np.sqrt(np.prod(normal.shape[:-1])),
        "gamma": lambda: 1 + 0.1 * normal,
        "moving_variance": lambda: np.exp(0.1 * normal),
    }.get(name.rpartition("/")[2], lambda: 0.1 * normal)()
    return torch.from_numpy(values.astype(np.float32).transpose(np.argsort(flat)).copy())


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

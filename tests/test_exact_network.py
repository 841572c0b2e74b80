"""The encoder beside the official one: every stage, loss, gradient and statistic, in both modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import official
import pytest
import torch
from conftest import Exact
from torch import Tensor, nn

from clrkit.config import Network
from clrkit.resnet import ResNet

EIGHTH, ODD = "1/8 of the width, 75 x 98", {"depth": 50, "width": 0.125, "stem": "imagenet"}
NETWORKS = {
    "r18_1x_sk0_cifar32": ("R18 1x, CIFAR stem, 32 x 32", Network(depth=18, stem="cifar")),
    "r18_1x_sk1_64": ("R18 1x SK, 64 x 64", Network(depth=18, sk_ratio=0.0625, stem="imagenet")),
    "r50_eighth_sk0_odd75x98": (f"R50, {EIGHTH}", Network(**ODD)),
    "r50_eighth_sk1_odd75x98": (f"R50 SK, {EIGHTH}", Network(**ODD, sk_ratio=0.0625)),
    "r50_1x_sk0_64": ("R50 1x, 64 x 64", Network(depth=50, stem="imagenet")),
    "r50_1x_sk1_64": ("R50 1x SK, 64 x 64", Network(depth=50, sk_ratio=0.0625, stem="imagenet")),
    "r50_1x_sk1_cifar32": (
        "R50 1x SK, CIFAR stem, 32 x 32",
        Network(depth=50, sk_ratio=0.0625, stem="cifar"),
    ),
    "r101_2x_sk1_64": (
        "R101 2x SK, 64 x 64",
        Network(depth=101, width=2, sk_ratio=0.0625, stem="imagenet"),
    ),
}
EVALUATED = ["r18_1x_sk0_cifar32", "r18_1x_sk1_64", "r50_eighth_sk0_odd75x98", "r50_eighth_sk1_odd75x98"]
TRAINED = ["r18_1x_sk0_cifar32", "r50_eighth_sk1_odd75x98"]  # the whole batch of these is in tests/golden
PRECISIONS = [torch.float32, torch.float64]
Numbers = Mapping[str, Any]
Comparison = Callable[[str, Any, Any], None]


def official_encoder(network: Network, dtype: torch.dtype) -> ResNet:
    encoder = ResNet(network)
    official.fill(official.encoder_tensors(encoder))
    return encoder.to(dtype)


def nchw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def stages(encoder: ResNet, images: Tensor) -> dict[str, Tensor]:
    """What the layers give that the official code has names for; `final_avg_pool` is the last."""
    taken: dict[str, Tensor] = {}
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


def same_stages(exact: Comparison, part: str, ours: Mapping[str, Tensor], read: Numbers) -> None:
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
        assert {"tl", "br"} <= set(stored)
        for leaf in stored:
            exact(part, seen[leaf], read[f"{name}/{leaf}"])


def under(read: Numbers, scope: str) -> dict[str, Any]:
    """The numbers below a name, without it."""
    return {
        name.removeprefix(f"{scope}/"): value for name, value in read.items() if name.startswith(f"{scope}/")
    }


@dataclass(frozen=True)
class Bounds:
    stages: float
    gradients: float
    remark: str = ""


def training_bounds(network: Network, dtype: torch.dtype) -> Bounds:
    """In training mode float32 is as noisy as the official float32 run itself, which has rows of its own.

    Batch norms of few samples amplify rounding until ReLUs change sides, most of all the gates of selective
    kernels, which see one number per image.
    """
    if dtype == torch.float64:
        return Bounds(1e-6, 1e-5)
    noise = "float noise, as the official float32's; see float64"
    return Bounds(1e-4 if network.depth < 50 else 1e-3, 5e-1 if network.sk_ratio else 2e-1, noise)


def check_evaluation(exact: Exact, tag: str, read: Numbers, dtype: torch.dtype) -> None:
    title, network = NETWORKS[tag]
    encoder = official_encoder(network, dtype).eval()
    with torch.no_grad():
        ours = stages(encoder, nchw(read["input"]).to(dtype))
    bound = {torch.float32: 1e-5, torch.float64: 1e-6}[dtype]
    same_stages(partial(exact, bound=bound), f"network: {title}: evaluation", ours, under(read, "eval64"))


def check_training(exact: Exact, tag: str, read: Numbers, dtype: torch.dtype) -> None:
    """One training call and its gradients."""
    title, network = NETWORKS[tag]
    encoder, images = official_encoder(network, dtype).train(), nchw(read["input"]).to(dtype).requires_grad_()
    ours = stages(encoder, images)
    loss = (ours["final_avg_pool"] * torch.from_numpy(read["loss_weights"])).sum()
    loss.backward()
    theirs, tensors = under(read, "train64"), official.encoder_tensors(encoder)
    bounds = training_bounds(network, dtype)
    forward = partial(exact, bound=bounds.stages, remark="" if bounds.stages <= 1e-4 else bounds.remark)
    backward = partial(exact, bound=bounds.gradients, remark=bounds.remark)
    part = f"network: {title}: training"
    forward(part, loss, theirs["loss"])
    same_stages(forward, part, {name: maps.detach() for name, maps in ours.items()}, theirs)
    same_statistics(forward, part, tensors, read["moving_names"].tolist(), theirs)
    same_gradients(backward, f"{part}, gradients", tensors, read["grad_names"].tolist(), theirs)
    backward(f"{part}, gradients", images.grad[:1], nchw(theirs["grad_input"]))


def same_statistics(
    exact: Comparison, part: str, tensors: Mapping[str, Tensor], names: list[str], theirs: Numbers
) -> None:
    """Sums of all moving means and variances after one training call, and all of those that are stored."""
    assert set(names) == {name for name, tensor in tensors.items() if "moving" in name}
    exact(part, torch.stack([tensors[name].sum() for name in names]), theirs["moving_after_sum"])
    for name, stored in under(theirs, "moving_after").items():
        exact(part, tensors[name], stored)


def same_gradients(
    exact: Comparison, part: str, tensors: Mapping[str, Tensor], names: list[str], theirs: Numbers
) -> None:
    """Norm and sum of every gradient, and all of those that are stored."""
    assert set(names) == {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    for name, norm, total in zip(names, theirs["grad_l2"], theirs["grad_sum"], strict=True):
        gradient = tensors[name].grad
        exact(part, gradient.norm(), norm)
        # A sum may cancel to next to nothing: it is measured beside the sum of equal numbers of that norm.
        scale = norm * gradient.numel() ** 0.5
        exact(part, 1 + gradient.sum() / scale, 1 + total / scale)
    for name, stored in under(theirs, "grad").items():
        exact(part, official.in_tensorflow(tensors[name].grad), stored)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", EVALUATED)
def test_every_stage_in_evaluation_mode_is_the_official_one(golden, exact, tag, dtype):
    check_evaluation(exact, tag, golden(f"resnet_{tag}"), dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", TRAINED)
def test_a_training_call_has_the_official_stages_gradients_and_statistics(golden, exact, tag, dtype):
    check_training(exact, tag, golden(f"resnet_{tag}"), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", [tag for tag in NETWORKS if tag not in EVALUATED])
def test_larger_networks_in_evaluation_mode_are_the_official_ones(full_golden, exact, tag, dtype):
    check_evaluation(exact, tag, full_golden(f"resnet_{tag}"), dtype)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", [tag for tag in NETWORKS if tag not in TRAINED])
def test_training_larger_networks_is_the_official_training(full_golden, exact, tag, dtype):
    check_training(exact, tag, full_golden(f"resnet_{tag}"), dtype)


@pytest.mark.parametrize("tag", NETWORKS)
def test_the_official_float32_is_as_far_from_the_official_float64_as_ours(full_golden, exact, tag):
    title, network = NETWORKS[tag]
    read, bounds = full_golden(f"resnet_{tag}"), training_bounds(network, torch.float32)
    single, double = under(read, "train"), under(read, "train64")
    for name in single:
        part, bound = f"network: {title}: official float32, training", bounds.stages
        if "grad" in name:
            part, bound = f"{part}, gradients", bounds.gradients
        if name.endswith(("grad_input", "/gamma", "/beta", "/kernel", "/tl", "/br", "/ch_mean", "/ch_std")):
            exact(part, single[name], double[name], bound, "the noise of float32 itself")

"""The encoder beside the official one: every stage, loss, gradient and statistic, in both modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import official
import pytest
import torch
from annotations import Exact
from official import Comparison, Numbers
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


def official_encoder(network: Network, dtype: torch.dtype) -> ResNet:
    """The encoder with the weights of its names, none drawn before."""
    with torch.device("meta"):
        encoder = ResNet(network)
    encoder = encoder.to_empty(device="cpu")
    official.fill(official.encoder_tensors(encoder))
    return encoder.to(dtype)


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
    stages = {18: 1e-4, 50: 1e-3, 101: 5e-3}[network.depth]
    gated = network.sk_ratio > 0 and network.depth >= 50
    return Bounds(stages, 5e-1 if gated else 2e-1, noise)


def check_evaluation(exact: Exact, tag: str, encoder: ResNet, read: Numbers) -> None:
    title, dtype = NETWORKS[tag][0], encoder.stem[0].weight.dtype
    with torch.no_grad():
        ours = official.stages(encoder.eval(), official.nchw(read["input"]).to(dtype))
    bound = {torch.float32: 1e-5, torch.float64: 1e-6}[dtype]
    official.same_stages(
        partial(exact, bound=bound), f"network: {title}: evaluation", ours, official.under(read, "eval64")
    )


def check_training(exact: Exact, tag: str, encoder: ResNet, read: Numbers) -> None:
    """One training call and its gradients."""
    (title, network), dtype = NETWORKS[tag], encoder.stem[0].weight.dtype
    images = official.nchw(read["input"]).to(dtype).requires_grad_()
    ours = official.stages(encoder.train(), images)
    loss = (ours["final_avg_pool"] * torch.from_numpy(read["loss_weights"])).sum()
    loss.backward()
    theirs, tensors = official.under(read, "train64"), official.encoder_tensors(encoder)
    bounds = training_bounds(network, dtype)
    forward = partial(exact, bound=bounds.stages, remark="" if bounds.stages <= 1e-4 else bounds.remark)
    backward = partial(exact, bound=bounds.gradients, remark=bounds.remark)
    part = f"network: {title}: training"
    forward(part, loss, theirs["loss"])
    official.same_stages(forward, part, {name: maps.detach() for name, maps in ours.items()}, theirs)
    same_statistics(forward, part, tensors, read["moving_names"].tolist(), theirs)
    same_gradients(backward, f"{part}, gradients", tensors, read["grad_names"].tolist(), theirs)
    backward(f"{part}, gradients", images.grad[:1], official.nchw(theirs["grad_input"]))


def same_statistics(
    exact: Comparison, part: str, tensors: Mapping[str, Tensor], names: list[str], theirs: Numbers
) -> None:
    """Sums of all moving means and variances after one training call, and all of those that are stored."""
    assert set(names) == {name for name, tensor in tensors.items() if "moving" in name}
    exact(part, torch.stack([tensors[name].sum() for name in names]), theirs["moving_after_sum"])
    for name, stored in official.under(theirs, "moving_after").items():
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
    for name, stored in official.under(theirs, "grad").items():
        exact(part, official.in_tensorflow(tensors[name].grad), stored)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", EVALUATED)
def test_every_stage_in_evaluation_mode_is_the_official_one(golden, exact, tag, dtype):
    check_evaluation(exact, tag, official_encoder(NETWORKS[tag][1], dtype), golden(f"resnet_{tag}"))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", TRAINED)
def test_a_training_call_has_the_official_stages_gradients_and_statistics(golden, exact, tag, dtype):
    check_training(exact, tag, official_encoder(NETWORKS[tag][1], dtype), golden(f"resnet_{tag}"))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", [tag for tag in EVALUATED if tag not in TRAINED])
def test_a_training_call_of_a_whole_batch_is_the_official_one(full_golden, exact, tag, dtype):
    check_training(exact, tag, official_encoder(NETWORKS[tag][1], dtype), full_golden(f"resnet_{tag}"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("tag", [tag for tag in NETWORKS if tag not in EVALUATED])
def test_larger_networks_are_the_official_ones_in_both_modes(full_golden, exact, tag, dtype):
    encoder, read = official_encoder(NETWORKS[tag][1], dtype), full_golden(f"resnet_{tag}")
    check_evaluation(exact, tag, encoder, read)
    check_training(exact, tag, encoder, read)


@pytest.mark.parametrize("tag", NETWORKS)
def test_the_official_float32_is_as_far_from_the_official_float64_as_ours(full_golden, exact, tag):
    title, network = NETWORKS[tag]
    read, bounds = full_golden(f"resnet_{tag}"), training_bounds(network, torch.float32)
    single, double = official.under(read, "train"), official.under(read, "train64")
    for name in single:
        part, bound = f"network: {title}: official float32, training", bounds.stages
        if "grad" in name:
            part, bound = f"{part}, gradients", bounds.gradients
        if name.endswith(("grad_input", "/gamma", "/beta", "/kernel", "/tl", "/br", "/ch_mean", "/ch_std")):
            exact(part, single[name], double[name], bound, "the noise of float32 itself")

"""The encoder's layers against naive loops and the official numbers; its sizes against the paper's.

The whole encoder beside the official one is in test_exact_network.py.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import official
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clrkit.config import Network
from clrkit.resnet import (
    BasicBlock,
    BatchNorm,
    Bottleneck,
    MaxPool,
    PointwiseConvolution,
    ResNet,
    SelectiveKernel,
    ShortcutPool,
    convolution,
)

SIDES = [(1, 1), (2, 2), (3, 4), (4, 3), (5, 5), (6, 7)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


# Sizes


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 2), ("cifar", 8), ("stride2", 4)])
@pytest.mark.parametrize("depth", [8, 14, 20])
def test_small_networks_have_three_groups_of_16_32_and_64_channels(depth, stem, side):
    network = ResNet(Network(depth=depth, stem=stem))
    maps = network.stem(torch.rand(2, 3, 8, 8))
    assert maps.shape == (2, 16, side, side)
    channels = []
    for group in network.groups:
        maps = group(maps)
        channels.append(maps.shape[1])
    assert channels == [16, 32, 64]
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 64)


@pytest.mark.parametrize(("depth", "features"), [(18, 512), (34, 512), (50, 2048), (101, 2048), (200, 2048)])
@pytest.mark.parametrize("width", [0.5, 1, 2])
@pytest.mark.parametrize("sk_ratio", [0, 0.0625])
def test_the_paper_s_networks_have_features_in_proportion_to_their_width(depth, features, width, sk_ratio):
    with torch.device("meta"):
        network = ResNet(Network(depth=depth, width=width, sk_ratio=sk_ratio, stem="imagenet"))
    assert network.features == features * width
    assert network.groups[-1][-1].shortcut(torch.empty(1, network.features)).shape == (1, network.features)


@pytest.mark.parametrize("depth", [8, 14, 20, 18, 34, 50, 101, 152, 200])
def test_the_depth_counts_the_layers_on_the_longest_path(depth):
    with torch.device("meta"):
        network = ResNet(Network(depth=depth))
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock | Bottleneck)]
    layers = {BasicBlock: 2, Bottleneck: 3}
    assert 2 + sum(layers[type(block)] for block in blocks) == depth


def sizes(network: Network) -> tuple[int, int]:
    """Trained numbers, and all with the running statistics."""
    with torch.device("meta"):
        encoder = ResNet(network)
    trained = sum(parameter.numel() for parameter in encoder.parameters())
    running = sum(value.numel() for name, value in encoder.named_buffers() if "running" in name)
    return trained, trained + running


@pytest.mark.parametrize(
    ("depth", "width", "plain", "selective"),
    [
        (50, 1, 24, 35),
        (50, 2, 94, 140),
        (101, 1, 43, 65),
        (101, 2, 170, 257),
        (152, 1, 58, 89),
        (152, 2, 233, 354),
        (152, 3, None, 795),
    ],
)
def test_the_sizes_with_running_statistics_are_those_of_the_paper_s_table_1(depth, width, plain, selective):
    for millions, sk_ratio in ((plain, 0), (selective, 0.0625)):
        network = Network(depth=depth, width=width, sk_ratio=sk_ratio, stem="imagenet")
        assert millions is None or round(sizes(network)[1] / 1e6) == millions


@pytest.mark.parametrize(
    ("network", "trainable", "total"),
    [
        (Network(depth=18, stem="cifar"), 11173056, 11182784),
        (Network(depth=18, sk_ratio=0.0625, stem="imagenet"), 11199968, 11209824),
        (Network(depth=50, stem="imagenet"), 23508032, 23561152),
        (Network(depth=50, sk_ratio=0.0625, stem="imagenet"), 35215584, 35277408),
        (Network(depth=50, sk_ratio=0.0625, stem="cifar"), 35188672, 35250368),
        (Network(depth=101, width=2, sk_ratio=0.0625, stem="imagenet"), 257132224, 257377984),
        (Network(depth=50, width=0.125, stem="imagenet"), 374152, 380792),
        (Network(depth=50, width=0.125, sk_ratio=0.0625, stem="imagenet"), 597644, 606268),
    ],
)
def test_the_sizes_are_the_official_code_s_to_the_parameter(network, trainable, total):
    assert sizes(network) == (trainable, total)


def test_the_names_of_weights_stay_so_that_what_was_written_can_be_read():
    """Finished runs and model folders hold these names; a change of them needs a way to read the old ones."""
    names = ResNet(Network(depth=50, width=0.125, sk_ratio=0.0625, stem="imagenet")).state_dict()
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert [name for name in names if name.startswith("groups.1.0.") and name.endswith("weight")] == [
        f"groups.1.0.{name}.weight"
        for name in (
            "shortcut.1", "shortcut.2", "conv1", "bn1", "conv2.conv", "conv2.bn", "conv2.reduce",
            "conv2.reduce_bn", "conv2.expand", "conv3", "bn3",
        )
    ]  # fmt: skip
    assert digest.startswith("ba6ba8f68c68ff5b")


# Layers against loops


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: output side, and cells missing before the first."""
    out = -(-side // stride)
    return out, max((out - 1) * stride + kernel - side, 0) // 2


def pooled(x: Tensor, kernel: int, stride: int, reduce: Any) -> Tensor:
    """Pooling with SAME padding by `reduce` over the cells of a window that exist."""
    (rows, top), (columns, left) = (same_padding(side, kernel, stride) for side in x.shape[2:])
    out = torch.empty(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            y, z = i * stride - top, j * stride - left
            window = x[:, :, max(y, 0) : y + kernel, max(z, 0) : z + kernel]
            out[:, :, i, j] = reduce(window)
    return out


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_the_max_pool_pads_as_tensorflow_s_same(height, width):
    x = normal(2, 3, height, width)
    torch.testing.assert_close(MaxPool()(x), pooled(x, 3, 2, lambda window: window.amax((2, 3))))


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_the_shortcut_pool_of_stride_1_averages_the_cells_that_exist(height, width):
    x = normal(2, 3, height, width)
    torch.testing.assert_close(ShortcutPool(1)(x), pooled(x, 2, 1, lambda window: window.mean((2, 3))))


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_the_shortcut_pool_of_stride_2_counts_zeros_beyond_an_odd_side(height, width):
    x = normal(2, 3, height, width)
    torch.testing.assert_close(ShortcutPool(2)(x), pooled(x, 2, 2, lambda window: window.sum((2, 3)) / 4))


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 9)])
def test_a_convolution_sees_as_many_zeros_before_as_the_official_fixed_padding(kernel, stride, height, width):
    layer, x = convolution(2, 3, kernel, stride).double(), normal(1, 2, height, width)
    before = (kernel - 1) // 2
    padded = F.pad(x, (before, kernel - 1 - before) * 2)
    expected = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)
    expected = torch.einsum("bcijkl,ockl->boij", expected, layer.weight)
    torch.testing.assert_close(layer(x), expected)
    assert layer.bias is None


def test_selective_kernels_mix_two_streams_per_channel():
    layer = SelectiveKernel(3, 4, stride=2, ratio=0.5).double().eval()
    for module in layer.modules():
        if isinstance(module, BatchNorm):
            for seed, tensor in enumerate((module.weight, module.bias, module.running_mean)):
                tensor.data = normal(*tensor.shape, seed=seed)
    x = normal(2, 3, 5, 6)
    streams = F.relu(layer.bn(layer.conv(x)))
    out = layer(x)
    for image in range(2):
        means = [(streams[image, c] + streams[image, c + 4]).mean() for c in range(4)]
        squeezed = torch.stack(means).reshape(1, 4, 1, 1)
        gate = layer.expand(F.relu(layer.reduce_bn(layer.reduce(squeezed)))).flatten()
        for c in range(4):
            first = torch.exp(gate[c]) / (torch.exp(gate[c]) + torch.exp(gate[c + 4]))
            expected = first * streams[image, c] + (1 - first) * streams[image, c + 4]
            torch.testing.assert_close(out[image, c], expected)


@pytest.mark.parametrize(
    ("outputs", "ratio", "middle"), [(64, 0.0625, 32), (1024, 0.0625, 64), (100, 0.5, 50)]
)
def test_the_gate_of_selective_kernels_is_never_narrower_than_32(outputs, ratio, middle):
    assert SelectiveKernel(8, outputs, 1, ratio).reduce.out_channels == middle


def test_the_stride_of_a_bottleneck_lies_on_its_3x3_convolution():
    block = Bottleneck(8, 4, stride=2, sk_ratio=0, project=True)
    strides = {module.kernel_size: module.stride for module in block.conv2 if isinstance(module, nn.Conv2d)}
    assert strides == {(3, 3): (2, 2)}
    assert block.conv1.stride == block.conv3.stride == (1, 1)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_whose_last_gamma_is_zero_is_its_shortcut(block):
    layer = block(4 * block.expansion, 4, stride=1, sk_ratio=0, project=False).double()
    last = layer.bn2 if block is BasicBlock else layer.bn3
    nn.init.zeros_(last.weight)
    x = normal(2, 4 * block.expansion, 3, 3)
    torch.testing.assert_close(layer(x), F.relu(x))


# Batch norm


def batch_norm(momentum: float = 0.1) -> BatchNorm:
    return BatchNorm(3, momentum=momentum).double()


def test_training_normalises_with_the_batch_s_own_statistics():
    layer, x = batch_norm(), normal(4, 3, 2, 5)
    reference = nn.BatchNorm2d(3).double()
    torch.testing.assert_close(layer(x), reference(x))
    torch.testing.assert_close(layer.running_mean, reference.running_mean)


def test_the_epsilon_is_1e_5_and_the_running_statistics_keep_nine_tenths_of_themselves():
    # TensorFlow's momentum 0.9 is PyTorch's 0.1.
    for module in ResNet(Network(depth=50, width=0.125, sk_ratio=0.0625)).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module, BatchNorm)
            assert (module.eps, module.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_the_running_variance_is_the_biased_one(momentum):
    layer, x = batch_norm(momentum), normal(4, 3, 2, 5)
    layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    expected = (1 - momentum) * layer.running_var + momentum * x.var((0, 2, 3), unbiased=False)
    layer(x)
    torch.testing.assert_close(layer.running_var, expected)


def test_evaluation_uses_the_running_statistics_and_leaves_them_alone():
    layer, x = batch_norm(), normal(4, 3, 2, 5)
    layer(normal(4, 3, 2, 5, seed=1))
    layer.eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    y = layer(x)
    mean, variance = (value[:, None, None] for value in (layer.running_mean, layer.running_var))
    torch.testing.assert_close(y, (x - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(layer.state_dict(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", ["2d", "4d"])
def test_batch_norm_is_the_official_one(golden, exact, shape, dtype):
    read = {name[3:]: value for name, value in golden("bn").items() if name.startswith(f"{shape}/")}
    x, loss_weights = (maps(read[name]).to(dtype) for name in ("x", "loss_weights"))
    layer = BatchNorm(x.shape[1]).to(dtype)
    named = official.batch_norm_tensors("", layer)
    for name, tensor in named.items():
        tensor.data.copy_(torch.from_numpy(read[name.removeprefix("/")]))
    exact("batch norm: evaluation", layer.eval()(x), maps(read["global/y_eval"]), 1e-5)
    y = layer.train()(x.requires_grad_())
    (y * loss_weights).sum().backward()
    exact("batch norm: training", y, maps(read["global/y_train"]), 1e-4)
    exact("batch norm: gradients", x.grad, maps(read["global/grad_x"]), 1e-3)
    exact("batch norm: gradients", layer.weight.grad, read["global/grad_gamma"], 1e-3)
    exact("batch norm: gradients", layer.bias.grad, read["global/grad_beta"], 1e-3)
    for leaf in ("moving_mean", "moving_variance"):
        exact("batch norm: moving statistics", named[f"/{leaf}"], read[f"global/{leaf}_after"], 1e-5)


def maps(array: np.ndarray) -> Tensor:
    array = array if array.ndim == 4 else array[:, None, None, :]
    return torch.from_numpy(array).permute(0, 3, 1, 2)


# Initialisation


def test_convolutions_start_as_truncated_normals_of_variance_one_over_fan_in():
    for module in ResNet(Network(depth=18, stem="cifar")).modules():
        if isinstance(module, nn.Conv2d):
            spread = module.weight[0].numel() ** -0.5
            values = module.weight.detach()
            assert values.std().item() == pytest.approx(spread, rel=4 / values.numel() ** 0.5)
            assert values.abs().max().item() <= 2 * spread / 0.8796
            assert abs(values.mean().item()) < 5 * spread / values.numel() ** 0.5


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_every_block_of_the_paper_s_networks_starts_as_its_shortcut(depth):
    network = ResNet(Network(depth=depth, width=0.25))
    last = {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm)}
    final = "bn2" if depth < 50 else "bn3"
    for name, module in last.items():
        assert module.weight.unique().tolist() == [float(not name.endswith(final))], name
        assert module.bias.unique().tolist() == [0.0]


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_the_small_networks_start_with_every_gamma_at_one(depth):
    gammas = [m.weight for m in ResNet(Network(depth=depth)).modules() if isinstance(m, BatchNorm)]
    assert torch.cat(gammas).unique().tolist() == [1.0]


@pytest.mark.parametrize("inputs", [2, 4, 7, 8, 16])
@pytest.mark.parametrize("side", [6, 7])
def test_a_pointwise_convolution_of_stride_2_is_pytorchs(inputs: int, side: int) -> None:
    ours, theirs = PointwiseConvolution(inputs, 12, 2), nn.Conv2d(inputs, 12, 1, 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours.double(), theirs.double()):
        x = torch.rand(5, inputs, side, side, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        y = layer(x.requires_grad_())
        y.square().sum().backward()
        results.append((y, x.grad, layer.weight.grad))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_smallest_network_trains_with_the_kernels_of_avx2(threads: str) -> None:
    """OneDNN's own kernel corrupts the heap there: the process would be aborted."""
    code = (
        "import torch; from clrkit.config import Network; from clrkit.model import Model, ModelConfig\n"
        "layout = {'memory_format': torch.channels_last}\n"
        "model = Model(ModelConfig(network=Network(width=0.25), classes=10)).to(**layout)\n"
        "for _ in range(12): model(torch.rand(250, 3, 28, 28).contiguous(**layout)).sum().backward()"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path(__file__).parents[2])

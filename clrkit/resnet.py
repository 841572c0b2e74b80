"""ResNet v1.5, ResNet-D and selective kernels, as in the official `tf2/resnet.py`.

Every padding rule, the order of the layers and the batch-norm statistics follow the TensorFlow code,
so that its weights give its numbers. Channels and depth follow the paper; depths 8, 14 and 20 are the
three-stage CIFAR residual networks of He et al. (2016), for machines without an accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clrkit.config import Network
from clrkit.errors import ConfigError

BASIC_BLOCKS = {8: (1, 1, 1), 14: (2, 2, 2), 20: (3, 3, 3), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
VECTOR = 8  # float32 numbers in a vector of AVX2
BOTTLENECK_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}

Maps = Float[Tensor, "batch channels height width"]
Output = Float[Tensor, "batch outputs rows columns"]
Pooled = Float[Tensor, "batch features"]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose running variance is the biased one, as TensorFlow's (PyTorch's is unbiased)."""

    follows = True  # whether running statistics follow the batches in training mode

    def forward(self, x: Maps) -> Maps:
        if not self.training:
            return super().forward(x)
        variance, momentum = cast(Tensor, self.running_var), cast(float, self.momentum)
        mean, unbiased = cast(Tensor, self.running_mean), variance.clone()
        if not self.follows:  # statistics to throw away; torch.utils.checkpoint wants the same call
            mean = mean.clone()
        y = F.batch_norm(x, mean, unbiased, self.weight, self.bias, True, momentum, self.eps)
        if not self.follows:
            return y
        count = x.numel() // x.shape[1]
        # PyTorch added momentum * var * n / (n - 1); take the factor n / (n - 1) out of that term alone.
        with torch.no_grad():
            variance.mul_((1 - momentum) / count).add_(unbiased, alpha=(count - 1) / count)
        return y


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Within, batch norm in training mode leaves its running statistics as they are."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.follows = False
    try:
        yield
    finally:
        for norm in norms:
            norm.follows = True


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded by (kernel - 1) // 2: TensorFlow's "fixed padding"."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class PointwiseConvolution(nn.Conv2d):
    """1x1 convolution without bias that takes every `stride`-th row and column.

    Below 8 channels we take the rows and columns ourselves, because oneDNN writes past its buffer on
    processors with AVX2 alone (uxlfoundation/oneDNN#6035). The function is the same.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Maps) -> Output:
        stride = self.stride[0]
        if stride > 1 and self.in_channels < VECTOR:
            return F.conv2d(x[:, :, ::stride, ::stride], self.weight)
        return super().forward(x)


class MaxPool(nn.Module):
    """3x3 max pool of stride 2 padded as TensorFlow's SAME: an even side only at its end."""

    def forward(self, x: Maps) -> Float[Tensor, "batch channels (height+1)//2 (width+1)//2"]:
        odd_rows, odd_columns = x.shape[2] % 2, x.shape[3] % 2
        x = F.pad(x, (odd_columns, 1, odd_rows, 1), value=float("-inf"))
        return F.max_pool2d(x, 3, 2)


class ShortcutPool(nn.Module):
    """ResNet-D's 2x2 average pool before the 1x1 shortcut convolution.

    With stride 2 the zeros padded around an odd side count in the mean; with stride 1 the cells
    beyond the last row and column do not (official `tf2/resnet.py`, projection shortcut).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Maps) -> Float[Tensor, "batch channels rows columns"]:
        if self.stride == 2:
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 2)
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)


class SelectiveKernel(nn.Module):
    """Two 3x3 streams, mixed per channel by a softmax gate (Li et al., 2019; official `SK_Conv2D`)."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: float) -> None:
        super().__init__()
        middle = max(int(outputs * ratio), 32)
        self.conv = convolution(inputs, 2 * outputs, 3, stride)
        self.bn = BatchNorm(2 * outputs)
        self.reduce = convolution(outputs, middle, 1)
        self.reduce_bn = BatchNorm(middle)
        self.expand = convolution(middle, 2 * outputs, 1)

    def forward(self, x: Maps) -> Output:
        both = F.relu(self.bn(self.conv(x)))
        streams = torch.stack(both.chunk(2, dim=1), 1)
        pooled = streams.sum(1).mean((2, 3), keepdim=True)
        gate = self.expand(F.relu(self.reduce_bn(self.reduce(pooled))))
        weights = torch.stack(gate.chunk(2, dim=1), 1).softmax(1)
        return (streams * weights).sum(1)


class Shortcut(nn.Sequential):
    """Projection to the block's output shape; with selective kernels in the manner of ResNet-D."""

    def __init__(self, inputs: int, outputs: int, stride: int, sk_ratio: float) -> None:
        if sk_ratio > 0:
            super().__init__(ShortcutPool(stride), convolution(inputs, outputs, 1), BatchNorm(outputs))
        else:
            super().__init__(PointwiseConvolution(inputs, outputs, stride), BatchNorm(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (depths 8 to 34)."""

    expansion = 1

    def __init__(self, inputs: int, filters: int, stride: int, sk_ratio: float, project: bool) -> None:
        super().__init__()
        self.shortcut = Shortcut(inputs, filters, stride, sk_ratio) if project else nn.Identity()
        self.conv1, self.bn1 = convolution(inputs, filters, 3, stride), BatchNorm(filters)
        self.conv2, self.bn2 = convolution(filters, filters, 3), BatchNorm(filters)

    def forward(self, x: Maps) -> Output:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride: v1.5) and 1x1 convolutions, the 3x3 optionally selective."""

    expansion = 4

    def __init__(self, inputs: int, filters: int, stride: int, sk_ratio: float, project: bool) -> None:
        super().__init__()
        outputs = filters * self.expansion
        self.shortcut = Shortcut(inputs, outputs, stride, sk_ratio) if project else nn.Identity()
        self.conv1, self.bn1 = convolution(inputs, filters, 1), BatchNorm(filters)
        self.conv2: nn.Module
        if sk_ratio > 0:
            self.conv2 = SelectiveKernel(filters, filters, stride, sk_ratio)
        else:
            self.conv2 = nn.Sequential(
                convolution(filters, filters, 3, stride), BatchNorm(filters), nn.ReLU()
            )
        self.conv3, self.bn3 = convolution(filters, outputs, 1), BatchNorm(outputs)

    def forward(self, x: Maps) -> Output:
        y = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def stem(network: Network, filters: int) -> nn.Sequential:
    """The layers before the first block: `filters` output channels.

    "imagenet" is a 7x7/2 convolution (three 3x3 with selective kernels) and a max pool; "cifar" a 3x3
    convolution; "stride2" a 3x3/2 convolution for very small networks.
    """
    if network.stem == "imagenet" and network.sk_ratio > 0:
        half = filters // 2
        layers: list[nn.Module] = [convolution(3, half, 3, 2), BatchNorm(half), nn.ReLU()]
        layers += [convolution(half, half, 3), BatchNorm(half), nn.ReLU(), convolution(half, filters, 3)]
    elif network.stem == "imagenet":
        layers = [convolution(3, filters, 7, 2)]
    else:
        layers = [convolution(3, filters, 3, 2 if network.stem == "stride2" else 1)]
    layers += [BatchNorm(filters), nn.ReLU()]
    return nn.Sequential(*layers, *([MaxPool()] if network.stem == "imagenet" else []))


class ResNet(nn.Module):
    """Residual encoder: float images (batch, 3, height, width) in [0, 1] to (batch, `features`) features.

    Args:
        network: depth, width multiplier, selective-kernel ratio and stem.

    Raises:
        ConfigError: for a width that leaves no channels.
    """

    features: int

    def __init__(self, network: Network) -> None:
        super().__init__()
        basic = network.depth in BASIC_BLOCKS
        block: type[BasicBlock | Bottleneck] = BasicBlock if basic else Bottleneck
        sizes = BASIC_BLOCKS[network.depth] if basic else BOTTLENECK_BLOCKS[network.depth]
        base = round((16 if len(sizes) == 3 else 64) * network.width)
        if base < 2:
            raise ConfigError(f"width {network.width:g} leaves fewer than two channels.")
        self.stem = stem(network, base)
        self.groups = nn.Sequential()
        channels = base
        for group, blocks in enumerate(sizes):
            filters, layers = base * 2**group, []
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                # As in the official code, every group opens with a projection, even one that keeps its shape.
                layers.append(block(channels, filters, stride, network.sk_ratio, project=index == 0))
                channels = filters * block.expansion
            self.groups.append(nn.Sequential(*layers))
        self.features = channels
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Official initialisation: truncated normal of variance 1 / fan-in; last gamma of a block 0.

        The three-stage networks keep gamma 1, as He et al. (2016) have it: their runs are too short to
        wake the residual branches first.
        """
        small = len(self.groups) == 3
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                # A normal cut at two deviations has 0.8796 of its deviation left.
                std = fan_in**-0.5 / 0.87962566103423978
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            elif isinstance(module, BasicBlock) and not small:
                nn.init.zeros_(module.bn2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Pooled:
        return cast(Tensor, self.groups(self.stem(images))).mean((2, 3))

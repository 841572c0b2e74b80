"""How others make pretraining steps: lightly, and the recipe that most repositories write by hand.

Each gets our network, batch, optimiser, images and augmentation recipe (probabilities and strengths; the laws
of their crops and colours are their own), and a worker process a core.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from clrkit.augment import (
    BLUR_PROBABILITY,
    BLUR_SIGMA,
    FLIP_PROBABILITY,
    GREY_PROBABILITY,
    JITTER,
    JITTER_PROBABILITY,
)
from clrkit.config import Augmentation
from clrkit.pixels import cores

Transform = Callable[[Image.Image], Any]
Loss = Callable[[Tensor, Tensor], Tensor]


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, each transformed to a pair of views by itself."""

    def __init__(self, pixels: np.ndarray, transform: Transform) -> None:
        self.images, self.transform = pixels.transpose(0, 2, 3, 1), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = self.transform(Image.fromarray(np.ascontiguousarray(self.images[index])))[:2]
        return first, second


def loader(pixels: np.ndarray, transform: Transform, batch_size: int, pinned: bool) -> DataLoader[Any]:
    return DataLoader(
        TwoViews(pixels, transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=cores(),
        persistent_workers=True,
        pin_memory=pinned,
    )


def torchvision_operations(augmentation: Augmentation, size: int) -> list[torch.nn.Module]:
    """The recipe in torchvision's operations, as most repositories have it; on uint8 images or batches."""
    strength = {name: unit * augmentation.color_strength for name, unit in JITTER.items()}
    cubic, scale = v2.InterpolationMode.BICUBIC, (augmentation.crop_area, 1.0)
    operations: list[torch.nn.Module] = [v2.RandomResizedCrop(size, scale, interpolation=cubic)]
    if augmentation.flip:
        operations.append(v2.RandomHorizontalFlip(FLIP_PROBABILITY))
    if augmentation.color_strength > 0:
        operations.append(v2.RandomApply([v2.ColorJitter(**strength)], JITTER_PROBABILITY))
        operations.append(v2.RandomGrayscale(GREY_PROBABILITY))
    if augmentation.blur:
        blur = v2.GaussianBlur(2 * (size // 20) + 1, BLUR_SIGMA)
        operations.append(v2.RandomApply([blur], BLUR_PROBABILITY))
    return operations


def torchvision_transform(augmentation: Augmentation, size: int) -> Transform:
    """Two views of a PIL image by torchvision v2."""
    view = v2.Compose(
        [
            v2.PILToTensor(),
            *torchvision_operations(augmentation, size),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return lambda image: (view(image), view(image))


def lightly_transform(augmentation: Augmentation, size: int) -> Transform:
    """Two views of a PIL image by lightly's SimCLR transform."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.transforms import SimCLRTransform

    transform: Transform = SimCLRTransform(
        input_size=size,
        cj_prob=JITTER_PROBABILITY if augmentation.color_strength > 0 else 0.0,
        cj_strength=augmentation.color_strength,
        min_scale=augmentation.crop_area,
        random_gray_scale=GREY_PROBABILITY if augmentation.color_strength > 0 else 0.0,
        gaussian_blur=BLUR_PROBABILITY if augmentation.blur else 0.0,
        sigmas=BLUR_SIGMA,
        hf_prob=FLIP_PROBABILITY if augmentation.flip else 0.0,
        normalize=None,
    )
    return transform


def lightly_loss(temperature: float) -> Loss:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.loss import NTXentLoss

    loss: Loss = NTXentLoss(temperature)
    return loss


def metric_learning_loss(temperature: float) -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    loss: Loss = SelfSupervisedLoss(NTXentLoss(temperature))
    return loss


def plain_nt_xent(temperature: float) -> Loss:
    """NT-Xent as it is usually written: the whole matrix, masked, and cross-entropy."""

    def loss(z1: Tensor, z2: Tensor) -> Tensor:
        z = F.normalize(torch.cat((z1, z2)))
        similarity = z @ z.T / temperature
        mask = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similarity = similarity.masked_fill(mask, float("-inf"))
        positives = torch.arange(len(z), device=z.device).roll(len(z1))
        return F.cross_entropy(similarity, positives)

    return loss

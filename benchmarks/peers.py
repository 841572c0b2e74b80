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
from clrkit.data.splits import cores

Transform = Callable[[Image.Image], Any]
BatchTransform = Callable[[Tensor], Tensor]
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


def torchvision_pil_transform(augmentation: Augmentation, size: int) -> Transform:
    """The same on PIL images up to the end, which suits small ones better."""
    as_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    view = v2.Compose([*torchvision_operations(augmentation, size), *as_tensor])
    return lambda image: (view(image), view(image))


def torchvision_batched(augmentation: Augmentation, size: int) -> BatchTransform:
    """A view of every image of a uint8 batch by torchvision v2, which draws once for all of them."""
    operations = torchvision_operations(augmentation, size)
    views: BatchTransform = v2.Compose([*operations, v2.ToDtype(torch.float32, scale=True)])
    return views


def kornia_batched(augmentation: Augmentation, size: int) -> BatchTransform:
    """A view of every image of a uint8 batch by kornia, which draws for each."""
    import kornia.augmentation as kornia

    strength = {name: unit * augmentation.color_strength for name, unit in JITTER.items()}
    scale, radius = (augmentation.crop_area, 1.0), size // 20
    operations: list[torch.nn.Module] = [
        kornia.RandomResizedCrop((size, size), scale, resample="bicubic", align_corners=False)
    ]
    if augmentation.flip:
        operations.append(kornia.RandomHorizontalFlip(p=FLIP_PROBABILITY))
    if augmentation.color_strength > 0:
        operations.append(kornia.ColorJitter(**strength, p=JITTER_PROBABILITY))
        operations.append(kornia.RandomGrayscale(p=GREY_PROBABILITY))
    if augmentation.blur:
        kernel = (2 * radius + 1, 2 * radius + 1)
        operations.append(kornia.RandomGaussianBlur(kernel, BLUR_SIGMA, p=BLUR_PROBABILITY))
    views = torch.nn.Sequential(*operations)
    return lambda pixels: views(pixels.float().div_(255))


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


def supervised_contrastive_loss(temperature: float) -> Loss:
    """SupCon by the same library: with one positive an anchor it is NT-Xent, and it takes far less memory."""
    from pytorch_metric_learning.losses import SelfSupervisedLoss, SupConLoss

    loss: Loss = SelfSupervisedLoss(SupConLoss(temperature))
    return loss


def lightly_memory_loss(temperature: float, queue: Tensor) -> Loss:
    """The loss of lightly with its memory bank, both views the anchors and the other view the positive.

    The bank's entries are all the negatives: other images of the batch are none. It takes up both views.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature, memory_bank_size=tuple(queue.shape))
    loss.memory_bank.bank.copy_(queue)

    def both(z1: Tensor, z2: Tensor) -> Tensor:
        mean: Tensor = loss(torch.cat((z1, z2)), torch.cat((z2, z1)).detach())
        return mean

    return both


def plain_nt_xent(temperature: float, negatives: Tensor | None = None) -> Loss:
    """NT-Xent as it is usually written: the whole matrix, masked, and cross-entropy.

    `negatives` are further candidates, normalised; the matrix is then of (2N, 2N + their number).
    """

    def loss(z1: Tensor, z2: Tensor) -> Tensor:
        z = F.normalize(torch.cat((z1, z2)))
        candidates = z if negatives is None else torch.cat((z, negatives))
        similarity = z @ candidates.T / temperature
        mask = torch.eye(*similarity.shape, dtype=torch.bool, device=z.device)
        similarity = similarity.masked_fill(mask, float("-inf"))
        positives = torch.arange(len(z), device=z.device).roll(len(z1))
        return F.cross_entropy(similarity, positives)

    return loss

"""The recipe for your own images: three stages that suit their number and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clrkit.config import Augmentation, Data, Distill, Finetune, Network, Pretrain
from clrkit.errors import ConfigError
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import adamw
from clrkit.own_images.scan import FolderScan

DECAY = 1e-4  # weight decay of every stage


def recipe(scan: FolderScan, device: str = "cpu", fields: Mapping[str, Any] | None = None) -> Distill:
    """The three stages for these images, still without labels.

    Sizes follow the preset `mini` (docs/mini.md), chosen on tinted MNIST. Epochs shrink with the number of
    images: pretraining sees about 400,000 images on a CPU (a few minutes of one core at 32 pixels), and 20
    times as many on an accelerator.

    Args:
        scan: gives number and size of the images.
        device: kind of device, "cpu" or an accelerator.
        fields: config fields to set by name, as in `with_fields`; `flip` is set in all stages.

    Raises:
        ConfigError: for an unknown field or an impossible value.
    """
    fast, small = device != "cpu", Network(depth=8, stem="stride2")
    pretrain = pretraining(scan, small, fast)
    crops = replace(pretrain.augmentation, crop_area=0.3, color_strength=0.0)
    finetune = Finetune(
        pretrain=pretrain, augmentation=crops, optimizer=adamw(1e-3 if fast else 4e-3, DECAY), fraction=1.0
    )
    distill = Distill(
        teacher=finetune,
        network=small,
        augmentation=crops,
        optimizer=adamw(8e-3, DECAY),
        epochs=clamp(images_seen(pretrain.data, fast) // 4 // len(scan.names), 5, 100),
        batch_size=pretrain.batch_size,
    )
    return with_recipe_fields(distill, fields or {})


def pretraining(scan: FolderScan, small: Network, fast: bool) -> Pretrain:
    """The first stage; on an accelerator with a larger network than `small`."""
    count = len(scan.names)
    data = replace(scan.data, image_size=clamp(scan.side, 8, 128 if fast else 64))
    large = Network(depth=18, stem="cifar" if data.image_size <= 64 else "imagenet")
    return Pretrain(
        data=data,
        network=large if fast else small,
        augmentation=Augmentation(crop_area=0.2, color_strength=0.5),
        optimizer=adamw(1e-3 if fast else 4e-3, DECAY, warmup_epochs=1.0),
        epochs=clamp(images_seen(data, fast) // count, 5, 300),
        batch_size=min(256 if fast else 64 if count < 10_000 else 128, count // 2),
        temperature=0.2,
    )


def images_seen(data: Data, fast: bool) -> int:
    """Images that pretraining sees in all its epochs together."""
    return (20 if fast else 1) * (400_000 if data.image_size <= 40 else 200_000)


def clamp(value: int, low: int, high: int) -> int:
    """The value within its bounds."""
    return max(low, min(value, high))


def with_recipe_fields(chain: Distill, fields: Mapping[str, Any]) -> Distill:
    """Set fields by name; `flip` holds for all stages.

    Raises:
        ConfigError: for an unknown field, an impossible value, or a field that leaves out labels.
    """
    for name in fields:
        if name.rpartition(".")[2] in ("fraction", "label_list"):
            raise ConfigError(f"{name} does not work with `fit`, which trains on all labels.")
    if "flip" in fields:
        fields = {"pretrain.flip": fields["flip"], "teacher.flip": fields["flip"], **fields}
    return with_fields(chain, fields)

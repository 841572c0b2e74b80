"""The recipe for one's own images: three stages that suit their number and size, and how long they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from clrkit.config import Augmentation, Data, Distill, Finetune, Network, Pretrain
from clrkit.errors import ConfigError
from clrkit.experiments.describe import duration
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import adamw
from clrkit.own_images.scan import FolderScan
from clrkit.runs.store import Store

if TYPE_CHECKING:
    import torch

TIMED_STEPS = 4
DECAY = 1e-4  # of weights, in every stage


def recipe(survey: FolderScan, device: str = "cpu", fields: Mapping[str, Any] | None = None) -> Distill:
    """The three stages for these images, still without labels.

    Sizes follow `mini`'s (docs/mini.md), which were chosen on tinted MNIST; passes over the images shrink
    with their number, so that pretraining sees about 400,000 of them on a CPU (a few minutes of one core at
    32 pixels), 20 times as many on an accelerator.

    Args:
        survey: number and size of the images.
        device: kind of device, "cpu" or an accelerator.
        fields: config fields by name that are set otherwise, as `with_fields`; `flip` is set in all stages.

    Raises:
        ConfigError: for an unknown field or an impossible value.
    """
    fast, small = device != "cpu", Network(depth=8, stem="stride2")
    pretrain = pretraining(survey, small, fast)
    crops = replace(pretrain.augmentation, crop_area=0.3, color_strength=0.0)
    finetune = Finetune(
        pretrain=pretrain, augmentation=crops, optimizer=adamw(1e-3 if fast else 4e-3, DECAY), fraction=1.0
    )
    distill = Distill(
        teacher=finetune,
        network=small,
        augmentation=crops,
        optimizer=adamw(8e-3, DECAY),
        epochs=between(5, views(pretrain.data, fast) // 4 // len(survey.names), 100),
        batch_size=pretrain.batch_size,
    )
    return overridden(distill, fields or {})


def pretraining(survey: FolderScan, small: Network, fast: bool) -> Pretrain:
    """Its first stage; on an accelerator with a larger network than the small one."""
    count = len(survey.names)
    data = replace(survey.data, image_size=min(max(survey.side, 8), 128 if fast else 64))
    large = Network(depth=18, stem="cifar" if data.image_size <= 64 else "imagenet")
    return Pretrain(
        data=data,
        network=large if fast else small,
        augmentation=Augmentation(crop_area=0.2, color_strength=0.5),
        optimizer=adamw(1e-3 if fast else 4e-3, DECAY, warmup_epochs=1.0),
        epochs=between(5, views(data, fast) // count, 300),
        batch_size=min(256 if fast else 64 if count < 10_000 else 128, count // 2),
        temperature=0.2,
    )


def views(data: Data, fast: bool) -> int:
    """How many images pretraining sees, repeats among them."""
    return (20 if fast else 1) * (400_000 if data.image_size <= 40 else 200_000)


def between(low: int, value: int, high: int) -> int:
    """The value, or the bound that it is beyond."""
    return max(low, min(value, high))


def overridden(chain: Distill, fields: Mapping[str, Any]) -> Distill:
    """The chain with fields set by name; whether images may be mirrored holds for all its stages.

    Raises:
        ConfigError: for an unknown field, an impossible value, or one that takes some of the labels away.
    """
    for name in fields:
        if name.rpartition(".")[2] in ("fraction", "label_list"):
            raise ConfigError(f"{name} does not go with `fit`, which trains on all labels that it is given.")
    if "flip" in fields:
        fields = {"pretrain.flip": fields["flip"], "teacher.flip": fields["flip"], **fields}
    return with_fields(chain, fields)


def seconds_expected(chain: Distill, labels: int, device: torch.device) -> float:
    """About how long the three stages take, by a few steps of pretraining.

    A view costs the same in every stage, a teacher's answer a third of it.
    """
    from clrkit.device import run_threads
    from clrkit.runs.run import load_once
    from clrkit.stages import begin, pretrain

    config = chain.teacher.pretrain
    data = load_once(config.images)
    with run_threads(device):
        steps = pretrain(config, data, begin(config, data, device))
        next(steps).loss.item()
        started = monotonic()
        last = list(islice(steps, TIMED_STEPS))
        if not last:
            return 0.0
        last[-1].loss.item()
        a_view = (monotonic() - started) / len(last) / (2 * config.batch_size)
    images = len(data.train)
    views = 2 * images * config.epochs + labels * chain.teacher.epochs + images * chain.epochs * 4 / 3
    return views * a_view


def expected(chain: Distill, store: Store, labels: int, device: torch.device) -> str:
    """How long it will take, in words."""
    if store.find(chain.teacher.pretrain):
        return "Pretraining is done; labels are learnt in a part of its time."
    took = duration(seconds_expected(chain, labels, device))
    return f"Training takes about {took} on this {device.type}."

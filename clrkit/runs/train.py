"""Train a stage in one call, without a record; `clrkit.runs.run` makes recorded, resumable runs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clrkit import evaluate, stages
from clrkit.config import Distill, Finetune, Pretrain, Stage, Supervised
from clrkit.data.splits import DataSet
from clrkit.device import choose_device
from clrkit.model import Model
from clrkit.runs.health import TrainingMonitor
from clrkit.training import Step

Show = Callable[[Step], None]


def pretrain(config: Pretrain, data: DataSet, device: str = "auto", show: Show | None = None) -> Model:
    """Train an encoder and projection head without labels (stage 1; v2 section 2).

    Args:
        config: network, augmentation, optimiser and length.
        data: as `clrkit.load` returns it.
        device: "auto", "cpu", "cuda" or "mps".
        show: is called with every `clrkit.training.Step`.

    Raises:
        ConfigError: for settings that the data or the device does not allow.
        TrainingError: if the loss is not finite, or training exploded or collapsed.

    Example:
        >>> data = clrkit.load(clrkit.Data())
        >>> model = clrkit.pretrain(clrkit.Pretrain(epochs=1, batch_size=64), data)
    """
    return train(config, data, None, device, show)


def finetune(
    config: Finetune, data: DataSet, pretrained: Model, device: str = "auto", show: Show | None = None
) -> Model:
    """Train a pretrained network on a fraction of the labels (stage 2; v2 section 2).

    Args and errors as `pretrain`; `pretrained` has the network and head of `config.pretrain`.

    Example:
        >>> teacher = clrkit.finetune(clrkit.Finetune(pretrain=config, fraction=0.01), data, model)
    """
    return train(config, data, pretrained, device, show)


def supervised(config: Supervised, data: DataSet, device: str = "auto", show: Show | None = None) -> Model:
    """Train the baseline: the same network on the labels alone. Args and errors as `pretrain`.

    Example:
        >>> baseline = clrkit.supervised(clrkit.Supervised(fraction=0.01), data)
    """
    return train(config, data, None, device, show)


def distill(
    config: Distill, data: DataSet, teacher: Model, device: str = "auto", show: Show | None = None
) -> Model:
    """Train a student on the teacher's outputs for images without labels (stage 3; v2 Eq. 2 and 3).

    Args and errors as `pretrain`.

    Example:
        >>> student = clrkit.distill(clrkit.Distill(teacher=config), data, teacher)
    """
    return train(config, data, teacher, device, show)


def accuracy(model: Model, data: DataSet, size: int, device: str = "auto") -> float:
    """Share of the evaluation images that a classifier gets right.

    Args:
        model: fine-tuned, distilled or supervised.
        data: as `clrkit.load` returns it.
        size: side of the images in pixels, `image_size` of the config.
        device: as in `pretrain`.

    Example:
        >>> print(f"{clrkit.accuracy(student, data, size=28):.1%}")
    """
    where, split = choose_device(device), data.evaluation
    logits = evaluate.predict(model.to(where), split, size, where)
    return evaluate.accuracy(logits, torch.from_numpy(split.labels))


def train(config: Stage, data: DataSet, parent: Model | None, device: str, show: Show | None) -> Model:
    """Train any stage but a probe; arguments and errors as `pretrain`."""
    where = choose_device(device)
    training, monitor = stages.begin(config, data, where, parent), TrainingMonitor(where)
    for step in stages.steps(config, data, training, parent):
        monitor.see(step.step, step.loss, training)
        if show:
            show(step)
    monitor.check()
    model = training.model.eval()
    assert isinstance(model, Model)
    return model

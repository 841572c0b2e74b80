"""Whole pretraining steps beside the official ones: network, losses, LARS and schedule at work together."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import official
import pytest
import torch
import torch.nn.functional as F
from annotations import Exact
from torch import Tensor, nn

from clrkit.config import Network, Optimizer, Pretrain
from clrkit.data.resize import to_float
from clrkit.losses import nt_xent
from clrkit.model import Model, ModelConfig
from clrkit.training import Training

STEPS = 4
BOUND = 1e-6  # of a float64 run whose learning rates the official code rounds to float32
Numbers = Mapping[str, Any]


class Losses(NamedTuple):
    """The terms of the official loss by their official names, and what they were computed from."""

    contrast_loss: Tensor
    supervised_loss: Tensor
    weight_decay: Tensor
    total_loss: Tensor
    projections: Tensor
    logits: Tensor


def official_training(settings: Mapping[str, Any]) -> Training:
    """A run on the weights, schedule and optimiser of the official one."""
    network = Network(depth=settings["depth"], width=settings["width"], stem="cifar")
    classes, layers, dim = settings["classes"], settings["L"], settings["out"]
    model = Model(ModelConfig(network=network, head_layers=layers, head_dim=dim, classes=classes))
    official.fill(tensors(model))
    optimizer = Optimizer(
        optimizer="lars",
        learning_rate=settings["lr"],
        scaling=settings["scal"],
        weight_decay=settings["wd"],
        warmup_epochs=settings["warm"],
    )
    config = Pretrain(epochs=settings["epochs"], batch_size=settings["N"], optimizer=optimizer)
    return Training(config, model.double(), settings["ne"], torch.device("cpu"))


def tensors(model: Model) -> dict[str, Tensor]:
    assert model.classifier is not None
    places = official.encoder_tensors(model.encoder) | official.head_tensors(model.head)
    return places | official.classifier_tensors(model.classifier)


def losses(model: Model, views: Tensor, labels: Tensor, settings: Mapping[str, Any]) -> Losses:
    """Forward pass of both views at once; the classifier learns on features that it does not change."""
    assert model.classifier is not None
    features = model.encoder(views)
    projections, logits = model.head(features), model.classifier(features.detach())
    z1, z2 = projections.chunk(2)
    contrast = nt_xent(z1, z2, settings["temp"], summed_views=True)
    supervised = F.cross_entropy(logits, labels.repeat(2, 1))
    # Beside LARS the official loss decays the classifier's kernel itself.
    decay = settings["wd"] * model.classifier.weight.square().sum() / 2
    return Losses(contrast, supervised, decay, contrast + supervised + decay, projections, logits)


def metrics(found: Losses, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    """The official metrics: of view 1 among the images of view 2, and of the classifier on both views."""
    z1, z2 = F.normalize(found.projections.detach()).chunk(2)
    similarity = z1 @ z2.T / temperature
    p = similarity.softmax(1)
    right = found.logits.argmax(1) == labels.argmax(1).repeat(2)
    return {
        "contrast_acc": (similarity.argmax(1) == torch.arange(len(z1))).double().mean(),
        "contrast_entropy": -(p * (p + 1e-8).log()).sum(1).mean(),
        "supervised_acc": right.double().mean(),
    }


def norm_and_sum(exact: Exact, part: str, tensor: Tensor, norm: float, total: float) -> None:
    """A tensor that is known by its norm and its sum; the sum, which may cancel, beside the norm."""
    exact(part, tensor.norm(), norm, BOUND)
    scale = norm * tensor.numel() ** 0.5
    exact(part, 1 + tensor.sum() / scale, 1 + total / scale, BOUND)


@pytest.fixture(scope="module")
def numbers(golden):
    return golden("trainstep_r18_eighth_cifar32")


def test_four_whole_pretraining_steps_are_the_official_ones(numbers, exact):
    settings = ast.literal_eval(str(numbers["config"]))
    training = official_training(settings)
    for step in range(STEPS):
        read = {name.removeprefix(f"f64/step{step}/"): value for name, value in numbers.items()}
        views = np.concatenate([numbers[f"view{view}_u8"][step] for view in (1, 2)])
        images = to_float(torch.from_numpy(views).permute(0, 3, 1, 2)).double()
        labels = torch.from_numpy(numbers["labels"][step]).double()
        found = losses(training.model, images, labels, settings)
        exact("training step: projections and logits", found.projections, read["proj_out"], BOUND)
        exact("training step: projections and logits", found.logits, read["logits_sup"], BOUND)
        same_losses(exact, found, metrics(found, labels, settings["temp"]), read)
        (batch,) = training.micro_batches(images, copies=2)
        training.backward(found.total_loss, batch)
        done = training.step()
        exact("training step: learning rate", done.learning_rate, read["lr"], BOUND)
        same_variables(exact, tensors(training.model), numbers, read)


def same_losses(exact: Exact, found: Losses, measured: Mapping[str, Tensor], read: Numbers) -> None:
    for name in ("contrast_loss", "supervised_loss", "weight_decay", "total_loss"):
        exact("training step: losses", getattr(found, name), read[name], BOUND)
    for name, value in measured.items():
        exact("training step: metrics", value, read[name], BOUND)


def same_variables(exact: Exact, named: Mapping[str, Tensor], numbers: Numbers, read: Numbers) -> None:
    """Gradients of the step, and all weights and statistics after it."""
    for name, norm in zip(numbers["grad_names"].tolist(), read["grad_l2"], strict=True):
        assert isinstance(named[name], nn.Parameter)
        exact("training step: norms of all gradients", named[name].grad.norm(), norm, BOUND)
    names = numbers["names"].tolist()
    assert set(names) == set(named)
    for name, norm, total in zip(names, read["var_l2_after"], read["var_sum_after"], strict=True):
        norm_and_sum(exact, "training step: all variables after it", named[name].detach(), norm, total)
    for name in [name for name in read if name.startswith("var_after/")]:
        ours = official.in_tensorflow(named[name.removeprefix("var_after/")])
        exact("training step: variables stored whole", ours, read[name], BOUND)

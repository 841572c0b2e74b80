"""Every stage on a few tiny images of noise."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from clrkit.config import Data, Distill, Finetune, Network, Optimizer, Pretrain, Probe, Stage, Supervised
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.model import Model, ModelConfig, seeded_model
from clrkit.resnet import BatchNorm
from clrkit.training import seed_of

CLASSES = ("red", "green", "blue")


PRETRAIN = Pretrain(
    data=Data(image_size=8),
    network=Network(width=0.25),
    optimizer=Optimizer(learning_rate=0.5, weight_decay=1e-4, warmup_epochs=0.5),
    epochs=2,
    batch_size=12,
    head_layers=3,
    head_dim=8,
)


SGD = Optimizer(optimizer="sgd", learning_rate=0.1)


ADAMW = Optimizer(optimizer="adamw", learning_rate=1e-2, weight_decay=1e-2)


FEW: dict[str, Any] = {"fraction": 0.5, "epochs": 2, "batch_size": 5}


FINETUNE = Finetune(pretrain=PRETRAIN, optimizer=ADAMW, **FEW)


STAGES: tuple[Stage, ...] = (
    PRETRAIN,
    Probe(pretrain=PRETRAIN, optimizer=SGD, epochs=2, batch_size=10),
    Supervised(data=PRETRAIN.data, network=PRETRAIN.network, optimizer=SGD, **FEW),
    FINETUNE,
    Distill(teacher=FINETUNE, network=Network(width=0.25), optimizer=ADAMW, epochs=2, batch_size=12),
)


REMEMBERING = replace(PRETRAIN, memory=True, memory_size=20, memory_momentum=0.5)


def images(count: int, seed: int) -> Split:
    """Noise; every fourth image has no label."""
    random = np.random.RandomState(seed)
    pixels = random.randint(0, 256, (count, 3, 8, 8)).astype(np.uint8)
    labels = np.where(np.arange(count) % 4 == 3, -1, np.arange(count) % 3)
    return Split(PixelArray(pixels), labels, [f"{index:03d}" for index in range(count)])


DATA = DataSet(images(40, seed=0), images(8, seed=1), CLASSES, "fingerprint")  # 30 have labels


def parent(stage: Stage) -> Model | None:
    """What the stage builds on, always the same."""
    if stage.source is None:
        return None
    source = stage.source
    assert isinstance(source, Pretrain | Finetune)
    model = seeded_model(model_config(source), seed_of(99, "weights"))
    settle(model)
    if model.classifier:
        nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(0))
    return model


def settle(model: Model) -> None:
    """Give the batch norms the statistics of noise, as training would have."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.project(torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    for norm in norms:
        norm.momentum = 0.1


def model_config(source: Pretrain | Finetune) -> ModelConfig:
    config = ModelConfig(
        network=PRETRAIN.network, head_layers=PRETRAIN.head_layers, head_dim=PRETRAIN.head_dim
    )
    return config if isinstance(source, Pretrain) else replace(config, classes=3, tap_layer=source.tap_layer)

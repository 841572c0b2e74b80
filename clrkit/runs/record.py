"""What a trained model is measured by, and what its record says of data and model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from clrkit import evaluate, stages
from clrkit.config import Distill, Labelled, Pretrain, Probe, Stage
from clrkit.data.splits import DataSet
from clrkit.model import Model
from clrkit.training import Training


def measured(
    config: Stage, data: DataSet, training: Training, parent: Model | None, last: dict[str, float]
) -> dict[str, Any]:
    """Metrics and what belongs to them; of pretraining, which has no accuracy of its own, `last`.

    Args:
        config: the stage.
        data: its data set.
        training: at its end.
        parent: what the stage builds on.
        last: the loss of the last step and whatever was monitored after it.
    """
    if isinstance(config, Pretrain):
        return {"metrics": last}
    if isinstance(config, Probe):
        assert parent is not None
        return {"metrics": measure_probe(config, data, training, parent)}
    return measure_classifier(config, data, training, parent)


def describe(config: Stage, data: DataSet) -> dict[str, Any]:
    """What a record says of the data set it was measured on."""
    return {
        "name": config.images.dataset,
        "fingerprint": data.fingerprint,
        "part": config.images.evaluation,
        "train": len(data.train),
        "evaluation": len(data.evaluation),
        "classes": list(data.classes),
        **({"seen": True} if saw_evaluation(config, data) else {}),
    }


def saw_evaluation(config: Stage, data: DataSet) -> bool:
    """Whether what is measured is trained on, too, without its labels: of `images` without a test folder."""
    return config.images.dataset == "images" and not set(data.train.names).isdisjoint(data.evaluation.names)


def label_count(config: Stage, data: DataSet) -> int:
    """Labels that the stage, or the teacher it learns from, has seen."""
    if isinstance(config, Labelled):
        return len(stages.labelled_indices(config, data))
    if isinstance(config, Distill):
        return label_count(config.teacher, data)
    return int((data.train.labels >= 0).sum()) if isinstance(config, Probe) else 0


def encoder_parameters(model: nn.Module, parent: Model | None) -> int:
    """How many weights the encoder has, a probe's being its parent's."""
    encoder = model.encoder if isinstance(model, Model) else parent and parent.encoder
    assert isinstance(encoder, nn.Module)
    return sum(parameter.numel() for parameter in encoder.parameters())


def model_settings(model: nn.Module) -> dict[str, Any] | None:
    """The config of a model; None of a probe's linear layer."""
    return asdict(model.config) if isinstance(model, Model) else None


def measure_classifier(
    config: Stage, data: DataSet, training: Training, parent: Model | None
) -> dict[str, Any]:
    """Accuracy and confusion (true x predicted) on the evaluation part; a student's against its teacher."""
    part, size, device = data.evaluation, config.images.image_size, training.device
    labels = torch.from_numpy(part.labels)
    logits = evaluate.predict(training.model, part, size, device)
    metrics, classes = evaluate.classification_metrics(logits, labels), len(data.classes)
    measured: dict[str, Any] = {"metrics": metrics}
    measured["confusion"] = evaluate.confusion(labels, logits.argmax(1), classes)
    if isinstance(config, Distill):
        assert parent is not None
        teacher = evaluate.predict(parent, part, size, device)
        metrics["teacher_top1"] = evaluate.accuracy(teacher, labels)
        metrics["agreement"] = evaluate.accuracy(logits, teacher.argmax(1))
        measured["agreement"] = evaluate.confusion(teacher.argmax(1), logits.argmax(1), classes)
    return measured


def measure_probe(config: Probe, data: DataSet, training: Training, pretrained: Model) -> dict[str, float]:
    """Linear and kNN accuracy on frozen features of the evaluation part; those trained on vote."""
    bank, device = training.features, training.device
    assert bank is not None
    queries = evaluate.extract(pretrained.encoder, data.evaluation, config.images.image_size, device)
    known = torch.from_numpy(data.train.labels[data.train.labels >= 0])
    truth, classes = torch.from_numpy(data.evaluation.labels), len(data.classes)
    with evaluate.frozen(training.model):
        logits = training.model(queries.to(device)).cpu()
    votes = evaluate.knn_predict(bank, known, queries, classes, config.neighbours)
    metrics = evaluate.classification_metrics(logits, truth)
    return metrics | {"knn": (votes == truth).double().mean().item()}

"""The training loops: pretraining, linear probe, supervised baseline, fine-tuning, distillation.

Each stage is a generator with one visible loop; every step it yields is an optimiser step. To cancel a run,
stop iterating. A `Training` (clrkit.training) holds what the loop works on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import nn

from clrkit import processes
from clrkit.config import Distill, Finetune, Labelled, Pretrain, Probe, Stage, Supervised
from clrkit.data.splits import DataSet, Split
from clrkit.data.subsets import label_subset, listed_subset
from clrkit.device import to_device
from clrkit.errors import ConfigError
from clrkit.evaluate import extract, frozen, knn_predict
from clrkit.losses import distillation, in_float, mixed_distillation, nt_xent
from clrkit.model import Model, ModelConfig, seeded_model, zero_linear
from clrkit.training import BatchPartition, Step, Training, seed_of

MONITOR_IMAGES, NEIGHBOURS = 2000, 20


def pretrain(config: Pretrain, data: DataSet, training: Training) -> Iterator[Step]:
    """Stage 1: NT-Xent on the projections of two random views of every image (v2 section 2, appendix D).

    kNN accuracy is measured every `monitor_epochs` and after the last step.
    """
    model, queue, size = training.model, training.queue, config.data.image_size
    assert isinstance(model, Model)
    for batch in training.batches(data.train):
        views = training.views(batch, config.augmentation, size, copies=2)
        keys = []
        for part in training.micro_batches(views, copies=2):  # usually one: the whole batch
            key = training.keys(part)  # by the momentum network, if there is one
            z1, z2 = training.project(part).chunk(2)
            negatives = training.negatives(part, z1, z2)
            loss = nt_xent(z1, z2, config.temperature, negatives, config.summed_views, key)
            training.backward(loss, part)
            keys += [] if key is None else [key[0]]
        done = training.step()
        if queue:
            queue.update(model, training.partition.whole(torch.cat(keys)))
        if done.step % (config.monitor_epochs * training.steps_per_epoch) == 0 or done.step == done.total:
            done = replace(done, metrics=monitor(model, data, size, training.device))
        yield done


def classify(config: Supervised | Finetune, data: DataSet, training: Training) -> Iterator[Step]:
    """Cross-entropy on labelled images through the whole network.

    With `Finetune` this is stage 2, from a pretrained network (v2 section 2); with `Supervised` the baseline,
    from random weights.
    """
    split = data.train.subset(labelled_indices(config, data))
    labels = torch.from_numpy(split.labels).to(training.device)
    for batch in training.batches(split):
        views = training.views(batch, config.augmentation, config.images.image_size)
        for part in training.micro_batches(views, labels[batch.at]):
            (truth,) = part.targets
            loss = F.cross_entropy(training.forward(part.images), truth)
            training.backward(loss, part)
        yield training.step()


def distill(config: Distill, data: DataSet, training: Training, teacher: Model) -> Iterator[Step]:
    """Stage 3: the student learns the teacher's softened outputs on the same views (v2 Eq. 2 and 3)."""
    split, device = transfer_split(config, data), training.device
    labels = torch.from_numpy(split.labels).to(device)
    named = [data.train.names[index] for index in labelled_indices(config.teacher, data)]
    labelled = torch.from_numpy(np.isin(split.names, named)).float().to(device)
    teacher = teacher.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    teach = training.compiled(teacher)
    for batch in training.batches(split):
        views = training.views(batch, config.augmentation, config.images.image_size)
        for part in training.micro_batches(views, labels[batch.at], labelled[batch.at]):
            with frozen(teacher), training.autocast():
                target = in_float(teach(part.images))
            student = training.forward(part.images)
            if config.label_weight == 0:
                loss = distillation(student, target, config.temperature)
            else:
                truth, known = part.targets
                weights = (config.temperature, config.label_weight)
                loss = mixed_distillation(student, target, truth, known, *weights)
            training.backward(loss, part)
        yield training.step()


def probe(config: Probe, data: DataSet, training: Training, pretrained: Model) -> Iterator[Step]:
    """Linear evaluation: encoder and batch-norm statistics are frozen, features are computed once.

    (The official recipe crops and flips in every epoch; here each image has one feature vector.)
    """
    split = data.train.subset(np.flatnonzero(data.train.labels >= 0))
    encoder = pretrained.encoder.to(training.device)
    training.features = extract(encoder, split, config.images.image_size, training.device)
    features = training.features.to(training.device)
    labels = torch.from_numpy(split.labels).to(training.device)
    for indices in training.order(len(split)):
        at = to_device(torch.from_numpy(indices), training.device)
        for part in training.micro_batches(features[at], labels[at]):
            (truth,) = part.targets
            loss = F.cross_entropy(training.forward(part.images), truth)
            training.backward(loss, part)
        yield training.step()


def steps(config: Stage, data: DataSet, training: Training, parent: Model | None) -> Iterator[Step]:
    """The training loop of a stage; `parent` is the model that it builds on, if any."""
    match config:
        case Pretrain():
            return pretrain(config, data, training)
        case Supervised() | Finetune():
            return classify(config, data, training)
    assert parent is not None
    if isinstance(config, Distill):
        return distill(config, data, training, parent)
    assert isinstance(config, Probe)
    return probe(config, data, training, parent)


# Before the first step


def begin(config: Stage, data: DataSet, device: torch.device, parent: Model | None = None) -> Training:
    """Return a run of a stage at its step 0.

    Args:
        config: the stage.
        data: the data set of the chain.
        device: where to train.
        parent: the pretrained model, for `Probe` and `Finetune`.

    Raises:
        ConfigError: as `check`.
    """
    check(config, data)
    model = initial_model(config, len(data.classes), parent)
    return Training(config, model, image_count(config, data), device)


def check(config: Stage, data: DataSet) -> None:
    """Check that every stage of the chain can be trained on the data, before time is spent on the first.

    Raises:
        ConfigError: for a batch or a queue larger than the set, a batch that cannot be divided among the
            processes, fewer than one label a class, or a bad list of labels.
    """
    for stage in config.chain:
        images = image_count(stage, data)
        if images < stage.batch_size:
            raise ConfigError(
                f"batch_size {stage.batch_size} of {stage.name} is larger than its {images} training images."
            )
        partition = BatchPartition(stage.batch_size, stage.micro_batch or stage.batch_size)
        if min(map(min, partition.counts)) == 0:
            raise ConfigError(
                f"The batches of {stage.name} cannot be divided among {processes.current().size} processes; "
                "raise batch_size or micro_batch."
            )
        if isinstance(stage, Pretrain) and stage.memory and stage.memory_size > images:
            raise ConfigError(
                f"memory_size {stage.memory_size} is larger than the {images} training images, so that every "
                "image would be among its own negatives."
            )


def initial_model(config: Stage, classes: int, parent: Model | None) -> nn.Module:
    """Return what a stage trains, with its first weights."""
    seed = seed_of(config.seed, "weights")
    if isinstance(config, Pretrain):
        head = {"head_layers": config.head_layers, "head_dim": config.head_dim}
        return seeded_model(ModelConfig(network=config.network, **head), seed)
    if isinstance(config, Supervised | Distill):
        return seeded_model(ModelConfig(network=config.network, classes=classes), seed)
    assert parent is not None
    if isinstance(config, Probe):
        return zero_linear(parent.encoder.features, classes)
    assert isinstance(config, Finetune)
    source = config.pretrain
    head = {"head_layers": source.head_layers, "head_dim": source.head_dim, "tap_layer": config.tap_layer}
    model = seeded_model(ModelConfig(network=source.network, classes=classes, **head), seed)
    model.encoder.load_state_dict(parent.encoder.state_dict())
    model.head.load_state_dict(parent.head.state_dict())
    return model


def image_count(config: Stage, data: DataSet) -> int:
    """Images in an epoch of the stage."""
    if isinstance(config, Labelled):
        return len(labelled_indices(config, data))
    if isinstance(config, Distill):
        return len(transfer_split(config, data))
    return len(data.train) if isinstance(config, Pretrain) else int((data.train.labels >= 0).sum())


def labelled_indices(config: Labelled, data: DataSet) -> Int64[np.ndarray, " chosen"]:
    """The training images whose labels the stage may see: a listed set, or a seeded fraction."""
    if config.label_list:
        return listed_subset(data.train, config.label_list)
    return label_subset(data.train.labels, config.fraction, config.seed)


def transfer_split(config: Distill, data: DataSet) -> Split:
    """The images that a student is distilled on."""
    if config.transfer == "all":
        return data.train
    return data.train.subset(labelled_indices(config.teacher, data))


# kNN accuracy during pretraining


def monitor(model: Model, data: DataSet, size: int, device: torch.device) -> dict[str, float]:
    """KNN accuracy within the training images: half of a sample votes on the other half; no test image.

    The sample is the same every time, at most 2,000 images. No random number is drawn and no batch-norm
    statistic changes, so training goes on as without it.
    """
    at = np.flatnonzero(data.train.labels >= 0)
    if len(at) < 2:
        return {}
    at = np.random.RandomState(0).permutation(at)[:MONITOR_IMAGES]
    features = extract(model.encoder, data.train.subset(at), size, device)
    labels, half = torch.from_numpy(data.train.labels[at]), len(at) // 2
    votes = knn_predict(features[:half], labels[:half], features[half:], len(data.classes), NEIGHBOURS)
    return {"knn": (votes == labels[half:]).double().mean().item()}

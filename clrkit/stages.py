"""The training loops: pretraining, linear probe, supervised baseline, fine-tuning, distillation.

Each stage is a generator of steps, one visible loop. To cancel is to stop iterating.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clrkit.config import Distill, Finetune, Labelled, Pretrain, Probe, Stage, Supervised
from clrkit.data.datasets import DataSet, Split
from clrkit.data.subsets import label_subset, listed_subset
from clrkit.device import compiled, to_device
from clrkit.errors import ConfigError
from clrkit.evaluate import accuracy, extract, frozen, knn_predict
from clrkit.losses import distillation, in_float, mixed_distillation, nt_xent
from clrkit.model import Model, ModelConfig
from clrkit.resnet import statistics_kept
from clrkit.scale import distributed
from clrkit.training import BatchPartition, Scalar, Step, Training, Views, batches, own_order, seed_of

MONITOR_IMAGES = 2000

Network = Callable[[Tensor], Tensor]
Projections = Float[Tensor, "_ dim"]


class UseGenerator(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Random numbers come from a generator, in this thread only; the process's is neither used nor changed.

    Layers draw their weights from the process's generator, from which other threads may draw meanwhile.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if any(argument.name == "generator" for argument in func._schema.arguments):
            given["generator"] = self.generator
        return func(*args, **given)


def new_model(config: Stage, settings: ModelConfig) -> Model:
    """A model with weights drawn from the stage's seed."""
    with UseGenerator(Generator().manual_seed(seed_of(config.seed, "weights"))):
        return Model(settings)


def labelled_indices(config: Labelled, data: DataSet) -> Int64[np.ndarray, " chosen"]:
    """The training images whose labels the stage may see: a listed set, or a fraction drawn from the seed."""
    if config.label_list:
        return listed_subset(data.train, config.label_list)
    return label_subset(data.train.labels, config.fraction, config.seed)


def transfer_part(config: Distill, data: DataSet) -> Split:
    """The images a student is distilled on."""
    if config.transfer == "all":
        return data.train
    return data.train.subset(labelled_indices(config.teacher, data))


def image_count(config: Stage, data: DataSet) -> int:
    """Images in an epoch of the stage."""
    if isinstance(config, Labelled):
        return len(labelled_indices(config, data))
    if isinstance(config, Distill):
        return len(transfer_part(config, data))
    return len(data.train) if isinstance(config, Pretrain) else int((data.train.labels >= 0).sum())


def check(config: Stage, data: DataSet) -> None:
    """Whether every stage of the chain can be trained on the data, before time is spent on the first.

    Raises:
        ConfigError: for a batch or a memory larger than the set, less than one label a class, or a bad
            label list.
    """
    for stage in config.chain:
        images = image_count(stage, data)
        if images < stage.batch_size:
            raise ConfigError(
                f"batch_size {stage.batch_size} of {stage.name} is larger than its {images} training images."
            )
        smallest = min(
            map(min, BatchPartition(stage.batch_size, stage.micro_batch or stage.batch_size).counts)
        )
        if smallest == 0:
            raise ConfigError(
                f"The batches of {stage.name} cannot be shared out among {distributed.world_size()} "
                "processes; raise batch_size or micro_batch."
            )
        if isinstance(stage, Pretrain) and stage.memory and stage.memory_size > images:
            raise ConfigError(
                f"memory_size {stage.memory_size} is larger than the {images} training images, so that every "
                "image would be among its own negatives."
            )


def begin(config: Stage, data: DataSet, device: torch.device, parent: Model | None = None) -> Training:
    """A run at its step 0.

    Args:
        config: of any stage.
        data: the data set of the chain.
        device: where to train.
        parent: the pretrained model, for `Probe` and `Finetune`.

    Raises:
        ConfigError: as `check`.
    """
    check(config, data)
    return Training(
        config, initial_model(config, len(data.classes), parent), image_count(config, data), device
    )


def initial_model(config: Stage, classes: int, parent: Model | None) -> nn.Module:
    """What a stage trains, with its first weights."""
    if isinstance(config, Pretrain):
        head = {"head_layers": config.head_layers, "head_dim": config.head_dim}
        return new_model(config, ModelConfig(network=config.network, **head))
    if isinstance(config, Supervised | Distill):
        return new_model(config, ModelConfig(network=config.network, classes=classes))
    assert parent is not None
    if isinstance(config, Finetune):
        return classifier_on(parent, config, classes)
    with UseGenerator(Generator()):  # random weights are drawn before they are set to zero
        linear = nn.Linear(parent.encoder.features, classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def classifier_on(pretrained: Model, config: Finetune, classes: int) -> Model:
    """The pretrained encoder and head with a new, zero-initialised classifier on the tapped layer."""
    source = config.pretrain
    settings = ModelConfig(
        network=source.network,
        head_layers=source.head_layers,
        head_dim=source.head_dim,
        classes=classes,
        tap_layer=config.tap_layer,
    )
    model = new_model(config, settings)
    model.encoder.load_state_dict(pretrained.encoder.state_dict())
    model.head.load_state_dict(pretrained.head.state_dict())
    return model


def pretrain(config: Pretrain, data: DataSet, training: Training) -> Iterator[Step]:
    """Stage 1: two random views of every image, NT-Xent on their projections (v2 section 2, appendix D).

    kNN accuracy is looked at every `monitor_epochs` and after the last step, so that the last is the finished
    network's.
    """
    model, memory, size = training.model, training.memory, config.data.image_size
    assert isinstance(model, Model)
    project = compiled(model.project, training.device)
    contrast = two_passes if config.micro_batch and config.two_pass else one_pass
    for batch in batches(data.train, training):
        views = training.views(batch, config.augmentation, size, copies=2)
        keys = []
        if memory:
            with training.autocast():
                keys = [memory.project(each) for each in views]
        done = training.update(contrast(config, training, project, views, keys))
        if memory:
            memory.update(model, training.division.whole(halves(keys)[0]))
        if done.step % (config.monitor_epochs * training.steps_per_epoch) == 0 or done.step == done.total:
            done = replace(done, metrics=monitor(model, data, size, training.device))
        yield done


def one_pass(
    config: Pretrain, training: Training, project: Network, views: list[Views], keys: list[Projections]
) -> Iterator[Scalar]:
    """NT-Xent of every micro-batch by itself (usually the whole batch is one)."""
    for place, images in enumerate(views):
        with training.autocast():
            z = project(images)
        loss = compare(config, training, z, keys[place] if keys else None, training.division.counts[place])
        yield loss * training.division.weight(len(z) // 2)


def two_passes(
    config: Pretrain, training: Training, project: Network, views: list[Views], keys: list[Projections]
) -> Iterator[Scalar]:
    """NT-Xent of the whole batch, of which one micro-batch at a time is in memory (Gao et al., 2021).

    A first pass gives all projections, and so the loss and its gradient by each of them; in the second every
    micro-batch's projections are pulled along that gradient.
    """
    with torch.no_grad(), statistics_kept(training.model), training.autocast():
        z = torch.cat(halves([in_float(project(images)) for images in views])).requires_grad_()
    counts = [sum(each) for each in zip(*training.division.counts, strict=True)]
    loss = compare(config, training, z, torch.cat(halves(keys)) if keys else None, counts)
    loss = loss * training.division.weight(len(z) // 2)
    (slope,) = torch.autograd.grad(loss, z)
    for images, part in zip(views, training.division.parts(slope, copies=2), strict=True):
        with training.autocast():
            pull = (in_float(project(images)) * part).sum()
        # Its gradient, with a share of the loss as its value.
        yield pull - pull.detach() + loss.detach() / len(views)


def compare(
    config: Pretrain, training: Training, z: Projections, keys: Projections | None, counts: list[int]
) -> Scalar:
    """Mean NT-Xent of this process's anchors, which meet the projections of all processes.

    Args:
        config: temperature, and how the views' losses count.
        training: with the memory, if there is one.
        z: this process's projections of both views, one after the other.
        keys: the memory network's of the same.
        counts: images that each process has here.
    """
    rows = [2 * count for count in counts]
    everyones = distributed.gather(F.normalize(in_float(z)), rows)
    training.watch.see_projections(training.step + 1, everyones)
    negatives = training.memory.negatives if training.memory else None
    if len(everyones) > len(z):
        others = distributed.of_others(everyones, rows)
        negatives = others if negatives is None else torch.cat((others, negatives))
    z1, z2 = z.chunk(2)
    pair = None if keys is None else (keys[: len(z1)], keys[len(z1) :])
    return nt_xent(z1, z2, config.temperature, negatives, config.summed_views, pair)


def halves(parts: list[Projections]) -> tuple[Projections, Projections]:
    """First and second views of all micro-batches, each of which has one after the other."""
    first, second = zip(*(both.chunk(2) for both in parts), strict=True)
    return torch.cat(first), torch.cat(second)


def supervised(config: Supervised, data: DataSet, training: Training) -> Iterator[Step]:
    """Baseline: cross-entropy on the labels alone, from random weights."""
    return classify(config, data, training)


def finetune(config: Finetune, data: DataSet, training: Training) -> Iterator[Step]:
    """Stage 2: cross-entropy on few labels through the whole pretrained network (v2 section 2)."""
    return classify(config, data, training)


def classify(config: Labelled, data: DataSet, training: Training) -> Iterator[Step]:
    part = data.train.subset(labelled_indices(config, data))
    labels = torch.from_numpy(part.labels).to(training.device)
    model = compiled(training.model, training.device)
    for batch in batches(part, training):
        views = training.views(batch, config.augmentation, config.images.image_size)
        yield training.update(classified(training, model, views, labels[batch.at]))


def classified(
    training: Training, model: Network, inputs: list[Tensor], labels: Int64[Tensor, " rows"]
) -> Iterator[Scalar]:
    """Cross-entropy of this process's rows of a batch, by micro-batch."""
    for each, truth in zip(inputs, training.division.parts(labels), strict=True):
        with training.autocast():
            logits = model(each)
        yield F.cross_entropy(in_float(logits), truth) * training.division.weight(len(truth))


def distill(config: Distill, data: DataSet, training: Training, teacher: Model) -> Iterator[Step]:
    """Stage 3: the student learns the teacher's softened outputs on the same views (v2 Eq. 2 and 3)."""
    part, size = transfer_part(config, data), config.images.image_size
    labels = torch.from_numpy(part.labels).to(training.device)
    labelled = torch.from_numpy(np.isin(part.names, labelled_names(config, data))).float().to(training.device)
    teacher = teacher.to(device=training.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, softened = (compiled(each, training.device) for each in (training.model, teacher))

    def teach(view: Tensor) -> Tensor:
        with frozen(teacher):
            return softened(view)

    for batch in batches(part, training):
        views = training.views(batch, config.augmentation, size)
        truth = labels[batch.at], labelled[batch.at]
        yield training.update(imitated(config, training, model, teach, views, *truth))


def imitated(
    config: Distill,
    training: Training,
    model: Network,
    teacher: Network,
    views: list[Views],
    labels: Int64[Tensor, " rows"],
    labelled: Float[Tensor, " rows"],
) -> Iterator[Scalar]:
    """The student's loss on this process's rows of a batch, by micro-batch; arguments as `distillation`."""
    parts = zip(views, *map(training.division.parts, (labels, labelled)), strict=True)
    for view, truth, known in parts:
        with training.autocast():
            target = in_float(teacher(view))
            student = in_float(model(view))
        if config.label_weight == 0:
            loss = distillation(student, target, config.temperature)
        else:
            weights = (config.temperature, config.label_weight)
            loss = mixed_distillation(student, target, truth, known, *weights)
        yield loss * training.division.weight(len(view))


def probe(config: Probe, data: DataSet, training: Training, pretrained: Model) -> Iterator[Step]:
    """Linear evaluation, offline: the encoder and its batch-norm statistics are frozen, features taken once.

    (The official recipe crops and flips anew in every epoch; here each image has one feature vector.)
    """
    part = data.train.subset(np.flatnonzero(data.train.labels >= 0))
    encoder = pretrained.encoder.to(training.device)
    training.features = extract(encoder, part, config.images.image_size, training.device)
    features = training.features.to(training.device)
    labels = torch.from_numpy(part.labels).to(training.device)
    for indices in own_order(training, len(part)):
        at = to_device(torch.from_numpy(indices), training.device)
        inputs = training.division.parts(features[at])
        yield training.update(classified(training, training.model, inputs, labels[at]))


def labelled_names(config: Distill, data: DataSet) -> list[str]:
    return [data.train.names[index] for index in labelled_indices(config.teacher, data)]


def monitored_before(config: Stage, data: DataSet, training: Training) -> dict[str, float]:
    """What is monitored of a run before its first step: in pretraining, kNN accuracy of random weights."""
    if not isinstance(config, Pretrain) or training.step > 0:
        return {}
    assert isinstance(training.model, Model)
    return monitor(training.model, data, config.data.image_size, training.device)


def monitor(model: Model, data: DataSet, size: int, device: torch.device) -> dict[str, float]:
    """KNN accuracy within the training images: half of a sample votes on the other half; no test image.

    The sample is of 2,000 images at most and the same every time. No random number is used, and no
    batch-norm statistic changes: training goes on as if nobody had looked.
    """
    at = np.flatnonzero(data.train.labels >= 0)
    if len(at) < 2:
        return {}
    at = np.random.RandomState(0).permutation(at)[:MONITOR_IMAGES]
    features = extract(model.encoder, data.train.subset(at), size, device)
    labels, half = torch.from_numpy(data.train.labels[at]), len(at) // 2
    votes = knn_predict(features[:half], labels[:half], features[half:], len(data.classes), 20)
    return {"knn": accuracy(F.one_hot(votes, len(data.classes)).float(), labels[half:])}


def steps(config: Stage, data: DataSet, training: Training, parent: Model | None) -> Iterator[Step]:
    """The loop of whichever stage `config` is of."""
    if isinstance(config, Pretrain):
        return pretrain(config, data, training)
    if isinstance(config, Supervised):
        return supervised(config, data, training)
    assert parent is not None
    if isinstance(config, Finetune):
        return finetune(config, data, training)
    if isinstance(config, Distill):
        return distill(config, data, training, parent)
    assert isinstance(config, Probe)
    return probe(config, data, training, parent)

"""The training loops: pretraining, linear probe, supervised baseline, fine-tuning, distillation.

Each stage is a generator of steps, one visible loop. To cancel is to stop iterating. Whatever is random in
step s is drawn from the seed and s alone, so that a run resumed at any step goes on as if never stopped.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor, nn

from clrkit import data as datasets
from clrkit.augment import random_view, sent
from clrkit.config import ConfigError, Distill, Finetune, Labelled, Pretrain, Probe, Stage, Supervised
from clrkit.data import DataSet, Part
from clrkit.evaluate import accuracy, extract, frozen, knn_predict
from clrkit.losses import distillation, in_float, mixed_distillation, nt_xent
from clrkit.memory import Memory
from clrkit.model import Model, ModelConfig
from clrkit.optim import learning_rate, make_optimizer

MONITOR_IMAGES = 2000

Batch = tuple[
    int, Int64[Tensor, " batch"], UInt8[Tensor, "batch 3 side side"], Float[Tensor, " batch"] | None
]


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Attributes:
        step: steps done, this one included.
        total: steps of the whole run.
        loss: of the batch, a scalar tensor on the training device.
        learning_rate: of this step.
        metrics: what was monitored after this step, by name.
    """

    step: int
    total: int
    loss: Float[Tensor, ""]
    learning_rate: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class Training:
    """A run under way: model, optimiser, memory and the number of steps done; all that a resumed run needs.

    Args:
        config: the stage's epochs, batch size and optimiser.
        model: is moved to the device and put in training mode.
        images: number of images in an epoch.
        device: where to train.
    """

    def __init__(self, config: Stage, model: nn.Module, images: int, device: torch.device) -> None:
        self.config, self.images, self.device = config, images, device
        self.model = model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = make_optimizer(config.optimizer, model)
        self.memory = empty_memory(config, self.model)
        self.step = 0
        self.steps_per_epoch = images // config.batch_size
        self.total = config.epochs * self.steps_per_epoch

    def update(self, loss: Float[Tensor, ""]) -> Step:
        """One optimiser step down the gradient of `loss`, at the schedule's learning rate."""
        config = self.config
        rate = learning_rate(config.optimizer, self.step, config.batch_size, self.images, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        return Step(self.step, self.total, loss.detach(), rate)

    def autocast(self) -> AbstractContextManager[Any]:
        """Where networks run: in the precision of the config."""
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def state_dict(self) -> dict[str, Any]:
        memory = {"memory": self.memory.state_dict()} if self.memory else {}
        optimizer = self.optimizer.state_dict()
        return {"model": self.model.state_dict(), "optimizer": optimizer, "step": self.step, **memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self.memory:
            self.memory.load_state_dict(state["memory"])


def empty_memory(config: Stage, model: nn.Module) -> Memory | None:
    """The memory of a pretraining run that has one, as it is before the first step."""
    if not (isinstance(config, Pretrain) and config.memory):
        return None
    assert isinstance(model, Model)
    return Memory(model, config.memory_size, config.memory_momentum)


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the best there is: cuda, then mps, then cpu.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [kind for kind, available in there.items() if available]
    if name != "auto" and name not in names:
        raise ConfigError(f"device must be one of auto, {', '.join(names)} on this machine, not {name!r}.")
    return torch.device(names[0] if name == "auto" else name)


def check_precision(config: Stage, device: torch.device) -> None:
    """Whether the device computes in the precision of every stage of the chain. Raises ConfigError."""
    low = any(stage.precision == "bfloat16" for stage in config.chain)
    if low and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{name} does not compute in bfloat16; set precision to float32.")


def compiled(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A network's function by `torch.compile` where CLRKIT_COMPILE=1 asks for it, else as it is.

    It takes up to a minute at the start of a run and changes results in their last bits, so the record notes
    it. Where this machine cannot compile (no C++ compiler, say), a warning says so and the run goes on
    uncompiled. A memory's network, and measuring, are never compiled.
    """
    if not compiling(device):
        return function
    torch.compiler.reset()  # networks of earlier runs count towards a limit, beyond which nothing compiles
    return cast(Callable[[Tensor], Tensor], torch.compile(function))


def compiling(device: torch.device) -> bool:
    """Whether compiled networks are asked for and the device has them; a warning where it has not."""
    if os.environ.get("CLRKIT_COMPILE", "0") != "1":
        return False
    if reason := why_not_compiled(device.type):
        warnings.warn(f"Networks run uncompiled on this machine: {reason}", stacklevel=3)
    return not reason


@cache
def why_not_compiled(device: str) -> str:
    """Tries a function of one operation; "" if it compiles, else the reason."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # of whatever kind the compilers' failures are
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from what it is for; equal parts give equal seeds, others unrelated ones."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def step_generator(config: Stage, step: int) -> Generator:
    """The source of everything random in one step."""
    return Generator().manual_seed(seed_of(config.seed, "augment", step))


def new_model(config: Stage, settings: ModelConfig) -> Model:
    """A model with weights drawn from the stage's seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "weights"))
        return Model(settings)


def batch_order(config: Stage, images: int, start: int) -> Iterator[Int64[np.ndarray, " batch"]]:
    """Indices of every batch from step `start` on; each epoch is permuted anew and drops its remainder."""
    size, per_epoch = config.batch_size, images // config.batch_size
    permutation = np.arange(0)
    for step in range(start, config.epochs * per_epoch):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start:
            random = np.random.RandomState(seed_of(config.seed, "order", epoch) % 2**32)
            permutation = random.permutation(images)
        yield permutation[position * size : (position + 1) * size]


def batches(part: Part, training: Training) -> Iterator[Batch]:
    """Step, indices, pixels and (on the CPU) aspects of every batch that is still to be trained on."""
    config, start = training.config, training.step
    chunks = part.pixels.squares(batch_order(config, len(part), start))
    order = batch_order(config, len(part), start)
    for step, indices, chunk in zip(range(start, training.total), order, chunks, strict=True):
        yield (
            step,
            sent(torch.from_numpy(indices), training.device),
            sent(chunk.pixels, training.device),
            chunk.aspects,
        )


def labelled_indices(config: Labelled, data: DataSet) -> Int64[np.ndarray, " chosen"]:
    """The training images whose labels the stage may see: a listed set, or a fraction drawn from the seed."""
    if config.label_list:
        return datasets.listed_subset(data.train, config.label_list)
    return datasets.label_subset(data.train.labels, config.fraction, config.seed)


def transfer_part(config: Distill, data: DataSet) -> Part:
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
    with torch.random.fork_rng(devices=[]):  # random weights would be drawn before they are set to zero
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
    """Stage 1: two random views of every image, NT-Xent on their projections (v2 section 2, appendix D)."""
    model, memory, size = training.model, training.memory, config.data.image_size
    assert isinstance(model, Model)
    project = compiled(model.project, training.device)
    for step, _, pixels, aspects in batches(data.train, training):
        both, twice = torch.cat((pixels, pixels)), None if aspects is None else aspects.repeat(2)
        rng = step_generator(config, step)
        views = channels_last(random_view(both, config.augmentation, size, rng, twice))
        with training.autocast():
            z1, z2 = project(views).chunk(2)
        if memory:
            with training.autocast():
                k1, k2 = memory.project(views).chunk(2)
            loss = nt_xent(z1, z2, config.temperature, memory.negatives, config.summed_views, (k1, k2))
            done = training.update(loss)
            memory.update(model, k1)
        else:
            done = training.update(nt_xent(z1, z2, config.temperature, summed_views=config.summed_views))
        if done.step % (config.monitor_epochs * training.steps_per_epoch) == 0:
            metrics = monitor(model, data, size, training.device)
            done = Step(done.step, done.total, done.loss, done.learning_rate, metrics)
        yield done


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
    for step, at, pixels, aspects in batches(part, training):
        rng = step_generator(config, step)
        view = random_view(pixels, config.augmentation, config.images.image_size, rng, aspects)
        with training.autocast():
            logits = model(channels_last(view))
        yield training.update(F.cross_entropy(in_float(logits), labels[at]))


def distill(config: Distill, data: DataSet, training: Training, teacher: Model) -> Iterator[Step]:
    """Stage 3: the student learns the teacher's softened outputs on the same views (v2 Eq. 2 and 3)."""
    part, size = transfer_part(config, data), config.images.image_size
    labels = torch.from_numpy(part.labels).to(training.device)
    labelled = torch.from_numpy(np.isin(part.names, labelled_names(config, data))).float().to(training.device)
    teacher = teacher.to(device=training.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, teach = (compiled(each, training.device) for each in (training.model, teacher))
    for step, at, pixels, aspects in batches(part, training):
        rng = step_generator(config, step)
        view = channels_last(random_view(pixels, config.augmentation, size, rng, aspects))
        with training.autocast():
            with frozen(teacher):
                target = in_float(teach(view))
            student = in_float(model(view))
        if config.label_weight == 0:
            loss = distillation(student, target, config.temperature)
        else:
            weights = (config.temperature, config.label_weight)
            loss = mixed_distillation(student, target, labels[at], labelled[at], *weights)
        yield training.update(loss)


def probe(config: Probe, data: DataSet, training: Training, pretrained: Model) -> Iterator[Step]:
    """Linear evaluation, offline: the encoder and its batch-norm statistics are frozen, features taken once.

    (The official recipe crops and flips anew in every epoch; here each image has one feature vector.)
    """
    part = data.train.subset(np.flatnonzero(data.train.labels >= 0))
    encoder = pretrained.encoder.to(training.device)
    features = extract(encoder, part, config.images.image_size, training.device).to(training.device)
    labels = torch.from_numpy(part.labels).to(training.device)
    for indices in batch_order(config, len(part), training.step):
        at = sent(torch.from_numpy(indices), training.device)
        with training.autocast():
            logits = training.model(features[at])
        yield training.update(F.cross_entropy(in_float(logits), labels[at]))


def labelled_names(config: Distill, data: DataSet) -> list[str]:
    return [data.train.names[index] for index in labelled_indices(config.teacher, data)]


def channels_last(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    return images.contiguous(memory_format=torch.channels_last)


def monitor(model: Model, data: DataSet, size: int, device: torch.device) -> dict[str, float]:
    """KNN accuracy within the training images: half of a sample votes on the other half; no test image."""
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

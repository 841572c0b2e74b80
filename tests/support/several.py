"""Runs of one or several processes, told step by step: what a process of test_parallel.py does."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from jaxtyping import install_import_hook
from torch import Tensor

import clrkit.config  # noqa: F401

if __name__ == "__main__":
    install_import_hook("clrkit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
    torch.set_num_threads(1)

import tiny

from clrkit import evaluate, processes
from clrkit import training as training_module
from clrkit.augment import apply_view
from clrkit.config import Data, Network, Pretrain, Stage
from clrkit.data.splits import PixelArray
from clrkit.device import under_torchrun
from clrkit.errors import ConfigError
from clrkit.experiments.fields import with_fields
from clrkit.losses import nt_xent
from clrkit.model import Model, ModelConfig, seeded_model
from clrkit.resnet import BatchNorm
from clrkit.scale import distributed
from clrkit.stages import begin, steps
from clrkit.training import Batch, Training, first_views_first, seed_of

CPU = torch.device("cpu")
STEPS = 5
# Not square, so that what is drawn depends on every image of a batch.
ASPECTS = PixelArray(tiny.DATA.train.pixels.array, np.linspace(0.5, 2, 40, dtype=np.float32))
DATA = replace(tiny.DATA, train=replace(tiny.DATA.train, pixels=ASPECTS))
PRETRAIN, PROBE, SUPERVISED, FINETUNE, DISTILL = (replace(stage, epochs=4) for stage in tiny.STAGES)
REMEMBERING = replace(tiny.REMEMBERING, epochs=2)
STAGES: dict[str, Stage] = {
    "pretrain": with_fields(PRETRAIN, {"blur": True}),
    "pretrain in two passes": replace(PRETRAIN, micro_batch=6),
    "pretrain in micro-batches": replace(PRETRAIN, micro_batch=6, two_pass=False),
    "memory": REMEMBERING,
    "memory in two passes": replace(REMEMBERING, micro_batch=6),
    "probe": PROBE,
    "supervised": SUPERVISED,
    "finetune": FINETUNE,
    "finetune in micro-batches": replace(FINETUNE, epochs=5, batch_size=9, micro_batch=5),
    "distill": DISTILL,
    "distill with labels": replace(DISTILL, label_weight=0.5, micro_batch=6),
}
SHARDED = {
    f"{kind}, shared out": with_fields(PRETRAIN, {"optimizer.optimizer": kind, "learning_rate": rate})
    for kind, rate in (("lars", 0.5), ("sgd", 0.01), ("adamw", 1e-3))
}


def told(stage: Stage, source: Model | None, nudge: bool = False) -> dict[str, Any]:
    """Losses, gradients, weights and predictions of steps in float64; `nudge` moves the first weights."""
    source = copy.deepcopy(source).double() if source else None
    training = begin(stage, DATA, CPU, source)
    training.model.double()
    if nudge:
        for network in filter(None, (source, training.model)):
            move_last_digit(network)
    if training.queue:
        training.queue.double()
    losses, gradients = [], []
    for step in islice(steps(stage, DATA, training, source), STEPS):
        losses.append(step.loss)
        gradients.append({name: p.grad.clone() for name, p in gradients_of(training.model)})
    state = training.state_dict()
    logits = None
    if stage.name in ("supervised", "finetune", "distill"):
        logits = evaluate.predict(training.model, DATA.evaluation, 8, CPU)
    return {"losses": losses, "gradients": gradients, "state": state, "logits": logits}


def move_last_digit(model: torch.nn.Module) -> None:
    """Move every weight up or down by one unit in its last place, at random: a rounding error each."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            away = torch.where(torch.rand(weight.shape, generator=draw) < 0.5, torch.inf, -torch.inf)
            weight.copy_(torch.where(weight == 0, weight, torch.nextafter(weight, away.to(weight))))


def gradients_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.grad is not None)


def in_double() -> None:
    """Views and evaluation views in float64."""
    training_module.apply_view = lambda *arguments: apply_view(*arguments).double()
    evaluation_view = evaluate.evaluation_view
    evaluate.evaluation_view = lambda *arguments: evaluation_view(*arguments).double()


def everything(parents: dict[str, Model | None], nudge: bool = False) -> dict[str, Any]:
    found = {name: told(stage, parents[name], nudge) for name, stage in STAGES.items()}
    os.environ["CLRKIT_SHARD"] = "1"
    found |= {name: told(stage, None, nudge) for name, stage in SHARDED.items()}
    del os.environ["CLRKIT_SHARD"]
    return found


def slow_two_passes(stage: Stage) -> dict[str, Any]:
    """The first step's loss and gradients with all micro-batches in memory at once, each normalised alone."""
    assert isinstance(stage, Pretrain)
    training = begin(stage, DATA, CPU)
    model = training.model.double()
    batch = next(training.batches(DATA.train))
    views = training.views(batch, stage.augmentation, 8, copies=2)
    parts = training.partition.split(views.double(), copies=2)
    z1, z2 = first_views_first([model.project(each) for each in parts]).chunk(2)
    loss = nt_xent(z1, z2, stage.temperature)
    loss.backward()
    return {"loss": loss.detach(), "gradients": {name: p.grad for name, p in gradients_of(model)}}


def agreements() -> dict[str, Any]:
    """What processes tell each other, failures included."""
    rank, size = distributed.rank(), distributed.world_size()

    def fail_in_the_last() -> None:
        if rank == size - 1:
            raise ConfigError(f"process {rank} has had enough")

    with pytest.raises(ConfigError) as failure:
        distributed.together(fail_in_the_last)
    rows = processes.current().gather(torch.full((rank + 1, 2), float(rank)), list(range(1, size + 1)))
    return {
        "failure": str(failure.value),
        "any": [distributed.any_of(rank == chosen) for chosen in range(size + 1)],
        "first": distributed.from_first(lambda: f"from {rank}".encode()).decode(),
        "nothing": distributed.from_first(bytes).decode(),
        "turns": distributed.in_turn(a_while),
        "rows": rows,
    }


def a_while() -> list[float]:
    """When it began and when it ended, by a clock that all processes have."""
    began = time.monotonic()
    time.sleep(0.2)
    return [began, time.monotonic()]


def predictions(model: Model) -> list[Tensor]:
    """Logits of parts of every small size."""
    parts = [DATA.train.subset(np.arange(count)) for count in range(1, 9)]
    return [evaluate.predict(model.double(), part, 8, CPU) for part in parts]


def golden(name: str) -> dict[str, Any]:
    with np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz") as stored:
        return dict(stored)


def official_batch_norm(which: str) -> dict[str, Tensor]:
    """This process's half of the official batch norm on two replicas, in the official layout."""
    stored = {name.removeprefix(f"{which}/"): value for name, value in golden("bn").items() if which in name}
    maps = [
        stored[name].reshape(len(stored["x"]), -1, 1, stored["x"].shape[-1]) for name in ("x", "loss_weights")
    ]
    x, weights = (torch.from_numpy(each).double().movedim(-1, 1) for each in maps)
    mine = processes.shares(len(x), distributed.world_size())[distributed.rank()]
    norm, x = BatchNorm(x.shape[1]).double(), x[mine].requires_grad_()
    processes.current().prepare(norm)
    with torch.no_grad():
        for ours, theirs in (
            (norm.weight, "gamma"),
            (norm.bias, "beta"),
            (norm.running_mean, "moving_mean"),
            (norm.running_var, "moving_variance"),
        ):
            ours.copy_(torch.from_numpy(stored[theirs]))
    y = norm(x)
    (y * weights[mine]).sum().backward()
    found = {"y_train": y.detach().movedim(1, -1), "grad_x": x.grad.movedim(1, -1)}
    found |= {"grad_gamma": norm.weight.grad, "grad_beta": norm.bias.grad}
    return found | {"moving_mean_after": norm.running_mean, "moving_variance_after": norm.running_var}


SMALL = Pretrain(
    data=Data(image_size=16),
    network=Network(depth=18, width=0.25, stem="cifar"),
    batch_size=7,
    head_layers=2,
    head_dim=32,
    memory_size=64,
)


def bytes_sent(config: Pretrain) -> dict[str, float]:
    """Of a step in float32: bytes this process writes, to sockets alone, and what rings would send.

    `rings` is computed from what every collective is given, `collectives` counts them.
    """
    settings = ModelConfig(network=config.network, head_layers=2, head_dim=32)
    model = seeded_model(settings, seed_of(config.seed, "weights"))
    training = Training(config, model, 70, CPU)
    pixels = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)[training.partition.mine]
    views = training.views(
        Batch(0, torch.arange(len(pixels)), pixels, None), config.augmentation, 16, copies=2
    )
    given = Given()
    for _ in range(2):  # the first one connects
        given.end()
        distributed.any_of(False)
        before = written()
        given.begin()
        (part,) = training.micro_batches(views, copies=2)
        keys = training.keys(part)
        z1, z2 = training.project(part).chunk(2)
        negatives = training.negatives(part, z1, z2)
        training.backward(nt_xent(z1, z2, config.temperature, negatives, keys=keys), part)
        training.step()
        if training.queue and keys:
            training.queue.update(model, training.partition.whole(keys[0]))
    sent = written() - before
    given.end()
    return {"sent": sent, "rings": given.rings, "collectives": given.collectives}


class Given:
    """What collectives of tensors are given, counted as rings send it."""

    def __init__(self) -> None:
        self.reduce, self.gather = dist.all_reduce, dist.all_gather
        self.rings, self.collectives = 0.0, 0

    def begin(self) -> None:
        self.rings, self.collectives = 0.0, 0
        dist.all_reduce, dist.all_gather = self.reduced, self.gathered

    def end(self) -> None:
        dist.all_reduce, dist.all_gather = self.reduce, self.gather

    def count(self, tensor: Tensor, factor: float) -> None:
        self.rings += factor * tensor.numel() * tensor.element_size()
        self.collectives += 1

    def reduced(self, tensor: Tensor) -> None:
        self.count(tensor, 2 * (distributed.world_size() - 1) / distributed.world_size())
        self.reduce(tensor)

    def gathered(self, received: list[Tensor], tensor: Tensor) -> None:
        self.count(tensor, distributed.world_size() - 1)
        self.gather(received, tensor)


def written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    parents = {name: tiny.parent(stage) for name, stage in STAGES.items()}  # alone: they are trained a little
    with distributed.group(cuda=False) if under_torchrun() else nullcontext():
        found = agreements() if under_torchrun() else {}
        sent = [bytes_sent(replace(SMALL, memory=memory)) for memory in (False, True)]
        norms = (
            [official_batch_norm(which) for which in ("2d", "4d")] if distributed.world_size() == 2 else []
        )
        in_double()
        told = {"agreements": found, "sent": sent, "norms": norms, "steps": everything(parents)}
        told["logits"] = predictions(parents["distill"])
        if distributed.world_size() == 1:
            told["nudged"] = everything(parents, nudge=True)
        torch.save(told, folder / f"{rank}.pt")


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    there = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return os.environ | {name: str(value) for name, value in names.items()} | there


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def run(count: int, folder: Path, script: Path = Path(__file__)) -> list[dict[str, Any]]:
    """What each of `count` processes told."""
    folder.mkdir()
    port = free_port()
    command = [sys.executable, str(script), str(folder)]
    started = [subprocess.Popen(command, env=environment(rank, count, port)) for rank in range(count)]
    assert [process.wait(timeout=240) for process in started] == [0] * count
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

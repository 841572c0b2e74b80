"""Bytes that a process sends in a pretraining step, for docs/guides/several_processes.md.

Computed from the network's shapes and the algorithms of gloo and NCCL (rings): of an all-reduce of n bytes
every process sends 2 (K - 1) / K n, of an all-gather to which it gives n bytes (K - 1) n. The sums are
compared with what gloo really sent in tests/scale/test_distributed.py.
Run: python -m benchmarks.communication
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from clrkit.config import Pretrain
from clrkit.experiments.presets import preset
from clrkit.model import Model, ModelConfig
from clrkit.resnet import BatchNorm

FLOAT = 4  # bytes
PROCESSES = (2, 8, 64)
PRESETS = ("mini", "cifar10_official", "imagenet_r50", "imagenet_r152_3x_sk")


class Volume(NamedTuple):
    """Bytes that one process sends in a step, by what they are for."""

    gradients: float
    batch_norm: float
    projections: float

    @property
    def all(self) -> float:
        return sum(self)


def volume(config: Pretrain, processes: int) -> Volume:
    """What a process sends in a pretraining step, computed.

    Args:
        config: of the whole batch, which the processes share out.
        processes: K.
    """
    reduced, gathered = 2 * (processes - 1) / processes, processes - 1
    head = {"head_layers": config.head_layers, "head_dim": config.head_dim}
    with torch.device("meta"):
        model = Model(ModelConfig(network=config.network, **head))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    channels = [norm.num_features for norm in model.modules() if isinstance(norm, BatchNorm)]
    statistics = sum(2 * count + 1 for count in channels)  # mean, variance, and of how many values
    slopes = sum(2 * count for count in channels)
    forwards = 2 if config.memory else 1
    rows = 2 * -(-config.batch_size // processes) * config.head_dim  # of the longest share
    z = gathered * rows + reduced * 2 * config.batch_size * config.head_dim
    keys = gathered * rows / 2 if config.memory else 0  # of one view
    return Volume(
        gradients=FLOAT * reduced * (parameters + 1),  # and the loss
        batch_norm=FLOAT * (forwards * gathered * statistics + reduced * slopes),
        projections=FLOAT * (z + keys),
    )


def table() -> str:
    """The volumes of the published recipes, in Markdown."""
    lines = [
        "| pretraining | batch | processes | gradients | batch norm | projections | all, MB a step |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name in PRESETS:
        for memory in (False, True):
            config = replace(preset(name).pretrain, memory=memory)
            what = f"`{name}`{', memory' if memory else ''} | {config.batch_size:,}"
            for processes in PROCESSES:
                sent = volume(config, processes)
                megabytes = " | ".join(f"{part / 1e6:,.2f}" for part in (*sent, sent.all))
                lines.append(f"| {what} | {processes} | {megabytes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

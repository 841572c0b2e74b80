"""What each way of computing the same step is worth, one at a time.

    python -m benchmarks.switches --preset mini --json

`ratio` is the time of the step without a switch over the time with it: above 1 it pays. The base is a float32
step as `clrkit.stages` makes it (channels-last memory, foreach LARS or fused AdamW, not compiled).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.step import FOREVER, images_of, step_config, step_parser, update, views_of
from benchmarks.timing import Contestant, Work, interleaved, machine, ratio, report, summary
from clrkit import stages
from clrkit.config import Optimizer, Pretrain
from clrkit.data.splits import DataSet
from clrkit.device import choose_device
from clrkit.fast.compiling import why_not_compiled
from clrkit.optim import LARS
from clrkit.training import Training

Change = Callable[[Training, Tensor], Tensor]
BY_LARS = Optimizer(optimizer="lars", learning_rate=0.3, weight_decay=1e-4)
BY_ADAMW = Optimizer(optimizer="adamw", learning_rate=4e-3, weight_decay=1e-4)


def main() -> None:
    options = step_parser(__doc__).parse_args()
    os.environ.pop("CLRKIT_COMPILE", None)  # the base is not compiled
    config, device = step_config(options), choose_device(options.device)
    result: dict[str, Any] = {"preset": options.preset, "batch_size": config.batch_size}
    with tempfile.TemporaryDirectory(prefix="clrkit-") as kernels:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = kernels  # to compile takes as long as the first time
        result |= measure(replace(config, epochs=FOREVER), device, options.seconds)
    result["machine"] = machine(device)
    report(f"switches-{options.preset}-{device.type}", result, options.json)


def measure(config: Pretrain, device: torch.device, seconds: float) -> dict[str, Any]:
    """Ratios of the switches; each optimiser is compared within itself."""
    data = images_of(config.data)
    lars, adamw = replace(config, optimizer=BY_LARS), replace(config, optimizer=BY_ADAMW)
    contestants = {
        "base": variant(config, data, device),
        "bfloat16": variant(replace(config, precision="bfloat16"), data, device),
        "contiguous": variant(config, data, device, contiguous),
        "foreach LARS": variant(lars, data, device),
        "LARS, a weight at a time": variant(lars, data, device, one_at_a_time),
        "fused AdamW": variant(adamw, data, device),
        "AdamW, not fused": variant(adamw, data, device, not_fused),
    }
    if device.type == "cuda":
        contestants["cuDNN's search"] = variant(config, data, device, cudnn_search)
    first: float | str = why_not_compiled(device.type)
    if not first:
        contestants["compiled"] = compiled_variant(config, data, device)
        first = round(duration_of_first(contestants["compiled"]), 1)
    taken = interleaved(contestants, seconds)
    pairs = {
        "bfloat16": ("base", "bfloat16"),
        "channels-last memory": ("contiguous", "base"),
        "torch.compile": ("base", "compiled"),
        "foreach LARS": ("LARS, a weight at a time", "foreach LARS"),
        "fused AdamW": ("AdamW, not fused", "fused AdamW"),
        "cuDNN's search": ("base", "cuDNN's search"),
    }
    ratios = {name: ratio(taken, *pair) for name, pair in pairs.items() if pair[1] in taken}
    steps = {name: summary([1000 * second for second in rounds]) for name, rounds in taken.items()}
    return {"ratio": ratios, "seconds_to_compile": first, "milliseconds": steps}


def duration_of_first(each: Contestant) -> float:
    start = time.perf_counter()
    with each() as step:
        step()
    return time.perf_counter() - start


def as_it_is(training: Training, views: Tensor) -> Tensor:
    return views


def contiguous(training: Training, views: Tensor) -> Tensor:
    training.model.to(memory_format=torch.contiguous_format)
    return views.contiguous()


class LoopedLARS(LARS):
    """LARS as most write it: a loop over the weights."""

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            if group["adapt"]:
                gradient = gradient.add(parameter, alpha=group["weight_decay"])
                weight_norm, gradient_norm = parameter.norm(), gradient.norm()
                ratio = group["trust_coefficient"] * weight_norm / gradient_norm
                gradient = gradient * torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)
            buffer = self.buffer(parameter).mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
            parameter.sub_(buffer)


def one_at_a_time(training: Training, views: Tensor) -> Tensor:
    training.optimizer = LoopedLARS(training.optimizer.param_groups, 1.0)
    return views


def not_fused(training: Training, views: Tensor) -> Tensor:
    """PyTorch's own choice: foreach on a GPU, a loop on the CPU."""
    for group in training.optimizer.param_groups:
        group["fused"] = None
    return views


def cudnn_search(training: Training, views: Tensor) -> Tensor:
    torch.backends.cudnn.benchmark = True
    return views


def variant(config: Pretrain, data: DataSet, device: torch.device, change: Change = as_it_is) -> Contestant:
    """The bare step with one thing changed."""

    @contextmanager
    def session() -> Iterator[Work]:
        training = stages.begin(config, data, device)
        views = change(training, views_of(config, data, device))
        try:
            step = update(training)
            yield lambda: step(views)
        finally:
            torch.backends.cudnn.benchmark = False

    return session


def compiled_variant(config: Pretrain, data: DataSet, device: torch.device) -> Contestant:
    """The bare step with CLRKIT_COMPILE=1; compiled once, whatever the number of rounds."""
    steps: list[Work] = []

    @contextmanager
    def session() -> Iterator[Work]:
        if not steps:
            os.environ["CLRKIT_COMPILE"] = "1"
            step, views = update(stages.begin(config, data, device)), views_of(config, data, device)
            steps.append(lambda: step(views))
            del os.environ["CLRKIT_COMPILE"]
        yield steps[0]

    return session


if __name__ == "__main__":
    main()

"""What a GPU needs: steps that never wait for it, bfloat16, compiled networks. Tested without one."""

from __future__ import annotations

import shutil
import traceback
import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DATA, FINETUNE, PRETRAIN, REMEMBERING, STAGES, parent
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clrkit import stages
from clrkit import training as training_module
from clrkit.config import Stage
from clrkit.errors import ConfigError
from clrkit.experiments.fields import with_fields
from clrkit.fast.compiling import compiled, why_not_compiled
from clrkit.runs.keys import key, keyed_fields
from clrkit.runs.run import check_precision
from clrkit.stages import begin, steps
from clrkit.training import Training

CPU, META = torch.device("cpu"), torch.device("meta")
PROBE, SUPERVISED, DISTILL = STAGES[1], STAGES[2], STAGES[4]
TRAINED = [PRETRAIN, REMEMBERING, SUPERVISED, FINETUNE, DISTILL, replace(DISTILL, label_weight=0.5)]


class NoTensorsFromLists(TorchFunctionMode):
    """Refuses `torch.tensor(list, device=gpu)`, which waits for the device unseen by a dispatch mode."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = torch.device((kwargs or {}).get("device") or "cpu")
        assert function not in (torch.tensor, torch.as_tensor, torch.from_numpy) or place == CPU, args
        return function(*args, **(kwargs or {}))


class Uploads(TorchDispatchMode):
    """Notes every transfer from the CPU that would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        here = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.device == CPU]
        there = any(isinstance(x, torch.Tensor) and x.device == META for x in tree_leaves(out))
        patient = (kwargs or {}).get("non_blocking", False)
        if there and any(tensor.ndim for tensor in here) and not patient:
            self.waiting.append(f"{function}\n{''.join(traceback.format_stack(limit=8))}")
        return out


def on_meta(stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: str = "lars") -> Uploads:
    """A run on the meta device: as from a GPU that is at work, nothing can be read back."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    monkeypatch.setattr(stages, "monitor", lambda *_: {})  # after the last step it reads features back
    training = begin(
        with_fields(stage, {"optimizer.optimizer": kind, "blur": True}), DATA, META, parent(stage)
    )
    teacher = parent(stage)
    run = steps(training.config, DATA, training, teacher and teacher.to(META))
    next(run)  # the first step sets up: labels and a teacher go to the device
    with NoTensorsFromLists(), Uploads() as uploads:
        for step in run:
            assert step.loss.device == META
    return uploads


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kind"),
    [*((stage, "lars") for stage in TRAINED), (SUPERVISED, "sgd")],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_no_step_waits_for_the_device(stage, kind, monkeypatch):
    assert on_meta(stage, monkeypatch, kind).waiting == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("stage", TRAINED, ids=lambda stage: stage.name)
def test_no_step_waits_for_a_gpu(stage, monkeypatch):
    monkeypatch.setattr(stages, "monitor", lambda *_: {})  # after the last step it reads features back
    device = torch.device("cuda")
    training, teacher = begin(stage, DATA, device, parent(stage)), parent(stage)
    run = steps(stage, DATA, training, teacher and teacher.to(device))
    next(run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in zip(range(2), run, strict=False):  # the last step of an epoch looks at accuracy, and waits
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_a_waiting_transfer_would_be_noticed(monkeypatch):
    monkeypatch.setattr(training_module, "to_device", lambda tensor, device: tensor.to(device))
    assert on_meta(PRETRAIN, monkeypatch).waiting
    with monkeypatch.context() as patch:
        patch.setattr(Training, "backward", lambda self, loss, batch: loss.item())
        with pytest.raises(RuntimeError, match="meta"):
            on_meta(PRETRAIN, monkeypatch)
    with pytest.raises(AssertionError), NoTensorsFromLists():
        torch.tensor([1.0], device=META)


# Precision


def losses(stage: Stage) -> list[float]:
    training = begin(stage, DATA, CPU, parent(stage))
    return [step.loss.item() for step in steps(stage, DATA, training, parent(stage))]


@pytest.mark.parametrize("stage", [*TRAINED, PROBE], ids=lambda stage: stage.name)
def test_bfloat16_is_near_to_float32_and_keeps_weights_in_float32(stage):
    low = replace(stage, precision="bfloat16")
    training = begin(low, DATA, CPU, parent(low))
    run = steps(low, DATA, training, parent(low))
    seen: set[torch.dtype] = set()
    for module in training.model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    first = next(run).loss
    assert seen == {torch.bfloat16}
    assert first.dtype == torch.float32
    for step in run:
        assert step.loss.isfinite()
    np.testing.assert_allclose(first.item(), losses(stage)[0], rtol=0.02)
    assert {value.dtype for value in training.model.state_dict().values()} <= {torch.float32, torch.int64}


def test_the_keys_of_a_memory_are_normalised_in_float32():
    stage = replace(REMEMBERING, precision="bfloat16")
    training = begin(stage, DATA, CPU)
    next(steps(stage, DATA, training, None))
    assert training.queue is not None
    norms = training.queue.negatives.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


def test_precision_makes_another_run_and_float32_is_the_run_that_always_was():
    low = with_fields(FINETUNE, {"precision": "bfloat16"})
    assert key(low, "x") != key(FINETUNE, "x")
    assert low.pretrain == FINETUNE.pretrain
    assert "precision" not in keyed_fields(FINETUNE)


def test_a_gpu_without_bfloat16_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    check_precision(PRETRAIN, torch.device("cuda"))
    low = with_fields(FINETUNE, {"pretrain.precision": "bfloat16"})
    with pytest.raises(ConfigError, match="Old GPU does not"):
        check_precision(low, torch.device("cuda"))
    with pytest.raises(ConfigError, match="Old GPU does not compute in bfloat16; set precision to float32"):
        check_precision(replace(PRETRAIN, precision="bfloat16"), torch.device("cuda"))


# Compiled networks


@pytest.fixture
def asked(monkeypatch):
    """CLRKIT_COMPILE=1, and nothing known of earlier trials."""
    monkeypatch.setenv("CLRKIT_COMPILE", "1")
    why_not_compiled.cache_clear()
    yield
    why_not_compiled.cache_clear()


def test_nothing_is_compiled_unasked(monkeypatch):
    monkeypatch.delenv("CLRKIT_COMPILE", raising=False)
    monkeypatch.setattr(torch, "compile", lambda function: pytest.fail("compiled"))
    assert compiled(torch.sin, CPU) is torch.sin


@pytest.mark.usefixtures("asked")
def test_a_machine_that_cannot_compile_says_why_and_trains_uncompiled(monkeypatch):
    def fail(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.warns(UserWarning, match=r"uncompiled on this machine: No working C\+\+ compiler$"):
        assert compiled(torch.sin, CPU) is torch.sin


@pytest.mark.slow
@pytest.mark.usefixtures("asked")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_networks_train_as_uncompiled_ones(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        fast = [losses(stage) for stage in (PRETRAIN, SUPERVISED)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert why_not_compiled("cpu") == ""
    monkeypatch.setenv("CLRKIT_COMPILE", "0")
    uncompiled = [losses(stage) for stage in (PRETRAIN, SUPERVISED)]
    for one, other in zip(fast, uncompiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)

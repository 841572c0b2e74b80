"""Training that goes wrong: noticed at its step, told with what to try, the last good state kept."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import DATA, PRETRAIN
from torch import Tensor, nn

from clrkit import stages
from clrkit.experiments.presets import preset
from clrkit.runs import run as making
from clrkit.runs.checkpoint import read_state
from clrkit.runs.health import BASELINE, PATIENCE, TrainingError, TrainingMonitor, dimensions
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.store import RunError, Store
from clrkit.stages import begin, steps
from clrkit.training import Training

CPU = torch.device("cpu")
LOSS = torch.tensor(1.0)


def after(norm: float, projections: Tensor | None = None) -> Training:
    """A run right after a step whose gradient has this norm, with these normalised projections."""
    training = Training.__new__(Training)
    training.model = nn.Linear(4, 1)
    training.model.weight.grad = torch.full((1, 4), norm / 2)
    training.model.bias.grad = torch.zeros(1)
    training.projections = projections
    return training


def watched(norms: list[float]) -> TrainingMonitor:
    watch = TrainingMonitor(CPU)
    for step, norm in enumerate(norms, 1):
        watch.see(step, LOSS, after(norm))
    return watch


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_the_first_step_that_is_not_finite_is_told_however_many_follow(wrong, place):
    watch = TrainingMonitor(CPU)
    for step in range(1, 10):
        bad = step >= 4
        loss = torch.tensor(wrong if bad and place == "loss" else 1.0)
        watch.see(step, loss, after(wrong if bad and place == "gradient" else 1.0))
        if not bad:
            watch.check()
    with pytest.raises(TrainingError, match=r"not finite at step 4; try a lower learning_rate"):
        watch.check()


def test_a_gradient_ten_thousand_times_the_ordinary_one_has_exploded():
    ordinary = [0.1] * (BASELINE - 1) + [2.0]
    watched([*ordinary, 1.9e4]).check()
    with pytest.raises(TrainingError, match=f"exploded at step {BASELINE + 2}: its norm is"):
        watched([*ordinary, 1.0, 2.1e4]).check()


def test_small_late_gradients_make_no_later_one_look_large():
    watched([1.0] * BASELINE + [1e-9] * 50 + [100.0]).check()


@given(seed=st.integers(0, 1000), rows=st.integers(2, 40), dim=st.integers(2, 20), scale=st.floats(1e-3, 1e3))
def test_rows_fill_as_many_dimensions_as_equal_spread_in_that_many_would(seed, rows, dim, scale):
    random = torch.Generator().manual_seed(seed)
    direction = torch.randn(dim, generator=random)
    signs = torch.randn(rows, 1, generator=random)
    assert dimensions(F.normalize(scale * signs * direction)).item() == pytest.approx(1, rel=1e-4)
    assert dimensions(torch.eye(dim)).item() == pytest.approx(dim, rel=1e-4)
    filled = dimensions(F.normalize(torch.randn(rows, dim, generator=random))).item()
    assert 1 - 1e-4 <= filled <= min(rows, dim) * (1 + 1e-4)
    assert dimensions(torch.zeros(rows, dim)).item() == 0


def test_projections_on_one_line_are_a_collapse_only_if_they_stay_there():
    random = torch.Generator().manual_seed(0)
    line = F.normalize(torch.ones(8, 4) * torch.randn(8, 1, generator=random))
    spread = torch.eye(4).repeat(2, 1)
    watch = TrainingMonitor(CPU)
    for step in range(1, PATIENCE):
        watch.see(step, LOSS, after(1.0, line))
    watch.see(PATIENCE, LOSS, after(1.0, spread))
    watch.check()
    for step in range(PATIENCE + 1, 2 * PATIENCE + 1):
        watch.check()
        watch.see(step, LOSS, after(1.0, line))
    with pytest.raises(TrainingError, match=f"collapsed at step {2 * PATIENCE}: .*try a lower learning_rate"):
        watch.check()


def test_a_step_s_first_micro_batch_is_judged():
    config = replace(PRETRAIN, micro_batch=6, two_pass=False)
    training = begin(config, DATA, CPU)
    next(steps(config, DATA, training, None))
    assert training.projections is not None
    assert len(training.projections) == 12  # both views of six images


def test_a_resumed_watch_judges_as_one_that_went_on():
    watch = watched([1.0] * BASELINE)
    other = TrainingMonitor(CPU)
    other.load_state_dict(watch.state_dict())
    other.see(BASELINE + 1, LOSS, after(1e5))
    with pytest.raises(TrainingError, match="exploded"):
        other.check()
    watch.check()


# In a run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, "smoke")


def spoiled(monkeypatch: pytest.MonkeyPatch, at: int, spoil: Any) -> None:
    """Spoils the model after a step of training; a state is saved after each step."""
    steps = stages.steps

    def faulty(*arguments: Any) -> Iterator[Any]:
        for step in steps(*arguments):
            yield step
            if step.step == at:
                spoil(arguments[2].model)

    monkeypatch.setattr(stages, "steps", faulty)
    monkeypatch.setattr(making, "STATE_SECONDS", 0)
    monkeypatch.setattr(making, "SPARED", 0)


def kept_step(store: Store) -> int:
    """Steps done in the only state of a store."""
    (path,) = store.runs.glob("*.partial/state")
    step: int = torch.load(io.BytesIO(read_state(path)), weights_only=True)["training"]["step"]
    return step


def with_nan(network: nn.Module) -> None:
    next(network.parameters()).data[0] = math.nan


@pytest.mark.slow
def test_the_state_before_a_loss_that_is_not_finite_is_kept(store, monkeypatch, fault):
    config = preset("smoke").resolve("pretrain", epochs=2, batch_size=500)
    spoiled(monkeypatch, 5, with_nan)
    with pytest.raises(
        RunError, match=r"not finite at step 6; .*; the state of step 5 is kept in .*partial\.$"
    ):
        finish(run_or_load(config, store))
    assert kept_step(store) == 5
    monkeypatch.undo()
    assert finish(run_or_load(config, store)).history["step"][-1] == 16  # what was wrong was not the state
    fault("numerics: a weight becomes NaN", "a NaN written into a weight after step 5", "the step it spoils")


def explosive(network: nn.Module) -> None:
    """From now on the gradient is as steep as if the loss were counted a million times."""
    for parameter in network.parameters():
        parameter.register_hook(lambda gradient: gradient * 1e6)


def test_a_gradient_that_explodes_ends_the_run_before_its_state_is_kept(store, monkeypatch, fault):
    config = preset("smoke").resolve("supervised", epochs=4, batch_size=20, fraction=0.2)
    monkeypatch.setattr("clrkit.runs.health.BASELINE", 20)
    spoiled(monkeypatch, 30, explosive)
    with pytest.raises(RunError, match=r"exploded at step 31: .*; the state of step 30 is kept"):
        finish(run_or_load(config, store))
    assert kept_step(store) == 30
    fault("numerics: the gradient explodes", "gradients times 1,000,000 after step 30", "the step it spoils")


def flat(network: nn.Module) -> None:
    """All images look alike from now on."""
    network.encoder.groups[-1].register_forward_hook(lambda module, images, out: out * 0 + 1)


@pytest.mark.slow
def test_a_representation_that_collapses_ends_the_run(store, monkeypatch, fault):
    config = preset("smoke").resolve("pretrain", epochs=4, batch_size=100)
    monkeypatch.setattr("clrkit.runs.health.PATIENCE", 10)
    spoiled(monkeypatch, 20, flat)
    with pytest.raises(RunError, match=r"collapsed at step 30: .*the state of step 29 is kept"):
        finish(run_or_load(config, store))
    assert kept_step(store) == 29
    fault("numerics: all projections become one", "features made constant after step 20", "the steps since")

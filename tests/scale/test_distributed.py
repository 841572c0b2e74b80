"""Several processes beside one: the same losses, gradients, weights, predictions; what they tell each other.

The processes are those of several.py; how `torchrun` runs them is in test_torchrun.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import several as runs_of
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.communication import table, volume
from benchmarks.memory import extra_megabytes, in_child
from benchmarks.step import noise
from clrkit import processes
from clrkit.config import Stage
from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.scale import distributed
from clrkit.stages import begin, pretrain
from clrkit.training import BatchPartition

Told = list[dict[str, Any]]

# Two orders of summation round differently, and training amplifies every difference. How much is measured
# here: one process trains twice, once from weights that are moved by one unit in their last place. Sums of
# some thousand terms round by some dozen such units, hence the margin. A lost image or a wrong weight of a
# micro-batch is a million times more.
MARGIN = 100


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process computes."""
    return runs_of.run(1, tmp_path_factory.mktemp("alone") / "told")[0]


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What each of several processes computes."""
    return runs_of.run(request.param, tmp_path_factory.mktemp("several") / "told")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts and lists, by its path."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from leaves(inner, f"{path}/{name}")


def apart(ours: Any, one: Any) -> float:
    """The largest difference of tensors at equal paths, relative to values above 1."""
    theirs = dict(leaves(one))
    return max(
        ((tensor - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1)).item()
        for name, tensor in leaves(ours)
        if tensor.numel()
    )


@pytest.fixture(scope="module")
def rounding(alone: dict[str, Any]) -> dict[str, float]:
    """How far rounding errors come, by stage: those of the first weights, and those that AdamW blows up."""
    stages = runs_of.STAGES | runs_of.SHARDED
    return {
        name: max(apart(alone["nudged"][name], one), blown_up(stages[name]))
        for name, one in alone["steps"].items()
    }


def blown_up(stage: Stage) -> float:
    """How far AdamW moves a weight whose gradient is zero but for rounding: it divides by 1e-8 at least."""
    if stage.optimizer.optimizer != "adamw":
        return 0.0
    return runs_of.STEPS * stage.optimizer.learning_rate * torch.finfo(torch.double).eps / 1e-8


def same_numbers(ours: Any, one: Any, bound: float, partly: bool = False) -> None:
    """Equal tensors at equal paths; `partly`: of the second, all that the first has."""
    mine, theirs = dict(leaves(ours)), dict(leaves(one))
    assert mine.keys() <= theirs.keys() if partly else mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.shape == theirs[name].shape, name
        largest = theirs[name].abs().max().item() if tensor.numel() else 0.0
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=bound * max(1.0, largest), msg=name)


# One run


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*runs_of.STAGES, *runs_of.SHARDED])
def test_several_processes_train_as_one_with_the_whole_batch(alone, several, rounding, stage):
    for rank, told in enumerate(several):
        found, one = told["steps"][stage], alone["steps"][stage]
        assert len(found["losses"]) == runs_of.STEPS
        # Of an optimiser that is shared out the first process alone tells all.
        shared = stage in runs_of.SHARDED and rank > 0
        same_numbers(found, one, MARGIN * rounding[stage], partly=shared)


@pytest.mark.slow
def test_the_bound_is_far_below_what_a_mistake_makes(alone, rounding):
    """A lost image changes a mean over some dozen by percents; no stage may hide a thousandth of that."""
    for stage, moved in rounding.items():
        assert 0 < MARGIN * moved < 1e-6, stage
    whole, in_parts = (alone["steps"][name] for name in ("pretrain", "pretrain in micro-batches"))
    assert apart(in_parts["losses"], whole["losses"]) > 1e-3


@pytest.mark.slow
def test_predictions_are_those_of_one_process_at_any_number_of_images(alone, several):
    for told in several:
        same_numbers(told["logits"], alone["logits"], 1e-10)  # no training in between
        assert [len(logits) for logits in told["logits"]] == list(range(1, 9))


@pytest.mark.slow
def test_two_passes_are_the_whole_batch_where_batch_norm_has_the_same_images(alone, rounding):
    """Beside the loss on all projections at once, of the same micro-batches with their own statistics."""
    stage = runs_of.STAGES["pretrain in two passes"]
    expected = runs_of.slow_two_passes(stage)
    found = alone["steps"]["pretrain in two passes"]
    bound = MARGIN * rounding["pretrain in two passes"]
    torch.testing.assert_close(found["losses"][0], expected["loss"], rtol=0, atol=bound)
    same_numbers(found["gradients"][0], expected["gradients"], bound)


def peak(micro_batch: int, two_pass: bool) -> float:
    """MB that two pretraining steps with 128 images take."""
    changes = {"depth": 18, "width": 0.25, "batch_size": 128, "warmup_epochs": 0, "monitor_epochs": 1000}
    changes |= {"micro_batch": micro_batch, "two_pass": two_pass}
    config = with_fields(preset("cifar10_official").pretrain, changes)
    data = noise(config.data, 256)
    steps = pretrain(config, data, begin(config, data, runs_of.CPU))
    return extra_megabytes(lambda: [next(steps) for _ in range(2)])


@cache
def peak_of_whole_batches() -> float:
    """Without micro-batches there is one pass, whatever the setting, so this is measured once."""
    return in_child(peak, 0, False)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
@pytest.mark.parametrize("two_pass", [True, False])
def test_micro_batches_of_an_eighth_take_less_than_half_of_the_memory(two_pass):
    assert in_child(peak, 16, two_pass) < 0.5 * peak_of_whole_batches()


@pytest.mark.slow
def test_two_replicas_normalise_as_the_official_ones(several):
    if len(several) != 2:
        pytest.skip("two replicas")
    official = runs_of.golden("bn")
    for place, which in enumerate(("2d", "4d")):
        found = [told["norms"][place] for told in several]
        for name in ("y_train", "grad_x"):
            ours = torch.cat([each[name] for each in found]).numpy()
            theirs = official[f"{which}/sync2/{name}"]
            np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=0, atol=2e-6)
        for name in ("grad_gamma", "grad_beta"):
            ours = torch.stack([each[name] for each in found]).numpy()
            np.testing.assert_allclose(ours, official[f"{which}/sync2/{name}_per_replica"], rtol=0, atol=5e-6)
        for name in ("moving_mean_after", "moving_variance_after"):
            for each in found:
                np.testing.assert_allclose(each[name], official[f"{which}/sync2/{name}"], rtol=0, atol=1e-6)


# What they tell each other


@pytest.mark.slow
def test_a_failure_in_one_process_is_the_same_failure_in_all(several, fault):
    last = len(several) - 1
    assert {told["agreements"]["failure"] for told in several} == {f"process {last} has had enough"}
    injected = "a ConfigError in the last process"
    fault("processes: one of them fails", injected, "nothing; all end with its message")


@pytest.mark.slow
def test_processes_agree_and_the_first_one_speaks_for_all(several):
    for told in several:
        agreed = told["agreements"]
        assert agreed["any"] == [True] * len(several) + [False]
        assert agreed["first"] == "from 0"
        assert agreed["nothing"] == ""
        assert agreed["rows"][:, 0].tolist() == [
            owner for owner in range(len(several)) for _ in range(owner + 1)
        ]


@pytest.mark.slow
def test_the_first_process_of_a_machine_goes_before_the_others(several):
    (_, ended), *others = (told["agreements"]["turns"] for told in several)
    assert all(began >= ended for began, _ in others)


@pytest.mark.slow
def test_gloo_sends_what_is_computed(several):
    for place, memory in enumerate((False, True)):
        computed = volume(replace(runs_of.SMALL, memory=memory), len(several)).all
        # The longest share is the first process's; others gather fewer rows but send as many.
        for told in several:
            found = told["sent"][place]
            assert found["rings"] == pytest.approx(computed, rel=1e-12)
            # Beside it gloo sends the headers of its messages, of some dozen bytes each.
            headers = (found["sent"] - computed) / found["collectives"]
            assert 48 <= headers <= 1500


def test_the_documented_volumes_are_the_computed_ones():
    assert table() in (Path(__file__).parents[2] / "docs" / "guides" / "several_processes.md").read_text()


# Shares


@pytest.fixture
def group_of(monkeypatch):
    """Pretends to be one of several processes."""

    def pretend(size: int, rank: int = 0) -> None:
        monkeypatch.setattr(distributed, "world_size", lambda: size)
        monkeypatch.setattr(distributed, "rank", lambda: rank)

    return pretend


@given(st.lists(st.integers(1, 3 * distributed.BUCKET // 2), max_size=6))
def test_buckets_hold_all_in_order_and_not_much_more_than_they_should(sizes):
    tensors = [torch.empty(size, device="meta") for size in sizes]
    found = list(distributed.buckets(tensors))
    assert [id(each) for bucket in found for each in bucket] == [id(each) for each in tensors]
    for bucket in found:
        assert sum(each.numel() for each in bucket[:-1]) < distributed.BUCKET


@given(count=st.integers(0, 5000), size=st.integers(1, 70))
def test_shares_neither_overlap_nor_leave_anything_out(count, size):
    shares = processes.shares(count, size)
    assert [place for part in shares for place in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in shares]
    assert max(lengths) - min(lengths) <= 1


@given(size=st.integers(2, 300), micro=st.integers(2, 300), count=st.integers(1, 9))
def test_every_image_of_a_batch_is_computed_once_whatever_the_division(size, micro, count):
    group = processes.Processes()
    group.size = count
    with processes.use(group):
        division = BatchPartition(size, min(micro, size))
        rows = np.concatenate([division.rows(rank) for rank in range(count)])
        sizes = [sum(counts) for counts in division.counts]
    assert sorted(rows.tolist()) == list(range(size))
    assert sum(sizes) == size
    assert max(sizes) <= micro
    assert max(sizes) - min(sizes) <= 1


def test_a_process_that_is_alone_has_everything():
    rows = torch.rand(3, 2)
    assert processes.current().gather(rows, [3]) is rows
    assert processes.shares(7, 1) == [slice(0, 7)]
    assert distributed.in_turn(lambda: "now") == "now"
    assert not distributed.any_of(False)
    assert distributed.from_first(lambda: b"x") == b"x"

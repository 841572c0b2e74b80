"""The benchmarks' own logic: turns, ratios, memory, records; peers compute what they are timed at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import augmentation, check, cost, loss, memory, page, peers, startup, timing
from benchmarks.timing import Contestant, Work
from clrkit.config import Augmentation
from clrkit.losses import nt_xent

MOMENT = 1e-3  # seconds of a turn
VIEWS = Augmentation(blur=True)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
deaf = pytest.mark.filterwarnings("ignore")  # to what peers warn of


# Turns and ratios


def test_everyone_has_a_turn_in_every_round_and_another_begins_each_time() -> None:
    order: list[str] = []

    def named(name: str) -> Contestant:
        @contextmanager
        def session() -> Iterator[Work]:
            order.append(name)
            yield lambda: None
            order.append(name.upper())

        return session

    taken = timing.interleaved({name: named(name) for name in "abc"}, MOMENT, rounds=4)
    assert "".join(order) == "aAbBcC" + "bBcCaA" + "cCaAbB" + "aAbBcC"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_ratio_pairs_the_turns_of_a_round() -> None:
    taken = {"slow": [2.0, 30.0, 8.0], "fast": [1.0, 10.0, 2.0]}
    assert timing.ratio(taken, "slow", "fast") == {"median": 3.0, "low": 2.0, "high": 4.0}


# Memory


@linux
def test_extra_memory_is_the_peak_above_what_was_there() -> None:
    there = np.ones(2**23)
    extra = memory.extra_megabytes(lambda: np.ones(2**23).sum())
    assert extra == pytest.approx(there.nbytes / 1e6, rel=0.1)
    assert memory.extra_megabytes(lambda: None) < 1


@linux
def test_a_child_may_hold_so_much_and_no_more() -> None:
    assert memory.in_child(len, bytes(10)) == 10
    with pytest.raises(MemoryError):
        memory.in_child(bytearray, memory.LIMIT)


# The loss


def rows(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)).double())


def test_the_plain_version_is_ours_with_and_without_further_negatives() -> None:
    z1, z2, negatives = rows(6, 0), rows(6, 1), rows(5, 2)
    for given in (None, negatives):
        torch.testing.assert_close(peers.plain_nt_xent(0.2, given)(z1, z2), nt_xent(z1, z2, 0.2, given))


@pytest.mark.parametrize("count", [1, 5, 12, 100])
def test_the_exact_value_is_that_of_the_whole_matrix(count: int) -> None:
    z = torch.cat((rows(6, 0), rows(6, 1)))
    whole = peers.plain_nt_xent(loss.TEMPERATURE)(*z.chunk(2))
    torch.testing.assert_close(loss.exact_value(3 * z, count), whole)


@deaf
@pytest.mark.parametrize("name", ["lightly", "pytorch-metric-learning", "pytorch-metric-learning SupCon"])
def test_peers_compute_the_same_loss(name: str) -> None:
    pytest.importorskip(name.split()[0].replace("-", "_"))
    z1, z2 = rows(6, 0).float(), rows(6, 1).float()
    torch.testing.assert_close(loss.BATCH[name]()(z1, z2), nt_xent(z1, z2, loss.TEMPERATURE))


@deaf
def test_lightlys_memory_bank_is_the_queue_that_everyone_gets() -> None:
    pytest.importorskip("lightly")
    z1, z2, queue = rows(1, 0).float(), rows(1, 1).float(), rows(9, 2).float()
    # One image has no other negatives, so the bank's candidates are ours.
    bank = peers.lightly_memory_loss(loss.TEMPERATURE, queue)
    torch.testing.assert_close(bank(z1, z2), nt_xent(z1, z2, loss.TEMPERATURE, queue))


@pytest.mark.parametrize("gathered", [False, True])
def test_gathered_negatives_get_a_gradient_and_a_queue_gets_none(
    gathered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Tensor] = []
    make = loss.WITH_QUEUE["plain"]
    monkeypatch.setitem(loss.WITH_QUEUE, "kept", lambda negatives: made.append(negatives) or make(negatives))
    loss.step("kept", 8, 5, gathered)()
    assert (made[0].grad is not None) == gathered


def test_deviations_are_those_of_single_precision() -> None:
    for errors in loss.deviations(["ours", "plain"], 64).values():
        assert 0 <= errors["value"] < 1e-6
        assert 0 < errors["gradient"] < 1e-5


def test_who_does_not_fit_is_said_to_fail_and_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(z1: Tensor, z2: Tensor) -> Tensor:
        if len(z1) > loss.SET_UP // 2:
            raise RuntimeError("can't allocate memory\nand so on")
        return z1.sum()

    monkeypatch.setitem(loss.BATCH, "greedy", lambda: too_much)
    monkeypatch.setattr(loss, "in_child", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(loss, "extra_megabytes", lambda work: work() or 5.0)
    record = loss.compared(["ours", "plain", "greedy"], 256, 0, False, MOMENT)
    assert record["extra_mb"]["greedy"] == "failed: can't allocate memory"
    assert record["memory_over_plain"] == {"ours": 1.0, "plain": 1.0}
    assert set(record["seconds"]) == {"ours", "plain"}
    assert set(record["ratio_to"]) == {"plain"}


@linux
def test_the_largest_batch_is_checked_too() -> None:
    assert loss.largest(600)["value"] < 1e-6


# Augmentation


def test_what_differs_is_said_of_everyone() -> None:
    assert set(augmentation.DIFFERS) == set(augmentation.BATCHED) | set(augmentation.SINGLE)


def test_the_record_of_augmentation_has_ratios_and_rates_with_one_core_and_with_all() -> None:
    threads = torch.get_num_threads()
    record = augmentation.measure(VIEWS, 32, augmentation.Load(32, 1), MOMENT, beside=False)
    assert torch.get_num_threads() == threads
    for cores in ("one core", "all cores"):
        assert set(record[cores]["ratio_to"]) == {"ours in PyTorch"}
        rates = record[cores]["views_per_second"]
        assert set(rates) == {"ours", "ours in PyTorch"}
        assert all(0 < rate["low"] <= rate["median"] <= rate["high"] for rate in rates.values())


@deaf
@pytest.mark.parametrize("name", augmentation.BATCHED)
def test_those_that_take_batches_make_a_view_of_every_image(name: str) -> None:
    if name == "kornia":
        pytest.importorskip("kornia")
    pixels = torch.from_numpy(augmentation.noise(32, 40))
    are_views(augmentation.BATCHED[name](VIEWS, 32)(pixels), 32)


@deaf
@pytest.mark.parametrize("name", augmentation.SINGLE)
@pytest.mark.parametrize("how", [augmentation.in_turn, augmentation.loaded])
def test_the_others_make_two_of_each(name: str, how: Callable[..., Contestant]) -> None:
    if name == "lightly":
        pytest.importorskip("lightly")
    with how(augmentation.SINGLE[name](VIEWS, 32), augmentation.noise(4, 40), 2)() as work:
        are_views(work(), 4)


def are_views(views: Any, count: int) -> None:
    assert views.shape == (count, 3, 32, 32)
    assert views.dtype == torch.float32
    assert -0.5 < views.min() < views.max() < 1.5  # kornia lets bicubic overshoot be


# Start-up


def test_neither_help_nor_import_clrkit_loads_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()  # a short one, whose import would be seen as well
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    record = startup.measure(rounds=1)
    assert record["loads_torch"] == {name: name == "import torch" for name in startup.COMMANDS}
    assert set(record["ratio_to_torch"]) == set(startup.COMMANDS) - {"import torch"}


# The page and the check


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of records in which the plain loss did not fit."""
    spread = {"median": 2.0, "low": 1.5, "high": 3.0}
    machine = timing.machine(torch.device("cpu"))
    batch = {
        "seconds": {"ours": spread},
        "ratio_to": {},
        "extra_mb": {"ours": 3.0, "plain": "failed: tried to allocate 34326183936 bytes"},
    }
    step = {
        "preset": "mini",
        "batch_size": 64,
        "image_size": 28,
        "images": "noise",
        "whole_over_bare": spread,
    }
    step |= {"ratio_to": {"lightly": spread}, "images_per_second": {"whole": spread, "lightly": spread}}
    found = {
        "loss": {"dim": 8, "batch": {"512": batch}, "machine": machine},
        "step-mini-cpu": step | {"machine": machine},
    }
    for name, record in found.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    return tmp_path


def test_the_page_shows_who_failed_as_failed_and_every_ratio_with_its_extremes(records: Path) -> None:
    page.main()
    text = (records / "README.md").read_text()
    assert "| 512 | ours | 1 | 3 |" in text
    assert "| 512 | plain | – | failed: asked for 34 GB |" in text
    assert "| mini, batch 64, 28 pixels, images of noise | cpu | 2 (1.5 to 3) | 2 (1.5 to 3) | – |" in text
    assert (records / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize(("value", "verdict"), [(1.0, "reached"), (0.99, "too low")])
def test_the_check_fails_where_one_of_its_gates_is_not_reached(
    value: float, verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = (check.Gate("speed of it", lambda: value, 1.0), check.Gate("memory of it", lambda: 9.0, 8.0))
    monkeypatch.setattr(check, "GATES", gates)
    if verdict == "reached":
        check.main()
    else:
        with pytest.raises(SystemExit, match=r"Too low: speed of it\.$"):
            check.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{verdict}: speed of it: {value:.3g}, at least 1",
        "reached: memory of it: 9, at least 8",
    ]


def test_what_the_published_recipes_compute_is_what_is_known_of_their_networks() -> None:
    """ResNet-50 takes 4.1 GMAC forward; six times that for two views with gradient, two operations each."""
    row = cost.requirement("imagenet_r50")
    assert row["parameters"] / 1e6 == pytest.approx(23.5, abs=0.1)
    assert row["operations_per_image"] == pytest.approx(2 * 3 * 2 * 4.1e9, rel=0.02)
    assert row["operations"] == pytest.approx(row["operations_per_image"] * 4096 * row["steps"])


def test_an_exponent_is_the_slope_of_the_logarithms() -> None:
    rows = [{"value": x, "time": {"median": 3 * x**2}, "memory": 5 * x} for x in (1.0, 2.0, 8.0)]
    assert cost.exponents(rows) == {"time": 2.0, "memory": 1.0}

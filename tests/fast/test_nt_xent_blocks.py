"""NT-Xent a block at a time is NT-Xent with the whole matrix, in value, gradient and memory."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from clrkit import losses
from clrkit.fast import nt_xent_blocks
from clrkit.fast.nt_xent_blocks import BlockwiseNTXent, pairs, products
from clrkit.losses import dense_nt_xent, nt_xent


def rows(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((count, dim)))


def unit(count: int, dim: int, seed: int = 0) -> Tensor:
    return F.normalize(rows(count, dim, seed))


@pytest.fixture(params=[3, 16])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A size of blocks that divides the matrix, or does not, or is larger than it."""
    monkeypatch.setitem(nt_xent_blocks.BLOCK, "cpu", request.param)
    return request.param


def rounding(temperature: float) -> float:
    """What two orders of summation may differ by in float64, whatever the processor, with a margin of 100.

    A similarity is at most 1 / temperature and is rounded in its last place; by so much its exponential is
    off, relative to itself, and the gradient multiplies it by 3 / temperature again.
    """
    return 100 * torch.finfo(torch.double).eps * 3 / min(temperature, 1) ** 2


@pytest.mark.parametrize(
    ("images", "queue", "keyed", "temperature"),
    [
        each
        for each in itertools.product((1, 2, 6), (0, 1, 9), (False, True), (0.003, 0.05, 0.5))
        if each[:2] != (1, 0)  # no negatives at all
    ],
)
def test_value_and_gradient_are_those_of_the_whole_matrix(block, images, queue, keyed, temperature):
    keys = unit(2 * images, 5, seed=1) if keyed else None
    negatives, results = unit(queue, 5, seed=2) if queue else torch.empty(0, 5).double(), []
    for loss in (dense_nt_xent, BlockwiseNTXent.apply):
        z = unit(2 * images, 5).requires_grad_()
        value = loss(z, keys, negatives, temperature)
        (3 * value).backward()
        results.append((value.detach(), z.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=rounding(temperature))


@pytest.mark.parametrize("keyed", [False, True])
def test_the_gradient_is_that_of_the_value(block, keyed):
    keys = unit(6, 4, seed=1) if keyed else None
    z = unit(6, 4).requires_grad_()
    negatives = unit(5, 4, seed=2).requires_grad_()
    assert gradcheck(lambda *both: BlockwiseNTXent.apply(both[0], keys, both[1], 0.5), (z, negatives))


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5])
def test_float32_is_as_near_to_float64_as_the_whole_matrix(temperature):
    z1, z2 = rows(400, 16), rows(400, 16, seed=1)
    results = []
    for dtype in (torch.float64, torch.float32):
        views = [z.to(dtype).requires_grad_() for z in (z1, z2)]
        z = F.normalize(torch.cat(views))
        loss = BlockwiseNTXent.apply(z, None, z.new_empty(0, 16), temperature)
        results.append((loss, torch.cat(torch.autograd.grad(loss, views))))
    (value, gradient), (single, gradient32) = results
    assert single.item() == pytest.approx(value.item(), rel=1e-6)
    assert (gradient32 - gradient).abs().max() <= 1e-5 * gradient.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_at_a_low_temperature_is_that_of_its_rounded_projections(dtype, monkeypatch):
    z1, z2 = (rows(300, 16, seed=seed).to(dtype) for seed in (0, 1))
    expected = nt_xent(z1.double(), z2.double(), 0.05)
    assert len(z1) ** 2 * 4 > losses.MAX_DENSE_SIMILARITIES  # it is a block at a time
    assert nt_xent(z1, z2, 0.05).item() == pytest.approx(expected.item(), rel=1e-5)


def test_autocast_does_not_round_similarities():
    for images in (20, 300):  # at once, and a block at a time
        z1, z2 = (rows(images, 16, seed=seed).float().requires_grad_() for seed in (0, 1))
        plain = torch.autograd.grad(nt_xent(z1, z2, 0.05), (z1, z2))
        with torch.autocast("cpu", torch.bfloat16):
            loss = nt_xent(z1, z2, 0.05)
        cast = torch.autograd.grad(loss, (z1, z2))
        torch.testing.assert_close(cast, plain, rtol=1e-6, atol=1e-9)


def test_autocast_around_the_backward_pass_does_not_round_a_large_batch_s_gradient_either():
    z = unit(600, 16).float().requires_grad_()
    loss = BlockwiseNTXent.apply(z, None, z.new_empty(0, 16), 0.05)
    (plain,) = torch.autograd.grad(loss, z, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (cast,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(cast, plain, rtol=1e-6, atol=1e-9)


def test_large_batches_go_a_block_at_a_time_and_give_the_same(monkeypatch):
    z1, z2, keys = rows(300, 8), rows(300, 8, seed=1), (rows(300, 8, seed=2), rows(300, 8, seed=3))
    arguments = (z1, z2, 0.2, unit(50, 8, seed=4), True, keys)
    blocks = nt_xent(*arguments)
    monkeypatch.setattr(losses, "MAX_DENSE_SIMILARITIES", 10**9)
    torch.testing.assert_close(nt_xent(*arguments), blocks, rtol=1e-12, atol=0)


def test_keys_and_a_queue_get_no_gradient():
    keys, negatives = unit(6, 4, seed=1).requires_grad_(), unit(6, 4, seed=2)
    BlockwiseNTXent.apply(unit(6, 4).requires_grad_(), keys, negatives, 0.5).backward()
    assert keys.grad is None
    assert negatives.grad is None


@pytest.mark.parametrize(("count", "size"), [(1, 4), (8, 4), (9, 4), (3, 1)])
def test_blocks_cover_every_entry_once(count, size):
    symmetric, full = torch.zeros(count, count), torch.zeros(count, count + 3)
    for lines, columns in pairs(count, size):
        symmetric[lines, columns] += 1
    for lines, columns in products(count, count + 3, size):
        full[lines, columns] += 1
    assert symmetric.triu().equal(torch.ones(count, count).triu())
    assert full.equal(torch.ones(count, count + 3))


PEAK = """
import re, sys, torch, torch.nn.functional as F
from pathlib import Path
from clrkit.fast.nt_xent_blocks import BlockwiseNTXent
from clrkit.losses import dense_nt_xent
loss = {"blocks": BlockwiseNTXent.apply, "whole": dense_nt_xent}[sys.argv[1]]
z = F.normalize(torch.randn(6000, 16)).requires_grad_()
peaks = []
for rows in (z[:600], z):  # the first sets up what is set up once
    loss(rows, None, z.new_empty(0, 16), 0.1).backward()
    # (Not ru_maxrss: that begins with what the parent held.)
    peaks.append(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
print((peaks[1] - peaks[0]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_peak_memory_stays_a_fraction_of_the_matrix():
    """2N = 6,000: the matrix alone takes 137 MiB."""
    peaks = {}
    for kind in ("blocks", "whole"):
        done = subprocess.run([sys.executable, "-c", PEAK, kind], capture_output=True, text=True, check=True)
        peaks[kind] = float(done.stdout)
    assert peaks["whole"] > 137
    assert peaks["blocks"] < peaks["whole"] / 8

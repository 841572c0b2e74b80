"""Every parser of outside files, given what it does not expect."""

from __future__ import annotations

import csv
import json
import random
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzzing import EscapedError, Outcome, damage
from hypothesis import given, settings
from hypothesis import strategies as st
from parsers import PARSERS, small_set

from clrkit.data.cache import CacheEntry, read_cache, write_cache
from clrkit.data.sheet import read_labels
from clrkit.errors import ConfigError

ROOT = Path(__file__).parents[2]
CHECKED = ("CIFAR", "a table and its messages")  # samples of which only parts are read
SHORT, LONG = 10, 300  # times that every sample is damaged


@pytest.mark.parametrize("name", [name for name in PARSERS if name not in CHECKED])
def test_every_sample_is_read_as_it_is(name: str) -> None:
    outcome = Outcome()
    parser = PARSERS[name]()
    untouched = dict.fromkeys(parser.mutations, (lambda data, rng: data,))
    damage(replace(parser, mutations=untouched), random.Random(0), outcome)
    assert outcome.read == 1


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_is_read_there_is_a_result_or_a_sentence(name: str) -> None:
    parser, outcome = PARSERS[name](), Outcome()
    for seed in range(SHORT):
        damage(parser, random.Random(seed), outcome)
    assert outcome.read + outcome.refused == SHORT


@pytest.mark.slow
def test_the_same_for_long_within_bounded_memory(fault: Any) -> None:
    command = [sys.executable, str(ROOT / "tests/support/fuzzing.py"), str(LONG), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = json.loads(done.stdout)
    assert all(read + refused == LONG for read, refused in outcomes.values())
    assert all(refused for name, (_, refused) in outcomes.items() if name != "a cached set")
    name = f"outside files: {len(PARSERS)} kinds of them are damaged by chance and by intent"
    injected = "bits, pieces and fields of the format, beneath right checksums, too"
    fault(name, injected, "nothing but the file, which is read or refused", times=LONG * len(PARSERS))


def test_an_error_of_another_kind_would_be_noticed() -> None:
    def fail(folder: Path) -> None:
        raise KeyError("seed")

    with pytest.raises(EscapedError, match="KeyError"):
        damage(replace(PARSERS["a label list"](), read=fail), random.Random(0), Outcome())


@pytest.mark.parametrize("count", [2 * 10**9, 10**11, 10**18])
def test_a_header_of_the_cache_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path))
    source = CacheEntry("some-4", "id", small_set)
    write_cache(source, small_set())
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count},), }}".ljust(117).encode() + b"\n"
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(99)
    (tmp_path / "some-4/train_pixels.npy").write_bytes(data)
    tracemalloc.start()
    assert read_cache(source, lambda line: None) is None
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60)
@given(st.dictionaries(CELLS, CELLS, max_size=5))
def test_labels_are_read_as_any_program_writes_them(labels: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["label", "file"], *((label, name) for name, label in labels.items())]
            )
        stripped = {name: label.strip() for name, label in labels.items()}  # a name may begin with a blank
        try:
            assert read_labels(str(path)) == stripped
        except ConfigError as error:
            assert str(error)  # noqa: PT017
            assert not labels or "" in stripped.values()

"""Checkpoints damaged by chance and by intent: they are refused, or read as they were saved."""

import random
from contextlib import suppress
from pathlib import Path

import bundle_writer as writer
import numpy as np
import pytest
from bundle_writer import (
    SAMPLE,
    block,
    data_of,
    graph,
    header,
    index_of,
    same,
    table,
    table_of_blocks,
    varint,
    write_bundle,
)

from clrkit.weights.index_file import read_table
from clrkit.weights.tensor_bundle import CheckpointError, TensorBundle, object_graph

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]

HEAD = (b"", header())


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A checkpoint of two data files and several blocks."""
    write_bundle(tmp_path / "ckpt-1", SAMPLE, shards=2)
    return tmp_path / "ckpt-1"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One small accident: bits that flip, a piece that is lost, moved, doubled or replaced."""
    at, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    length = rng.choice([1, 1, 2, 4, 9, rng.randrange(1, 40)])
    piece = rng.choice([data[other : other + length], rng.randbytes(length), b"\xff" * length, bytes(length)])
    match rng.randrange(4):
        case 0 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[at + length :]
        case 2:
            return data[:at] + piece + data[at:]
        case _:
            return data[:at] + piece + data[at + length :]


def readable(bundle: TensorBundle) -> dict[str, writer.Tensor]:
    """The tensors that are not refused. Any other error is the test's failure."""
    found = {}
    for name, entry in bundle.entries.items():
        with suppress(CheckpointError):
            found[name] = bundle.strings(name) if entry.dtype == "string" else bundle.read(name)
    return found


def refused_or_read(prefix: Path, index: bytes) -> dict[str, writer.Tensor] | None:
    """The tensors that can be read with another index, None where it is refused."""
    index_of(prefix).write_bytes(index)
    try:
        return readable(TensorBundle(prefix))
    except CheckpointError:
        return None


def is_sample(found: dict[str, writer.Tensor]) -> bool:
    return found.keys() == SAMPLE.keys() and all(same(found[name], SAMPLE[name]) for name in SAMPLE)


def test_an_index_cut_short_anywhere_is_refused(prefix):
    whole = index_of(prefix).read_bytes()
    assert all(refused_or_read(prefix, whole[:length]) is None for length in range(len(whole)))


def test_a_damaged_index_is_refused_or_harmless(prefix):
    rng, whole = random.Random(0), index_of(prefix).read_bytes()
    for _ in range(2000):
        found = refused_or_read(prefix, mutated(whole, rng))
        assert found is None or is_sample(found)


def test_no_index_of_random_bytes_is_read(prefix):
    rng = random.Random(1)
    for _ in range(1000):
        noise = rng.randbytes(rng.randrange(200)) + rng.choice([b"", writer.MAGIC])
        assert refused_or_read(prefix, noise) is None


def test_damaged_data_is_never_read_as_numbers(prefix):
    rng, bundle = random.Random(2), TensorBundle(prefix)
    for _ in range(1000):
        file = data_of(prefix, rng.randrange(2), 2)
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, rng))
        assert all(same(tensor, SAMPLE[name]) for name, tensor in readable(bundle).items())
        file.write_bytes(whole)
    assert is_sample(readable(bundle))


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[bytes, bytes]]:
    """Keys and values of a small checkpoint, to be forged: to have all checksums right over nonsense."""
    write_bundle(tmp_path / "m", {name: SAMPLE[name] for name in ("a/kernel", "a/kernel/Momentum", "texts")})
    return list(read_table(index_of(tmp_path / "m").read_bytes()))


def test_a_forged_block_is_refused_or_read(tmp_path, pairs):
    rng, found = random.Random(3), []
    for _ in range(700):
        blocks = [(group[-1][0], block(group, interval=2)) for group in (pairs[:3], pairs[3:])]
        victim = rng.randrange(2)
        blocks[victim] = (blocks[victim][0], mutated(blocks[victim][1], rng))
        found.append(refused_or_read(tmp_path / "m", table_of_blocks(blocks)))
    opened = [tensors for tensors in found if tensors is not None]
    assert 30 < len(opened) < 400  # some damage is none to the format: another name, say
    assert all(size_of(tensor) in SIZES for tensors in opened for tensor in tensors.values())


def test_a_forged_list_of_blocks_is_refused_or_read(tmp_path, pairs):
    rng, data = random.Random(4), block(pairs)
    listed = block([(b"z", varint(0) + varint(len(data)))])
    for _ in range(1000):
        found = refused_or_read(tmp_path / "m", writer.finished(writer.sealed(data), mutated(listed, rng)))
        assert found is None or len(found) in (0, 3)


def test_a_forged_entry_is_refused_or_read(tmp_path, pairs):
    rng, found = random.Random(5), []
    for _ in range(1000):
        name, place = pairs[rng.randrange(1, 4)]
        index = table([HEAD, (name, mutated(place, rng))])
        found.append(refused_or_read(tmp_path / "m", index))
    opened = [tensors for tensors in found if tensors is not None]
    assert 100 < len(opened) < 900
    assert any(opened)
    # An entry may come to be read as another type or shape; its bytes are still those of the file.
    assert all(size_of(tensor) in SIZES for tensors in opened for tensor in tensors.values())


def size_of(tensor: writer.Tensor) -> int:
    return tensor.nbytes if isinstance(tensor, np.ndarray) else sum(map(len, tensor))


SIZES = {24, 203, 0}  # bytes of the forged checkpoint's tensors, and none


def test_a_damaged_object_graph_is_refused_or_read():
    rng, whole = random.Random(5), graph(*((f"model/{i}/.ATTR", f"net/{i}/kernel") for i in range(6)))
    read = 0
    for _ in range(1000):
        with suppress(CheckpointError):
            object_graph(mutated(whole, rng))
            read += 1
    assert 50 < read < 500

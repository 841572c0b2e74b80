"""TensorFlow's checkpoint files written byte by byte: slow, plain, and sharing nothing with the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Tensor = np.ndarray | list[bytes]
Pairs = Sequence[tuple[bytes, bytes]]

MAGIC = bytes.fromhex("57fb808b247547db")
NUMBERS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
STRING, BFLOAT16 = 7, 14


def crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


CRC = [crc_of_byte(byte) for byte in range(256)]


def masked(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) % 2**32 + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    return bytes([value % 128 + 128]) + varint(value // 128)


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message; numbers are varints, those that are 0 are left out as TensorFlow does."""
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            parts += [varint(number * 8 + 2), varint(len(value)), value]
        elif value:
            parts += [varint(number * 8), varint(value % 2**64)]
    return b"".join(parts)


def header(shards: int = 1, endianness: int = 0, consumer: int = 0) -> bytes:
    return message((1, shards), (2, endianness), (3, message((1, 1), (2, consumer))))


def entry(dtype: int, shape: Sequence[int], shard: int, offset: int, size: int, crc: int) -> bytes:
    axes = message(*((2, message((1, side))) for side in shape))
    place = message((1, dtype), (2, axes), (3, shard), (4, offset), (5, size))
    return place + varint(6 * 8 + 5) + struct.pack("<I", crc)


def block(pairs: Pairs, interval: int = 3) -> bytes:
    """Sorted keys and values; every `interval`-th key is written whole."""
    out, restarts, previous = b"", [], b""
    for count, (key, value) in enumerate(pairs):
        shared = 0
        if count % interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return out + restart_list(restarts or [0])


def restart_list(restarts: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def sealed(data: bytes, compression: int = 0) -> bytes:
    """A block with its trailer."""
    data += bytes([compression])
    return data + struct.pack("<I", masked(data))


def table_of_blocks(blocks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A table of blocks that are given, each under the key that it is listed by."""
    out, listed = b"", []
    for bound, data in blocks:
        listed.append((bound, varint(len(out)) + varint(len(data))))
        out += sealed(data)
    return finished(out, block(listed, interval=1))


def finished(blocks: bytes, listed: bytes) -> bytes:
    """A table of sealed blocks and the block that lists them."""
    properties = block([])
    footer = varint(len(blocks)) + varint(len(properties))
    blocks += sealed(properties)
    footer += varint(len(blocks)) + varint(len(listed))
    return blocks + sealed(listed) + footer.ljust(40, b"\0") + MAGIC


def table(pairs: Pairs, per_block: int = 4, interval: int = 3) -> bytes:
    """A table of keys and values in the order given."""
    groups = [pairs[start : start + per_block] for start in range(0, len(pairs), per_block)]
    return table_of_blocks([(group[-1][0], block(group, interval)) for group in groups])


def encoded(tensor: Tensor) -> tuple[int, bytes, int]:
    """Type number, bytes and checksum of a tensor. Two-byte unsigned "V2" stands for bfloat16."""
    if isinstance(tensor, np.ndarray):
        data = tensor.tobytes()
        return (BFLOAT16 if tensor.dtype.kind == "V" else NUMBERS[tensor.dtype.name]), data, masked(data)
    lengths = b"".join(struct.pack("<I", len(text)) for text in tensor)
    check = struct.pack("<I", masked(lengths))
    data = b"".join(varint(len(text)) for text in tensor) + check + b"".join(tensor)
    return STRING, data, masked(lengths + check + b"".join(tensor))


def index_of(prefix: Path) -> Path:
    return Path(f"{prefix}.index")


def data_of(prefix: Path, shard: int, shards: int) -> Path:
    return Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")


def write_bundle(
    prefix: Path, tensors: Mapping[str, Tensor], shards: int = 1, per_block: int = 4, interval: int = 3
) -> None:
    """A whole checkpoint; the tensors go to the data files in turn."""
    files, pairs = [b""] * shards, [(b"", header(shards))]
    for count, (name, tensor) in enumerate(sorted(tensors.items(), key=lambda item: item[0].encode())):
        dtype, data, crc = encoded(tensor)
        shape = tensor.shape if isinstance(tensor, np.ndarray) else (len(tensor),)
        shard = count % shards
        pairs.append((name.encode(), entry(dtype, shape, shard, len(files[shard]), len(data), crc)))
        files[shard] += data
    index_of(prefix).write_bytes(table(pairs, per_block, interval))
    for shard, data in enumerate(files):
        data_of(prefix, shard, shards).write_bytes(data)


def graph(*attributes: tuple[str, str]) -> bytes:
    """A TrackableObjectGraph with a node for each key and name, among children and slot variables."""
    other = message((1, message((1, 3), (2, b"child"))), (3, message((1, 1), (2, b"Momentum"), (3, 2))))
    nodes = [
        other + message((2, message((1, b"VARIABLE_VALUE"), (2, name.encode()), (3, key.encode()))))
        for key, name in attributes
    ]
    return message(*((1, node) for node in [b"", other, *nodes]))


RANDOM = np.random.RandomState(0)
SAMPLE: dict[str, Tensor] = {
    "a/kernel": RANDOM.standard_normal((2, 3)).astype(np.float32),
    "a/kernel/Momentum": RANDOM.standard_normal((2, 3)).astype(np.float32),
    "b/moving_mean": RANDOM.standard_normal(5),
    "global_step": np.array(7, np.int64),
    "no/elements": np.empty((0, 4), np.float32),
    "texts": [b"", b"x" * 200, b"abc"],
    "ümlaut": np.array([True, False]),
}


def same(one: Tensor, other: Tensor) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        return one == other
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())

"""What is done to the bytes of a file, by chance and with the format in mind."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]


def by_chance(data: bytes, rng: random.Random) -> bytes:
    """A few small accidents: bits that flip, a piece that is lost, doubled, moved or replaced; or noise."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(300))
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
        length = rng.choice([1, 1, 2, 4, 9, rng.randrange(1, 60)])
        piece = rng.choice([data[other : other + length], rng.randbytes(length), b"\xff" * length])
        match rng.randrange(5):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + length :]
            case 2:
                data = data[:at] + piece + data[at:]
            case 3:
                data = data[:at]
            case _:
                data = data[:at] + piece + data[at + length :]
    return data


VALUES = [
    *(None, True, -1, 0, 7, 10**30, -(2**63), 0.5, 1e308, float("nan")),
    *("", "x", "\ud800", "\0", "..", "$\\frac{", [], {}, [[]], {"": None}, [0] * 9, "x" * 5000),
]  # fmt: skip


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a tree of JSON with each of its keys."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def other_values(data: bytes, rng: random.Random) -> bytes:
    """JSON with a few values replaced, keys lost or added."""
    tree = json.loads(data)
    for _ in range(rng.choice([1, 1, 2])):
        found = list(places(tree))
        if not found or rng.random() < 0.05:
            return json.dumps(copy.deepcopy(rng.choice(VALUES))).encode()
        container, key = rng.choice(found)
        match rng.randrange(4):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[rng.choice(["x", "seed", "__class__"])] = copy.deepcopy(rng.choice(VALUES))
            case _:
                container[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(tree).encode()


def other_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with other values in its header, whose length is right."""
    (length,) = struct.unpack("<Q", data[:8])
    header = other_values(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def other_array(data: bytes, rng: random.Random) -> bytes:
    """An .npy file of another type or shape."""
    types = ["'|u1'", "'|O'", "'<f8'", "'|V99'", "[('a', '<i4')]", "'<U9999999'", "'M8[s]'", "None"]
    shapes = ["(10**18,)", f"({10**18},)", "(-1,)", f"({2**63},)", "(0, 3, 4, 4)", "()", "(3, 1000000000000)",
              "True", "'x'", "(3, 3, 4, 4)", "(1.5,)", "(" * 300]  # fmt: skip
    text = f"{{'descr': {rng.choice(types)}, 'fortran_order': False, 'shape': {rng.choice(shapes)}, }}"
    header = text.ljust(rng.choice([117, 9000])).encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data[128:]


def other_chunk(data: bytes, rng: random.Random) -> bytes:
    """A PNG with damage in a chunk whose checksum is right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    victim = rng.randrange(len(chunks))
    kind, content = chunks[victim]
    kind = rng.choice([kind, kind, b"tEXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"IHDR", b"acTL", b"fcTL"])
    chunks[victim] = (kind, by_chance(content, rng))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def other_member(data: bytes, rng: random.Random) -> bytes:
    """A tar with damage in a header whose checksum is right."""
    at = 512 * rng.randrange(len(data) // 512)
    header = bytearray(data[at : at + 512])
    for _ in range(rng.choice([1, 2, 6])):
        start, size = rng.choice([(0, 20), (100, 8), (124, 12), (156, 1), (157, 9), (257, 8), (345, 20)])
        number = (
            rng.choice([-512, -1, 0, 1, 511, 10**6, 2**62]).to_bytes(size, "big", signed=True)
            if size > 8
            else b""
        )
        filling = [
            number,
            b"../../x",
            b"/x",
            rng.randbytes(size),
            b"\0" * size,
            bytes([rng.choice(b"0123456LKgxSD")]),
        ]
        header[start : start + size] = rng.choice(filling)[:size].ljust(size, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:at] + bytes(header) + data[at + 512 :]


def other_file(data: bytes, rng: random.Random) -> bytes:
    """A list of checksums with a line of the right form for one more file."""
    name = rng.choice(["a\0b", "\x1b[2J", "\x9b2J", "..", "é", "x" * 5000])
    return data + f"{rng.randbytes(32).hex()}  {name}\n".encode()


def compressed(mutation: Mutation) -> Mutation:
    """What is done to what a gzip file holds."""
    return lambda data, rng: zlib.compress(mutation(zlib.decompress(data, 31), rng), 1, 31)


def other_lines(data: bytes, rng: random.Random) -> bytes:
    """A text with other cells, quotes and line ends."""
    pieces = [
        ",",
        '"',
        "\n",
        "\r",
        "\r\n",
        "\0",
        "file",
        "label",
        "0.png",
        "../0.png",
        "\ufeff",
        "a" * 200_000,
        "é",
        "\x1b",
    ]
    text = data.decode()
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(pieces) + text[at + rng.choice([0, 0, 1, 5]) :]
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-16", "latin-1"]), errors="replace")

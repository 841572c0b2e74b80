"""Read TensorFlow checkpoints ("tensor bundles") without TensorFlow: TF1, TF2, variables of a SavedModel.

A bundle is `<prefix>.index`, a sorted table of names and places, and the numbers in
`<prefix>.data-00000-of-00001` and so on (`core/util/tensor_bundle` and `core/protobuf/tensor_bundle.proto` in
TensorFlow). The files are not trusted: reading gives what was saved or raises CheckpointError.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from clrkit.errors import ConfigError, FormatError, reason
from clrkit.weights.index_file import (
    LARGEST_MESSAGE,
    LARGEST_TABLE,
    Cursor,
    Message,
    masked_crc,
    read_table,
    utf8,
)

FORMAT = 1  # version of the format
MOST_SHARDS = 99_999  # five digits in the files' names
HIGHEST_RANK = 32  # axes that any version of NumPy supports
LARGEST_STATE = 2**20  # bytes of the text file `checkpoint`

DTYPES = {  # TensorFlow's DataType
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
STORED = {"bool": "uint8", "bfloat16": "uint16"}  # NumPy does not check bytes of bool and lacks bfloat16


class CheckpointError(ConfigError):
    """A checkpoint cannot be read; the message names the file and the problem in one sentence."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes [offset, offset + size) of data file `shard`, and their masked CRC-32C.

    `dtype` is a NumPy name, "bfloat16", "string", or "type 21" for an unknown type.
    """

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


class TensorBundle:
    """An open checkpoint: `entries` lists its tensors, `read` and `strings` fetch one at a time.

    Args:
        prefix: beginning of the names of its files, the `.index` file, or a folder, as in `find_index`.

    Raises:
        CheckpointError: if it does not exist, or its index is damaged or not supported.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.index = find_index(Path(prefix))
        with refusals(self.index):
            table = read_table(beginning(self.index, LARGEST_TABLE + 1))
            self.shards = read_header(next(table, None))
            self.entries = {read_name(key): read_entry(value, self.shards) for key, value in table}
            check_places(self.entries.values())

    def read(self, name: str) -> Shaped[np.ndarray, "*shape"]:
        """Read one tensor as a new array; bfloat16 becomes float32.

        Needs twice the tensor's bytes for a moment.

        Raises:
            CheckpointError: if the tensor is missing, its type is not a number, its data file is missing or
                short, or its checksum is wrong.
        """
        entry = self.entry(name)
        if entry.dtype == "string" or entry.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{name!r} in {self.index} holds {entry.dtype}, not numbers that clrkit can read."
            )
        stored = np.dtype(STORED.get(entry.dtype, entry.dtype)).newbyteorder("<")
        with refusals(self.data_file(entry)):
            if math.prod(entry.shape) * stored.itemsize != entry.size:
                raise FormatError(
                    f"{name!r} has {entry.size:,} bytes in it, not those of shape {entry.shape}"
                )
            data = self.data(entry)
            if masked_crc(data) != entry.crc:
                raise FormatError(f"the checksum of {name!r} in it is wrong")
        values = np.frombuffer(data, stored)
        if entry.dtype == "bfloat16":  # the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
        return values.astype(entry.dtype).reshape(entry.shape)

    def strings(self, name: str) -> list[bytes]:
        """Read the elements of a tensor of texts, in C order. Raises CheckpointError as `read`."""
        entry = self.entry(name)
        if entry.dtype != "string":
            raise CheckpointError(f"{name!r} in {self.index} holds {entry.dtype}, not texts.")
        with refusals(self.data_file(entry)):
            if math.prod(entry.shape) > entry.size:
                raise FormatError(f"{name!r} has {entry.size:,} bytes in it, too few for shape {entry.shape}")
            if entry.size > LARGEST_MESSAGE:
                raise FormatError(
                    f"{name!r} has {entry.size:,} bytes in it; at most {LARGEST_MESSAGE:,} are read"
                )
            return split_strings(self.data(entry), math.prod(entry.shape), entry.crc)

    def entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise CheckpointError(f"There is no variable {name!r} in {self.index}.")
        return self.entries[name]

    def data_file(self, entry: Entry) -> Path:
        prefix = self.index.name.removesuffix(".index")
        return self.index.with_name(f"{prefix}.data-{entry.shard:05d}-of-{self.shards:05d}")

    def data(self, entry: Entry) -> bytes:
        """Read the bytes of one tensor and nothing else."""
        with regular(self.data_file(entry)).open("rb") as file:
            if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
                raise FormatError("it is shorter than its index says")
            file.seek(entry.offset)
            return file.read(entry.size)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn any problem with a file into one sentence that names it."""
    try:
        yield
    except FormatError as error:
        raise CheckpointError(f"The checkpoint's {path} cannot be used: {error}.") from None
    except OSError as error:
        raise CheckpointError(f"The checkpoint's {path} cannot be read: {reason(error)}.") from None
    except MemoryError:
        raise CheckpointError(f"The checkpoint's {path} holds more than fits in memory.") from None


def regular(path: Path) -> Path:
    """The path, unless it is a pipe or a device, which might never end."""
    if path.exists() and not path.is_file():
        raise FormatError("it is not a file")
    return path


def beginning(path: Path, count: int) -> bytes:
    """The first `count` bytes of a file, or all of a shorter one."""
    with regular(path).open("rb") as file:
        return file.read(min(count, os.fstat(file.fileno()).st_size))


def find_index(place: Path) -> Path:
    """Find the `.index` file of a prefix or of a folder.

    A folder holds one checkpoint, or a text file `checkpoint` that names one of several, or is a SavedModel.

    Raises:
        CheckpointError: if there is none, or several and none is named.
    """
    index = place if place.name.endswith(".index") else Path(f"{place}.index")
    with refusals(place):
        if index.is_file():
            return index
        if place.is_dir():
            return index_in_folder(place)
    raise CheckpointError(f"There is no checkpoint {place}: neither a file {index} nor such a folder exists.")


def index_in_folder(folder: Path) -> Path:
    state = folder / "checkpoint"
    if state.is_file() or state.is_symlink():
        return index_of_state(state)
    if (folder / "variables" / "variables.index").is_file():
        return folder / "variables" / "variables.index"
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        raise FormatError(f"it holds {len(found)} checkpoints (files *.index), so name one of them")
    return found[0]


def index_of_state(state: Path) -> Path:
    """The latest checkpoint by TensorFlow's text file `checkpoint`, only in the same folder."""
    with refusals(state):
        if state.is_symlink():
            raise FormatError("it is a symbolic link, so name the checkpoint itself")
        text = utf8(beginning(state, LARGEST_STATE))
        path = re.search(r'^model_checkpoint_path: *"([^"\\\x00-\x1f]+)"', text, re.MULTILINE)
        if not path:
            raise FormatError("it has no model_checkpoint_path")
        parts = path[1].split("/")
        index = state.with_name(f"{parts[-1]}.index")
        if ".." in parts or parts[-1] in ("", ".") or index.is_symlink():
            raise FormatError(f"the model_checkpoint_path {path[1]!r} in it may lead out of its folder")
    return index


def read_header(first: tuple[bytes, bytes] | None) -> int:
    """The number of data files, from the first key and value of a table (BundleHeaderProto)."""
    if first is None or first[0] != b"":
        raise FormatError("it has no header")
    header = Message(first[1])
    if header.integer(2) != 0:
        raise FormatError("its numbers are big-endian, which is not supported")
    if header.message(3).integer(2) > FORMAT:
        raise FormatError(
            f"it needs a reader of version {header.message(3).integer(2)}; this is version {FORMAT}"
        )
    shards = header.integer(1)
    if not 1 <= shards <= MOST_SHARDS:
        raise FormatError(f"it cannot have {shards} data files")
    return shards


def read_name(key: bytes) -> str:
    """The name of a variable. Raises FormatError for a part of one, which begins with a zero byte."""
    if key.startswith(b"\0"):
        raise FormatError("it holds variables in partitions, which are not supported")
    return utf8(key)


def read_entry(value: bytes, shards: int) -> Entry:
    """Parse one BundleEntryProto."""
    message = Message(value)
    if 7 in message.fields:
        raise FormatError("it holds variables in partitions, which are not supported")
    entry = Entry(
        dtype=DTYPES.get(message.integer(1), f"type {message.integer(1)}"),
        shape=tuple(axis.integer(1) for axis in message.message(2).messages(2)),
        shard=message.integer(3),
        offset=message.integer(4),
        size=message.integer(5),
        crc=message.integer(6),
    )
    if len(entry.shape) > HIGHEST_RANK or math.prod(max(side, 1) for side in entry.shape) >= 2**48:
        raise FormatError(f"a variable in it cannot have a shape of {len(entry.shape)} axes")
    if entry.shard >= shards:
        raise FormatError(f"a variable in it lies in data file {entry.shard} of {shards}")
    return entry


def check_places(entries: Iterable[Entry]) -> None:
    """Refuse variables that share bytes: with them a small file could fill any memory."""
    places = sorted((entry.shard, entry.offset, entry.size) for entry in entries if entry.size)
    for (shard, offset, size), (next_shard, next_offset, _) in pairwise(places):
        if shard == next_shard and offset + size > next_offset:
            raise FormatError("two variables in it lie in the same bytes")


def split_strings(data: bytes, count: int, crc: int) -> list[bytes]:
    """Split the bytes of a tensor of texts: lengths, checksum of the lengths, texts.

    The checksums cover each length as four bytes (eight beyond 2^32), not as it is stored, then the stored
    checksum and the texts (`ReadStringTensor` in TensorFlow's `tensor_bundle.cc`).
    """
    cursor, lengths, numbers = Cursor(data), [], bytearray()
    for _ in range(count):
        lengths.append(cursor.varint())
        numbers += lengths[-1].to_bytes(4 if lengths[-1] < 2**32 else 8, "little")
    rest = data[cursor.at :]
    if masked_crc(bytes(numbers)) != int.from_bytes(cursor.take(4), "little"):
        raise FormatError("the checksum of the lengths of texts in it is wrong")
    if masked_crc(bytes(numbers) + rest) != crc:
        raise FormatError("the checksum of texts in it is wrong")
    texts = [cursor.take(length) for length in lengths]
    if cursor.left:
        raise FormatError("texts in it do not fill their place")
    return texts


def object_graph(data: bytes) -> dict[str, str]:
    """Names of the variables of a TF2 checkpoint, by their keys in it.

    Args:
        data: the text under `_CHECKPOINTABLE_OBJECT_GRAPH`, a TrackableObjectGraph.

    Raises:
        CheckpointError: if it is damaged.
    """
    names: dict[str, str] = {}
    try:
        for node in Message(data).messages(1):
            for attribute in node.messages(2):
                key, name = attribute.text(3), attribute.text(2)
                if names.setdefault(key, name) != name:
                    raise FormatError(f"the key {key!r} in it has two names")
    except FormatError as error:
        raise CheckpointError(f"The checkpoint's object graph cannot be used: {error}.") from None
    return names

"""Sorted string tables: the file of keys and values that TensorFlow's checkpoints keep their index in.

The format is LevelDB's (its `doc/table_format.md`; TensorFlow's `core/lib/io`): blocks of sorted entries, a
block that lists them, and a footer that points there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import google_crc32c

from clrkit.errors import FormatError
from clrkit.weights.protobuf import Cursor

FOOTER = 48  # bytes
TRAILER = 5  # bytes after a block: how it is compressed (1) and its checksum (4)
MAGIC = 0xDB4775248B80FB57
LARGEST_TABLE = 4 * 2**20  # bytes; the largest of the released models has about 0.1 MB
MOST_ENTRIES = 100_000
LONGEST_KEY = 1024  # bytes; the beginning of a key is free where its predecessor has the same


def masked_crc(data: bytes) -> int:
    """CRC-32C of bytes as it is stored: rotated, plus a constant."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a whole table, in ascending order of the keys, no key twice.

    Raises:
        FormatError: where the bytes are no such table, are damaged, or are absurdly many.
    """
    if len(data) > LARGEST_TABLE:
        raise FormatError(f"it has more than {LARGEST_TABLE:,} bytes")
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise FormatError("it does not end as the index of a TensorFlow checkpoint does")
    body, footer = data[:-FOOTER], Cursor(data[-FOOTER:-8])
    checked_block(body, *handle(footer))  # the table's properties: of no use here
    last, end, count = None, 0, 0
    for bound, place in read_entries(checked_block(body, *handle(footer))):
        offset, size = handle(Cursor(place))
        if offset < end:
            raise FormatError("its blocks overlap")
        end = offset + size + TRAILER
        for key, value in read_entries(checked_block(body, offset, size)):
            count += 1
            if count > MOST_ENTRIES:
                raise FormatError(f"it has more than {MOST_ENTRIES:,} entries")
            if last is not None and key <= last:
                raise FormatError(f"the key {key[:60]!r} in it is out of order or there twice")
            yield key, value
            last = key
        # A block is listed under its last key, or something between that and the next block's first.
        if last is not None and last > bound:
            raise FormatError("its list of blocks does not fit the blocks")
        last = bound


def handle(cursor: Cursor) -> tuple[int, int]:
    """Offset and size of a block."""
    return cursor.varint(), cursor.varint()


def checked_block(body: bytes, offset: int, size: int) -> bytes:
    """One block, uncompressed and with the right checksum."""
    if offset + size + TRAILER > len(body):
        raise FormatError("a block of it reaches beyond its end")
    block, trailer = body[offset : offset + size], body[offset + size : offset + size + TRAILER]
    if masked_crc(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise FormatError("the checksum of a block is wrong")
    if trailer[0] != 0:
        raise FormatError("a block of it is compressed, which is not supported")
    return block


def split_block(block: bytes) -> tuple[bytes, list[int]]:
    """The entries, and the places at which a key is written whole, the last first."""
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (count + 1)
    if len(block) < 4 or count < 1 or end < 0:
        raise FormatError(f"a block of {len(block)} bytes cannot have {count} restarts")
    return block[:end], list(struct.unpack(f"<{count}I", block[end:-4]))[::-1]


def read_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; a key may share its beginning with the one before it, except at the restarts."""
    entries, ahead = split_block(block)
    cursor, key = Cursor(entries), b""
    while cursor.left:
        restarted = bool(ahead) and ahead[-1] == cursor.at
        shared, own, size = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > (0 if restarted else len(key)):
            raise FormatError("a key in it shares more with its predecessor than there is")
        if shared + own > LONGEST_KEY:
            raise FormatError(f"a key in it has {shared + own:,} bytes; at most {LONGEST_KEY:,} are read")
        key = key[:shared] + cursor.take(own)
        yield key, cursor.take(size)
        if restarted:
            ahead.pop()
    if ahead and (entries or ahead != [0]):  # a block without entries still has its first restart
        raise FormatError("a block of it restarts where no key begins")

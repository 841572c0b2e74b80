"""Read the index file of a TensorFlow checkpoint from untrusted bytes: a sorted table of protobuf messages.

The table is LevelDB's (`doc/table_format.md` there; `core/lib/io` in TensorFlow): blocks of sorted entries, a
block that lists them, and a footer. Messages: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c

from clrkit.errors import FormatError

FOOTER = 48  # bytes
TRAILER = 5  # bytes after a block: compression (1) and checksum (4)
MAGIC = 0xDB4775248B80FB57
LARGEST_TABLE = 4 * 2**20  # bytes; the largest released model has about 0.1 MB
MOST_ENTRIES = 100_000
LONGEST_KEY = 1024  # bytes; few bytes in the file can make long keys, which share beginnings
LARGEST_MESSAGE = 8 * 2**20  # bytes; Python needs many times as many for the fields
KNOWN_FIELDS = 16  # larger field numbers are not used here and skipped
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass
class Cursor:
    """A position in bytes that moves forward, never past their end."""

    data: bytes
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises FormatError if fewer are left."""
        if count > self.left:
            raise FormatError("something in it reaches beyond its end")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """The next number, seven bits per byte, lowest first. Raises FormatError beyond 64 bits."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80 and value < 2**64:
                return value
        raise FormatError("a number in it has more than 64 bits")

    def field(self) -> tuple[int, int | bytes]:
        """Number and value of the next field of a message."""
        number, kind = divmod(self.varint(), 8)
        if number == 0:
            raise FormatError("a record in it has a field number 0")
        if kind == VARINT:
            return number, self.varint()
        if kind == BYTES:
            return number, self.take(self.varint())
        if kind in (FIXED64, FIXED32):
            return number, int.from_bytes(self.take(8 if kind == FIXED64 else 4), "little")
        raise FormatError(f"a record in it has a field of the unknown kind {kind}")


class Message:
    """The fields of a protobuf message; inner messages are parsed when they are asked for.

    Raises:
        FormatError: if the bytes are not a message.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > LARGEST_MESSAGE:
            raise FormatError(f"a record in it has {len(data):,} bytes; at most {LARGEST_MESSAGE:,} are read")
        self.fields: dict[int, list[int | bytes]] = {}
        cursor = Cursor(data)
        while cursor.left:
            number, value = cursor.field()
            if number < KNOWN_FIELDS:
                self.fields.setdefault(number, []).append(value)

    def integer(self, number: int) -> int:
        """A single number that is not negative; 0 if absent."""
        values = self.fields.get(number, [0])
        value = values[0]
        if len(values) > 1 or not isinstance(value, int):
            raise FormatError(f"field {number} of a record in it is not one number")
        if value >= 2**63:  # how a negative number is written
            raise FormatError(f"field {number} of a record in it is negative")
        return value

    def contents(self, number: int) -> Iterator[bytes]:
        """The bytes of a repeated field."""
        for value in self.fields.get(number, []):
            if not isinstance(value, bytes):
                raise FormatError(f"field {number} of a record in it is a number, not bytes")
            yield value

    def content(self, number: int) -> bytes:
        """The bytes of a single field; empty if absent."""
        found = list(self.contents(number))
        if len(found) > 1:
            raise FormatError(f"field {number} of a record in it appears {len(found)} times")
        return found[0] if found else b""

    def messages(self, number: int) -> Iterator[Message]:
        """The messages of a repeated field."""
        return map(Message, self.contents(number))

    def message(self, number: int) -> Message:
        """The message of a single field; empty if absent."""
        return Message(self.content(number))

    def text(self, number: int) -> str:
        """The text of a single field; empty if absent."""
        return utf8(self.content(number))


def utf8(data: bytes) -> str:
    """Decode UTF-8. Raises FormatError if the bytes are not."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"the name {data[:60]!r} in it is not UTF-8 text") from None


def masked_crc(data: bytes) -> int:
    """CRC-32C as TensorFlow stores it: rotated, plus a constant."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table; keys ascend, so none comes twice.

    Raises:
        FormatError: if the bytes are not such a table, are damaged, or exceed the limits above.
    """
    if len(data) > LARGEST_TABLE:
        raise FormatError(f"it has more than {LARGEST_TABLE:,} bytes")
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise FormatError("it does not end as the index of a TensorFlow checkpoint does")
    body, footer = data[:-FOOTER], Cursor(data[-FOOTER:-8])
    place_of(footer)  # of a block of properties, which are not needed
    last, end, count = None, 0, 0
    for _, place in read_entries(read_block(body, *place_of(footer))):
        offset, size = place_of(Cursor(place))
        if offset < end:
            raise FormatError("its blocks overlap")
        end = offset + size + TRAILER
        for key, value in read_entries(read_block(body, offset, size)):
            count += 1
            if count > MOST_ENTRIES:
                raise FormatError(f"it has more than {MOST_ENTRIES:,} entries")
            if last is not None and key <= last:
                raise FormatError(f"the key {key[:60]!r} in it is out of order or there twice")
            yield key, value
            last = key


def place_of(cursor: Cursor) -> tuple[int, int]:
    """Offset and size of a block."""
    return cursor.varint(), cursor.varint()


def read_block(body: bytes, offset: int, size: int) -> bytes:
    """The entries of an uncompressed block, with its checksum verified."""
    if offset + size + TRAILER > len(body):
        raise FormatError("a block of it reaches beyond its end")
    block, trailer = body[offset : offset + size], body[offset + size : offset + size + TRAILER]
    if masked_crc(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise FormatError("the checksum of a block is wrong")
    if trailer[0] != 0:
        raise FormatError("a block of it is compressed, which is not supported")
    # At the end lie the positions of keys without a shared beginning, for binary search, and their number.
    end = size - 4 * (int.from_bytes(block[-4:], "little") + 1)
    if size < 4 or end < 0:
        raise FormatError(f"a block of {size} bytes cannot have so many restarts")
    return block[:end]


def read_entries(entries: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key may share its beginning with the one before."""
    cursor, key = Cursor(entries), b""
    while cursor.left:
        shared, own, size = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key):
            raise FormatError("a key in it shares more with its predecessor than there is")
        if shared + own > LONGEST_KEY:
            raise FormatError(f"a key in it has {shared + own:,} bytes; at most {LONGEST_KEY:,} are read")
        key = key[:shared] + cursor.take(own)
        yield key, cursor.take(size)

"""Varints and protobuf messages out of bytes that nobody vouches for; nothing is taken before it is checked.

Only what TensorFlow's checkpoints need: messages without groups, read by field number. See
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clrkit.errors import FormatError

LARGEST = 8 * 2**20  # bytes of a message; Python needs many times as many for its fields
KNOWN = 16  # field numbers from here on mean nothing to any reader here, and are skipped
BEYOND = "something in it reaches beyond its end"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass
class Cursor:
    """A place in bytes that moves forward and never past their end."""

    data: bytes
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises FormatError where fewer are left."""
        if count > self.left:
            raise FormatError(BEYOND)
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """The next number, seven bits a byte, the lowest first. Raises FormatError beyond 64 bits."""
        value = 0
        for shift in range(0, 70, 7):
            if self.at >= len(self.data):
                raise FormatError(BEYOND)
            byte = self.data[self.at]
            self.at += 1
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
    """The fields of one protobuf message; messages inside it stay bytes until they are asked for.

    Raises:
        FormatError: where the bytes are no message.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > LARGEST:
            raise FormatError(f"a record in it has {len(data):,} bytes; at most {LARGEST:,} are read")
        self.fields: dict[int, list[int | bytes]] = {}
        cursor = Cursor(data)
        while cursor.left:
            number, value = cursor.field()
            if number < KNOWN:
                self.fields.setdefault(number, []).append(value)

    def integer(self, number: int) -> int:
        """A number that appears at most once and is not negative; 0 where it is absent."""
        values = self.fields.get(number, [0])
        value = values[0]
        if len(values) > 1 or not isinstance(value, int):
            raise FormatError(f"field {number} of a record in it is not one number")
        if value >= 2**63:  # how a negative one is written
            raise FormatError(f"field {number} of a record in it is negative")
        return value

    def contents(self, number: int) -> Iterator[bytes]:
        """The bytes of a field that may be repeated."""
        for value in self.fields.get(number, []):
            if not isinstance(value, bytes):
                raise FormatError(f"field {number} of a record in it is a number, not bytes")
            yield value

    def messages(self, number: int) -> Iterator[Message]:
        """The messages of a field that may be repeated, each read when its turn comes."""
        return map(Message, self.contents(number))

    def content(self, number: int) -> bytes:
        """The bytes of a field that appears at most once; empty where it is absent."""
        found = list(self.contents(number))
        if len(found) > 1:
            raise FormatError(f"field {number} of a record in it appears {len(found)} times")
        return found[0] if found else b""

    def message(self, number: int) -> Message:
        """A message that appears at most once; an empty one where it is absent."""
        return Message(self.content(number))

    def text(self, number: int) -> str:
        """A text that appears at most once; empty where it is absent."""
        return utf8(self.content(number))


def utf8(data: bytes) -> str:
    """Text of its bytes. Raises FormatError where they are none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"the name {data[:60]!r} in it is no UTF-8 text") from None

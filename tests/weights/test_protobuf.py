"""Varints and messages out of any bytes: values or a FormatError."""

import re

import pytest
from bundle_writer import message, varint
from hypothesis import given
from hypothesis import strategies as st

from clrkit.errors import FormatError
from clrkit.weights.protobuf import LARGEST, Cursor, Message

FIELDS = st.lists(
    st.tuples(st.integers(1, 15), st.binary(max_size=200) | st.integers(1, 2**63 - 1)), max_size=9
)


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_read_from_its_bytes(number):
    cursor = Cursor(varint(number) + b"rest")
    assert cursor.varint() == number
    assert cursor.take(4) == b"rest"
    assert cursor.left == 0


@given(FIELDS)
def test_the_fields_of_a_message_are_read_in_order(fields):
    found = Message(message(*fields)).fields
    assert found == {number: [value for other, value in fields if other == number] for number in dict(fields)}


def test_fixed_numbers_are_little_endian():
    assert Message(b"\x35\1\2\0\0").integer(6) == 513
    assert Message(b"\x31\1\2\0\0\0\0\0\0").integer(6) == 513


def test_what_is_absent_is_zero_or_empty():
    nothing = Message(b"")
    assert (nothing.integer(1), nothing.text(2), nothing.message(3).fields) == (0, "", {})
    assert list(nothing.messages(4)) == []


def test_fields_beyond_those_that_mean_anything_are_skipped():
    assert Message(message((16, 5), (1000, b"x"), (1, 7))).fields == {1: [7]}


BROKEN = {
    "a number without an end": (b"\x08" + b"\xff" * 11, "a number in it has more than 64 bits"),
    "a number beyond 64 bits": (b"\x08" + b"\xff" * 9 + b"\2", "a number in it has more than 64 bits"),
    "a number cut short": (b"\x08\xff", "something in it reaches beyond its end"),
    "no number": (b"\x08", "something in it reaches beyond its end"),
    "a text cut short": (b"\x12\x7f", "something in it reaches beyond its end"),
    "a text of absurd length": (b"\x12" + varint(2**64 - 1), "something in it reaches beyond its end"),
    "a fixed number cut short": (b"\x35\1", "something in it reaches beyond its end"),
    "a field number 0": (b"\0\1", "a record in it has a field number 0"),
    "a group": (b"\x0b", "a record in it has a field of the unknown kind 3"),
    "too many bytes": (bytes(LARGEST + 1), "a record in it has 8,388,609 bytes; at most 8,388,608 are read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bytes_that_are_no_message_are_refused(case):
    data, complaint = BROKEN[case]
    with pytest.raises(FormatError, match=re.escape(complaint)):
        Message(data)


def test_a_field_of_another_kind_or_number_than_asked_for_is_refused():
    texts, numbers = (
        Message(message((1, b"a"), (2, b"a"), (2, b"b"))),
        Message(message((1, 1), (2, 1), (2, 2))),
    )
    for number in (1, 2):
        with pytest.raises(FormatError, match=f"field {number} of a record in it is not one number"):
            texts.integer(number)
        with pytest.raises(FormatError, match=f"field {number} of a record in it is a number, not bytes"):
            numbers.text(number)
    with pytest.raises(FormatError, match="field 2 of a record in it is not one number"):
        numbers.integer(2)
    with pytest.raises(FormatError, match="field 2 of a record in it appears 2 times"):
        texts.message(2)


def test_a_negative_number_is_refused():
    with pytest.raises(FormatError, match="field 1 of a record in it is negative"):
        Message(message((1, -1 % 2**64))).integer(1)


def test_a_text_that_is_no_utf8_is_refused():
    with pytest.raises(FormatError, match=r"the name b'\\xff' in it is no UTF-8 text"):
        Message(message((1, b"\xff"))).text(1)


@given(st.binary(max_size=60))
def test_random_bytes_are_a_message_or_refused(data):
    try:
        found = Message(data)
    except FormatError:
        return
    assert sum(len(values) for values in found.fields.values()) <= len(data)

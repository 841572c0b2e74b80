"""Index files: varints, messages and tables that were written are read; anything else is refused."""

import re
import tracemalloc

import bundle_writer as writer
import google_crc32c
import pytest
from bundle_writer import block, message, restart_list, sealed, table, table_of_blocks, varint
from hypothesis import given
from hypothesis import strategies as st

from clrkit.errors import FormatError
from clrkit.weights.index_file import LARGEST_MESSAGE, LARGEST_TABLE, Cursor, Message, masked_crc, read_table

pytestmark = pytest.mark.timeout(60)

# --- Messages

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


BROKEN_MESSAGES = {
    "a number without an end": (b"\x08" + b"\xff" * 11, "a number in it has more than 64 bits"),
    "a number beyond 64 bits": (b"\x08" + b"\xff" * 9 + b"\2", "a number in it has more than 64 bits"),
    "a number cut short": (b"\x08\xff", "something in it reaches beyond its end"),
    "no number": (b"\x08", "something in it reaches beyond its end"),
    "a text cut short": (b"\x12\x7f", "something in it reaches beyond its end"),
    "a text of absurd length": (b"\x12" + varint(2**64 - 1), "something in it reaches beyond its end"),
    "a fixed number cut short": (b"\x35\1", "something in it reaches beyond its end"),
    "a field number 0": (b"\0\1", "a record in it has a field number 0"),
    "a group": (b"\x0b", "a record in it has a field of the unknown kind 3"),
    "too many bytes": (
        bytes(LARGEST_MESSAGE + 1),
        "a record in it has 8,388,609 bytes; at most 8,388,608 are read",
    ),
}


@pytest.mark.parametrize("case", BROKEN_MESSAGES)
def test_bytes_that_are_not_a_message_are_refused(case):
    data, complaint = BROKEN_MESSAGES[case]
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


def test_a_text_that_is_not_utf8_is_refused():
    with pytest.raises(FormatError, match=r"the name b'\\xff' in it is not UTF-8 text"):
        Message(message((1, b"\xff"))).text(1)


@given(st.binary(max_size=60))
def test_random_bytes_are_a_message_or_refused(data):
    try:
        found = Message(data)
    except FormatError:
        return
    assert sum(len(values) for values in found.fields.values()) <= len(data)


# --- Tables

PAIR = (b"a", b"value")
ONE = block([PAIR])
LISTED = (b"a", varint(0) + varint(len(ONE)))


@given(
    st.dictionaries(st.binary(max_size=30), st.binary(max_size=200), max_size=30),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_what_was_written_is_read_in_order(values, per_block, interval):
    pairs = sorted(values.items())
    assert list(read_table(table(pairs, per_block, interval))) == pairs


def test_a_block_may_be_listed_under_a_shorter_key_than_its_last():
    blocks = [(b"b", block([PAIR, (b"abc", b"")])), (b"d", block([(b"bb", b""), (b"ccc", b"")]))]
    assert [key for key, _ in read_table(table_of_blocks(blocks))] == [b"a", b"abc", b"bb", b"ccc"]


@given(st.binary(max_size=100))
def test_checksums_are_those_of_the_polynomial(data):
    assert masked_crc(data) == writer.masked(data)


def test_the_polynomial_is_castagnoli_s():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C (RFC 3720)


def with_block(data: bytes) -> bytes:
    return table_of_blocks([(b"z", data)])


def far_block(offset: int, size: int) -> bytes:
    return writer.finished(sealed(ONE), block([(b"a", varint(offset) + varint(size))]))


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not end as the index of a TensorFlow checkpoint does"),
    "a wrong magic number": (table([PAIR])[:-1] + b"\0", "does not end as the index"),
    "less than a footer": (table([PAIR])[-47:], "does not end as the index"),
    "a wrong footer": (table([PAIR])[:-48] + b"\xff" * 40 + writer.MAGIC, "more than 64 bits"),
    "too many bytes": (bytes(LARGEST_TABLE + 1), "it has more than 4,194,304 bytes"),
    "a wrong checksum of entries": (b"\1" + table([PAIR])[1:], "the checksum of a block is wrong"),
    "a compressed block": (
        writer.finished(sealed(ONE, compression=1), block([LISTED])),
        "is compressed, which is not supported",
    ),
    "a block beyond the end": (far_block(0, 500), "a block of it reaches beyond its end"),
    "a block far beyond the end": (far_block(2**63, 2**63), "a block of it reaches beyond its end"),
    "a block listed twice": (
        writer.finished(sealed(ONE), block([LISTED, (b"b", LISTED[1])])),
        "its blocks overlap",
    ),
    "blocks that overlap": (
        writer.finished(sealed(ONE) * 2, block([LISTED, (b"b", varint(3) + varint(len(ONE)))])),
        "its blocks overlap",
    ),
    "a place cut short": (writer.finished(b"", block([(b"a", b"\x80")])), "reaches beyond its end"),
    "an endless number": (with_block(b"\xff" * 30 + restart_list([0])), "more than 64 bits"),
    "a number cut short": (with_block(b"\xff" * 5 + restart_list([0])), "reaches beyond its end"),
    "many restarts": (with_block(b"\xff\xff\xff\x7f"), "a block of 4 bytes cannot have so many restarts"),
    "restarts over the entries": (
        with_block(b"abc" + b"\2\0\0\0" + b"\2\0\0\0"),
        "cannot have so many restarts",
    ),
    "a block of three bytes": (with_block(b"abc"), "a block of 3 bytes cannot have so many restarts"),
    "a first key that shares": (with_block(b"\5\0\0" + restart_list([0])), "shares more with"),
    "a key beyond the block": (with_block(b"\0\x7f\0a" + restart_list([0])), "reaches beyond its end"),
    "a value beyond the block": (with_block(b"\0\1\x7fa" + restart_list([0])), "reaches beyond its end"),
    "a long key": (table([(b"k" * 2000, b"")]), "a key in it has 2,000 bytes; at most 1,024 are read"),
    "a key twice": (table([PAIR, PAIR]), "the key b'a' in it is out of order or there twice"),
    "keys unsorted": (table([(b"b", b""), PAIR]), "the key b'a' in it is out of order or there twice"),
    "keys unsorted between blocks": (table([(b"b", b""), PAIR], per_block=1), "the key b'a' in it is out of"),
    "an empty key twice": (table([(b"", b""), (b"", b"")]), "the key b'' in it is out of order"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_table_is_refused_with_what_is_wrong(case):
    data, complaint = DAMAGED[case]
    with pytest.raises(FormatError, match=re.escape(complaint)):
        list(read_table(data))


def key_bomb() -> bytes:
    """Keys of a kilobyte, each of which takes six bytes because its predecessor begins with the same."""
    keys = [number.to_bytes(2, "big") for number in range(2_000)]
    first = b"\0" + varint(1002) + b"\0" + b"k" * 1000 + keys[0]
    rest = [varint(1000) + b"\2\0" + key for key in keys[1:]]
    return with_block(first + b"".join(rest) + restart_list([0]))


def test_more_entries_than_any_model_has_are_refused(monkeypatch):
    monkeypatch.setattr("clrkit.weights.index_file.MOST_ENTRIES", 20)
    pairs = [(bytes([number]), b"") for number in range(21)]
    assert list(read_table(table(pairs[:20]))) == pairs[:20]
    with pytest.raises(FormatError, match="it has more than 20 entries"):
        list(read_table(table(pairs)))


def test_keys_that_share_their_beginnings_are_read_one_at_a_time():
    data = key_bomb()
    assert len(data) < 15_000
    tracemalloc.start()
    try:
        assert sum(len(key) for key, _ in read_table(data)) > 2_000_000
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()

"""Sorted string tables: what was written comes back, in order; anything else is refused."""

import re
import tracemalloc

import bundle_writer as writer
import google_crc32c
import pytest
from bundle_writer import block, restart_list, sealed, table, table_of_blocks, varint
from hypothesis import given
from hypothesis import strategies as st

from clrkit.errors import FormatError
from clrkit.weights.sstable import LARGEST_TABLE, masked_crc, read_table

pytestmark = pytest.mark.timeout(60)

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
    "a wrong checksum of properties": (
        sealed(ONE) + b"\1" + writer.finished(sealed(ONE), block([LISTED]))[len(sealed(ONE)) + 1 :],
        "the checksum of a block is wrong",
    ),
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
    "no restarts": (with_block(bytes(4)), "a block of 4 bytes cannot have 0 restarts"),
    "many restarts": (with_block(b"\xff\xff\xff\x7f"), "cannot have 2147483647 restarts"),
    "restarts over the entries": (with_block(b"abc" + b"\2\0\0\0" + b"\2\0\0\0"), "cannot have 2 restarts"),
    "a block of three bytes": (with_block(b"abc"), "a block of 3 bytes cannot have"),
    "a restart amid an entry": (with_block(ONE[:-8] + restart_list([1])), "restarts where no key begins"),
    "a restart beyond the entries": (with_block(ONE[:-8] + restart_list([0, 99])), "restarts where no key"),
    "restarts out of order": (
        with_block(ONE[:-8] + b"\0\1\0b" + restart_list([9, 0])),
        "restarts where no key begins",
    ),
    "a restart without entries": (with_block(restart_list([5])), "restarts where no key begins"),
    "a restart that shares": (
        with_block(b"\0\1\0a" + b"\1\1\0b" + restart_list([0, 4])),
        "shares more with its predecessor than there is",
    ),
    "a first key that shares": (with_block(b"\5\0\0" + restart_list([0])), "shares more with"),
    "a key beyond the block": (with_block(b"\0\x7f\0a" + restart_list([0])), "reaches beyond its end"),
    "a value beyond the block": (with_block(b"\0\1\x7fa" + restart_list([0])), "reaches beyond its end"),
    "a long key": (table([(b"k" * 2000, b"")]), "a key in it has 2,000 bytes; at most 1,024 are read"),
    "a key twice": (table([PAIR, PAIR]), "the key b'a' in it is out of order or there twice"),
    "keys unsorted": (table([(b"b", b""), PAIR]), "the key b'a' in it is out of order or there twice"),
    "keys unsorted between blocks": (table([(b"b", b""), PAIR], per_block=1), "the key b'a' in it is out of"),
    "an empty key twice": (table([(b"", b""), (b"", b"")]), "the key b'' in it is out of order"),
    "a list of other keys": (table_of_blocks([(b"A", ONE)]), "its list of blocks does not fit the blocks"),
    "a key before its block's place": (
        table_of_blocks([(b"c", ONE), (b"d", block([(b"b", b"")]))]),
        "the key b'b' in it is out of order",
    ),
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
    monkeypatch.setattr("clrkit.weights.sstable.MOST_ENTRIES", 20)
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

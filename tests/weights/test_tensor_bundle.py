"""TensorFlow checkpoints: what was saved is read, and anything else is refused."""

import os
import random
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import bundle_writer as writer
import numpy as np
import pytest
from bundle_writer import (
    SAMPLE,
    data_of,
    entry,
    graph,
    header,
    index_of,
    masked,
    message,
    same,
    table,
    write_bundle,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official import rebuild_checkpoint, tensorflow_weight

from clrkit.errors import ConfigError
from clrkit.weights.index_file import LARGEST_TABLE
from clrkit.weights.tensor_bundle import CheckpointError, TensorBundle, object_graph

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A checkpoint of two data files and several blocks."""
    write_bundle(tmp_path / "ckpt-1", SAMPLE, shards=2)
    return tmp_path / "ckpt-1"


def value(bundle: TensorBundle, name: str) -> writer.Tensor:
    return bundle.strings(name) if bundle.entries[name].dtype == "string" else bundle.read(name)


def holds_sample(bundle: TensorBundle) -> bool:
    return bundle.entries.keys() == SAMPLE.keys() and all(
        same(value(bundle, name), tensor) for name, tensor in SAMPLE.items()
    )


# --- What was saved


@pytest.mark.parametrize(("tag", "slots"), [("sk0", False), ("sk1", True)])
def test_a_tf1_checkpoint_holds_the_official_weights(tmp_path, tag, slots):
    bundle = TensorBundle(rebuild_checkpoint(f"tf1_ckpt_r50_eighth_{tag}", tmp_path))
    assert any(name.endswith("/Momentum") for name in bundle.entries) == slots
    assert bundle.read("global_step").tolist() == 250228
    for name, place in bundle.entries.items():
        if name != "global_step":
            assert np.array_equal(bundle.read(name), tensorflow_weight(name, place.shape))


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [
        ("tf2_ckpt_r18_eighth_sk0_cifar32", "ckpt"),
        ("tf2_saved_model_r18_eighth_sk0_cifar32", "savedmodel"),
    ],
)
def test_a_tf2_checkpoint_and_a_saved_model_hold_the_official_weights_and_names(
    tmp_path, golden, checkpoint, kind
):
    numbers = golden("tf2_r18_eighth_sk0_cifar32")
    canonical = dict(
        zip(numbers[f"{kind}_keys"].tolist(), numbers[f"{kind}_canonical"].tolist(), strict=True)
    )
    in_program = dict(zip(numbers["names"].tolist(), numbers["names_tf2"].tolist(), strict=True))
    bundle = TensorBundle(rebuild_checkpoint(checkpoint, tmp_path))
    names = object_graph(*bundle.strings("_CHECKPOINTABLE_OBJECT_GRAPH"))
    assert names.keys() == bundle.entries.keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    for key in canonical.keys() & names.keys():
        if name := canonical[key]:
            assert names[key] == in_program[name].removesuffix(":0")
            expected = tensorflow_weight(str(numbers["salt"]) + name, bundle.entries[key].shape)
            assert np.array_equal(bundle.read(key), expected)


def test_a_folder_of_tf2_s_training_and_its_saved_model_can_be_named_instead_of_the_prefix(
    golden_folder, tmp_path
):
    with tarfile.open(golden_folder / "tf2_ckpt_r18_eighth_sk0_cifar32.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "tf2_r18_eighth_cifar32"
    bundle = TensorBundle(root)
    assert bundle.index == root / "ckpt-3.index"
    for place in ("saved_model/3", "saved_model/3/variables"):
        assert TensorBundle(root / place).index == root / "saved_model/3/variables/variables.index"
    for name, found in bundle.entries.items():
        assert found.dtype == "string" or bundle.read(name).shape == found.shape


def test_optimiser_slots_have_their_own_names(tmp_path):
    bundle = TensorBundle(rebuild_checkpoint("tf2_ckpt_r18_eighth_sk0_cifar32", tmp_path))
    names = object_graph(*bundle.strings("_CHECKPOINTABLE_OBJECT_GRAPH"))
    slots = {key: name for key, name in names.items() if "/.OPTIMIZER_SLOT/" in key}
    assert slots
    for key, name in slots.items():
        variable = names[key.replace("/.OPTIMIZER_SLOT/optimizer/Momentum", "")]
        assert name == f"LARSOptimizer/{variable}/Momentum"


def array(dtype: str, shape: tuple[int, ...], rng: random.Random) -> np.ndarray:
    """Any bits, those of NaNs and infinities too."""
    data = rng.randbytes(np.empty(shape, dtype).nbytes)
    if dtype == "bool":
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer(data, dtype).reshape(shape)


DTYPES = st.sampled_from(sorted(writer.NUMBERS))
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
ARRAYS = st.builds(
    lambda dtype, shape, seed: array(dtype, shape, random.Random(seed)), DTYPES, SHAPES, st.integers(0, 1000)
)
TENSORS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40),
    ARRAYS | st.lists(st.binary(max_size=150), max_size=5),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TENSORS, st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
def test_what_was_written_is_read(tmp_path, tensors, shards, per_block, interval):
    write_bundle(tmp_path / "m", tensors, shards, per_block, interval)
    bundle = TensorBundle(tmp_path / "m")
    assert bundle.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same(value(bundle, name), tensor)


def test_bfloat16_becomes_the_float32_of_the_same_value(tmp_path):
    values = np.array([[1.0, -2.5], [0.0, 3e38]], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").view("V2")
    write_bundle(tmp_path / "m", {"w": upper, "one": upper[:1, :1].reshape(())})
    bundle = TensorBundle(tmp_path / "m")
    assert bundle.entries["w"].dtype == "bfloat16"
    assert bundle.read("w").dtype == np.float32
    assert np.allclose(bundle.read("w"), values, rtol=2**-7)
    assert bundle.read("one").shape == ()


def test_an_array_is_the_reader_s_own(prefix):
    bundle = TensorBundle(prefix)
    array = bundle.read("a/kernel")
    array += 1
    assert same(bundle.read("a/kernel"), SAMPLE["a/kernel"])


def test_one_tensor_is_read_without_the_rest_of_its_file(tmp_path):
    large, small = np.zeros(2_000_000, np.uint8), np.arange(3)
    write_bundle(tmp_path / "m", {"large": large, "small": small})
    bundle = TensorBundle(tmp_path / "m")
    tracemalloc.start()
    try:
        assert bundle.read("small").tolist() == [0, 1, 2]
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


# --- Where it lies


@pytest.mark.parametrize("place", ["ckpt-1", "ckpt-1.index", ""])
def test_a_checkpoint_is_named_by_its_prefix_its_index_or_its_folder(prefix, place):
    assert holds_sample(TensorBundle(str(prefix.parent / place)))


def test_a_saved_model_is_named_by_its_folder(tmp_path):
    (tmp_path / "3" / "variables").mkdir(parents=True)
    write_bundle(tmp_path / "3" / "variables" / "variables", SAMPLE)
    assert holds_sample(TensorBundle(tmp_path / "3"))


@pytest.mark.parametrize("named", ["ckpt-1", "/home/somebody/training/ckpt-1"])
def test_a_folder_s_state_file_names_one_of_several(prefix, named):
    write_bundle(prefix.with_name("ckpt-0"), {})
    state = f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "ckpt-0"\n'
    prefix.with_name("checkpoint").write_text(state)
    assert holds_sample(TensorBundle(prefix.parent))


@pytest.mark.parametrize(
    "path",
    ["../ckpt-1", "x/../ckpt-1", "..", ".", "", "a/", "/", "ckpt-1\\n", "a\0b", "x" * 5000, "gone", "link"],
)
def test_a_state_file_that_leads_elsewhere_is_refused(prefix, path):
    index_of(prefix.with_name("link")).symlink_to(index_of(prefix))
    prefix.with_name("checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
    with pytest.raises(CheckpointError, match=r"^The checkpoint's [^\n]*\.$"):
        TensorBundle(prefix.parent)


@pytest.mark.parametrize("state", [b"", b"\xff" * 50, b"model_checkpoint_path: ckpt-1", b"x" * 3_000_000])
def test_a_state_file_that_names_nothing_is_refused(prefix, state):
    prefix.with_name("checkpoint").write_bytes(state)
    with pytest.raises(CheckpointError, match=r"checkpoint cannot be used: .*\.$"):
        TensorBundle(prefix.parent)


def test_a_state_file_elsewhere_is_refused(prefix, tmp_path):
    (tmp_path / "state").write_text('model_checkpoint_path: "ckpt-1"\n')
    prefix.with_name("checkpoint").symlink_to(tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"symbolic link, so name the checkpoint itself\.$"):
        TensorBundle(prefix.parent)


def test_a_folder_of_several_or_no_checkpoints_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"it holds 0 checkpoints \(files \*\.index\)"):
        TensorBundle(tmp_path)
    for name in ("a", "b"):
        write_bundle(tmp_path / name, {})
    with pytest.raises(CheckpointError, match=r"it holds 2 checkpoints .*, so name one of them\.$"):
        TensorBundle(tmp_path)


@pytest.mark.parametrize("name", ["gone", "gone.index", "a\0b", "x" * 300, "pipe"])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.index")
    with pytest.raises(CheckpointError, match=re.escape(name)):
        TensorBundle(tmp_path / name)


def test_a_missing_data_file_is_named(prefix):
    data_of(prefix, 1, 2).unlink()
    with pytest.raises(
        CheckpointError, match=r"ckpt-1\.data-00001-of-00002 cannot be read: No such file or dir"
    ):
        TensorBundle(prefix).read("a/kernel/Momentum")


def test_a_data_file_that_is_a_pipe_is_refused(prefix):
    data_of(prefix, 0, 2).unlink()
    os.mkfifo(data_of(prefix, 0, 2))
    with pytest.raises(CheckpointError, match=r"data-00000-of-00002 cannot be used: it is not a file\.$"):
        TensorBundle(prefix).read("a/kernel")


def test_an_unknown_variable_is_named(prefix):
    with pytest.raises(CheckpointError, match=r"^There is no variable 'a/bias' in .*ckpt-1\.index\.$"):
        TensorBundle(prefix).read("a/bias")


def test_numbers_cannot_be_read_as_texts_nor_texts_as_numbers(prefix):
    with pytest.raises(CheckpointError, match=r"'texts' in .*\.index holds string, not numbers"):
        TensorBundle(prefix).read("texts")
    with pytest.raises(CheckpointError, match=r"'a/kernel' in .*\.index holds float32, not texts"):
        TensorBundle(prefix).strings("a/kernel")


def test_a_checkpoint_error_is_a_config_error():
    assert issubclass(CheckpointError, ConfigError)


# --- Damage that is named

HEAD = (b"", header())
GOOD = entry(1, (2,), 0, 0, 8, masked(bytes(8)))


def with_entry(value: bytes) -> bytes:
    return table([HEAD, (b"w", value)])


def with_header(value: bytes) -> bytes:
    return table([(b"", value), (b"w", GOOD)])


NEGATIVE = 2**64 - 1
DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not end as the index of a TensorFlow checkpoint does"),
    "a text": (b"hello" * 20, "does not end as the index"),
    "a wrong checksum": (b"\xff" + with_entry(GOOD)[1:], "the checksum of a block is wrong"),
    "no entry": (table([]), "it has no header"),
    "no header": (table([(b"w", GOOD)]), "it has no header"),
    "no data files": (with_header(header(shards=0)), "it cannot have 0 data files"),
    "too many data files": (with_header(header(shards=10**6)), "it cannot have 1000000 data files"),
    "negative data files": (with_header(header(shards=NEGATIVE)), "field 1 of a record in it is negative"),
    "big-endian": (with_header(header(endianness=1)), "big-endian, which is not supported"),
    "a later version": (with_header(header(consumer=2)), "needs a reader of version 2; this is version 1"),
    "a name that is no text": (
        table([HEAD, (b"\xff\xfe", GOOD)]),
        r"name b'\xff\xfe' in it is not UTF-8 text",
    ),
    "a partitioned variable": (with_entry(GOOD + message((7, b""))), "holds variables in partitions"),
    "a part of a variable": (table([HEAD, (b"\0\1w\0\1", GOOD)]), "holds variables in partitions"),
    "a data file beyond all": (with_entry(entry(1, (2,), 1, 0, 8, 0)), "lies in data file 1 of 1"),
    "a negative data file": (with_entry(entry(1, (2,), NEGATIVE, 0, 8, 0)), "field 3 .* is negative"),
    "a negative offset": (with_entry(entry(1, (2,), 0, NEGATIVE, 8, 0)), "field 4 .* is negative"),
    "a negative size": (with_entry(entry(1, (2,), 0, 0, NEGATIVE, 0)), "field 5 .* is negative"),
    "a negative side": (with_entry(entry(1, (NEGATIVE,), 0, 0, 8, 0)), "field 1 .* is negative"),
    "an overflowing shape": (
        with_entry(entry(1, (2**32, 2**32), 0, 0, 0, 0)),
        "cannot have a shape of 2 axes",
    ),
    "an empty shape that overflows": (with_entry(entry(1, (0, 2**62), 0, 0, 0, 0)), "cannot have a shape"),
    "many axes": (with_entry(entry(1, (1,) * 33, 0, 0, 4, 0)), "cannot have a shape of 33 axes"),
    "a long file": (bytes(LARGEST_TABLE + 1000), "it has more than 4,194,304 bytes"),
}


def opened(folder: Path, index: bytes, data: bytes = bytes(8)) -> TensorBundle:
    index_of(folder / "m").write_bytes(index)
    data_of(folder / "m", 0, 1).write_bytes(data)
    return TensorBundle(folder / "m")


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_index_is_named_with_what_is_wrong(tmp_path, case):
    index, complaint = DAMAGED[case]
    complaint = complaint if ".*" in complaint else re.escape(complaint)
    with pytest.raises(
        CheckpointError, match=rf"^The checkpoint's .*m\.index cannot be used: .*{complaint}"
    ) as caught:
        opened(tmp_path, index)
    assert re.fullmatch(r"[^\n]+\.", str(caught.value))


def test_the_undamaged_one_is_read(tmp_path):
    assert opened(tmp_path, with_entry(GOOD)).read("w").tolist() == [0, 0]


def texts(*parts: bytes, count: int = 1, crc: int | None = None) -> tuple[bytes, bytes]:
    data = b"".join(parts)
    return with_entry(entry(7, (count,), 0, 0, len(data), 0 if crc is None else crc)), data


ONE = b"\1\0\0\0"  # the length 1 as the checksums see it
CHECK = masked(ONE).to_bytes(4, "little")
UNREADABLE: dict[str, tuple[bytes, bytes, str]] = {
    "a type that is not known": (
        with_entry(entry(21, (2,), 0, 0, 8, 0)),
        bytes(8),
        "holds type 21, not numbers",
    ),
    "no type": (with_entry(entry(0, (2,), 0, 0, 8, 0)), bytes(8), "holds type 0, not numbers"),
    "a size that is not the shape's": (
        with_entry(entry(1, (3,), 0, 0, 8, 0)),
        bytes(8),
        r"'w' has 8 bytes in it, not those of shape \(3,\)",
    ),
    "a short file": (with_entry(GOOD), bytes(7), "it is shorter than its index says"),
    "a place beyond the file": (with_entry(entry(1, (2,), 0, 2**62, 8, 0)), bytes(8), "it is shorter than"),
    "a huge tensor": (with_entry(entry(1, (2**40,), 0, 0, 2**42, 0)), bytes(8), "it is shorter than"),
    "other numbers": (with_entry(GOOD), bytes(7) + b"\1", "the checksum of 'w' in it is wrong"),
    "more texts than bytes": (*texts(b"", count=2**40), "too few for shape"),
    "many texts": (with_entry(entry(7, (1,), 0, 0, 2**24, 0)), bytes(8), "at most 8,388,608 are read"),
    "lengths without an end": (*texts(b"\xff" * 20), "more than 64 bits"),
    "no checksum of lengths": (*texts(b"\1"), "beyond its end"),
    "a wrong checksum of lengths": (*texts(b"\1", bytes(4), b"a"), "the checksum of the lengths"),
    "another text": (*texts(b"\1", CHECK, b"a", crc=masked(ONE + CHECK + b"b")), "the checksum of texts"),
    "a text cut short": (*texts(b"\1", CHECK, crc=masked(ONE + CHECK)), "beyond its end"),
    "more than the texts": (*texts(b"\1", CHECK, b"ab", crc=masked(ONE + CHECK + b"ab")), "do not fill"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_damaged_tensor_is_named_with_what_is_wrong(tmp_path, case):
    index, data, complaint = UNREADABLE[case]
    bundle = opened(tmp_path, index, data)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        value(bundle, "w")
    assert re.fullmatch(r"[^\n]+\.", str(caught.value))


def peak_of(action: Callable[[], object]) -> int:
    """Bytes at most allocated by an action that is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["more texts than bytes", "a huge tensor", "an overflowing shape"])
def test_what_a_file_claims_costs_no_memory(tmp_path, name):
    index, data = UNREADABLE[name][:2] if name in UNREADABLE else (DAMAGED[name][0], b"")
    assert peak_of(lambda: value(opened(tmp_path, index, data), "w")) < 200_000


# --- The object graph


def test_the_object_graph_gives_every_key_its_name():
    assert object_graph(graph(("a/.ATTR", "x/kernel"), ("b/.ATTR", ""))) == {
        "a/.ATTR": "x/kernel",
        "b/.ATTR": "",
    }
    assert object_graph(b"") == {}


def test_two_names_of_one_key_are_refused():
    assert object_graph(graph(("a", "x"), ("a", "x"))) == {"a": "x"}
    with pytest.raises(
        CheckpointError, match=r"object graph cannot be used: the key 'a' in it has two names\.$"
    ):
        object_graph(graph(("a", "x"), ("a", "y")))

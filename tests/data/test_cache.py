"""Where decoded sets are kept, and what their fingerprints are made of."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from clrkit.data import cache
from clrkit.data.cache import (
    CacheEntry,
    cache_folder,
    fingerprint_of,
    noted,
    put_in_place,
    read_cache,
    write_cache,
)
from clrkit.data.folders import photo_below
from clrkit.data.splits import DataSet, PixelArray, PixelStream, Split, labelled_views


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLRKIT_CACHE", str(tmp_path / "cache"))


def part(count: int, seed: int) -> Split:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (count, 3, 4, 4)).astype(np.uint8)
    return Split(PixelArray(images), random.randint(-1, 2, count), [f"image {i}" for i in range(count)])


def small_set() -> DataSet:
    return DataSet(part(5, 0), part(2, 1), ("ape", "bat"))


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CLRKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "clrkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "clrkit"


def test_what_is_read_is_what_was_written():
    source, written = CacheEntry("some-4", "id", small_set), small_set()
    digest = write_cache(source, written).fingerprint
    read = read_cache(source, print) or pytest.fail("nothing was read")
    assert read.fingerprint == digest
    assert read.classes == written.classes
    for ours, reference in ((read.train, written.train), (read.evaluation, written.evaluation)):
        assert np.array_equal(ours.pixels.array, reference.pixels.array)
        assert np.array_equal(ours.labels, reference.labels)
        assert ours.names == reference.names


def test_another_identity_is_not_read_and_replaces_the_entry(tmp_path):
    old, new = (CacheEntry("some-4", identity, small_set) for identity in ("old", "new"))
    write_cache(old, small_set())
    assert noted(new) is None
    write_cache(new, small_set())
    assert noted(old) is None
    assert noted(new) is not None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["some-4"]


def test_an_entry_that_another_process_wrote_meanwhile_stays(tmp_path):
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    put_in_place(tmp_path / "mine", tmp_path / "theirs")
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"


def test_the_fingerprint_in_memory_is_of_classes_pixels_and_labels():
    found = small_set()
    content = json.dumps(found.classes).encode()
    for one in (found.train, found.evaluation):
        content += one.pixels.array.tobytes() + one.labels.astype("<i8").tobytes()
    assert fingerprint_of(found) == hashlib.sha256(content).hexdigest()


def listed(root: str, names: list[str], sizes: list[int], labels: list[int]) -> Split:
    files = partial(photo_below, root, np.array([name.encode() for name in names]))
    return Split(PixelStream(files, np.array(sizes), 8), np.array(labels), names)


def test_the_fingerprint_of_a_stream_is_of_names_bytes_and_labels():
    test = listed("/here", ["t"], [7], [1])
    digest = fingerprint_of(DataSet(listed("/here", ["a", "b"], [1, 2], [0, 1]), test, ("x", "y")))
    same = listed("/there", ["b", "a"], [2, 1], [1, 0])
    assert fingerprint_of(DataSet(same, test, ("x", "y"))) == digest
    others = [
        listed("/here", ["a", "c"], [1, 2], [0, 1]),
        listed("/here", ["a", "b"], [1, 3], [0, 1]),
        listed("/here", ["a", "b"], [1, 2], [0, 0]),
    ]
    assert all(fingerprint_of(DataSet(other, test, ("x", "y"))) != digest for other in others)


def test_another_decoder_gives_a_stream_another_fingerprint(monkeypatch):
    parts = DataSet(listed("/here", ["a"], [1], [0]), listed("/here", ["t"], [7], [0]), ("x",))
    digest = fingerprint_of(parts)
    monkeypatch.setattr(cache, "DECODER", cache.DECODER + 1)
    assert fingerprint_of(parts) != digest


def oblong_set() -> DataSet:
    """With aspects, and views of the labelled images."""
    found = small_set()
    labels = found.train.labels
    pixels = PixelArray(found.train.pixels.array, np.array([1, 1, 0.5, 2, 1], np.float32))
    views = part(int((labels >= 0).sum()), 2).pixels
    return replace(
        found, train=replace(found.train, pixels=pixels, measured=labelled_views(views.array, labels))
    )


def test_aspects_and_views_are_read_as_they_were_written():
    source = CacheEntry("some-4", "identity", oblong_set)
    write_cache(source, oblong_set())
    read = read_cache(source, pytest.fail)
    written = oblong_set().train
    assert np.array_equal(read.train.pixels.aspects, written.pixels.aspects)
    labelled = np.flatnonzero(written.labels >= 0)
    assert 0 < len(labelled) < 5
    ours, expected = (next(iter(p.views.batches([labelled]))) for p in (read.train, written))
    assert ours.equal(expected)
    assert read.evaluation.measured is None
    assert read.evaluation.pixels.aspects is None


def test_aspects_and_views_enter_the_fingerprint_where_there_are_any():
    square, oblong = small_set(), oblong_set()
    without_views = replace(oblong, train=replace(oblong.train, measured=None))
    other = PixelArray(square.train.pixels.array, np.array([1, 1, 0.5, 2, 3], np.float32))
    sets = [square, oblong, without_views, replace(oblong, train=replace(oblong.train, pixels=other))]
    assert len({fingerprint_of(parts) for parts in sets}) == 4


@pytest.mark.parametrize("what", ["aspects", "views"])
def test_missing_aspects_or_views_are_noticed(tmp_path, what):
    source, lines = CacheEntry("some-4", "identity", oblong_set), []
    write_cache(source, oblong_set())
    (tmp_path / "cache" / "some-4" / f"train_{what}.npy").unlink()
    assert read_cache(source, lines.append) is None
    assert "are damaged" in lines[0]


# Mapped and verified

COUNT = 20_000
READER = """
import sys
from pathlib import Path
from clrkit.data.cache import CacheEntry, read_cache

def kilobytes(kind):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind))

before = kilobytes("Anonymous")
parts = read_cache(CacheEntry("some-4", "id", None), print)
total = int(parts.train.pixels.array.sum())
print(total, kilobytes("Anonymous") - before, kilobytes("Shared_"), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not say what is shared"
)
def test_processes_that_read_a_set_share_its_pixels(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (COUNT, 3, 32, 32), np.uint8)
    train = Split(PixelArray(images), np.zeros(COUNT, np.int64), [""] * COUNT)
    write_cache(CacheEntry("some-4", "id", small_set), DataSet(train, part(2, 1), ("ape", "bat")))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen([sys.executable, "-c", READER], **pipes) for _ in range(2)]
    said = [list(map(int, reader.stdout.readline().split())) for reader in readers]
    for reader in readers:
        reader.communicate()
        assert reader.returncode == 0
    assert [total for total, _, _ in said] == [int(images.sum())] * 2
    size = images.nbytes // 1024
    assert all(own < size / 4 for _, own, _ in said), said
    assert max(shared for _, _, shared in said) > size  # of whoever came last


def test_images_of_the_cache_cannot_be_written_and_their_batches_can():
    write_cache(CacheEntry("some-4", "id", oblong_set), oblong_set())
    read = read_cache(CacheEntry("some-4", "id", oblong_set), pytest.fail)
    with pytest.raises(ValueError, match="read-only"):
        read.train.pixels.array[0] = 0
    pixels, aspects = next(read.train.pixels.squares([np.array([1, 3])]))
    pixels.zero_()
    aspects.zero_()
    torch.from_numpy(read.train.labels).zero_()
    again = read_cache(CacheEntry("some-4", "id", oblong_set), pytest.fail)
    assert again.train.pixels.array[1].any()


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Fills with the fingerprints that are made of pixels."""
    made, original = [], cache.fingerprint_of
    monkeypatch.setattr(cache, "fingerprint_of", lambda parts: made.append(original(parts)) or made[-1])
    return made


@pytest.fixture
def written(tmp_path) -> tuple[CacheEntry, Path]:
    """A set in the cache, and its folder."""
    source = CacheEntry("some-4", "id", small_set)
    write_cache(source, small_set())
    return source, tmp_path / "cache" / "some-4"


def test_a_set_is_not_hashed_again_until_a_file_changes(written, hashed):
    source, folder = written
    assert read_cache(source, pytest.fail)
    assert hashed == []
    file = folder / "test_pixels.npy"
    os.utime(file, ns=(1, 1))  # as if it had been written
    assert read_cache(source, pytest.fail)
    assert len(hashed) == 1
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert read_cache(source, lambda line: None) is None


def test_a_copy_of_a_cache_and_one_of_an_older_version_are_verified_by_their_hash(written, hashed):
    source, folder = written
    shutil.copytree(folder, folder.with_name("copy"), copy_function=shutil.copyfile)
    assert read_cache(replace(source, name="copy"), pytest.fail)
    note = json.loads((folder / "note.json").read_text())
    del note["stamps"]
    (folder / "note.json").write_text(json.dumps(note))
    assert read_cache(source, pytest.fail)
    assert len(hashed) == 2


@pytest.mark.skipif(os.name == "nt", reason="the time of the last change is POSIX")
def test_a_change_that_leaves_size_and_time_of_writing_alone_is_noticed(written):
    source, folder = written
    assert read_cache(source, pytest.fail)
    file = folder / "train_pixels.npy"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_cache(source, lambda line: None) is None

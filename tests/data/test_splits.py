"""Images in memory and streamed, all of them and some."""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from clrkit.data.folders import photo_below
from clrkit.data.splits import (
    CHUNK,
    Photos,
    PixelArray,
    PixelStream,
    Split,
    as_squares,
    cores,
    evaluation_split,
    labelled_views,
    train_split,
)
from clrkit.errors import DataError

RANDOM = np.random.RandomState(0)


def noise(height: int, width: int | None = None) -> np.ndarray:
    return RANDOM.randint(0, 256, (height, width or height, 3)).astype(np.uint8)


def files(folder: Path, count: int, side: int = 6) -> PixelStream:
    names = [f"{index}.png" for index in range(count)]
    for name in names:
        Image.fromarray(noise(side, RANDOM.randint(side, side + 5))).save(folder / name)
    sizes = np.array([(folder / name).stat().st_size for name in names], dtype=np.int64)
    photo = partial(photo_below, str(folder), np.array([name.encode() for name in names]))
    return PixelStream(photo, sizes, side)


def photos(array: np.ndarray) -> Photos:
    count = len(array)
    return Photos(array, np.ones(count, np.int64), np.arange(count), [str(i) for i in range(count)], ())


def test_a_subset_of_a_subset_reads_the_right_images():
    array = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), dtype=np.uint8)
    last = PixelArray(array).subset(np.array([1, 3, 5, 7, 9])).subset(np.array([4, 2]))
    batches = list(last.batches([np.array([0]), np.array([1, 0])]))
    assert len(last) == 2
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[9], [5, 9]]


def test_a_stream_gives_what_lies_in_memory(tmp_path):
    stream = files(tmp_path, 70)
    pixels, aspects = zip(*(stream.read(index) for index in range(70)), strict=True)
    memory = PixelArray(np.stack(pixels), np.array(aspects, np.float32))
    shuffled = np.random.RandomState(1).permutation(70)
    order = [shuffled[:CHUNK], shuffled[CHUNK : CHUNK + 3], shuffled, np.array([5, 5])]
    for start in (0, 2):
        streamed = list(stream.squares(order[start:]))
        assert [len(pixels) for pixels, _ in streamed] == [len(indices) for indices in order[start:]]
        for ours, reference in zip(streamed, memory.squares(order[start:]), strict=True):
            assert ours[0].dtype == torch.uint8
            assert all(map(torch.equal, ours, reference))
    some = np.array([69, 3, 3])
    (ours,), (reference,) = (each.subset(some).squares([np.array([2, 0])]) for each in (stream, memory))
    assert len(stream.subset(some)) == 3
    assert all(map(torch.equal, ours, reference))


def test_a_stream_of_an_array_resizes_it():
    array = noise(8)[None].repeat(3, 0)
    (batch,) = as_squares(photos(array), 4).batches([np.array([2])])
    reference = Image.fromarray(array[0]).resize((4, 4), Image.Resampling.BICUBIC)
    assert np.abs(batch[0].numpy() - np.asarray(reference).transpose(2, 0, 1).astype(int)).max() <= 1


def test_streaming_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    list(files(tmp_path, 2).batches([np.array([0, 1])]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_reads_only_a_few_chunks_ahead(tmp_path):
    drawn = itertools.count()
    order = (np.array([index % 2]) for index in drawn)
    stream = files(tmp_path, 2).batches(order)
    taken = list(itertools.islice(stream, 5))
    stream.close()
    assert len(taken) == 5
    assert next(drawn) <= 5 + 2 * cores() + 2


def held() -> float:
    """MiB of this process and its workers; what they share counts once."""
    infos = [
        process.memory_full_info()
        for process in (psutil.Process(), *psutil.Process().children(recursive=True))
    ]
    return sum(getattr(info, "pss", info.uss) for info in infos) / 2**20


@pytest.mark.slow
def test_the_memory_of_a_stream_does_not_grow(tmp_path):
    for index in range(32):
        Image.fromarray(noise(200, 300)).save(tmp_path / f"{index}.jpg")
    names = np.array([f"{index}.jpg".encode() for index in range(32)])
    stream = PixelStream(partial(photo_below, str(tmp_path), names), np.ones(32, np.int64), 256)
    batches = stream.batches(np.arange(32) for _ in itertools.count())
    amounts = [held() for batch, _ in zip(range(24), batches, strict=False) if batch in (3, 23)]
    decoded = 20 * 32 * 3 * 256**2 / 2**20
    assert amounts[1] - amounts[0] < decoded / 3


def test_a_broken_image_in_a_stream_is_named_in_one_sentence(tmp_path):
    images = files(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^The image [^\n]*1\.png is broken[^\n]*\.$"):
        list(images.batches([np.array([0, 1, 2])]))


def test_a_subset_keeps_the_aspects_and_the_views_of_its_images():
    array = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), dtype=np.uint8)
    pixels = PixelArray(array, np.arange(6, dtype=np.float32))
    part = Split(pixels, np.arange(6), list("abcdef"), PixelArray(array + 100)).subset(np.array([5, 2, 0]))
    ((_, aspects),) = part.pixels.squares([np.array([2, 0])])
    assert aspects.tolist() == [0, 5]
    assert next(iter(part.views.batches([np.array([1])])))[0, 0, 0].tolist() == [102, 102]


def test_squares_in_memory_have_no_aspects():
    ((_, aspects),) = PixelArray(np.zeros((3, 3, 2, 2), np.uint8)).squares([np.array([1])])
    assert aspects is None


def test_only_labelled_images_have_a_view():
    array = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), dtype=np.uint8)
    views = labelled_views(array, np.array([-1, 4, 2, -1, 4]))
    (batch,) = views.batches([np.array([4, 1, 2])])
    assert batch[:, 0, 0, 0].tolist() == [2, 0, 1]
    for unlabelled in (0, 3):
        with pytest.raises(IndexError):
            list(views.batches([np.array([unlabelled])]))


def test_a_part_to_train_on_has_squares_with_a_margin_and_views_of_their_own():
    images = photos(noise(50, 80)[None])
    part = train_split(images, 96)
    (square,), (view,) = (list(pixels.squares([np.array([0])])) for pixels in (part.pixels, part.views))
    assert square[0].shape == (1, 3, 110, 110)
    assert square[1].tolist() == [np.float32(80 / 50)]
    assert view[0].shape == (1, 3, 96, 96)
    measured = next(iter(evaluation_split(images, 96).pixels.batches([np.array([0])])))
    assert torch.equal(view[0], measured)


def test_small_images_are_measured_as_they_are_trained_on():
    part = train_split(photos(noise(32)[None]), 32)
    assert part.views is part.pixels


@pytest.mark.parametrize("resize", [None, "tf2"])
def test_an_array_of_the_right_size_is_taken_as_it_is(resize):
    images = noise(32)[None].repeat(3, 0)
    found = as_squares(photos(images), 32, resize)
    assert isinstance(found, PixelArray)
    assert np.array_equal(found.array, images.transpose(0, 3, 1, 2))
    assert found.aspects is None


@pytest.mark.parametrize(("side", "resize"), [(16, None), (16, "tf2"), (40, None), (40, "tf2")])
def test_an_array_of_another_size_is_resized_when_it_is_read(side, resize):
    assert isinstance(as_squares(photos(noise(32)[None]), side, resize), PixelStream)


def test_the_views_of_a_larger_array_are_cropped_though_its_size_is_right():
    assert isinstance(as_squares(photos(noise(40)[None]), 40, "tf2"), PixelStream)


def test_exact_views_stream_as_floats():
    array = noise(50, 40)[None].repeat(40, 0)
    images = as_squares(photos(array), 48, "tf2", exact=True)
    (batch,) = images.batches([np.arange(40)])
    assert batch.dtype == torch.float32
    assert np.array_equal(batch[39].numpy(), images.read(39)[0])

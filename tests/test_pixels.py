"""The three kinds of pixels: array, subset, stream."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clrkit.images import DataError, ImageArray, ImageFiles
from clrkit.pixels import CHUNK, PixelArray, PixelStream, PixelSubset, cores

RANDOM = np.random.RandomState(0)


def noise(side: int) -> np.ndarray:
    return RANDOM.randint(0, 256, (side, side, 3)).astype(np.uint8)


def files(folder: Path, count: int, side: int = 6) -> ImageFiles:
    names = [f"{index}.png" for index in range(count)]
    for name in names:
        Image.fromarray(noise(side)).save(folder / name)
    sizes = np.array([(folder / name).stat().st_size for name in names], dtype=np.int64)
    return ImageFiles(str(folder), np.array([name.encode() for name in names]), sizes, side)


def test_a_subset_of_a_subset_reads_the_right_images():
    array = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), dtype=np.uint8)
    odd = PixelSubset(PixelArray(array), np.array([1, 3, 5, 7, 9]))
    last = PixelSubset(odd, np.array([4, 2]))
    batches = list(last.batches([np.array([0]), np.array([1, 0])]))
    assert len(last) == 2
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[9], [5, 9]]


def test_a_stream_gives_what_lies_in_memory(tmp_path):
    images = files(tmp_path, 70)
    memory = PixelArray(np.stack([images.read(index) for index in range(70)]))
    shuffled = np.random.RandomState(1).permutation(70)
    order = [shuffled[:CHUNK], shuffled[CHUNK : CHUNK + 3], shuffled, np.array([5, 5])]
    for start in (0, 2):
        streamed = list(PixelStream(images).batches(order[start:]))
        assert [len(batch) for batch in streamed] == [len(indices) for indices in order[start:]]
        for ours, reference in zip(streamed, memory.batches(order[start:]), strict=True):
            assert ours.dtype == torch.uint8
            assert torch.equal(ours, reference)


def test_a_stream_of_an_array_resizes_it():
    array = noise(8)[None].repeat(3, 0)
    (batch,) = PixelStream(ImageArray(array, 4)).batches([np.array([2])])
    reference = Image.fromarray(array[0]).resize((4, 4), Image.Resampling.BICUBIC)
    assert np.array_equal(batch[0].numpy(), np.asarray(reference).transpose(2, 0, 1))


def test_streaming_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    list(PixelStream(files(tmp_path, 2)).batches([np.array([0, 1])]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_reads_only_a_few_chunks_ahead(tmp_path):
    drawn = itertools.count()
    order = (np.array([index % 2]) for index in drawn)
    stream = PixelStream(files(tmp_path, 2)).batches(order)
    taken = list(itertools.islice(stream, 5))
    stream.close()
    assert len(taken) == 5
    assert next(drawn) <= 5 + 2 * cores() + 2


def test_a_broken_image_in_a_stream_is_named_in_one_sentence(tmp_path):
    images = files(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^The image [^\n]*1\.png is broken[^\n]*\.$"):
        list(PixelStream(images).batches([np.array([0, 1, 2])]))

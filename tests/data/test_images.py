"""Image files to squares to train on and views to measure."""

import struct
import tracemalloc
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from absurd import absurd, chunk, png_header
from PIL import Image, ImageOps

from clrkit.data.images import photo_of, read_photo, stored_side, to_square, to_view
from clrkit.data.resize import central_crop
from clrkit.errors import DataError

RANDOM = np.random.RandomState(0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RANDOM.randint(0, 256, (height, width, channels)).astype(np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def read_image(path: str, side: int) -> np.ndarray:
    """The square of one file."""
    return to_square(read_photo(path, side), side)


@pytest.mark.parametrize(("size", "side"), [(8, 8), (28, 28), (32, 32), (64, 64), (96, 110), (224, 256)])
def test_small_images_are_stored_whole_and_larger_ones_with_a_margin(size, side):
    assert stored_side(size) == side


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    pixels = noise(9, 9)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(read_image(path, 9), pixels.transpose(2, 0, 1))


def test_the_whole_image_is_squashed_to_a_square(tmp_path):
    left_and_right = np.zeros((10, 40, 3), dtype=np.uint8)
    left_and_right[:, 20:] = 200
    square = read_image(saved(Image.fromarray(left_and_right), tmp_path / "a.png"), 20)
    assert square.shape == (3, 20, 20)
    assert (square[:, :, :8] == 0).all()
    assert (square[:, :, 12:] == 200).all()


def test_resizing_is_antialiased(tmp_path):
    checks = (np.indices((96, 96)).sum(0) % 2 * 200).astype(np.uint8)
    square = read_image(saved(Image.fromarray(checks), tmp_path / "a.png"), 12)
    assert np.abs(square[:, 2:-2, 2:-2].astype(int) - 100).max() <= 2


def test_a_large_photograph_is_decoded_small_with_the_same_look(tmp_path):
    slope = np.linspace(0, 255, 800).astype(np.uint8)
    photo = Image.fromarray(np.broadcast_to(slope[None, :, None], (800, 800, 3)).copy())
    fast = read_image(saved(photo, tmp_path / "a.jpg", quality=95), 20)
    exact = read_image(saved(photo, tmp_path / "a.png"), 20)
    assert np.abs(fast.astype(int) - exact).max() <= 3


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (96, 96), (30, 200), (90, 70)])
@pytest.mark.parametrize("side", [40, 110])
def test_resizing_is_pillows_but_for_roundings(shape, side):
    pixels = noise(*shape)
    square = to_square(photo_of(pixels), side)
    reference = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    difference = np.abs(square - np.asarray(reference).transpose(2, 0, 1).astype(int))
    assert difference.max() <= 5
    assert difference.mean() < 0.25


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 300, 30000], [65535, 128, 129, 5], [1, 2, 3, 4], [9, 9, 9, 9]], np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 4 4 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert np.array_equal(read_image(str(path), 4)[1], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.full((4, 4), 0.5, np.float32), "unknown range"),
        (np.full((4, 4), 70000, np.int32), "more than 16 bits"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, values, complaint):
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif .*{complaint}"):
        read_image(path, 4)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(noise(6, 6)).convert(mode)
    path = saved(image, tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    assert np.array_equal(read_image(path, 6), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_transparency_is_put_on_white(tmp_path):
    pixels = noise(6, 6, 4)
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    square = read_image(saved(Image.fromarray(pixels), tmp_path / "a.png"), 6)
    assert np.abs(square - (colour * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)).max() <= 1


def test_grey_with_transparency_is_put_on_white(tmp_path):
    pixels = np.zeros((4, 4, 2), dtype=np.uint8)
    pixels[2:, :, 1] = 255
    square = read_image(saved(Image.fromarray(pixels), tmp_path / "a.png"), 4)
    assert (square[:, :2] == 255).all()
    assert (square[:, 2:] == 0).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_palette_colour_is_white(tmp_path, suffix):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    square = read_image(saved(image, tmp_path / f"a.{suffix}", transparency=0), 2)
    assert square[:, 0, 0].tolist() == [255, 255, 255]
    assert square[:, 0, 1].tolist() == [40, 50, 60]


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = saved(frames[0], tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(path, 4)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(Image.fromarray(noise(8, 8)), tmp_path / f"a.{suffix}", exif=exif, **options)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    assert np.array_equal(read_image(path, 8), upright)


def test_a_long_photograph_is_turned_upright_too(tmp_path):
    exif, sky_left = Image.Exif(), np.zeros((40, 80, 3), dtype=np.uint8)
    exif[0x0112], sky_left[:, :40] = 6, 255  # a quarter turn to the right brings the left side up
    square = read_image(saved(Image.fromarray(sky_left), tmp_path / "a.jpg", exif=exif), 8)
    assert square[:, :3].min() > 240
    assert square[:, 5:].max() < 15


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png cannot be decoded: No such file or directory\.$"):
        read_image(str(tmp_path / "gone.png"), 4)


def test_a_text_called_an_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(DataError, match=r"a\.png is broken, or not an image that Pillow can read\.$"):
        read_image(str(tmp_path / "a.png"), 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_a_truncated_image_is_named_in_one_sentence(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"^The image [^\n]*a\.{suffix} [^\n]*\.$"):
        read_image(str(path), 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_an_image_of_one_pixel_is_refused(tmp_path, size):
    path = saved(Image.new("RGB", size), tmp_path / "dot.png")
    with pytest.raises(DataError, match=rf"dot\.png has {size[0]} x {size[1]} pixels; at least 2 x 2"):
        read_image(path, 4)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("side", [9_500, 14_000])
def test_an_image_of_absurd_size_is_refused(tmp_path, side, strict):
    path = saved(Image.new("1", (side, side)), tmp_path / "bomb.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore", Image.DecompressionBombWarning)
        with pytest.raises(DataError, match=r"bomb\.png has .*more than 89,478,485 pixels\.$"):
            read_image(path, 4)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("enough", [None, 8])
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "ppm", "jpg", "tif", "webp"])
def test_an_image_of_absurd_size_is_refused_by_its_header(tmp_path, suffix, enough, fault):
    for side in (9_500, 16_000, 60_000):
        (tmp_path / f"a.{suffix}").write_bytes(absurd(suffix, side))
        tracemalloc.start()
        with pytest.raises(DataError, match=rf"^The image .*a\.{suffix} [^\n]*\.$") as caught:
            read_photo(str(tmp_path / f"a.{suffix}"), enough)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
        tracemalloc.stop()
        assert suffix == "webp" or "more than 89,478,485 pixels" in str(caught.value)
    path = "whole" if enough is None else "drafted"
    name = f"outside files: a {suffix} of 60,000 x 60,000 pixels, read {path}"
    fault(name, "a header over a few bytes", "the image, which is refused by its header", times=3)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png_header(8, 8) + struct.pack(">I", 2**30) + b"eXIf")
        file.truncate(2**29 + 1)  # without taking room on the disk
    with pytest.raises(DataError, match=r"a\.png has 536,870,913 bytes; at most 536,870,912 are read\.$"):
        read_photo(str(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_metadata_that_unpacks_to_much_takes_no_memory(tmp_path, kind):
    before = {b"iCCP": b"p\0\0", b"zTXt": b"p\0\0", b"iTXt": b"p\0\1\0\0\0"}[kind]
    bomb = chunk(kind, before + zlib.compress(bytes(100_000_000), 9))
    rows = zlib.compress(b"".join(b"\0" + bytes(range(12)) for _ in range(4)))
    data = png_header(4, 4) + bomb + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    tracemalloc.start()
    with suppress(DataError):
        assert read_photo(str(tmp_path / "a.png")).pixels.shape == (4, 4, 3)
    assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "JPEG2000", "PDF"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, kind):
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png", kind)
    with pytest.raises(DataError, match=r"a\.png is broken, or not an image that Pillow can read"):
        read_photo(str(tmp_path / "a.png"))


def test_a_photograph_with_further_pictures_is_a_photograph(tmp_path):
    first, second = (Image.fromarray(noise(16, 16)) for _ in range(2))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
        expected = np.asarray(image)
    assert np.array_equal(read_photo(str(tmp_path / "a.jpg")).pixels, expected)


def test_an_image_in_memory_is_resized_as_a_file_is(tmp_path):
    pixels = noise(9, 12)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(to_square(photo_of(pixels), 6), read_image(path, 6))
    assert photo_of(pixels).aspect == read_photo(path).aspect == 12 / 9


# Aspects


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_aspect_is_that_of_the_upright_image(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(noise(6, 10)), tmp_path / f"a.{suffix}", exif=exif)
    assert read_photo(path).aspect == (10 / 6 if orientation < 5 else 6 / 10)


def test_the_aspect_is_that_of_the_file_however_small_it_is_decoded(tmp_path):
    path = saved(Image.fromarray(noise(375, 501)), tmp_path / "a.jpg")
    assert read_photo(path, 20).pixels.shape == (47, 63, 3)
    assert read_photo(path, 20).aspect == 501 / 375


# Views


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("resize", ["tf2", "tf1"])
def test_a_view_is_the_central_crop_of_the_upright_image_at_full_size(tmp_path, orientation, resize):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(noise(160, 210)), tmp_path / "a.jpg", exif=exif)
    with Image.open(path) as image:
        turned = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1).copy()
    expected = central_crop(torch.from_numpy(turned), 40, resize).numpy()
    assert np.array_equal(to_view(read_photo(path), 40, resize, exact=True), expected)
    rounded = to_view(read_photo(path), 40, resize)
    assert rounded.dtype == np.uint8
    assert np.abs(rounded / 255 - expected).max() <= 0.5001 / 255


@pytest.mark.parametrize("exact", [False, True])
def test_a_view_of_up_to_32_pixels_is_the_whole_image(exact):
    photo = photo_of(noise(40, 50))
    assert np.array_equal(
        to_view(photo, 32, exact=exact), to_square(photo, 32) / np.float32(255 if exact else 1)
    )
    assert not np.array_equal(to_view(photo, 33, exact=exact), to_square(photo, 33))


@pytest.mark.parametrize("shape", [(2, 2), (2, 300), (300, 3)])
@pytest.mark.parametrize("size", [8, 40])
def test_the_smallest_and_longest_images_have_squares_and_views(shape, size):
    photo = photo_of(noise(*shape))
    for made in (to_square(photo, size), to_view(photo, size), to_view(photo, size, exact=True)):
        assert made.shape == (3, size, size)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK"])
def test_views_are_of_any_mode(tmp_path, mode):
    image = Image.fromarray(noise(60, 60)).convert(mode)
    path = saved(image, tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    rgb = np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()
    expected = central_crop(torch.from_numpy(rgb), 40).numpy()
    assert np.array_equal(to_view(read_photo(path), 40, exact=True), expected)

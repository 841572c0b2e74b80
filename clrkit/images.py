"""Image files as squares of uint8 RGB pixels, one at a time. Importing this module does not load torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from clrkit.config import ConfigError

Square = UInt8[np.ndarray, "3 side side"]

SMALL = 64  # up to this side, images are stored and measured whole
MAX_PIXELS = 89_478_485  # Pillow warns from here on
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what undoes each EXIF orientation


class DataError(ConfigError):
    """A data set that cannot be read; the message names the culprit in one sentence."""


def reason(error: Exception) -> str:
    """What went wrong, in words; without the number and the path that an OSError's text has."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def stored_side(image_size: int) -> int:
    """Side in pixels at which images are kept, so that the central `image_size` is the official 0.875 crop.

    Small images (up to 64 pixels) are measured whole, as the official code does for CIFAR.
    """
    return image_size if image_size <= SMALL else round(image_size * 8 / 7)


def read_image(path: str, side: int) -> Square:
    """An image file (its first frame) as RGB, upright, resized to a square.

    Transparency is put on white, 16 bits are scaled to 8.

    Raises:
        DataError: naming a file that is missing, broken, smaller than 2 x 2 or absurdly large.
    """
    try:
        with Image.open(path) as image:
            check_size(path, image.size)
            # A JPEG decoder halves a large photograph almost for free; twice the side is left to resize from.
            image.draft("RGB", (2 * side, 2 * side))
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation)
            return to_square(to_rgb(image), side, orientation)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"The image {path} has more than {MAX_PIXELS:,} pixels.") from None
    except UnidentifiedImageError:
        raise DataError(f"The image {path} is broken, or not an image that Pillow can read.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a malformed file
        raise DataError(f"The image {path} cannot be decoded: {reason(error)}.") from None


def check_size(path: str, size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < 2:
        raise DataError(f"The image {path} has {width} x {height} pixels; at least 2 x 2 are needed.")
    if width * height > MAX_PIXELS:
        raise DataError(f"The image {path} has {width} x {height}, more than {MAX_PIXELS:,} pixels.")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit RGB; transparent pixels show white, as a viewer shows them."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        image = from_sixteen_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def from_sixteen_bits(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255. Pillow's own conversion clips, which turns all but the darkest pixels white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels are integers of more than 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def to_square(image: Image.Image, side: int, orientation: int | None = None) -> Square:
    """The whole image, squashed to a square (bicubic, antialiased), turned upright by its EXIF orientation.

    Nothing of the image is lost to the random crops. An image that is not square changes its aspect, which
    the official code does not do: it crops at an aspect of 3/4 to 4/3 out of the original and measures the
    central square (`tf2/data_util.py`). For square images both are the same.
    """
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


@runtime_checkable
class Images(Protocol):
    """Images as they were found, decoded one at a time, in any process."""

    @property
    def side(self) -> int:
        """Of the squares, in pixels."""
        ...

    @property
    def sizes(self) -> Int64[np.ndarray, " count"]:
        """Bytes each image takes where it lies."""
        ...

    def read(self, index: int) -> Square:
        """One image. Raises DataError naming the file."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Files below a folder; their names are one array of bytes, which forked workers share uncopied."""

    root: str
    names: np.ndarray
    sizes: Int64[np.ndarray, " count"]
    side: int

    def read(self, index: int) -> Square:
        return read_image(f"{self.root}/{os.fsdecode(self.names[index])}", self.side)


@dataclass(frozen=True)
class ImageArray:
    """RGB images of another size in memory, (count, height, width, 3)."""

    array: UInt8[np.ndarray, "count height width 3"]
    side: int

    @property
    def sizes(self) -> Int64[np.ndarray, " count"]:
        return np.full(len(self.array), self.array[0].nbytes, dtype=np.int64)

    def read(self, index: int) -> Square:
        return to_square(Image.fromarray(np.ascontiguousarray(self.array[index])), self.side)

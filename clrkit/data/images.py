"""Image files as squares of RGB pixels, one at a time. Importing this module does not load torch.

Training takes a `ResizedImage`, a square that crops are cut from; evaluation takes an `EvalView`, the
official central crop.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from clrkit.config import Resize
from clrkit.errors import DataError, reason

Rgb = UInt8[np.ndarray, "_ _ 3"]  # height and width
Square = UInt8[np.ndarray, "3 side side"]
Exact = Float32[np.ndarray, "3 side side"]

SMALL = 64  # up to this side, images are stored for training without a margin
WHOLE = 32  # up to this side, images are measured whole (tf2/data.py: neither cropped nor resized)
MAX_PIXELS = 89_478_485  # Pillow warns from here on; as RGB 268 MB
MAX_BYTES = 2**29  # of a file: metadata is read whole, and may be all there is
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow hands others to outside programs
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
FLIPPED = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}  # then rows, columns


def stored_side(image_size: int) -> int:
    """Side in pixels at which training images are kept, for views of `image_size`.

    Larger images have a margin, so that small crops are not enlarged more than need be.
    """
    return image_size if image_size <= SMALL else round(image_size * 8 / 7)


class Photo(NamedTuple):
    """A decoded image, RGB, not yet turned upright.

    Attributes:
        pixels: (height, width, 3), perhaps decoded at a smaller size than they have in the file.
        size: width and height in the file.
        orientation: EXIF's number of what turns it upright, or none.
    """

    pixels: Rgb
    size: tuple[int, int]
    orientation: int | None = None

    @property
    def aspect(self) -> float:
        """Width over height of the upright image."""
        width, height = self.size
        return height / width if self.orientation in SIDEWAYS else width / height


def read_photo(path: str, enough: int | None = None) -> Photo:
    """An image file (its first frame) as RGB; transparency is put on white, 16 bits are scaled to 8.

    Args:
        path: of the file.
        enough: side of a square it will be squashed to; without it, every pixel is wanted.

    Raises:
        DataError: naming a file that is missing, broken, smaller than 2 x 2 or absurdly large.
    """
    try:
        check_bytes(path)
        with Image.open(path, formats=FORMATS) as image:
            check_size(path, image.size)
            size, drafted = image.size, None
            if enough:
                # A JPEG decoder halves a large photograph almost for free; twice the side is left.
                drafted = image.draft("RGB", (2 * enough, 2 * enough))
            image.load()
            # Pillow turns a TIFF upright while it loads.
            size = size if drafted else image.size
            return Photo(np.array(to_rgb(image)), size, image.getexif().get(ExifTags.Base.Orientation))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"The image {path} has more than {MAX_PIXELS:,} pixels.") from None
    except UnidentifiedImageError:
        raise DataError(f"The image {path} is broken, or not an image that Pillow can read.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a malformed file
        raise DataError(f"The image {path} cannot be decoded: {reason(error)}.") from None


def check_bytes(path: str) -> None:
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise DataError(f"The image {path} has {size:,} bytes; at most {MAX_BYTES:,} are read.")


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
    return image if image.mode == "RGB" else image.convert("RGB")


def from_sixteen_bits(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255. Pillow's own conversion clips, which turns all but the darkest pixels white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels are integers of more than 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def to_square(photo: Photo, side: int) -> Square:
    """The whole image, squashed to a square (bicubic, antialiased), upright; nothing is lost to the crops."""
    whole = photo.pixels.shape == (side, side, 3)
    pixels = photo.pixels if whole else resize_pixels(photo.pixels, side)
    return upright(pixels, photo.orientation).transpose(2, 0, 1)


def resize_pixels(pixels: Rgb, side: int) -> Rgb:
    """As Pillow's bicubic resize, but for roundings, in a quarter of its time."""
    import torch
    from torch.nn.functional import interpolate

    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    square = interpolate(image, (side, side), mode="bicubic", antialias=True)[0]
    resized: Rgb = square.permute(1, 2, 0).numpy()
    return resized


def upright(pixels: Rgb, orientation: int | None) -> Rgb:
    """What undoes an EXIF orientation, as a view of the same memory."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = FLIPPED.get(orientation or 1, (1, 1))
    return pixels[::rows, ::columns]


def to_view(photo: Photo, size: int, resize: Resize) -> Exact:
    """The evaluation view (`clrkit.resize.central_crop`) in [0, 1]."""
    import torch

    from clrkit.resize import central_crop

    pixels = np.ascontiguousarray(upright(photo.pixels, photo.orientation).transpose(2, 0, 1))
    view: Exact = central_crop(torch.from_numpy(pixels), size, resize).numpy()
    return view


@runtime_checkable
class ImageSource(Protocol):
    """Images as they were found, in any process."""

    @property
    def sizes(self) -> Int64[np.ndarray, " count"]:
        """Bytes each image takes where it lies."""
        ...

    def photo(self, index: int, enough: int | None = None) -> Photo:
        """One image, arguments and errors as `read_photo`."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Files below a folder; their names are one array of bytes, which forked workers share uncopied."""

    root: str
    names: np.ndarray
    sizes: Int64[np.ndarray, " count"]

    def photo(self, index: int, enough: int | None = None) -> Photo:
        return read_photo(f"{self.root}/{os.fsdecode(self.names[index])}", enough)


@dataclass(frozen=True)
class ImageArray:
    """RGB images in memory, (count, height, width, 3)."""

    array: UInt8[np.ndarray, "count height width 3"]

    @property
    def sizes(self) -> Int64[np.ndarray, " count"]:
        return np.full(len(self.array), self.array[0].nbytes, dtype=np.int64)

    def photo(self, index: int, enough: int | None = None) -> Photo:
        pixels = self.array[index]
        return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


@runtime_checkable
class Images(Protocol):
    """Images of one size, made one at a time of what was found."""

    @property
    def found(self) -> ImageSource: ...

    @property
    def side(self) -> int:
        """Of the squares, in pixels."""
        ...

    def read(self, index: int) -> tuple[Square | Exact, float]:
        """One square and the aspect (width over height) it had before it was squashed; DataErrors."""
        ...


@dataclass(frozen=True)
class ResizedImage:
    """Whole images as squares, whose crops are views to train on."""

    found: ImageSource
    side: int

    def read(self, index: int) -> tuple[Square, float]:
        photo = self.found.photo(index, self.side)
        return to_square(photo, self.side), photo.aspect


@dataclass(frozen=True)
class EvalView:
    """What is measured: the official central crop, rounded to uint8 or exact; up to 32 pixels, all of it.

    (JPEG decoders differ in the last bits, and images are turned upright here.)

    Attributes:
        found: the images.
        side: of the view, in pixels.
        exact: float32 in [0, 1], not rounded to uint8.
        resize: "tf2" or "tf1", see `clrkit.resize.resize_matrices`.
    """

    found: ImageSource
    side: int
    exact: bool = False
    resize: Resize = "tf2"

    def read(self, index: int) -> tuple[Square | Exact, float]:
        if self.side <= WHOLE:
            square = to_square(self.found.photo(index, self.side), self.side)
            return square / np.float32(255) if self.exact else square, 1.0
        view = to_view(self.found.photo(index), self.side, self.resize)
        return view if self.exact else np.rint(255 * view).astype(np.uint8), 1.0

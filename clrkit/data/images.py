"""Decode image files into squares of RGB pixels, one at a time. Importing this module does not load torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from clrkit.config import Resize
from clrkit.errors import DataError, reason

Rgb = UInt8[np.ndarray, "_ _ 3"]  # height and width
Square = UInt8[np.ndarray, "3 side side"]
View = UInt8[np.ndarray, "3 side side"] | Float32[np.ndarray, "3 side side"]

SMALL = 64  # up to this side, images are stored for training without a margin
WHOLE = 32  # up to this side, images are measured whole (tf2/data.py: neither cropped nor resized)
MAX_PIXELS = 89_478_485  # Pillow warns from here on; as RGB 268 MB
MAX_BYTES = 2**29  # of a file: metadata is read whole, and may be all there is
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow hands others to outside programs
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
FLIPPED = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}  # then rows, columns


def stored_side(image_size: int) -> int:
    """Side in pixels at which training images are kept, for views of `image_size`.

    Larger images have a margin, so that small crops are not enlarged more than necessary.
    """
    return image_size if image_size <= SMALL else round(image_size * 8 / 7)


class Photo(NamedTuple):
    """A decoded image, RGB, not yet turned upright.

    Attributes:
        pixels: (height, width, 3), perhaps decoded at a smaller size than in the file.
        size: width and height in the file.
        orientation: EXIF's number of the turn that makes it upright, or None.
    """

    pixels: Rgb
    size: tuple[int, int]
    orientation: int | None = None

    @property
    def aspect(self) -> float:
        """Width over height of the upright image."""
        width, height = self.size
        return height / width if self.orientation in SIDEWAYS else width / height


def photo_of(pixels: Rgb) -> Photo:
    """An upright image in memory as a photo."""
    height, width, _ = pixels.shape
    return Photo(pixels, (width, height))


def read_photo(path: str, enough: int | None = None) -> Photo:
    """Read an image file (its first frame) as RGB; transparency is put on white, 16 bits are scaled to 8.

    Args:
        path: the file.
        enough: side of the square that is needed; a large JPEG is then decoded smaller. None: every pixel.

    Raises:
        DataError: if the file is missing, broken, smaller than 2 x 2 or absurdly large.
    """
    try:
        if (length := Path(path).stat().st_size) > MAX_BYTES:
            raise DataError(f"The image {path} has {length:,} bytes; at most {MAX_BYTES:,} are read.")
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


def check_size(name: str, size: tuple[int, int]) -> None:
    """Raise DataError for an image that is too small or too large to use."""
    width, height = size
    if min(size) < 2:
        raise DataError(f"The image {name} has {width} x {height} pixels; at least 2 x 2 are needed.")
    if width * height > MAX_PIXELS:
        raise DataError(f"The image {name} has {width} x {height}, more than {MAX_PIXELS:,} pixels.")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB; transparent pixels become white, as in a viewer.

    Raises ValueError for numbers of unknown range.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        # 0..65535 to 0..255; Pillow's own conversion clips, which turns all but the darkest pixels white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels are integers of more than 16 bits")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(photo: Photo, side: int) -> Square:
    """Squash the whole image to a square (bicubic, antialiased), upright; crops are cut from it later."""
    pixels = photo.pixels
    if pixels.shape != (side, side, 3):
        # Equal to Pillow's bicubic resize but for roundings, in a quarter of its time.
        import torch
        from torch.nn.functional import interpolate

        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        square = interpolate(image, (side, side), mode="bicubic", antialias=True)[0]
        pixels = square.permute(1, 2, 0).numpy()
    return upright(pixels, photo.orientation).transpose(2, 0, 1)


def to_view(photo: Photo, side: int, resize: Resize = "tf2", exact: bool = False) -> View:
    """Cut the evaluation view: the official central crop; up to 32 pixels, the whole image.

    Args:
        photo: at full size; up to 32 pixels, `side` is enough.
        side: of the view, in pixels.
        resize: "tf2" or "tf1", see `clrkit.data.resize.resize_matrices`.
        exact: float32 in [0, 1], not rounded to uint8.
    """
    if side <= WHOLE:
        square = to_square(photo, side)
        return square / np.float32(255) if exact else square
    import torch

    from clrkit.data.resize import central_crop

    pixels = np.ascontiguousarray(upright(photo.pixels, photo.orientation).transpose(2, 0, 1))
    view: Float32[np.ndarray, "3 side side"] = central_crop(torch.from_numpy(pixels), side, resize).numpy()
    return view if exact else np.rint(255 * view).astype(np.uint8)


def upright(pixels: Rgb, orientation: int | None) -> Rgb:
    """Undo an EXIF orientation; the result is a view of the same memory."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = FLIPPED.get(orientation or 1, (1, 1))
    return pixels[::rows, ::columns]

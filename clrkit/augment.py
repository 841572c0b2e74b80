"""SimCLR augmentation as pure functions on batches; every image has its own random parameters.

Random draws and pixel operations are separate: `draw_*` returns parameters, the operations are deterministic
and follow the official `tf2/data_util.py` where torchvision differs. Parameters are drawn on the CPU, so
every device sees the same augmentation. The operations below define a view and make it on a GPU; on the CPU
compiled loops make the same view (`clrkit.fast.augment_numba`).

Operations take floats (batch, 3, height, width) in [0, 1]; views are cut from uint8 pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor

from clrkit.config import Augmentation
from clrkit.data.resize import resize_matrices, to_float
from clrkit.device import to_device
from clrkit.fast import quick_version

Images = Float[Tensor, "batch 3 height width"]
PerImage = Float[Tensor, " batch"]
Attempts = Float[Tensor, "batch attempts"]

CROP_ATTEMPTS = 10  # per square image; all fail for one in a thousand
OFFICIAL_ATTEMPTS = 100  # per other image: at 10:1 few crops have a permitted area
ALMOST_HALF = np.float32(0.4999)
MIN_COVERED = 0.1  # the official crop keeps a tenth of the image whatever the area asked for
ASPECT = (3 / 4, 4 / 3)
GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
JITTER_PROBABILITY, GREY_PROBABILITY, BLUR_PROBABILITY, FLIP_PROBABILITY = 0.8, 0.2, 0.5, 0.5
BLUR_SIGMA = (0.1, 2.0)


class Boxes(NamedTuple):
    """Crop boxes in pixels, one an image."""

    top: PerImage
    left: PerImage
    height: PerImage
    width: PerImage


class Jitter(NamedTuple):
    """Colour parameters, one set an image; `order` permutes (brightness, contrast, saturation, hue)."""

    applied: Bool[Tensor, " batch"]
    order: Int[Tensor, "batch 4"]
    brightness: PerImage
    contrast: PerImage
    saturation: PerImage
    hue: PerImage
    grey: Bool[Tensor, " batch"]


class ViewParams(NamedTuple):
    """The random parameters of one view of every image, on the CPU; `sigma` is 0 for no blur."""

    boxes: Boxes
    flip: Bool[Tensor, " batch"]
    jitter: Jitter
    sigma: PerImage

    def of(self, rows: Int[Tensor, " some"]) -> ViewParams:
        """What was drawn for some of the images."""
        boxes = Boxes(*(values[rows] for values in self.boxes))
        jitter = Jitter(*(values[rows] for values in self.jitter))
        return ViewParams(boxes, self.flip[rows], jitter, self.sigma[rows])


def uniform(count: int, low: float | Tensor, high: float | Tensor, rng: Generator) -> PerImage:
    return torch.rand(count, generator=rng) * (high - low) + low


def chance(count: int, probability: float, rng: Generator) -> Bool[Tensor, " batch"]:
    return torch.rand(count, generator=rng) < probability


def draw_boxes(
    count: int, side: int, area: tuple[float, float], rng: Generator, aspects: PerImage | None = None
) -> Boxes:
    """Random crops of a square image of `side` pixels, as `tf.image.sample_distorted_bounding_box` has them.

    The aspect is uniform in [3/4, 4/3], the *height* uniform among those of a permitted area, the position
    uniform without the last one. If no attempt succeeds, the box is the whole image. (Torchvision draws the
    area uniformly and the aspect log-uniformly: smaller crops.)

    Args:
        count: number of boxes.
        side: of the squares, in pixels.
        area: smallest and largest crop, as parts of the image's area.
        rng: a CPU generator.
        aspects: width over height of the images before they were resized to squares; None: all were square.
            Crops are distributed as on the originals, but their edges lie on pixels of the square.
    """
    square = aspects is None or bool((aspects == 1).all())
    size = (count, CROP_ATTEMPTS if square else OFFICIAL_ATTEMPTS)
    aspect = torch.rand(size, generator=rng) * (ASPECT[1] - ASPECT[0]) + ASPECT[0]
    if aspects is not None:
        aspect = aspect / aspects[:, None]
    heights, tops, lefts = (torch.rand(shape, generator=rng) for shape in (size, count, count))
    smallest, largest = area[0] * side**2, area[1] * side**2
    height, width = fit_boxes(aspect, heights, side, smallest, largest)
    return Boxes((tops * (side - height)).floor(), (lefts * (side - width)).floor(), height, width)


def fit_boxes(
    aspect: Attempts, heights: Attempts, side: int, smallest: float, largest: float
) -> tuple[PerImage, PerImage]:
    """Height and width of each image's first permitted crop; the whole image if none is permitted.

    Args:
        aspect: width over height in pixels of the square, (batch, attempts).
        heights: in [0, 1), where the height lies among those of a permitted area, (batch, attempts).
        side: of the square, in pixels.
        smallest, largest: bounds of the area, in pixels.
    """
    least, most, covered = torch.tensor((smallest, largest, max(smallest, MIN_COVERED * side**2)))
    widest = torch.tensor(side + ALMOST_HALF)
    high = torch.minimum((most / aspect).sqrt().round(), (widest / aspect).floor()).clamp(max=side)
    low = torch.minimum((least / aspect).sqrt().round(), high)
    rows = low + (heights * (high - low + 1)).floor()
    # Rounding may leave the permitted areas by a row; TensorFlow then takes one more or one less.
    rows = rows + (rows * (rows * aspect).round() < least)
    rows = rows - (rows * (rows * aspect).round() > most).to(rows.dtype)
    columns = (rows * aspect).round()
    area = rows * columns
    permitted = (rows <= side) & (columns <= side) & (covered <= area) & (area <= most)
    first = permitted.int().argmax(1, keepdim=True)
    found = permitted.any(1)
    chosen = (torch.where(found, each.gather(1, first)[:, 0], float(side)) for each in (rows, columns))
    return next(chosen), next(chosen)


def draw_jitter(count: int, strength: float, rng: Generator) -> Jitter:
    """Colour jitter of the given strength for 80% of the images, grey for 20%."""
    spread = {name: unit * strength for name, unit in JITTER.items()}
    order = torch.rand(count, 4, generator=rng).argsort(1)
    low, high = (1 - spread["brightness"], 1 + spread["brightness"])
    brightness = uniform(count, max(low, 0.0), high, rng)
    contrast = uniform(count, 1 - spread["contrast"], 1 + spread["contrast"], rng)
    saturation = uniform(count, 1 - spread["saturation"], 1 + spread["saturation"], rng)
    hue = uniform(count, -spread["hue"], spread["hue"], rng)
    applied, grey = chance(count, JITTER_PROBABILITY, rng), chance(count, GREY_PROBABILITY, rng)
    return Jitter(applied, order, brightness, contrast, saturation, hue, grey)


def crop_resize(
    images: Images, boxes: Boxes, size: int, flip: Bool[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Cut the boxes, resize bicubically to (size, size), mirror where `flip`. Overshoot is not clipped."""
    rows = resize_matrices(boxes.top, boxes.height, images.shape[2], size)
    columns = resize_matrices(boxes.left, boxes.width, images.shape[3], size)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ images @ columns[:, None].mT


def grayscale(images: Images) -> Images:
    red, green, blue = (weight * plane for weight, plane in zip(GREY_WEIGHTS, images.unbind(1), strict=True))
    return (red + green + blue)[:, None].expand_as(images)


def adjust_brightness(images: Images, factor: PerImage) -> Images:
    """SimCLRv2: multiplied by the factor."""
    return images * factor[:, None, None, None]


def add_brightness(images: Images, factor: PerImage) -> Images:
    """SimCLR v1: factor - 1 added."""
    return images + (factor - 1)[:, None, None, None]


def adjust_contrast(images: Images, factor: PerImage) -> Images:
    """About the mean of each channel (torchvision: one grey mean)."""
    mean = images.mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None])


def adjust_saturation(images: Images, factor: PerImage) -> Images:
    """HSV saturation times the factor, clipped to [0, 1]; value and hue stay."""
    value, chroma = value_and_chroma(images)
    # S = chroma / value, so the clip S * factor <= 1 is factor <= value / chroma.
    scale = torch.minimum(factor[:, None, None, None], value / chroma.clamp(min=1e-12))
    return value + (images - value) * scale


def adjust_hue(images: Images, turns: PerImage) -> Images:
    """HSV hue turned by a fraction of a full turn; value and saturation stay."""
    value, chroma = value_and_chroma(images)
    red, green, blue = images.unbind(1)
    top, width = value[:, 0], chroma[:, 0].clamp(min=1e-12)
    sixths = torch.where(top == green, 2 + (blue - red) / width, 4 + (red - green) / width)
    sixths = torch.where(top == red, (green - blue) / width, sixths)
    phase = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype)[None, :, None, None]
    wheel = phase + (sixths[:, None] + 6 * turns[:, None, None, None])
    wheel = wheel - 6 * (wheel / 6).floor()
    return value - chroma * torch.minimum(wheel, 4 - wheel).clamp(0, 1)


def value_and_chroma(images: Images) -> tuple[Tensor, Tensor]:
    # Much faster than amax and amin over three channels.
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    value = torch.maximum(torch.maximum(red, green), blue)
    return value, value - torch.minimum(torch.minimum(red, green), blue)


def color_jitter(images: Images, jitter: Jitter, brightness: str = "multiplied") -> Images:
    """The four colour operations in each image's own order, clipped to [0, 1] after each; then grey ones.

    `jitter` is on the CPU: the images of each operation are known there without waiting for the device.
    """
    brighten = adjust_brightness if brightness == "multiplied" else add_brightness
    operations = (brighten, adjust_contrast, adjust_saturation, adjust_hue)
    device = images.device
    factors = to_device(
        torch.stack((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)), device
    )
    jittered = jitter.applied.nonzero()[:, 0]
    orders = jitter.order[jittered]
    turns, counts = orders.argsort(0), [turn.bincount(minlength=4).tolist() for turn in orders.T]
    out, turns = images.clone(), to_device(jittered[turns], device)
    for turn, sizes in zip(turns.T, counts, strict=True):
        for operation, factor, chosen in zip(operations, factors, turn.split(sizes), strict=True):
            out[chosen] = operation(out[chosen], factor[chosen]).clamp(0, 1)
    grey = to_device(jitter.grey.nonzero()[:, 0], device)
    out[grey] = grayscale(out[grey])
    return out.clamp_(0, 1)


def blur(images: Images, sigma: PerImage, kernel_size: int) -> Images:
    """Gaussian blur with zero padding, as the official code (torchvision reflects), one sigma an image."""
    if not len(images):  # a convolution of no groups is refused
        return images
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    batch, channels, height, width = images.shape
    flat = images.reshape(1, batch * channels, height, width)
    flat = F.conv2d(flat, kernel[:, None, None, :], padding=(0, radius), groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], padding=(radius, 0), groups=batch * channels)
    return flat.reshape(images.shape).clamp(0, 1)


def sample_view_params(
    count: int, side: int, augmentation: Augmentation, rng: Generator, aspects: PerImage | None = None
) -> ViewParams:
    """Draw the parameters of `random_view` for `count` squares of `side` pixels."""
    boxes = draw_boxes(count, side, (augmentation.crop_area, 1.0), rng, aspects)
    never, zero, sigma = torch.zeros(count, dtype=torch.bool), torch.zeros(count), torch.zeros(count)
    flip = chance(count, FLIP_PROBABILITY, rng) if augmentation.flip else never
    if augmentation.color_strength > 0:
        jitter = draw_jitter(count, augmentation.color_strength, rng)
    else:
        jitter = Jitter(never, torch.arange(4).expand(count, 4), zero, zero, zero, zero, grey=never)
    if augmentation.blur:
        blurred = chance(count, BLUR_PROBABILITY, rng)
        sigma[blurred] = uniform(int(blurred.sum()), *BLUR_SIGMA, rng)
    return ViewParams(boxes, flip, jitter, sigma)


def cut_views(
    pixels: UInt8[Tensor, "batch 3 height width"],
    drawn: ViewParams,
    size: int,
    brightness: str = "multiplied",
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """The views with the parameters `drawn`, on the device of the pixels: crop, flip, colours, grey, blur."""
    images = to_float(pixels)
    device = pixels.device
    boxes = Boxes(*to_device(torch.stack(drawn.boxes), device))
    images = crop_resize(images, boxes, size, to_device(drawn.flip, device))
    images = color_jitter(images, drawn.jitter, brightness)
    blurred = drawn.sigma.nonzero()[:, 0]
    chosen, sigma = to_device(blurred, device), to_device(drawn.sigma[blurred], device)
    images[chosen] = blur(images[chosen], sigma, size // 10)
    return images


def random_view(
    pixels: UInt8[Tensor, "batch 3 side side"],
    augmentation: Augmentation,
    size: int,
    rng: Generator,
    aspects: PerImage | None = None,
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """One random view of every image: crop and resize, flip, colour jitter, grey, blur.

    Each image has its own parameters, the blur's sigma too (v1, appendix A). The official code draws one
    sigma for a batch of views: for each image the law is the same.

    If images were resized to squares, crops have the geometry of the originals. Their pixels are then resized
    twice, the first time with antialiasing; the official view is resized once, from the original.

    Args:
        pixels: square uint8 images on any device.
        augmentation: which operations, how strong.
        size: side of the view in pixels.
        rng: a CPU generator; the same state gives the same view on every device.
        aspects: width over height of the images before they were squashed, on the CPU; None: all square.
    """
    drawn = sample_view_params(len(pixels), pixels.shape[-1], augmentation, rng, aspects)
    return apply_view(pixels, drawn, augmentation, size)


def two_views(
    pixels: UInt8[Tensor, "batch 3 side side"], augmentation: Augmentation, size: int, rng: Generator
) -> tuple[Float[Tensor, "batch 3 {size} {size}"], Float[Tensor, "batch 3 {size} {size}"]]:
    """Two random views of every image; arguments as `random_view`.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> view1, view2 = two_views(pixels, Augmentation(crop_area=0.5), 28, rng)
    """
    first, second = random_view(pixels.repeat(2, 1, 1, 1), augmentation, size, rng).chunk(2)
    return first, second


def apply_view(
    pixels: UInt8[Tensor, "batch 3 side side"], drawn: ViewParams, augmentation: Augmentation, size: int
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """`random_view` with parameters drawn before."""
    quick = quick_version("cut_views") if pixels.device.type == "cpu" else None
    return (quick or cut_views)(pixels, drawn, size, augmentation.brightness)

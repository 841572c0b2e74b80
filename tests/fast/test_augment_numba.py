"""The compiled views against those of the batched operations, which are compared with the official code."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from clrkit import augment
from clrkit.augment import Boxes, ViewParams
from clrkit.config import Augmentation
from clrkit.fast import augment_numba

FULL = Augmentation(blur=True)

# A pixel comes from some dozen operations on numbers about 1, each rounded once. Of these brightness,
# contrast and saturation multiply what came before by 2 at most. A hundred roundings leave a
# margin, and are a fortieth of one step of a pixel's 256 values.
BOUND = 100 * torch.finfo(torch.float32).eps * 2**3


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pixels(count: int, side: int, seed: int = 0) -> Tensor:
    """Noise, two-coloured noise, one colour, grey noise and smooth images in turn."""
    noise = torch.randint(0, 256, (count, 3, side, side), generator=rng(seed), dtype=torch.uint8)
    noise[1::5] = 255 * (noise[1::5] > 127).byte()
    noise[2::5] = noise[2::5, :, :1, :1]
    noise[3::5] = noise[3::5, :1]
    ramp = torch.linspace(0, 255, side).byte()
    noise[4::5, 0], noise[4::5, 1] = ramp, ramp[:, None]
    return noise


def largest_difference(images: Tensor, drawn: ViewParams, size: int, brightness: str = "multiplied") -> float:
    compiled = augment_numba.cut_views(images, drawn, size, brightness)
    return (compiled - augment.cut_views(images, drawn, size, brightness)).abs().max().item()


@pytest.mark.parametrize("brightness", ["multiplied", "added"])
@pytest.mark.parametrize(("side", "size"), [(28, 28), (32, 32), (24, 61), (73, 64), (9, 5), (2, 20)])
def test_compiled_views_are_those_of_the_batched_operations(side, size, brightness):
    images = pixels(200, side)
    drawn = augment.sample_view_params(200, side, FULL, rng())
    assert largest_difference(images, drawn, size, brightness) < BOUND


def test_compiled_views_of_photographs_are_those_of_the_batched_operations():
    drawn = augment.sample_view_params(10, 256, FULL, rng(), torch.full((10,), 1.5))
    assert drawn.sigma.count_nonzero() >= 3
    assert largest_difference(pixels(10, 256), drawn, 224) < BOUND


@pytest.mark.parametrize("strength", [0.25, 1.0, 1.25])
def test_strong_colours_are_those_of_the_batched_operations(strength):
    drawn = augment.sample_view_params(300, 16, replace(FULL, color_strength=strength), rng())
    assert largest_difference(pixels(300, 16), drawn, 16) < BOUND


def test_what_is_switched_off_is_left_out():
    plain = Augmentation(crop_area=1.0, flip=False, color_strength=0.0)
    images = pixels(20, 16)
    drawn = augment.sample_view_params(20, 16, plain, rng())
    for cut in (augment.cut_views, augment_numba.cut_views):
        torch.testing.assert_close(cut(images, drawn, 16), augment.to_float(images), rtol=0, atol=1e-6)


def test_a_view_does_not_depend_on_its_batch():
    images, drawn = pixels(12, 20), augment.sample_view_params(12, 20, FULL, rng())
    together = augment_numba.cut_views(images, drawn, 20)
    for i in range(12):
        boxes, jitter = (
            type(part)(*(row[i : i + 1] for row in part)) for part in (drawn.boxes, drawn.jitter)
        )
        alone = ViewParams(boxes, drawn.flip[i : i + 1], jitter, drawn.sigma[i : i + 1])
        assert augment_numba.cut_views(images[i : i + 1], alone, 20).equal(together[i : i + 1])


def test_a_view_does_not_depend_on_the_number_of_threads(monkeypatch):
    images, drawn = pixels(7, 20), augment.sample_view_params(7, 20, FULL, rng())
    alone = augment_numba.cut_views(images, drawn, 20)
    monkeypatch.setattr(augment_numba, "SHARED_OUT", 0)
    for threads in (1, 3, 16):
        monkeypatch.setattr(augment_numba, "cutting_threads", lambda threads=threads: threads)
        assert augment_numba.cut_views(images, drawn, 20).equal(alone)


def test_views_lie_in_channels_last_memory_whatever_that_of_the_images():
    images, drawn = pixels(6, 20), augment.sample_view_params(6, 20, FULL, rng())
    views = augment_numba.cut_views(images, drawn, 24)
    assert views.is_contiguous(memory_format=torch.channels_last)
    turned = images.contiguous(memory_format=torch.channels_last)
    assert augment_numba.cut_views(turned, drawn, 24).equal(views)


def test_no_images_have_no_views():
    drawn = augment.sample_view_params(0, 20, FULL, rng())
    for cut in (augment.cut_views, augment_numba.cut_views):
        assert cut(pixels(5, 20)[:0], drawn, 24).shape == (0, 3, 24, 24)


def test_compiled_crops_are_the_official_ones(golden, exact):
    official = golden("augment")
    cases = [key.split("/")[0] for key in official if key.startswith("cropresize") and "image" in key]
    assert len(cases) >= 4
    for case in cases:
        _, _, box, target = case.split("_")
        size = int(target.removeprefix("to"))
        image = torch.from_numpy(official[f"{case}/image_uint8"][None]).permute(0, 3, 1, 2)
        nothing = augment.sample_view_params(
            1, 8, Augmentation(crop_area=1.0, flip=False, color_strength=0.0), rng()
        )
        boxes = Boxes(*(torch.tensor([float(edge)]) for edge in box.removeprefix("box").split("-")))
        ours = augment_numba.cut_views(image, nothing._replace(boxes=boxes), size)[0].permute(1, 2, 0)
        exact("augmentation: compiled crops", ours, official[f"{case}/tf2_preclip"].clip(0, 1), 1e-5)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 6, 22])
def test_a_compiled_blur_reaches_beyond_a_small_image(kernel_size):
    planes = np.random.RandomState(0).rand(3, 9, 9).astype(np.float32)
    expected = augment.blur(torch.from_numpy(planes.copy())[None], torch.tensor([1.3]), kernel_size)[0]
    augment_numba.blur(planes, np.float32(1.3), kernel_size)
    torch.testing.assert_close(torch.from_numpy(planes), expected, rtol=0, atol=1e-6)

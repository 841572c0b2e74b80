"""Pixel operations against loops and the official numbers, and views as a whole."""

import colorsys
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clrkit import augment
from clrkit.augment import Boxes, Jitter
from clrkit.config import Augmentation
from clrkit.data.resize import central_crop

PLAIN = Augmentation(crop_area=1.0, flip=False, color_strength=0.0)
FULL = Augmentation(blur=True)


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=rng(seed))


def pixels(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=rng(seed), dtype=torch.uint8)


def each(value: float, images: Tensor) -> Tensor:
    return torch.full((len(images),), value)


def nchw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def close(ours: Tensor, theirs: Tensor, atol: float = 2e-6) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def share(truths: Tensor) -> float:
    return truths.double().mean().item()


def within(count: int, probability: float, expected: float) -> bool:
    """Whether a share of `count` draws lies within four standard deviations."""
    return abs(probability - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


# Pixel operations

COLOURS = torch.tensor(
    [*itertools.product((0.0, 0.5, 1.0), repeat=3), *noise(37, 3).tolist()], dtype=torch.float32
)
SWATCHES = COLOURS.T.reshape(1, 3, 8, 8)  # greys, primaries and their mixtures among them


def through_hsv(change: object) -> Tensor:
    assert callable(change)
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*colour))) for colour in COLOURS.tolist()]
    return torch.tensor(changed, dtype=torch.float32).T.reshape(1, 3, 8, 8)


@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0, 1.8, 5.0])
def test_saturation_is_scaled_and_clipped_in_hsv(factor):
    expected = through_hsv(lambda h, s, v: (h, min(s * factor, 1), v))
    close(augment.adjust_saturation(SWATCHES, each(factor, SWATCHES)), expected)


@pytest.mark.parametrize("turns", [-0.2, -0.07, 0.0, 0.1, 0.5, 1.0])
def test_hue_is_turned_in_hsv(turns):
    expected = through_hsv(lambda h, s, v: ((h + turns) % 1, s, v))
    close(augment.adjust_hue(SWATCHES, each(turns, SWATCHES)), expected)


def test_brightness_is_multiplied_in_v2_and_added_in_v1():
    images, factor = noise(2, 3, 2, 2), torch.tensor([0.5, 1.7])
    for image, value, multiplied, added in zip(
        images,
        factor,
        augment.adjust_brightness(images, factor),
        augment.add_brightness(images, factor),
        strict=True,
    ):
        close(multiplied, image * value)
        close(added, image + (value - 1))


def test_contrast_is_about_the_mean_of_each_channel_of_each_image():
    images, factor = noise(2, 3, 4, 5), torch.tensor([0.3, 1.6])
    out = augment.adjust_contrast(images, factor)
    for i, channel in itertools.product(range(2), range(3)):
        mean = images[i, channel].mean()
        close(out[i, channel], (images[i, channel] - mean) * factor[i] + mean)


def test_grey_has_the_luminance_in_all_channels():
    images = noise(2, 3, 4, 5)
    grey = 0.2989 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    close(augment.grayscale(images), grey[:, None].expand(2, 3, 4, 5))


@pytest.mark.parametrize(("kernel_size", "radius"), [(1, 0), (3, 1), (4, 2), (9, 4)])
def test_blur_is_gaussian_with_zeros_beyond_the_border(kernel_size, radius):
    images, sigma = noise(2, 3, 6, 7), torch.tensor([0.4, 1.5])
    out = augment.blur(images, sigma, kernel_size)
    for i in range(2):
        taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma[i].item() ** 2))
        padded = np.pad(images[i].numpy(), ((0, 0), (radius, radius), (radius, radius)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape * 2, axis=(1, 2))
        expected = np.einsum("cyxij,i,j->cyx", windows, taps, taps) / taps.sum() ** 2
        close(out[i], torch.from_numpy(expected).float())


def keys_kernel(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0


@pytest.mark.parametrize(("start", "length", "source", "target"), [(0, 9, 9, 5), (3, 6, 12, 8), (2, 1, 4, 3)])
def test_resizing_weighs_the_pixels_of_the_crop_alone_with_keys_kernel(start, length, source, target):
    expected = torch.zeros(target, source)
    for out in range(target):
        position = (out + 0.5) * length / target - 0.5
        whole = math.floor(position)
        position = whole + round((position - whole) * 1024) / 1024
        for tap in range(length):
            expected[out, start + tap] = keys_kernel(tap - position)
    expected /= expected.sum(1, keepdim=True)
    ours = augment.resize_matrices(
        torch.tensor([float(start)]), torch.tensor([float(length)]), source, target
    )
    close(ours[0], expected)


def test_a_crop_of_its_own_size_is_cut_out_exactly():
    images, boxes = (
        noise(2, 3, 9, 9),
        Boxes(*(torch.tensor(b) for b in ([1.0, 4], [2.0, 0], [5.0, 5], [5.0, 5]))),
    )
    cut = augment.crop_resize(images, boxes, 5)
    close(cut[0], images[0, :, 1:6, 2:7])
    close(cut[1], images[1, :, 4:9, 0:5])


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
@pytest.mark.parametrize("shape", [(2, 2), (2, 90), (300, 7), (33, 32), (700, 500)])
def test_an_image_of_any_shape_has_an_evaluation_view_of_its_centre(shape, resize):
    image = torch.full((3, *shape), 90, dtype=torch.uint8)
    image[:, : shape[0] // 20], image[:, :, : shape[1] // 20] = 0, 0
    close(central_crop(image, 40, resize), torch.full((3, 40, 40), 90 / 255))


def test_a_crop_of_the_squashed_image_shows_what_the_crop_of_the_original_shows():
    rows, columns = torch.linspace(0, 3, 60)[:, None], torch.linspace(0, 5, 90)
    smooth = torch.stack((rows.sin() + 0 * columns, columns.cos() + 0 * rows, (rows + columns).sin()))
    photo = (127 + 120 * smooth).byte()
    square = F.interpolate(photo[None].float(), (90, 90), mode="bicubic").clamp(0, 255).byte()
    (boxes, stored) = (
        Boxes(*(torch.tensor([float(value)]) for value in box))
        for box in ((20, 27, 30, 36), (30, 27, 45, 36))
    )
    expected = augment.crop_resize(augment.to_float(photo[None]), boxes, 24)
    close(augment.crop_resize(augment.to_float(square), stored, 24), expected, 0.02)


def test_only_the_chosen_images_are_mirrored():
    images = noise(3, 3, 6, 6)
    boxes = Boxes(*(torch.tensor(b) for b in ([1.0, 0, 2], [0.0, 1, 2], [4.0, 5, 3], [6.0, 4, 4])))
    straight = augment.crop_resize(images, boxes, 6)
    mirrored = augment.crop_resize(images, boxes, 6, torch.tensor([True, False, True]))
    close(mirrored, torch.stack((straight[0].flip(2), straight[1], straight[2].flip(2))))


# The official pixel operations


@pytest.fixture
def official(golden):
    return golden("augment")


OPERATIONS = {
    "brightness_v2": augment.adjust_brightness,
    "brightness_v1": lambda images, delta: augment.add_brightness(images, 1 + delta),
    "contrast": augment.adjust_contrast,
    "saturation": augment.adjust_saturation,
    "hue": augment.adjust_hue,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_colour_operation_is_the_official_one(official, exact, name):
    images = nchw(official["image"])
    values = [key.split("/")[1] for key in official if key.startswith(f"{name}/")]
    assert len(values) >= 2
    for value in values:
        ours = OPERATIONS[name](images, each(float(value), images))
        exact(f"augmentation: {name.replace('_', ' of ')}", ours, nchw(official[f"{name}/{value}"]), 1e-5)


def test_grey_is_the_official_one(official, exact):
    ours = augment.grayscale(nchw(official["image"]))
    exact("augmentation: grey", ours, nchw(official["grayscale"]), 1e-5)


@pytest.mark.parametrize("order", ["bcsh", "hscb", "sbhc"])
def test_colour_operations_in_a_row_are_clipped_after_each_as_the_official_ones(official, exact, order):
    images = nchw(official["image"])
    factors = [each(float(value), images) for value in official["compose_factors"]]
    never, always = torch.zeros(len(images)).bool(), torch.ones(len(images)).bool()
    places = torch.tensor(["bcsh".index(letter) for letter in order]).expand(len(images), 4)
    jitter = Jitter(always, places, *factors, grey=never)
    ours, part = (
        augment.color_jitter(images, jitter),
        "augmentation: colour operations in several orders, clipped",
    )
    exact(part, ours, nchw(official[f"compose_{order}"]), 1e-5)


def test_small_blurs_are_the_official_ones(official, exact):
    images = nchw(official["image"])
    cases = [key for key in official if key.startswith("blur32_")]
    assert len(cases) >= 4
    for case in cases:
        kernel_size, sigma = (part[1:] for part in case.split("_")[1:])
        ours = augment.blur(images, each(float(sigma), images), int(kernel_size))
        exact("augmentation: blur of 32 x 32", ours, nchw(official[case]), 1e-5)


@pytest.mark.parametrize("sigma", ["0.1", "1", "2"])
def test_the_blur_of_a_large_image_is_the_official_one(full_golden, exact, sigma):
    official = full_golden("augment")
    images = augment.to_float(nchw(official["blur_image224"][None]))
    ours = augment.blur(images, each(float(sigma), images), 22)[0].permute(1, 2, 0)
    seen = {"tl": ours[:48, :48], "center": ours[96:128, 96:128], "mean": ours.mean()}
    for name, values in seen.items():
        exact("augmentation: blur of 224 x 224", values, official[f"blur224_k22_s{sigma}/{name}"], 1e-5)


def test_resizing_is_the_official_bicubic(official, exact):
    cases = [key for key in official if key.startswith("resize_matrix_tf2_")]
    assert len(cases) >= 5
    for case in cases:
        source, target = map(int, case.removeprefix("resize_matrix_tf2_").split("to"))
        ours = augment.resize_matrices(torch.zeros(1), torch.tensor([float(source)]), source, target)[0]
        exact("augmentation: matrices of the bicubic resize", ours, official[case], 1e-5)


def test_crops_are_resized_as_the_official_ones(official, exact):
    cases = [key.split("/")[0] for key in official if key.startswith("cropresize") and "image" in key]
    assert len(cases) >= 4
    for case in cases:
        _, _, box, target = case.split("_")
        top, left, height, width = (torch.tensor([float(x)]) for x in box.removeprefix("box").split("-"))
        images = augment.to_float(nchw(official[f"{case}/image_uint8"][None]))
        ours = augment.crop_resize(images, Boxes(top, left, height, width), int(target.removeprefix("to")))
        exact("augmentation: crop and resize", ours, nchw(official[f"{case}/tf2_preclip"][None]), 1e-5)


def test_the_evaluation_view_is_the_official_one(official, exact):
    cases = [key.split("/")[0] for key in official if key.startswith("evalcrop") and "image" in key]
    assert len(cases) >= 5
    for case in cases:
        image = nchw(official[f"{case}/image_uint8"][None])[0]
        ours = central_crop(image, int(case.rpartition("to")[2]))
        exact("evaluation: central crop, bicubic", ours, nchw(official[f"{case}/output"][None])[0], 1e-5)


def test_the_older_resizing_is_the_official_one_of_tf1(official, exact):
    cases = [key for key in official if key.startswith("resize_matrix_tf1_")]
    assert len(cases) >= 5
    for case in cases:
        source, target = map(int, case.removeprefix("resize_matrix_tf1_").split("to"))
        length = torch.tensor([float(source)])
        ours = augment.resize_matrices(torch.zeros(1), length, source, target, "tf1")[0]
        exact("evaluation: matrices of the bicubic resize of TF1", ours, official[case], 1e-5)


def test_crops_are_resized_as_those_of_tf1(official, exact):
    cases = [key.split("/")[0] for key in official if key.startswith("cropresize") and "image" in key]
    for case in cases:
        _, _, box, target = case.split("_")
        top, left, height, width = (torch.tensor([float(x)]) for x in box.removeprefix("box").split("-"))
        image = augment.to_float(nchw(official[f"{case}/image_uint8"][None]))[0]
        size = int(target.removeprefix("to"))
        rows = augment.resize_matrices(top, height, image.shape[1], size, "tf1")
        columns = augment.resize_matrices(left, width, image.shape[2], size, "tf1")
        ours, expected = rows @ image @ columns.mT, nchw(official[f"{case}/tf1_preclip"][None])[0]
        exact("evaluation: crop and resize of TF1", ours, expected, 1e-5)


def test_the_evaluation_view_of_tf1_is_its_resize_of_the_same_crop(official, exact):
    case = "cropresize_40x40_box0-0-40-40_to32"
    image = torch.zeros(3, 46, 60, dtype=torch.uint8)
    image[:, 3:43, 10:50] = nchw(official[f"{case}/image_uint8"][None])[0]  # where 0.875 of 46 x 60 lies
    expected = nchw(official[f"{case}/tf1_preclip"][None])[0].clamp(0, 1)
    exact("evaluation: central crop, bicubic of TF1", central_crop(image, 32, "tf1"), expected, 1e-5)


def test_pixels_become_the_official_floats(official, exact):
    ours = augment.to_float(torch.from_numpy(official["convert_uint8/in"]).expand(1, 3, 1, 256))
    exact("augmentation: pixels to floats", ours[0, 0, 0], official["convert_uint8/out"], 1e-7)


# Colour


@pytest.mark.parametrize("brightness", ["multiplied", "added"])
def test_a_batch_is_jittered_as_its_images_one_by_one_in_their_own_orders(brightness):
    images, jitter = noise(40, 3, 5, 5), augment.draw_jitter(40, 1.0, rng())
    out = augment.color_jitter(images, jitter, brightness)
    brighten = augment.adjust_brightness if brightness == "multiplied" else augment.add_brightness
    operations = [brighten, augment.adjust_contrast, augment.adjust_saturation, augment.adjust_hue]
    factors = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue]
    for i in range(40):
        expected = images[i : i + 1]
        for which in jitter.order[i].tolist() if jitter.applied[i] else []:
            expected = operations[which](expected, factors[which][i : i + 1]).clamp(0, 1)
        close(out[i : i + 1], augment.grayscale(expected) if jitter.grey[i] else expected)
    assert {bool(value) for value in jitter.applied} == {True, False}


def test_jitter_leaves_its_input_alone():
    images = noise(8, 3, 5, 5)
    before = images.clone()
    augment.color_jitter(images, augment.draw_jitter(8, 1.0, rng()))
    assert images.equal(before)


# Views


def test_a_view_without_randomness_is_the_image():
    images = pixels(4, 12)
    close(augment.random_view(images, PLAIN, 12, rng()), augment.to_float(images))


@pytest.mark.parametrize("augmentation", [FULL, PLAIN, replace(FULL, color_strength=0.0, brightness="added")])
@pytest.mark.parametrize("size", [12, 24, 30])
def test_a_view_is_a_float_image_of_the_size_in_0_to_1(augmentation, size):
    # Black and white pixels make the bicubic overshoot as large as it can be.
    images = 255 * (pixels(64, 24) > 127).byte()
    view = augment.random_view(images, augmentation, size, rng())
    assert view.shape == (64, 3, size, size)
    assert view.dtype == torch.float32
    assert view.min() >= 0
    assert view.max() <= 1


def test_every_copy_of_an_image_in_a_batch_is_seen_differently():
    views = augment.random_view(pixels(1, 32).expand(200, 3, 32, 32), FULL, 32, rng()).flatten(1)
    assert len(views.unique(dim=0)) == 200


def test_the_same_generator_gives_the_same_views_and_goes_on_to_others():
    images, first, second = pixels(16, 20), rng(3), rng(3)
    one, two = (augment.random_view(images, FULL, 20, generator) for generator in (first, second))
    assert one.equal(two)
    assert not augment.random_view(images, FULL, 20, first).equal(one)
    assert not augment.random_view(images, FULL, 20, rng(4)).equal(one)


def test_what_is_drawn_does_not_depend_on_the_images():
    generators = rng(5), rng(5)
    augment.random_view(pixels(16, 20), FULL, 20, generators[0])
    augment.random_view(torch.zeros(16, 3, 20, 20, dtype=torch.uint8), FULL, 20, generators[1])
    assert generators[0].get_state().equal(generators[1].get_state())


def test_views_draw_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    augment.random_view(pixels(4, 20), FULL, 20, rng())
    assert torch.get_rng_state().equal(before)


def test_aspects_of_one_change_nothing():
    images = pixels(16, 30)
    views = augment.random_view(images, FULL, 24, rng(), torch.ones(16))
    assert views.equal(augment.random_view(images, FULL, 24, rng()))


def test_the_crops_of_squares_never_change():
    top, left, height, width = augment.draw_boxes(5, 28, (0.5, 1.0), rng())
    assert torch.stack((top, left, height, width)).tolist() == [
        [1, 1, 2, 2, 0],
        [0, 0, 0, 4, 1],
        [26, 26, 19, 21, 24],
        [27, 25, 22, 19, 25],
    ]


def test_half_of_the_views_are_mirrored():
    images = pixels(1, 8).expand(4000, 3, 8, 8)
    views = augment.random_view(images, replace(PLAIN, flip=True), 8, rng())
    mirrored = (views - augment.to_float(images).flip(3)).abs().amax((1, 2, 3)) < 1e-4
    straight = (views - augment.to_float(images)).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored ^ straight).all()
    assert within(4000, share(mirrored), 0.5)


def test_half_of_the_views_are_blurred_each_with_its_own_sigma():
    images = pixels(1, 30).expand(2000, 3, 30, 30)
    views = augment.random_view(images, replace(PLAIN, blur=True), 30, rng())
    centre, original = views[:, 0, 14, 14], images[0, 0, 14, 14] / 255
    changed = (views - augment.to_float(images)).abs().amax((1, 2, 3)) > 1e-6
    # The faintest blurs, of a sigma below 0.2, hardly change a pixel.
    assert 0.45 < share(changed) < 0.53
    assert len(centre[changed].unique()) > 0.9 * changed.sum()
    assert (centre[~changed] - original).abs().max() < 1e-6


def test_colours_are_left_alone_at_strength_0():
    grey = torch.randint(0, 256, (32, 1, 16, 16), generator=rng(), dtype=torch.uint8).expand(32, 3, 16, 16)
    view = augment.random_view(grey, Augmentation(color_strength=0.0), 16, rng())
    close(view, view.mean(1, keepdim=True).expand_as(view))
    tinted = pixels(256, 16)
    view = augment.random_view(tinted, replace(PLAIN, color_strength=0.0), 16, rng())
    close(view, augment.to_float(tinted))

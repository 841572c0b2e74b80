"""Random laws of augmentation against the official ones. Seeds are fixed; a test fails below p = 1e-4."""

import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from clrkit import augment
from clrkit.augment import Boxes
from clrkit.config import Augmentation, Pretrain
from clrkit.training import step_generator

CHANCE = 1e-4
COUNT = 20_000
IMAGENET = (0.08, 1.0)


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def is_uniform(draws: Tensor, low: float, high: float) -> bool:
    inside = low <= draws.min() and draws.max() <= high
    law = stats.uniform(low, high - low).cdf
    return bool(inside) and stats.kstest(draws.double().numpy(), law).pvalue > CHANCE


def is_share(truths: Tensor, expected: float) -> bool:
    return stats.binomtest(int(truths.sum()), len(truths), expected).pvalue > CHANCE


def are_unrelated(first: Tensor, second: Tensor) -> bool:
    return stats.pearsonr(first.double().numpy(), second.double().numpy()).pvalue > CHANCE


# Crops


def distance(ours: Tensor, quantiles: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of draws from a law given by its quantiles from 0 to 1."""
    values, levels = np.sort(ours.numpy()), np.linspace(0, 1, len(quantiles))
    below = np.searchsorted(values, quantiles - 1e-9, "left") / len(values)
    up_to = np.searchsorted(values, quantiles + 1e-9, "right") / len(values)
    return max((below - levels).max(), (levels - up_to).max())


def in_original(boxes: Boxes, height: int, width: int, side: int) -> Boxes:
    """Boxes of the squashed image in pixels of the original."""
    rows, columns = height / side, width / side
    top, left, tall, wide = (values.double() for values in boxes)
    return Boxes(top * rows, left * columns, tall * rows, wide * columns)


def crop_laws(boxes: Boxes, height: int, width: int) -> dict[str, Tensor]:
    """What the golden file has quantiles of."""
    return {
        "height": boxes.height,
        "width": boxes.width,
        "area": boxes.height * boxes.width / (height * width),
        "aspect": boxes.width / boxes.height,
        "y0_rel": boxes.top / (height - boxes.height).clamp(min=1),
        "x0_rel": boxes.left / (width - boxes.width).clamp(min=1),
    }


@pytest.mark.parametrize(
    ("height", "width", "side"), [(32, 32, 32), (224, 224, 224), (375, 500, 256), (64, 80, 64)]
)
def test_crops_follow_the_official_law(golden, height, width, side):
    official, name = golden("augment"), f"cropstats_{height}x{width}"
    aspects = torch.full((40_000,), width / height)
    drawn = augment.draw_boxes(40_000, side, IMAGENET, rng(), None if height == width else aspects)
    laws = crop_laws(in_original(drawn, height, width, side), height, width)
    apart = {law: distance(draws, official[f"{name}/{law}_quantiles"]) for law, draws in laws.items()}
    grid = 0 if height == width else 1 / side  # edges lie on the square's pixels
    assert max(apart.values()) < 0.0115 + grid, apart  # the 1% point of equal laws
    whole = ((drawn.height == side) & (drawn.width == side)).double().mean().item()
    assert whole == pytest.approx(float(official[f"{name}/full_image_fraction"]), abs=1e-3)


def official_crop(height: int, width: int, draw: random.Random) -> tuple[int, int, int, int]:
    """One crop of the original, by TensorFlow's rules, an attempt at a time: top, left, height, width."""
    smallest, pixels = IMAGENET[0] * height * width, height * width
    for _ in range(100):
        aspect = draw.uniform(3 / 4, 4 / 3)
        low, high = round(math.sqrt(smallest / aspect)), round(math.sqrt(pixels / aspect))
        high = min(high, height, math.floor((width + 0.4999) / aspect))
        tall = draw.randint(min(low, high), high)
        tall += round(tall * aspect) * tall < smallest
        wide = round(tall * aspect)
        if tall <= height and 0 < wide <= width and 0.1 * pixels <= tall * wide <= pixels:
            top = draw.randrange(height - tall) if tall < height else 0
            return top, draw.randrange(width - wide) if wide < width else 0, tall, wide
    return 0, 0, height, width


@pytest.mark.parametrize(("height", "width"), [(500, 375), (1000, 4000), (6000, 600), (600, 7200)])
def test_crops_of_long_images_follow_the_law_too(height, width):
    draw = random.Random(0)
    rows = [official_crop(height, width, draw) for _ in range(2000)]
    expected = Boxes(*torch.tensor(rows).double().T)
    drawn = augment.draw_boxes(2000, 2048, IMAGENET, rng(), torch.full((2000,), width / height))
    ours = in_original(drawn, height, width, 2048)
    laws = [crop_laws(boxes, height, width) for boxes in (ours, expected)]
    for name in laws[0].keys() - {
        "x0_rel" if height > width else "y0_rel"
    }:  # few pixels to move the short way
        apart = stats.ks_2samp(*(law[name].numpy() for law in laws)).statistic
        assert apart < 2.225 * math.sqrt(2 / 2000) + 0.01, name  # p = 1e-4, and the grid
    whole = [((boxes.height == height) & (boxes.width == width)).sum() for boxes in (ours, expected)]
    assert stats.fisher_exact([[int(count), 2000 - int(count)] for count in whole]).pvalue > CHANCE


def test_every_crop_of_a_batch_has_the_geometry_of_its_own_image():
    aspects = torch.tensor([0.5, 1.0, 1.6]).repeat(2000)
    boxes = augment.draw_boxes(6000, 512, IMAGENET, rng(), aspects)
    seen = (boxes.width / boxes.height * aspects).reshape(2000, 3)
    for column, aspect in enumerate((0.5, 1.0, 1.6)):
        alone = augment.draw_boxes(2000, 512, IMAGENET, rng(1), torch.full((2000,), aspect))
        expected = alone.width / alone.height * aspect
        assert stats.ks_2samp(seen[:, column].numpy(), expected.numpy()).pvalue > CHANCE


@pytest.mark.parametrize("side", [8, 28, 33])
@pytest.mark.parametrize("smallest", [0.08, 0.35, 0.9])
@pytest.mark.parametrize("aspect", [None, 0.7, 1.3])
def test_crops_lie_in_the_image_and_keep_to_the_area_and_aspect_asked_for(side, smallest, aspect):
    aspects = None if aspect is None else torch.full((5000,), aspect)
    boxes = augment.draw_boxes(5000, side, (smallest, 1.0), rng(), aspects)
    for start, length in ((boxes.top, boxes.height), (boxes.left, boxes.width)):
        assert start.eq(start.floor()).all()
        assert length.eq(length.floor()).all()
        assert start.min() >= 0
        assert (start + length).max() <= side
        assert length.min() >= 1
    assert (boxes.height * boxes.width).min() >= max(smallest, 0.1) * side**2
    whole = (boxes.height == side) & (boxes.width == side)
    # Half a pixel of rounding beside 3/4 to 4/3.
    assert (((boxes.width + 0.5) / boxes.height * (aspect or 1) >= 3 / 4 - 1e-6) | whole).all()
    assert (((boxes.width - 0.5) / boxes.height * (aspect or 1) <= 4 / 3 + 1e-6) | whole).all()


@pytest.mark.parametrize("aspect", [None, 0.7, 1e-4, 1e4])
def test_where_no_crop_is_permitted_it_is_the_whole_image(aspect):
    smallest = 1.0 if aspect in (None, 0.7) else 0.08
    aspects = None if aspect is None else torch.full((100,), aspect)
    boxes = augment.draw_boxes(100, 28, (smallest, 1.0), rng(), aspects)
    assert [values.unique().tolist() for values in boxes] == [[0.0], [0.0], [28.0], [28.0]]


# Colour


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.25])
def test_colour_factors_are_uniform_in_the_official_ranges(strength):
    jitter = augment.draw_jitter(COUNT, strength, rng())
    assert is_uniform(jitter.brightness, max(1 - 0.8 * strength, 0), 1 + 0.8 * strength)
    assert is_uniform(jitter.contrast, 1 - 0.8 * strength, 1 + 0.8 * strength)
    assert is_uniform(jitter.saturation, 1 - 0.8 * strength, 1 + 0.8 * strength)
    assert is_uniform(jitter.hue, -0.2 * strength, 0.2 * strength)


def test_four_in_five_images_are_jittered_and_one_in_five_is_grey():
    jitter = augment.draw_jitter(COUNT, 1.0, rng())
    assert is_share(jitter.applied, 0.8)
    assert is_share(jitter.grey, 0.2)
    assert is_share(jitter.grey & jitter.applied, 0.16)


def test_all_24_orders_of_the_colour_operations_are_equally_likely():
    order = augment.draw_jitter(COUNT, 1.0, rng()).order
    assert order.sort(1).values.unique(dim=0).tolist() == [[0, 1, 2, 3]]
    counts = torch.unique(order, dim=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > CHANCE


# What one call draws: operation by operation, image by image


def draws(generator: Generator, count: int) -> dict[str, Tensor]:
    """Everything that `random_view` draws for `count` images, by name; sigma is 0 where there is no blur."""
    boxes, flip, jitter, sigma = augment.sample_view_params(count, 16, Augmentation(blur=True), generator)
    seen = boxes._asdict() | jitter._asdict() | {"flip": flip, "sigma": sigma}
    first, second, third, _ = seen.pop("order").T
    return seen | {"first": first, "second": second, "third": third, "blurred": seen["sigma"] > 0}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    return draws(rng(), COUNT)


def test_half_of_the_views_are_mirrored_and_half_blurred(drawn):
    assert is_share(drawn["flip"], 0.5)
    assert is_share(drawn["blurred"], 0.5)


def test_every_blurred_image_has_a_sigma_of_its_own_uniform_in_the_official_range(drawn):
    sigma = drawn["sigma"][drawn["blurred"]]
    assert is_uniform(sigma, 0.1, 2.0)
    assert len(sigma.unique()) > 0.99 * len(sigma)


DEPENDENT = (
    {"top", "left", "height", "width"},
    {"first", "second", "third"},
    {"sigma", "blurred"},
)  # by their law


def pairs(names: Iterator[str]) -> list[tuple[str, str]]:
    return [pair for pair in itertools.combinations(names, 2) if not any(set(pair) <= d for d in DEPENDENT)]


def test_the_operations_on_an_image_are_independent(drawn):
    related = [pair for pair in pairs(iter(drawn)) if not are_unrelated(drawn[pair[0]], drawn[pair[1]])]
    assert not related


@pytest.mark.parametrize("apart", [1, 2, COUNT // 2])
def test_the_images_of_a_batch_and_the_two_views_of_an_image_are_independent(drawn, apart):
    """The two views of pretraining lie half a batch apart."""
    related = [name for name, row in drawn.items() if not are_unrelated(row[apart:], row[:-apart])]
    assert not related


def test_steps_and_seeds_are_independent(drawn):
    generators = [step_generator(Pretrain(seed=seed), step) for seed, step in ((0, 0), (0, 1), (1, 0))]
    sets = [draws(generator, 5000) for generator in generators]
    for one, other in itertools.combinations(sets, 2):
        assert not [name for name in one if not are_unrelated(one[name], other[name])]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "sigma"])
def test_nothing_is_shared_across_the_batch(drawn, name):
    values = drawn[name][drawn["blurred"]]
    assert len(values.unique()) > 0.99 * len(values)

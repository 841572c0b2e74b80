"""Playgrounds without a browser: what they compute and show, and that a moved slider redraws."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clrkit.augment import apply_view, random_view, sample_view_params
from clrkit.config import Augmentation
from clrkit.losses import distillation, nt_xent, partners
from clrkit.notebook import illustrations, illustrations_losses, playground
from clrkit.notebook.embedding_map import embedding_map, unit

RANDOM = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (3, 3, 16, 16), generator=RANDOM).to(torch.uint8)
FULL = Augmentation(crop_area=0.2, color_strength=0.5, blur=True)
Z = torch.randn(10, 6, generator=RANDOM)
VIEWS = torch.rand(10, 3, 16, 16, generator=RANDOM)
TEACHER, STUDENT = torch.randn(2, 30, 4, generator=RANDOM)
LABELS, CLASSES = np.arange(10) % 4, ["cat", "<dog>", "fish", "bird"]
TEMPERATURES = playground.CONTRAST_TEMPERATURES


def near(count: int = 4) -> illustrations.Neighbours:
    return illustrations.nearest(Z, count)


# What is computed


def test_with_all_operations_on_the_views_equal_those_of_training() -> None:
    pixels = PIXELS[:1].expand(16, -1, -1, -1)
    drawn = illustrations.steady_params(16, 16, FULL, seed=3)
    trained = random_view(pixels, FULL, 12, torch.Generator().manual_seed(3))
    assert torch.equal(apply_view(pixels, drawn, FULL, 12), trained)


@pytest.mark.parametrize("change", [{"flip": False}, {"blur": False}, {"color_strength": 0.0}], ids=str)
def test_an_operation_that_is_off_does_not_change_the_other_draws(change: dict[str, Any]) -> None:
    off = replace(FULL, **change)
    whole, drawn = (illustrations.steady_params(64, 16, each, seed=1) for each in (FULL, off))
    assert torch.equal(torch.stack(drawn.boxes), torch.stack(whole.boxes))
    assert torch.equal(drawn.flip, whole.flip & off.flip)
    assert torch.equal(drawn.sigma, whole.sigma * off.blur)
    assert bool(drawn.jitter.grey.any() | drawn.jitter.applied.any()) == (off.color_strength > 0)
    # The law is that of training: what is off there is off here.
    law = sample_view_params(64, 16, off, torch.Generator().manual_seed(1))
    for each in (drawn, law):
        assert bool(each.flip.any()) == off.flip
        assert bool(each.sigma.any()) == off.blur


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_log_probabilities_of_the_partners_give_nt_xent(temperature: float) -> None:
    found = illustrations_losses.log_candidates(Z, temperature)
    own = -found[torch.arange(10), partners(10)].mean()
    torch.testing.assert_close(own, nt_xent(*Z.chunk(2), temperature))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(10))


def test_the_alt_text_has_the_loss() -> None:
    alt = illustrations_losses.contrast(Z, VIEWS, 0.2, anchor=4).alt
    assert alt.startswith(f"Temperature 0.2: loss {nt_xent(*Z.chunk(2), 0.2):.3f}; guessing costs 2.197.")
    assert "View 5" in alt


def test_the_weight_of_a_negative_is_its_share_of_the_gradient() -> None:
    similarity = (F.normalize(Z) @ F.normalize(Z).T).requires_grad_()
    logits = (similarity / 0.3).masked_fill(torch.eye(10, dtype=torch.bool), float("-inf"))
    F.cross_entropy(logits, partners(10), reduction="sum").backward()
    push = similarity.grad
    assert push is not None
    push[torch.arange(10), partners(10)] = 0
    weights = illustrations_losses.negative_weights(illustrations_losses.log_candidates(Z, 0.3))
    torch.testing.assert_close(weights, push / push.sum(1, keepdim=True))


def test_the_lower_the_temperature_the_fewer_negatives_count() -> None:
    weights = [
        illustrations_losses.negative_weights(illustrations_losses.log_candidates(Z, t))
        for t in (1e-3, *TEMPERATURES)
    ]
    counted = [illustrations_losses.effective_number(each) for each in weights]
    assert counted == sorted(counted)
    assert counted[0] == pytest.approx(1, abs=0.01)
    assert counted[-1] == pytest.approx(8, abs=0.5)


def test_nearest_neighbours_are_the_most_similar_other_images() -> None:
    chosen, similar = near(3)
    for row in range(10):
        others = [
            (float(F.cosine_similarity(Z[row], Z[each], dim=0)), each) for each in range(10) if each != row
        ]
        values, found = zip(*sorted(others, reverse=True)[:3], strict=True)
        assert chosen[row].tolist() == list(found)
        assert similar[row].tolist() == pytest.approx(values, abs=1e-6)


def test_with_few_images_all_others_are_neighbours() -> None:
    assert near(50)[0].shape == (10, 9)


def test_images_are_chosen_from_the_best_to_the_worst_agreement() -> None:
    kl = F.kl_div(STUDENT.log_softmax(1), TEACHER.log_softmax(1), log_target=True, reduction="none").sum(1)
    chosen = kl[illustrations_losses.by_disagreement(TEACHER, STUDENT, 7)]
    assert chosen.tolist() == sorted(chosen.tolist())
    assert (len(chosen), chosen[0], chosen[-1]) == (7, kl.min(), kl.max())
    assert len(illustrations_losses.by_disagreement(TEACHER, STUDENT, 99)) == 30


@pytest.mark.parametrize("temperature", playground.SOFTMAX_TEMPERATURES)
def test_the_loss_of_an_image_is_entropy_plus_divergence(temperature: float) -> None:
    alt = illustrations_losses.teacher_and_student(
        VIEWS[0], TEACHER[0], STUDENT[0], 2, CLASSES, temperature
    ).alt
    loss, entropy, kl = map(float, re.findall(r"(?:loss|entropy|divergence) (\d+\.\d+)", alt)[:3])
    assert loss == pytest.approx(float(distillation(STUDENT[:1], TEACHER[:1], temperature)), abs=1e-3)
    p = torch.distributions.Categorical(logits=TEACHER[0] / temperature)
    q = torch.distributions.Categorical(logits=STUDENT[0] / temperature)
    assert entropy == pytest.approx(float(p.entropy()), abs=1e-3)
    assert kl == pytest.approx(float(torch.distributions.kl_divergence(p, q)), abs=1e-3)


def test_a_moved_temperature_changes_the_picture_even_of_equal_probabilities() -> None:
    even = torch.zeros(4)
    one, other = (
        illustrations_losses.teacher_and_student(VIEWS[0], even, even, 0, CLASSES, temperature)
        for temperature in (1.0, 2.0)
    )
    assert one.png() != other.png()


def test_with_many_classes_only_the_likeliest_are_shown() -> None:
    logits = torch.arange(100.0)
    figure = illustrations_losses.teacher_and_student(
        VIEWS[0], logits, logits, 0, [f"c{number}" for number in range(100)], 1.0
    ).figure
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == [f"c{n}" for n in range(90, 100)]


# What is shown


def test_a_neighbour_of_another_class_is_marked() -> None:
    chosen, _ = near()
    axes = illustrations.neighbours(VIEWS, LABELS, CLASSES, {"one": near()}, 2).figure.axes[1]
    marked = [text.get_weight() == "bold" for text in axes.texts]
    assert marked == (LABELS[chosen[2].numpy()] != LABELS[2]).tolist()


def test_tiles_are_the_images_in_rows() -> None:
    whole = illustrations.tiles(VIEWS[:3], 2)
    assert whole.shape == (34, 34, 3)
    np.testing.assert_array_equal(whole[18:, :16], VIEWS[2].permute(1, 2, 0))
    assert (whole[18:, 18:] == 1).all()


def svg(images: torch.Tensor) -> str:
    points = np.random.RandomState(0).randn(10, 2)
    (content,) = re.findall('srcdoc="([^"]*)"', embedding_map(points, images, LABELS, CLASSES, near()).html)
    return unescape(content)


def test_the_map_has_a_picture_for_viewers_without_frames_or_html() -> None:
    made = embedding_map(np.random.RandomState(0).randn(10, 2), VIEWS, LABELS, CLASSES, near())
    forms, about = made._repr_mimebundle_()
    png = made.still.png()
    assert b64decode(forms["image/png"]) == png
    assert about["image/png"]["alt"] == forms["text/plain"] == made.still.alt
    # What a sanitizer leaves: no style and no frame.
    left = re.sub(r"<(style|iframe)\b.*?</\1>", "", forms["text/html"], flags=re.S)
    ((alt, content),) = re.findall(r'<img .*alt="([^"]*)" src="data:image/png;base64,([^"]*)">', left)
    assert (unescape(alt), b64decode(content)) == (made.still.alt, png)
    assert re.sub("<[^>]*>", "", left) == ""  # and no text that would stand for the map


@pytest.mark.parametrize(("side", "shown"), [(16, 16), (28, 28), (100, 40)])
def test_a_thumbnail_of_the_map_is_its_image(side: int, shown: int) -> None:
    colors = torch.rand(10, 3, 1, 1, generator=torch.Generator().manual_seed(1)).expand(10, 3, side, side)
    sources = re.findall(r"<symbol [^>]*><image [^>]*base64,([^']+)'/>", svg(colors))
    assert len(sources) == 10
    for color, content in zip(colors[:, :, 0, 0].numpy(), sources, strict=True):
        image = np.asarray(Image.open(io.BytesIO(b64decode(content)))) / 255
        assert image.shape == (shown, shown, 3)
        np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), atol=0.03)


def test_a_map_of_five_hundred_images_is_a_small_part_of_a_notebook() -> None:
    count = 500
    images = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    images = F.interpolate(images, (28, 28), mode="bilinear")
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(3))
    points, labels = np.random.RandomState(0).randn(count, 2), np.arange(count) % 4
    made = embedding_map(points, images, labels, CLASSES, illustrations.nearest(features, 6))
    assert len(made.html) < 1.5e6


def test_a_card_shows_the_image_and_its_neighbours_with_class_and_similarity() -> None:
    chosen, similar = near()
    cards = svg(VIEWS).split("class='point'")[1:]
    assert len(cards) == 10
    for index, card in enumerate(cards):
        assert [int(n) for n in re.findall(r"href='#i(\d+)'", card)] == [index, *chosen[index].tolist()]
        assert f"{similar[index, 0]:.2f}" in card
    assert any("&lt;dog&gt;" in card for card in cards)
    assert not any("<dog>" in card for card in cards)


def test_points_fill_the_plane_and_point_upwards() -> None:
    moved = unit(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(moved, [[0, 1], [1, 1], [0, 0]])
    assert np.isfinite(unit(np.zeros((3, 2)))).all()


# Controls

MAKE: dict[str, Callable[[], playground.Playground]] = {
    "augmentation": lambda: playground.augmentation(PIXELS, replace(FULL, crop_area=0.4), 12),
    "contrast": lambda: playground.contrast(Z, VIEWS, 0.15),
    "neighbours": lambda: playground.neighbours(VIEWS, LABELS, CLASSES, {"one": near(), "two": near()}),
    "distillation": lambda: playground.distillation(
        VIEWS, TEACHER[:10], STUDENT[:10], LABELS, CLASSES, temperature=3.0
    ),
}


@pytest.mark.parametrize("name", MAKE)
def test_every_control_redraws_and_the_alt_text_is_shown_below(name: str) -> None:
    panel = MAKE[name]()
    first = panel.picture.value
    for control in panel.sliders.values():
        assert control.description
        was = control.value
        control.index = (control.index + 1) % len(control.options)
        assert panel.picture.value != first, control.description
        assert f'alt="{panel.status.value}"' in panel.picture.value
        control.value = was
        assert panel.picture.value == first


def test_a_slider_of_numbers_starts_at_the_value_of_the_run() -> None:
    made = playground.number("temperature", (0.1, 1.0), 0.15)
    assert made.value == 0.15
    assert [value for _, value in made.options] == [0.1, 0.15, 1.0]


def test_the_random_draws_stay_fixed_until_draw_again() -> None:
    panel = MAKE["augmentation"]()
    first, area = panel.picture.value, panel.sliders["crop_area"]
    area.index += 1
    area.index -= 1
    assert panel.picture.value == first
    (again,) = [child for child in panel.box.children if child.description == "Draw again"]
    again.click()
    assert panel.picture.value != first

"""Pictures that teach: they can be drawn, say what they show, and come out the same each time."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from clrkit.notebook.illustrations import (
    Picture,
    course,
    embeddings,
    image_rows,
    positive_gap,
    similarities,
    soft_targets,
    three_stages,
)
from clrkit.results.style import styled

RANDOM = np.random.RandomState(0)
IMAGES = torch.from_numpy(RANDOM.rand(5, 3, 8, 8)).float()
DIGITS = [str(digit) for digit in range(10)]
MATRIX = np.cov(RANDOM.randn(6, 20))
POINTS, LABELS = RANDOM.randn(60, 2), RANDOM.randint(0, 10, 60)
DRAW: dict[str, Callable[[], Picture]] = {
    "three_stages": three_stages,
    "image_rows": lambda: image_rows({"one": IMAGES[:2], "all": IMAGES}, "Noise.", titles=list("abcde")),
    "similarities": lambda: similarities({"before": MATRIX, "after": MATRIX}, "Title", "subtitle"),
    "embeddings": lambda: embeddings({"a": POINTS, "b": POINTS}, LABELS, DIGITS, "Title", "subtitle"),
    "soft_targets": lambda: soft_targets(IMAGES[0], {"tau 1": np.full(10, 0.1)}, DIGITS, "Even."),
    "course": lambda: course("a run", [1, 2, 3], [3.0, 2.0, 1.5], 10),
    "course at its beginning": lambda: course("a run", [], [], 1),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_picture_has_its_size_its_sentence_and_the_same_bytes_each_time(name: str) -> None:
    picture = DRAW[name]()
    png, told = picture._repr_png_()
    width, height = Image.open(io.BytesIO(png)).size
    assert width / height == pytest.approx(told["width"] / told["height"], rel=0.02)
    assert told["alt"] == repr(picture) != ""
    assert png == DRAW[name]().png()


def test_rows_of_images_show_each_image_once() -> None:
    figure = DRAW["image_rows"]().figure
    assert sum(len(axes.images) for axes in figure.axes) == 2 + 5


def test_partners_alike_and_all_others_unlike_have_the_largest_gap() -> None:
    partners = np.kron(np.ones((2, 2)), np.eye(4))
    assert positive_gap(partners) == 1
    assert positive_gap(np.ones((8, 8))) == 0
    assert positive_gap(-partners) == -1


def test_a_view_is_not_compared_with_itself() -> None:
    shown = DRAW["similarities"]().figure.axes[0].images[0].get_array()
    assert np.isnan(np.diag(np.ma.filled(shown, np.nan))).all()


def test_two_threads_that_draw_leave_the_settings_as_they_were() -> None:
    before, inside, left = dict(mpl.rcParams), threading.Event(), threading.Event()

    def draw() -> None:
        with styled():
            inside.set()
            left.wait(5)

    other = threading.Thread(target=draw)
    with styled():
        other.start()
        assert not inside.wait(0.2)
    left.set()
    other.join()
    assert dict(mpl.rcParams) == before


def test_all_that_draws_takes_its_turn() -> None:
    library = Path(__file__).parents[2] / "clrkit"
    changing = [path.name for path in library.rglob("*.py") if "rc_context" in path.read_text()]
    assert changing == ["style.py"]

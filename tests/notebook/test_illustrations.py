"""Illustrations: they can be drawn, have an alt text, and have the same bytes each time."""

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

from clrkit.notebook.illustrations import Picture, course, embeddings, image_rows, three_stages, tiles
from clrkit.notebook.illustrations_losses import contrast
from clrkit.results.style import styled

RANDOM = np.random.RandomState(0)
IMAGES = torch.from_numpy(RANDOM.rand(5, 3, 8, 8)).float()
DIGITS = [str(digit) for digit in range(10)]
POINTS, LABELS = RANDOM.randn(60, 2), RANDOM.randint(0, 10, 60)
DRAW: dict[str, Callable[[], Picture]] = {
    "three_stages": three_stages,
    "image_rows": lambda: image_rows({"one": IMAGES[:2], "all": IMAGES}, "Noise.", titles=list("abcde")),
    "embeddings": lambda: embeddings({"a": POINTS, "b": POINTS}, LABELS, DIGITS, "Title", "subtitle"),
    "course": lambda: course("a run", [1, 2, 3], [3.0, 2.0, 1.5], 10),
    "course with kNN": lambda: course("a run", [1, 2, 3], [3.0, 2.0, 1.5], 10, [[0, 0.1], [3, 0.5]]),
    "course at its beginning": lambda: course("a run", [], [], 1),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_picture_has_its_size_its_alt_text_and_the_same_bytes_each_time(name: str) -> None:
    picture = DRAW[name]()
    png, about = picture._repr_png_()
    width, height = Image.open(io.BytesIO(png)).size
    assert width / height == pytest.approx(about["width"] / about["height"], rel=0.02)
    assert about["alt"] == repr(picture) != ""
    assert png == DRAW[name]().png()


def test_rows_of_images_are_aligned_in_columns_with_titles_above() -> None:
    first, second = DRAW["image_rows"]().figure.axes
    short, long = (axes.images[0].get_array() for axes in (first, second))
    assert short.shape == long.shape
    np.testing.assert_array_equal(long, tiles(IMAGES, 5))
    np.testing.assert_array_equal(short[:, :18], tiles(IMAGES[:2], 2))
    assert (short[:, 18:] == 1).all()
    assert [text.get_text() for text in first.texts] == list("abcde")


def test_a_view_is_not_compared_with_itself() -> None:
    z, views = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.rand(6, 3, 8, 8)
    shown = contrast(z, views, 0.5, anchor=0).figure.axes[0].images[0].get_array()
    assert np.isnan(np.diag(np.ma.filled(shown, np.nan))).all()


def test_a_course_reaches_from_the_first_step_to_the_last() -> None:
    axes = DRAW["course"]().figure.axes[0]
    assert axes.get_xlim() == (0, 10)
    assert axes.lines[0].get_xydata().tolist() == [[1, 3.0], [2, 2.0], [3, 1.5]]


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


def test_only_the_style_changes_the_settings_of_matplotlib() -> None:
    library = Path(__file__).parents[2] / "clrkit"
    changing = [path.name for path in library.rglob("*.py") if "rc_context" in path.read_text()]
    assert changing == ["style.py"]

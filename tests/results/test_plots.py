"""Series, points and bars on axes."""

from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex

from clrkit.results import plots, style
from clrkit.results.style import FINETUNED, SUPERVISED, new_figure

LOOKS = {"tuned": FINETUNED, "alone": SUPERVISED}
CELLS = pd.DataFrame(
    {
        "method": ["tuned"] * 4 + ["alone"] * 2,
        "network": ["R50 1x", "R50 2x", "R50 1x SK", "R50 2x SK", "R50 1x", "R50 2x"],
        "parameters": [24.0, 94.0, 35.0, 140.0, 24.0, 94.0],
        "mean": [70.0, 74.0, 72.0, 76.0, 60.0, 64.0],
        "stderr": [1.0, 2.0, 1.5, np.nan, np.nan, np.nan],
    }
)


def drawn(draw: Any, *arguments: Any, **options: Any) -> Axes:
    with new_figure("Title", "") as (_, (axes,)):
        draw(axes, *arguments, **options)
    return axes


def test_lines_differ_in_colour_marker_and_dash_and_are_apart_for_selective_kernels() -> None:
    axes = drawn(plots.lines, CELLS, "parameters", "method", LOOKS)
    series = [
        line for line in axes.lines if len(np.asarray(line.get_xdata())) == 2 and line.get_marker() in "oD"
    ]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in series}
    assert looks == {(FINETUNED.color, "o", "-"), (SUPERVISED.color, "D", "--")}
    faces = {tuple(map(float, line.get_ydata())): line.get_markerfacecolor() for line in series}
    assert faces == {(70, 74): FINETUNED.color, (60, 64): SUPERVISED.color, (72, 76): "white"}


def test_error_bars_are_one_standard_error_long_and_none_is_drawn_for_one_seed() -> None:
    axes = drawn(plots.lines, CELLS, "parameters", "method", LOOKS)
    bars = [each.get_segments() for each in axes.collections if isinstance(each, LineCollection)]
    ends = sorted(tuple(segment[:, 1]) for segments in bars for segment in segments if len(segment))
    assert [each for each in ends if not np.isnan(each).any()] == [(69, 71), (70.5, 73.5), (72, 76)]


def test_points_are_hollow_where_they_are_to_be_and_keep_their_colour() -> None:
    hollow = plots.selective(CELLS)
    axes = drawn(plots.points, CELLS, "parameters", "mean", "method", LOOKS, hollow, yerr="stderr")
    filled, empty = (each for each in axes.collections if isinstance(each, PathCollection))
    assert np.asarray(filled.get_offsets())[:, 1].tolist() == [70, 74, 60, 64]
    assert [to_hex(color) for color in filled.get_facecolor()] == [FINETUNED.color.lower()] * 2 + [
        SUPERVISED.color.lower()
    ] * 2
    assert {to_hex(color) for color in empty.get_facecolor()} == {"#ffffff"}
    assert {to_hex(color) for color in empty.get_edgecolor()} == {FINETUNED.color.lower()}


def test_bars_have_hatches_values_and_the_order_of_the_looks() -> None:
    cells = CELLS.iloc[[4, 0]]  # alone, tuned
    axes = drawn(plots.bars, cells, "method", LOOKS)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tuned", "alone"]
    assert [(bar.patches[0].get_width(), bar.patches[0].get_hatch()) for bar in axes.containers[:2]] == [
        (70, FINETUNED.hatch),
        (60, SUPERVISED.hatch),
    ]
    assert [text.get_text() for text in axes.texts] == ["70.0 ± 1.0", "60.0"]


def test_a_panel_s_thread_draws_as_the_main_one_does() -> None:
    made = []

    def draw() -> None:
        axes = drawn(plots.lines, CELLS, "parameters", "method", LOOKS)
        made.append(style.encode(axes.figure, "svg"))  # type: ignore[arg-type]

    thread = Thread(target=draw)
    thread.start()
    thread.join()
    draw()
    assert made[0] == made[1]


def test_drawing_leaves_no_figure_behind_in_pyplot() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn(plots.bars, CELLS.iloc[:1], "method", LOOKS)
    assert pyplot.get_fignums() == []


def test_names_of_networks_of_like_size_stand_on_two_levels() -> None:
    sizes = [11.2, 34.5, 44.6, 139.0]
    assert plots.beside_another(sizes, (sizes[0] / 1.35, sizes[-1] * 1.35)) == [False, False, True, False]
    assert plots.beside_another([0.02, 0.08, 0.31], (0.015, 0.42)) == [False] * 3

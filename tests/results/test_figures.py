from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import synthetic
from figure_texts import texts
from matplotlib.collections import PathCollection

from clrkit.results import figures
from clrkit.results.records import MissingRunsError
from clrkit.results.style import FigureWithData, share


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return synthetic.runs()


@pytest.fixture(scope="module")
def drawings(runs: pd.DataFrame) -> dict[str, FigureWithData]:
    found, missing = figures.draw_all(runs, "mini")
    assert not missing
    return {each.name: each for each in found}


def test_every_figure_is_drawn_from_a_whole_grid(drawings: dict[str, FigureWithData]) -> None:
    assert set(drawings) == {each.__name__ for each in figures.FIGURES}


def test_every_figure_names_data_preset_seeds_and_error_bars(drawings: dict[str, FigureWithData]) -> None:
    for each in drawings.values():
        written = texts(each.figure)
        assert "Tinted MNIST (4,000 training, 1,000 test images), preset mini" in written
        assert "mean of 3 seeds, ± 1 standard error" in written


def test_one_seed_is_said_to_have_no_error_bars() -> None:
    written = texts(figures.accuracy_by_size(synthetic.runs(seeds=[0]), "smoke").figure)
    assert "1 seed, no error bars" in written


def test_every_alt_text_is_one_sentence_with_numbers(drawings: dict[str, FigureWithData]) -> None:
    for each in drawings.values():
        assert each.alt.endswith(".")
        assert ". " not in each.alt
        assert any(character.isdigit() for character in each.alt)


def test_the_alt_text_of_figure_1_has_the_largest_networks_gains(drawings: dict[str, FigureWithData]) -> None:
    data = drawings["gain_by_size"].data
    gain = data.query("network == 'R8 2x' and fraction == 0.01")["mean"].item()
    assert f"1% of the labels {gain:+.1f}%" in drawings["gain_by_size"].alt


def test_the_points_drawn_are_the_data(drawings: dict[str, FigureWithData]) -> None:
    gains = drawings["gain_by_size"]
    drawn = {
        tuple(np.round(np.asarray(line.get_ydata(), dtype=float), 9))
        for line in gains.figure.axes[0].lines
        if line.get_linestyle() not in ("None", "")
    }
    wanted = {tuple(np.round(part["mean"], 9)) for _, part in gains.data.groupby("fraction")}
    assert wanted <= drawn


def markers(made: FigureWithData) -> list[PathCollection]:
    """The points of a scatter plot."""
    return [
        each for axes in made.figure.axes for each in axes.collections if isinstance(each, PathCollection)
    ]


MANY = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5)


@pytest.fixture(scope="module")
def six_fractions(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with 1% of the labels again at five further fractions, each a little better than the last."""
    some = runs[runs["fraction"] == 0.01]
    more = [
        some.assign(
            fraction=fraction,
            top1=some["top1"] + place,
            setup=some["setup"].str.replace('"fraction": 0.01', f'"fraction": {fraction}'),
        )
        for place, fraction in enumerate(MANY)
        if fraction != 0.01
    ]
    return pd.concat([runs[runs["fraction"].isna() | (runs["fraction"] == 0.01)], *more], ignore_index=True)


@pytest.mark.parametrize(
    "figure", [figures.gain_by_size, figures.head_ablation, figures.linear_against_finetuned]
)
def test_a_sixth_label_fraction_is_drawn(
    figure: Callable[[pd.DataFrame, str], FigureWithData], six_fractions: pd.DataFrame
) -> None:
    made = figure(six_fractions, "mini")
    written = texts(made.figure)
    assert all(name in written for name in map(share, MANY))
    assert sorted(made.data["fraction"].unique()) == list(MANY)
    wanted = {tuple(np.round(cells["mean"], 6)) for _, cells in made.data.groupby("fraction")}
    heights = [line.get_ydata() for axes in made.figure.axes for line in axes.lines]
    heights += [np.asarray(marks.get_offsets())[:, 1] for marks in markers(made)]
    drawn = {value for some in heights for value in np.round(np.asarray(some, dtype=float), 6)}
    assert all(drawn & set(means) for means in wanted)


def test_six_lines_have_six_colours_and_six_dashes(six_fractions: pd.DataFrame) -> None:
    axes = figures.gain_by_size(six_fractions, "mini").figure.axes[0]
    lines = [
        line for line in axes.lines if len(np.asarray(line.get_xdata())) > 1 and line.get_marker() != "_"
    ]
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == 6
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 6


def test_no_axes_are_left_empty(six_fractions: pd.DataFrame) -> None:
    fewer = six_fractions[six_fractions["fraction"] != MANY[0]]
    axes = figures.linear_against_finetuned(fewer, "mini").figure.axes
    assert [bool(each.get_title(loc="left")) for each in axes] == [True] * 5


def test_students_of_one_network_stand_side_by_side_and_nothing_else_moves() -> None:
    methods = ["fine-tuned", "distilled from A", "distilled from A, self-distilled", "self-distilled"]
    cells = pd.DataFrame(
        {"method": methods, "parameters": [1.0, 1.0, 1.0, 4.0], "mean": [1.0, 2.0, 2.0, 3.0]}
    )
    placed = figures.side_by_side(cells)
    assert list(placed["parameters"]) == pytest.approx([1, 1.12**-0.5, 1.12**0.5, 4])
    assert placed.drop(columns="parameters").equals(cells.drop(columns="parameters"))


def test_missing_runs_are_named_and_the_other_figures_drawn(runs: pd.DataFrame) -> None:
    found, missing = figures.draw_all(runs[runs["stage"] != "distill"], "mini")
    assert set(missing) == {"method_bars", "distillation", "distillation_targets"}
    assert all("distill" in reason for reason in missing.values())
    assert len(found) == len(figures.FIGURES) - 3


def test_a_figure_without_its_runs_raises(runs: pd.DataFrame) -> None:
    with pytest.raises(MissingRunsError, match="two networks"):
        figures.gain_by_size(runs[runs["network"] == "R8 1x"], "mini")


def test_published_figures_say_so_and_hold_no_own_number() -> None:
    for each in (figures.published_gain_by_size(), figures.published_accuracy_by_size()):
        assert "As published" in each.title
        assert "SimCLRv2, Table 1, ImageNet" in texts(each.figure)
        assert set(each.data["network"].str[:2]) <= {"R5", "R1"}


def test_the_published_gain_is_the_papers_29_percent() -> None:
    data = figures.published_gain_by_size().data
    gain = data.query("network == 'R152 3x SK' and fraction == 0.01")["mean"].item()
    assert gain == pytest.approx(29.0, abs=0.5)

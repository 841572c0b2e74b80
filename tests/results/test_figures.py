import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure

from clrkit.results import curves, figures, style
from clrkit.results.captions import share
from clrkit.results.records import MissingRunsError, MixedRunsError
from clrkit.results.style import FigureWithData
from figure_texts import texts

HISTORY = {
    "step": [0, 10, 20],
    "loss": [5.0, 3.0, 2.5],
    "learning_rate": [0.0, 0.1, 0.05],
    "knn": [[10, 0.5], [20, 0.75]],
}


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


def test_series_differ_in_more_than_colour() -> None:
    for looks in (style.ORDERED, (style.SUPERVISED, style.LINEAR, style.FINETUNED, style.SELF)):
        assert len({(look.marker, look.line) for look in looks}) == len(looks)
    hatches = [style.SUPERVISED, style.FINETUNED, style.SELF, *style.STUDENTS]
    assert len({look.hatch for look in hatches}) == len(hatches)


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
    drawn = {
        value
        for axes in made.figure.axes
        for line in axes.lines
        for value in np.round(np.asarray(line.get_ydata(), dtype=float), 6)
    }
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


def test_more_series_than_there_are_looks_are_refused_in_a_sentence(runs: pd.DataFrame) -> None:
    most = len(style.ORDERED)
    assert [name for name, _ in style.with_looks(range(most), "lines")] == [*range(most)]
    with pytest.raises(MixedRunsError, match=rf"^{most + 1} lines in one figure; at most {most} can .*\.$"):
        style.with_looks(range(most + 1), "lines")


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


def test_a_drawing_is_saved_in_all_forms(drawings: dict[str, FigureWithData], tmp_path: Path) -> None:
    each = drawings["gain_by_size"]
    style.save(each, tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"gain_by_size.{form}" for form in ("svg", "pdf", "png", "csv", "json")}
    content = json.loads((tmp_path / "figures/gain_by_size.json").read_text(encoding="utf-8"))
    assert content["alt"] == each.alt
    table = pd.read_csv(tmp_path / "figures/gain_by_size.csv")
    assert table["mean"].tolist() == pytest.approx(each.data["mean"].tolist(), abs=1e-6)
    assert [row["mean"] for row in content["data"]] == pytest.approx(table["mean"].tolist())


def test_a_missing_standard_error_is_null_in_json(tmp_path: Path) -> None:
    style.save(figures.published_gain_by_size(), tmp_path)
    content = json.loads((tmp_path / "published_gain_by_size.json").read_text(encoding="utf-8"))
    assert content["data"][0]["stderr"] is None


@pytest.mark.slow
def test_figures_are_the_same_bytes_each_time(runs: pd.DataFrame, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        style.save(figures.method_bars(runs, "mini"), tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_drawing_shows_itself_in_a_notebook(drawings: dict[str, FigureWithData]) -> None:
    each = drawings["distillation"]
    png, metadata = each._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert metadata["alt"] == each.alt


def test_labels_that_would_overlap_are_spread() -> None:
    places = style.spread([0.0, 1.0, 2.0, 50.0], gap=10)
    assert min(np.diff(places)) >= 10 - 1e-9
    assert np.mean(places[:3]) == pytest.approx(1.0)
    assert places[3] == 50.0


def test_names_of_networks_of_like_size_stand_on_two_levels() -> None:
    sizes = [11.2, 34.5, 44.6, 139.0]
    assert style.beside_another(sizes, (sizes[0] / 1.35, sizes[-1] * 1.35)) == [False, False, True, False]
    assert style.beside_another([0.02, 0.08, 0.31], (0.015, 0.42)) == [False] * 3


@pytest.mark.parametrize(
    ("millions", "name"), [(0.0197, "20k"), (1.234, "1.2M"), (24.0, "24M"), (795.0, "795M")]
)
def test_sizes_are_named_briefly(millions: float, name: str) -> None:
    assert style.size_name(millions) == name


def test_training_curves_hold_the_history() -> None:
    each = curves.loss_curve(HISTORY, "Tinted MNIST, preset mini, seed 0")
    assert [axes.get_ylabel() for axes in each.figure.axes] == ["loss", "kNN accuracy (%)", "learning rate"]
    assert each.data["loss"].tolist() == HISTORY["loss"]
    assert each.data["knn"].dropna().tolist() == [50.0, 75.0]
    assert "5.00 to 2.50" in each.alt
    assert "75.0%" in each.alt


def test_training_curves_without_monitoring_have_no_knn_panel() -> None:
    each = curves.loss_curve(HISTORY | {"knn": []}, "")
    assert [axes.get_ylabel() for axes in each.figure.axes] == ["loss", "learning rate"]


def test_a_confusion_names_what_is_most_often_confused() -> None:
    matrix = [[8, 2, 0], [0, 9, 1], [0, 3, 7]]
    each = curves.confusion(matrix, ["cat", "dog", "owl"], "", "true class", "predicted class")
    assert each.alt == (
        "Predicted class and true class agree on 80.0% of 30 images; "
        "most often apart: true class owl with predicted class dog, 3 times."
    )
    counts = each.data.set_index(["row", "column"])["count"]
    assert counts["owl", "dog"] == 3
    assert "owl" in texts(each.figure)


def test_a_class_without_images_leaves_an_empty_row() -> None:
    each = curves.confusion([[0, 0], [1, 3]], ["a", "b"], "")
    assert each.data["count"].sum() == 4


def test_a_hundred_classes_are_drawn_without_names() -> None:
    each = curves.confusion(np.eye(100, dtype=int).tolist(), [f"class {i}" for i in range(100)], "")
    assert "class 7" not in texts(each.figure)


@pytest.mark.slow
def test_drawing_needs_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys; from clrkit import index, run_figures; "
        "assert not {'torch', 'matplotlib.pyplot', 'seaborn'} & set(sys.modules)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

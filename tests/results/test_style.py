"""The look of figures, and how they are saved."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from clrkit.results import figures, style
from clrkit.results.records import MixedRunsError
from clrkit.results.style import FigureWithData


@pytest.fixture(scope="module")
def gains() -> FigureWithData:
    return figures.gain_by_size(synthetic.runs(), "mini")


def test_series_differ_in_more_than_colour() -> None:
    for looks in (style.ORDERED, (style.SUPERVISED, style.LINEAR, style.FINETUNED, style.SELF)):
        assert len({(look.marker, look.line) for look in looks}) == len(looks)
    hatches = [style.SUPERVISED, style.FINETUNED, style.SELF, *style.STUDENTS]
    assert len({look.hatch for look in hatches}) == len(hatches)


def test_more_series_than_there_are_looks_are_refused_in_a_sentence() -> None:
    most = len(style.ORDERED)
    assert [name for name, _ in style.with_looks(range(most), "lines")] == [*range(most)]
    with pytest.raises(MixedRunsError, match=rf"^{most + 1} lines in one figure; at most {most} can .*\.$"):
        style.with_looks(range(most + 1), "lines")


def test_a_drawing_is_saved_in_all_forms(gains: FigureWithData, tmp_path: Path) -> None:
    each = gains
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
def test_figures_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        style.save(figures.method_bars(synthetic.runs(), "mini"), tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_drawing_shows_itself_in_a_notebook(gains: FigureWithData) -> None:
    each = gains
    png, metadata = each._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert metadata["alt"] == each.alt


def test_labels_that_would_overlap_are_spread() -> None:
    places = style.spread([0.0, 1.0, 2.0, 50.0], gap=10)
    assert min(np.diff(places)) >= 10 - 1e-9
    assert np.mean(places[:3]) == pytest.approx(1.0)
    assert places[3] == 50.0

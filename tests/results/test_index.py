"""INDEX.md from runs that never were."""

from pathlib import Path

import pandas as pd
import pytest
import synthetic

from clrkit.config import Finetune, Stage
from clrkit.results import claims, figures, style
from clrkit.results.comparison import compare
from clrkit.results.contents import Report
from clrkit.results.index import write_index


def worse(stage: Stage) -> float:
    """Fine-tuning the largest network on 1% of the labels, ten points off."""
    hit = isinstance(stage, Finetune) and stage.fraction == 0.01 and stage.pretrain.network.width == 2
    return synthetic.noisy(stage) - 10 * hit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one figure and INDEX.md."""
    home = tmp_path_factory.mktemp("results")
    runs = synthetic.runs(worse)
    gains = figures.gain_by_size(runs, "mini")
    style.save(gains, home / "mini" / "figures")
    report = Report(
        preset="mini",
        source="own runs",
        runs=runs,
        claims=claims.evaluate(runs, synthetic.PRESET),
        drawings=[gains],
        figures=home / "mini" / "figures",
        missing={"distillation": "No distill runs are recorded."},
        comparison=compare(runs, synthetic.runs()),
        notebooks=[home / "mini" / "notebooks" / "01_pretrain.ipynb"],
    )
    write_index(home / "INDEX.md", report)
    return home


def test_the_index_ties_everything_together(folder: Path) -> None:
    index = (folder / "INDEX.md").read_text(encoding="utf-8")
    sections = [line for line in index.splitlines() if line.startswith("## ")]
    assert sections == [
        "## Claims",
        "## Figures",
        "## Tables",
        "## Beside the paper",
        "## Against the reference",
        "## Notebooks",
        "## Not shown",
        "## Cost",
        "## Provenance",
    ]
    assert "[01_pretrain](mini/notebooks/01_pretrain.ipynb)" in index
    assert "- distillation: No distill runs are recorded." in index
    assert "differs: own 62." in index
    assert "Test CPU" in index


def test_the_index_shows_figures_that_exist_with_their_alt_text(folder: Path) -> None:
    index = (folder / "INDEX.md").read_text(encoding="utf-8")
    picture = next(line for line in index.splitlines() if line.startswith("!["))
    alt, _, target = picture[2:-1].rpartition("](")
    assert (folder / target).is_file()
    assert alt.startswith("Relative gain in accuracy of R8 2x over R8 0.5x")


def test_without_a_reference_the_index_says_nothing_of_it(tmp_path: Path) -> None:
    runs = synthetic.runs(seeds=[0])
    report = Report(
        preset="smoke",
        source="own runs",
        runs=runs,
        claims=claims.evaluate(runs, synthetic.PRESET),
        drawings=[],
        figures=tmp_path,
    )
    write_index(tmp_path / "INDEX.md", report)
    text = (tmp_path / "INDEX.md").read_text(encoding="utf-8")
    assert "reference" not in text
    assert pd.Series(["## Claims", "## Tables"]).map(lambda name: name in text).all()
    assert "seed 0;" in text

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from figure_texts import texts
from matplotlib.collections import PathCollection

from clrkit.results import figures, tables
from clrkit.results.figures_peers import beside_peers
from clrkit.results.published import peers
from clrkit.results.records import MissingRunsError
from clrkit.results.report import Report, content
from clrkit.results.style import FigureWithData
from clrkit.results.tables import peers_table


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return synthetic.records_to_frame(synthetic.on_cifar10(synthetic.records()))


@pytest.fixture(scope="module")
def encoders(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["stage"].isin(["pretrain", "probe"])]


@pytest.fixture(scope="module")
def drawing(runs: pd.DataFrame) -> FigureWithData:
    return beside_peers(runs, "cifar10_cpu")


def test_own_and_published_numbers_are_panels_of_their_own_on_one_scale(drawing: FigureWithData) -> None:
    own, published = drawing.figure.axes
    assert own.get_xlim() == published.get_xlim()
    for axes, side in ((own, "own"), (published, "published")):
        marks = [each for each in axes.collections if isinstance(each, PathCollection)]
        drawn = sorted(float(x) for each in marks for x, _ in np.asarray(each.get_offsets()))
        assert drawn == pytest.approx(sorted(drawing.data.query(f"whose == '{side}'")["mean"]))


def test_every_published_number_is_drawn_as_it_is_in_the_file(drawing: FigureWithData) -> None:
    drawn = drawing.data.query("whose == 'published'")
    assert sorted(drawn["mean"]) == sorted(peers()["value"])


def test_rows_tell_network_epochs_time_and_device(drawing: FigureWithData) -> None:
    written = texts(drawing.figure)
    assert "R8 0.5x (20k), 30 epochs, 12.5 s on 1 CPU thread" in written
    assert "dkobak: R18 1x (11M), 100 epochs, 20.0 min on A100" in written
    assert "SimCLR paper: R50 1x (24M)\n" in written
    assert "FixMatch (RA): WRN-28-2 (1.5M), from others' copies\n" in written
    assert "CIFAR-10 (50,000 training, 10,000 test images), preset cifar10_cpu; mean of 3 seeds" in written


def test_few_labels_are_counted_beside_their_points(drawing: FigureWithData) -> None:
    numbers = [text.get_text() for axes in drawing.figure.axes for text in axes.texts]
    assert {"40", "250", "4,000", "500", "5,000", "50,000"} == set(numbers)


def test_encoders_alone_are_compared_too(encoders: pd.DataFrame) -> None:
    own = beside_peers(encoders, "cifar10").data.query("whose == 'own'")
    assert set(own["outcome"]) == {"kNN", "linear probe"}
    assert set(own["labels"]) == {50_000}


def test_it_is_drawn_and_tabled_for_cifar10_and_no_other_images(encoders: pd.DataFrame) -> None:
    assert "beside_peers" in {drawing.name for drawing in figures.draw_all(encoders, "p")[0]}
    assert "peers" in {table.name for table in tables.all_tables(encoders)[0]}
    tinted = encoders.assign(dataset="tinted_mnist")
    for (made, missing), name in (
        (figures.draw_all(tinted, "p"), "beside_peers"),
        (tables.all_tables(tinted), "peers"),
    ):
        assert name not in {each.name for each in made} | set(missing)
    with pytest.raises(MissingRunsError, match="of CIFAR-10"):
        beside_peers(tinted, "mini")


def test_a_network_without_linear_evaluation_has_its_row(runs: pd.DataFrame) -> None:
    unprobed = runs[(runs["stage"] != "probe") | (runs["network"] != "R8 0.5x")]
    small, middle, *_ = peers_table(unprobed).rows
    assert small[-3:-1] == ["-", "-"]
    assert small[-1].startswith("fine-tuned 500: ")
    assert "-" not in middle[-3:]
    rows = beside_peers(unprobed, "cifar10_cpu").data.query("whose == 'own'")
    assert "R8 1x (78k), 30 epochs, 12.5 s on 1 CPU thread" in set(rows["training"])
    pretrained = unprobed[unprobed["stage"].isin(["pretrain", "probe"])]
    assert peers_table(pretrained).rows[0][-3:] == ["-", "-", "-"]
    assert len(beside_peers(pretrained, "cifar10_cpu").data.query("whose == 'own'")) == 4


def test_seeds_on_one_pretraining_are_named_so(runs: pd.DataFrame) -> None:
    shared = runs.assign(pretrain_seed=0)
    assert "standard error over seeds on one pretraining, the time" in peers_table(shared).remark


def test_the_report_has_a_section_for_it(encoders: pd.DataFrame) -> None:
    report = Report(preset="p", source="own", runs=encoders, claims=[], drawings=[], figures=Path())
    shown = content(report)
    assert "Beside others" in shown["sections"]
    assert shown["shown"]["Beside others"] == peers_table(encoders)


def test_the_table_says_whose_every_row_is(runs: pd.DataFrame) -> None:
    table = peers_table(runs)
    whose = [row[0].split(":")[0] for row in table.rows]
    assert whose == ["own"] * 3 + ["published"] * (len(table.rows) - 3)
    small, fixmatch = table.rows[0], next(row for row in table.rows if "FixMatch" in row[0])
    assert fixmatch[0] == "published: FixMatch, Table 2, from others' copies"
    assert "over seeds, the time" in table.remark
    assert small[1:4] == ["R8 0.5x", "20k", "30"]
    assert small[-1].startswith("fine-tuned 500: 56.0 ± 0.")
    assert fixmatch[-1].startswith("FixMatch (RA) 40: 86.2 ± 3.4, 250: 94.9 ± 0.7")

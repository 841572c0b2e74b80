"""The report page: whole, valid, by itself, and made of nothing but what the records say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic

from clrkit.cli.main import main
from clrkit.config import Finetune, Stage
from clrkit.experiments.presets import preset
from clrkit.results import claims, figures, style
from clrkit.results.comparison import compare
from clrkit.results.report import Report, content, page, simple_page, table_element, write_index, write_report
from clrkit.results.text import Table
from clrkit.runs import store
from clrkit.runs.check import check
from clrkit.runs.reproduce import complete
from clrkit.runs.store import Store

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
VOID = {"meta", "img", "input"}  # elements without an end
NO_PARAGRAPH = {"p", "span", "a", "label", "summary", "dt"}  # what a block may not stand in
BLOCKS = {"p", "div", "ul", "dl", "table", "details", "figure", "section", "h1", "h2", "h3", "li"}


class Page(HTMLParser):
    """A page taken apart by a reader that forgives nothing."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        if tag in BLOCKS:
            assert not NO_PARAGRAPH & set(self.open), (tag, self.open)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.texts.append(data)

    def all(self, *tags: str) -> Iterator[dict[str, str]]:
        return (attributes for tag, attributes in self.elements if tag in tags)

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """All sections, with one figure, whose picture is saved, and a cell that differs from the reference."""
    home = tmp_path_factory.mktemp("results")
    (home / "figures").mkdir()
    store = synthetic.runs(lambda stage: synthetic.noisy(stage) - 20 * (stage.name == "supervised"))
    gains = figures.gain_by_size(store, "mini")
    (home / "figures" / "gain_by_size.svg").write_bytes(style.encode(gains.figure, "svg"))
    return Report(
        preset="mini",
        source="own runs",
        runs=store,
        claims=claims.evaluate(store, synthetic.PRESET),
        drawings=[gains],
        figures=home / "figures",
        missing={"distillation": "No distill runs are recorded."},
        comparison=compare(store, synthetic.runs()),
        notebooks=[home / "notebooks" / "01_pretrain.ipynb", home.parent / "elsewhere.ipynb"],
    )


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return page(report, report.figures.parent)


def test_the_page_is_well_formed_and_its_parts_refer_to_each_other(text: str) -> None:
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    found = Page(text)
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    fragments = [link["href"][1:] for link in found.all("a") if link["href"].startswith("#")]
    assert len(fragments) == 9
    assert {*fragments, *found.values("for"), *found.values("aria-labelledby")} <= set(ids)


def test_headings_are_in_order_and_pictures_have_their_alt_text(text: str, report: Report) -> None:
    found = Page(text)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [image["alt"] for image in found.all("img")] == [each.alt for each in report.drawings]


def test_the_page_asks_nothing_of_anywhere(text: str) -> None:
    found = Page(text)
    assert not list(found.all("script", "link", "iframe", "object", "base"))
    assert all(source.startswith("data:image/svg+xml,") for source in found.values("src"))
    assert "url(" not in text.partition("</style>")[0]
    assert "@import" not in text
    assert [meta["content"] for meta in found.all("meta") if "http-equiv" in meta] == [POLICY]
    assert [link["href"] for link in found.all("a") if ":" in link["href"]] == [
        "https://arxiv.org/abs/2006.10029"
    ]


def test_the_page_says_all_that_the_sections_hold(text: str, report: Report) -> None:
    shown, holds = Page(text).text, content(report)["shown"]
    tables = [each for each in holds.values() if isinstance(each, Table)] + list(holds["Tables"])
    cells = [cell for table in tables for row in table.rows for cell in row]
    facts = [fact for name in ("Not shown", "Provenance") for fact in holds[name].values()]
    said = [f"{claim.statement} {claim.detail} {claim.verdict}".split() for claim in report.claims]
    assert len(tables) == 7
    assert len(cells) > 200
    assert len(facts) > 8
    for expected in [*cells, *facts, *(word for words in said for word in words)]:
        assert " ".join(expected.split()) in shown
    assert "differs: " in shown


@pytest.mark.slow
def test_the_same_records_make_the_same_page(text: str, report: Report) -> None:
    shuffled = list(
        reversed(synthetic.records(lambda stage: synthetic.noisy(stage) - 20 * (stage.name == "supervised")))
    )
    store = synthetic.records_to_frame(shuffled)
    again = replace(
        report,
        runs=store,
        claims=claims.evaluate(store, synthetic.PRESET),
        comparison=compare(store, synthetic.runs()),
    )
    assert page(again, report.figures.parent) == text


def test_published_numbers_stand_on_ground_of_their_own(text: str) -> None:
    marked = re.findall(r'<t[hd][^>]*class="[^"]*published[^"]*"[^>]*>([^<]*)<', text)
    assert [cell for cell in marked if "own" in cell] == []
    assert [cell for cell in marked if cell.startswith("published: ImageNet")] == marked[:2]
    assert {"57.9", "73.9"} <= set(marked)


def test_it_links_to_what_lies_below_it_and_names_the_rest(text: str) -> None:
    assert '<a href="notebooks/01_pretrain.ipynb">01_pretrain</a>' in text
    assert "<li>elsewhere</li>" in text


def test_what_records_say_is_text(report: Report, tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    records: list[dict[str, Any]] = synthetic.records()
    for record in records:
        record["dataset"]["name"] = record["dataset"]["part"] = hostile
        record["provenance"] |= {"cpu": hostile, "device": "&lt;", "finished": hostile}
    store = synthetic.records_to_frame(records)
    gains = replace(report.drawings[0], title=hostile, alt=hostile)
    hostile_report = replace(
        report,
        runs=store,
        drawings=[gains],
        missing={hostile: hostile},
        notebooks=[tmp_path / f"{hostile.replace('/', '')}.ipynb"],
    )
    write_report(tmp_path / "report.html", hostile_report)
    found = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not list(found.all("script"))
    assert not found.values("onerror")
    assert len(list(found.all("img"))) == 1
    assert next(found.all("img"))["alt"] == hostile
    assert found.text.count(hostile) > 6
    assert "device&lt;" in found.text.replace(" ", "")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All runs of a preset; figures are few and quickly drawn."""
    monkeypatch.setattr(figures, "FIGURES", (figures.method_bars,))
    monkeypatch.setattr(style, "encode", lambda figure, kind: kind.encode())
    store = Store(tmp_path / "results", "smoke")
    for stage in complete(preset("smoke").runs):
        synthetic.put(store, stage, lambda stage: 75.0)
    return store.results


@pytest.mark.slow
def test_the_command_writes_the_page_beside_the_figures_and_wherever_it_is_told(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", "--preset", "smoke", "--results", str(results)]
    assert main(command) == 0
    beside = results / "smoke" / "report.html"
    assert capsys.readouterr().out == f"{beside}\n"
    assert check(results).damaged == []
    assert main([*command, "--out", str(tmp_path / "sent" / "page.html")]) == 0
    assert (tmp_path / "sent" / "page.html").read_text() == beside.read_text()
    beside.write_text("something else")
    assert main(command) == 0
    assert (tmp_path / "sent" / "page.html").read_text() == beside.read_text()
    (tmp_path / "file").touch()
    assert main([*command, "--out", str(tmp_path / "file" / "page.html")]) == 1
    unwritable = f"clrkit: {tmp_path / 'file' / 'page.html'} cannot be written: "
    assert capsys.readouterr().err.startswith(unwritable)


def test_a_report_of_few_runs_has_no_figure_and_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "FIGURES", ())
    store = Store(tmp_path / "results", "smoke")
    synthetic.put(store, preset("smoke").finetune.pretrain)
    assert main(["report", "--preset", "smoke", "--results", str(store.results)]) == 0
    assert (store.folder / "report.html").exists()
    assert check(store.results).damaged == []
    assert capsys.readouterr().err == ""


def test_results_without_runs_are_refused_without_the_data_and_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "fingerprint_once", lambda _: pytest.fail("the data set was asked for"))
    results = tmp_path / "results"
    assert main(["report", "--preset", "cifar10_official", "--results", str(results)]) == 1
    assert f"clrkit: {results / 'cifar10_official'} holds no runs" in capsys.readouterr().err
    assert not results.exists()


def test_a_report_that_is_not_of_ones_own_runs_says_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "FIGURES", (figures.method_bars,))
    for stage in complete(preset("smoke").runs):
        synthetic.put(Store(tmp_path / "results" / "reference", "smoke"), stage)
    page = tmp_path / "page.html"
    assert main(["report", "--preset", "smoke", "--results", f"{tmp_path}/results", "--out", f"{page}"]) == 0
    assert "holds no whole set of runs; this is the committed reference" in capsys.readouterr().err
    assert "</h1>\n<p><strong>Not your own runs" in page.read_text()
    assert "<img" in page.read_text()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["reference"]


def test_another_page_has_the_same_policy_and_escapes_its_title_and_tables() -> None:
    table = Table("t", "Title", "<remark>", ["a", "published: b"], [["<i>", "1.0 ± 0.1"]])
    text = simple_page("<title>", table_element(table, '"label"'))
    found = Page(text)
    assert "<title>&lt;title&gt;</title>" in text
    assert [meta["content"] for meta in found.all("meta") if "http-equiv" in meta] == [POLICY]
    assert "<remark> a published: b <i> 1.0 ± 0.1" in found.text
    assert '<td class="number published">' in text
    assert 'aria-label="&#34;label&#34;"' in text


# INDEX.md


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

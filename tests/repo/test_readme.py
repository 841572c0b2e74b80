"""README, docs/mini.md and the reading guide agree with the records and the library; the example runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from clrkit.experiments.ablation_settings import ablation_runs
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import preset
from clrkit.results import claims
from clrkit.results.published import published
from clrkit.results.records import AGAIN, records_to_frame
from clrkit.results.statistics import accuracy_cells, budget_cells, distillation_cells, method_cells
from clrkit.results.tables import published_table
from clrkit.runs.reproduce import complete
from clrkit.runs.store import Store

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MINI_PAGE = (ROOT / "docs/mini.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs/reading_guide.md").read_text(encoding="utf-8")
LIBRARY = ROOT / "clrkit"
MINI, REFERENCE = preset("mini"), Store(ROOT / "results", "mini").reference


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return committed(MINI)


def committed(preset: Preset) -> pd.DataFrame:
    reference = Store(ROOT / "results", preset.name).reference
    return records_to_frame((run.record for run in reference.find_all(complete(preset.runs))), preset)


def row(name: str) -> tuple[str, str]:
    """Own and published numbers of a row of the table of preset `mini`."""
    (found,) = re.findall(rf"^\| {re.escape(name)} \| (.*?) \| (.*?) \|$", MINI_PAGE, re.M)
    return found


def pair(cells: pd.DataFrame) -> str:
    """The two fractions of one method as the page writes them."""
    ordered = cells[cells["fraction"] < 1].sort_values("fraction")
    assert list(ordered["fraction"]) == [0.01, 0.1]
    return " / ".join(f"{cell.mean:.1f} ± {cell.stderr:.1f}" for cell in ordered.itertuples(index=False))


def of(cells: pd.DataFrame, method: str, by: Callable[[pd.Series], float]) -> pd.DataFrame:
    """A method's cells, of the smallest or the largest network."""
    chosen = cells[cells["method"] == method]
    return chosen[chosen["parameters"] == by(chosen["parameters"])]


def paper_pair(source: str, method: str, network: str) -> str:
    numbers = published()
    fits = (numbers["source"] == source) & (numbers["method"] == method) & (numbers["network"] == network)
    few = numbers[fits & numbers["fraction"].isin([0.01, 0.1])].sort_values("fraction")
    return " / ".join(f"{value:.1f}" for value in few["value"])


def test_own_numbers_are_those_of_the_reference(runs: pd.DataFrame) -> None:
    accuracy, methods = accuracy_cells(runs), method_cells(runs)
    assert row("fine-tuned, smallest network")[0] == pair(of(accuracy, "finetuned", min))
    assert row("fine-tuned, largest network")[0] == pair(of(accuracy, "finetuned", max))
    supervised = row("smallest network, supervised on the labels alone")[0]
    assert supervised == pair(of(methods, "supervised", min))
    longer = row("the same, on as many images as pretraining and fine-tuning draw")[0]
    assert longer == pair(budget_cells(runs))
    taught = distillation_cells(runs)
    distilled = taught[taught["method"].str.startswith("distilled from")]
    again = distilled["method"].str.endswith(AGAIN)
    assert row("smallest network, distilled from the largest")[0] == pair(distilled[~again])
    assert row("the same, the largest distilled into itself first")[0] == pair(distilled[again])


def test_published_numbers_are_those_of_the_paper() -> None:
    table = "SimCLRv2, Table 1"
    assert row("fine-tuned, smallest network")[1].startswith(paper_pair(table, "finetuned", "R50 1x"))
    assert row("fine-tuned, largest network")[1].startswith(paper_pair(table, "finetuned", "R152 3x SK"))


@pytest.fixture(scope="module")
def photographs() -> pd.DataFrame:
    return committed(preset("cifar10_cpu"))


def test_the_table_of_photographs_agrees_with_the_records(photographs: pd.DataFrame) -> None:
    assert published_table(photographs).markdown() in README


def test_statements_about_photographs_agree_with_the_records(photographs: pd.DataFrame) -> None:
    verdicts = [
        each.verdict
        for each in claims.evaluate(photographs, preset("cifar10_cpu"))
        if re.fullmatch(r"C\d", each.claim)
    ]
    supported, undecided, rest = map(verdicts.count, ("supported", "undecided", "not supported"))
    verb = "is" if rest == 1 else "are"
    assert f"{supported} are supported, {undecided} undecided, and {rest} {verb} not supported" in README
    hours = photographs["seconds"].sum() / 2 / 3600
    assert f"{hours:.1f} hours of training on two cores" in README


@pytest.mark.slow
def test_verdicts_and_size_of_the_reference_are_those_of_the_records(runs: pd.DataFrame) -> None:
    verdicts = [each.verdict for each in claims.evaluate(runs, MINI) if re.fullmatch(r"C\d", each.claim)]
    supported, undecided = map(verdicts.count, ("supported", "undecided"))
    assert f"{supported} are supported, {undecided} undecided" in MINI_PAGE
    wanted = complete([*MINI.runs, *ablation_runs(MINI)])
    assert f"over {len(REFERENCE.find_all(wanted))} recorded runs" in README


def test_the_readme_fits_in_150_lines() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.slow
def test_the_example_of_the_library_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    short = re.sub(r"epochs=\d+", "epochs=1", example)
    assert short.count("epochs=1,") == 3
    assert 10 <= len(example.splitlines()) <= 20
    exec(compile(short, "README.md", "exec"), {})
    assert re.fullmatch(r"\d+%, \d+%\n", capsys.readouterr().out)


def rooms() -> set[str]:
    return {path.parent.name for path in LIBRARY.glob("*/__init__.py")}


def test_the_rooms_that_are_named_are_the_rooms_on_disk() -> None:
    named = set(re.findall(r"`(\w+)/`", README)) - {"clrkit"}
    assert named == rooms()


def test_the_reading_guide_names_every_file_of_the_method_and_only_files_that_exist() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", GUIDE))
    assert len(named) > 20
    assert [name for name in named if not ((LIBRARY / name).exists() or (ROOT / name).exists())] == []
    method = {path.name for path in LIBRARY.glob("*.py")}
    assert {
        name for name in method if f"`{name}`" not in GUIDE and f"`clrkit.{name[:-3]}`" not in GUIDE
    } == set()
    assert set(re.findall(r"^\| `clrkit/(\w+)/` \|", GUIDE, re.M)) == rooms()


def test_the_reading_guide_names_functions_that_exist() -> None:
    found = re.findall(r"`(\w+)` in `(clrkit/[\w/]+\.py)`|`(\w+)` \(`(clrkit/[\w/]+\.py)`\)", GUIDE)
    assert len(found) > 10
    for one, file, other, place in found:
        source = (ROOT / (file or place)).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(def {one or other}\(|{one or other}\b.* = )", source, re.M), one or other

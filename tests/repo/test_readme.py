"""The README's numbers are those of the committed records and of the published ones."""

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
MINI, REFERENCE = preset("mini"), Store(ROOT / "results", "mini").reference


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return committed(MINI)


def committed(preset: Preset) -> pd.DataFrame:
    reference = Store(ROOT / "results", preset.name).reference
    return records_to_frame((run.record for run in reference.find_all(complete(preset.runs))), preset)


def row(name: str) -> tuple[str, str]:
    """Own and published numbers of a row of the README's table."""
    (found,) = re.findall(rf"^\| {re.escape(name)} \| (.*?) \| (.*?) \|$", README, re.M)
    return found


def pair(cells: pd.DataFrame) -> str:
    """The two fractions of one method as the README writes them."""
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


def test_the_table_of_photographs_is_what_the_records_give(photographs: pd.DataFrame) -> None:
    assert published_table(photographs).markdown() in README


def test_what_is_said_of_photographs_is_what_the_records_give(photographs: pd.DataFrame) -> None:
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
def test_the_verdicts_and_the_size_of_the_reference_are_told(runs: pd.DataFrame) -> None:
    verdicts = [each.verdict for each in claims.evaluate(runs, MINI) if re.fullmatch(r"C\d", each.claim)]
    assert f"{verdicts.count('supported')} are supported, {verdicts.count('undecided')} undecided" in README
    wanted = complete([*MINI.runs, *ablation_runs(MINI)])
    assert f"over {len(REFERENCE.find_all(wanted))} recorded runs" in README


def test_every_module_that_is_named_is_there() -> None:
    named = re.findall(r"`(\w+\.py)`", README)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / "clrkit" / name).exists()] == []

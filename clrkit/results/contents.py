"""What a reader sees of an experiment, told once: INDEX.md and the report page are two renderings of it.

Texts here are plain; whoever renders them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from clrkit.results.claims import SUPPORTED, Claim
from clrkit.results.comparison import DIFFERS, summary_line
from clrkit.results.style import FigureWithData
from clrkit.results.records import dataset_name
from clrkit.runs.reproduce import REFERENCE
from clrkit.results.table import Table, duration
from clrkit.results.tables import all_tables, cells_table

CLAIM_RULE = """\
A part is supported where the 95% interval of its effect (Student's t over seeds) lies above zero, not
supported where it lies below, else undecided; for "equals or beats" the bound is a loss of one percentage
point. Fewer than three seeds decide nothing. A claim is supported if all of its parts are, and not supported
if one part is refuted after Holm's correction over the parts; its numbers are those of the part that decides.
Parts that the paper does not claim are reported and decide nothing. Where seeds share a pretraining,
comparisons between pretrainings count pretrainings instead of seeds; comparisons after the same pretraining
hold given that one.
"""
TOLERANCE_RULE = """\
A cell is a setting. Own and reference runs of equal seeds are compared where their pretraining came out the
same: a cell differs if more than half of its seeds are off by more than the tolerance, to the same side. The
tolerance is what rounding on another processor rarely exceeds, and at least the sampling error of a
difference on the images measured; own runs do not change it. Where pretraining came out otherwise, as on
processors whose rounding changes it, equal seeds are like other seeds: the cell is undecided, unless the
means are further apart than the spread over the reference's seeds explains.
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of an experiment.

    Attributes:
        preset: name of the preset.
        source: whose runs these are, such as "own runs".
        runs: frame of the runs (`clrkit.results.records.records_to_frame`).
        claims: from `clrkit.results.claims.evaluate`.
        drawings: the figures, in the order they are shown.
        figures: the folder they were saved in (`clrkit.results.style.save`).
        missing: names of figures that could not be drawn, and why.
        comparison: with the reference (`clrkit.results.comparison.compare`); None if there is nothing to compare.
        notebooks: executed notebooks.
        ablations: along the settings of the lab (`clrkit.results.ablation_table`); None where none are recorded.
    """

    preset: str
    source: str
    runs: pd.DataFrame
    claims: Sequence[Claim]
    drawings: Sequence[FigureWithData]
    figures: Path
    missing: Mapping[str, str] = field(default_factory=dict)
    comparison: pd.DataFrame | None = None
    notebooks: Sequence[Path] = ()
    ablations: Table | None = None


@dataclass(frozen=True)
class Titled:
    """A table under its title; elsewhere the section's title does."""

    table: Table


@dataclass(frozen=True)
class Strong:
    """A sentence that matters most."""

    text: str


@dataclass(frozen=True)
class Folded:
    """A table that is looked up rather than read."""

    summary: str
    table: Table


@dataclass(frozen=True)
class Verdicts:
    """Claims, each followed by its parts, and the rule they were judged by."""

    claims: Sequence[Claim]
    rule: str


@dataclass(frozen=True)
class Facts:
    """Short texts by name."""

    facts: Mapping[str, str]


@dataclass(frozen=True)
class Files:
    """Files to open."""

    paths: Sequence[Path]


Block = str | Strong | Table | Titled | Folded | Verdicts | FigureWithData | Facts | Files


@dataclass(frozen=True)
class Section:
    """A title and what stands below it."""

    title: str
    blocks: Sequence[Block]


def sections(report: Report) -> list[Section]:
    """Claims and figures first, provenance last; no section that has nothing to show."""
    tables, lacking = all_tables(report.runs)
    named = {table.name: table for table in tables}
    missing = {**report.missing, **lacking}
    read = [Titled(named[name]) for name in ("accuracy", "head", "distillation") if name in named]
    every = [
        Section("Claims", [Verdicts(report.claims, CLAIM_RULE)]),
        Section("Figures", report.drawings),
        Section("Tables", read),
        Section("Ablations", [report.ablations] if report.ablations else []),
        Section("Beside the paper", [table for table in tables if table.name == "published"]),
        Section("Beside others", [Titled(table) for table in tables if table.name == "peers"]),
        Section("Against the reference", compared(report.comparison)),
        Section("Notebooks", [Files(report.notebooks)] if report.notebooks else []),
        Section("Not shown", [Facts(missing)] if missing else []),
        Section("Cost", [named["cost"]]),
        Section("Provenance", [Facts(provenance(report.runs))]),
    ]
    return [section for section in every if section.blocks]


def title(report: Report) -> str:
    """The method and the data."""
    return f"SimCLRv2 on {dataset_name(report.runs)}"


def summary(report: Report) -> str:
    """What was run, on what, whose it is, and how long it took."""
    runs, seeds = report.runs, sorted(report.runs["seed"].unique())
    drawn = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    train, evaluation, part = runs[["train", "evaluation", "part"]].iloc[0]
    images = f"{train:,} training and {evaluation:,} {part} images"
    spent = duration(runs["seconds"].sum())
    return f"{len(runs)} runs ({report.source}), {drawn}; {images}; {spent} of training in all."


def notice(report: Report) -> str:
    """What a reader must know before all else; empty where there is nothing."""
    return "Not your own runs: this shows the committed reference." if report.source == REFERENCE else ""


def outcome(report: Report) -> Facts:
    """How it came out, in a line each for the claims and the comparison."""
    whole = [claim for claim in report.claims if not claim.is_part]
    supported = [claim.claim for claim in whole if claim.verdict == SUPPORTED]
    names = f" ({', '.join(supported)})" if supported else ""
    facts = {"Claims of the paper": f"{len(supported)} of {len(whole)} supported{names}."}
    if report.comparison is not None:
        facts["Against the reference"] = f"{summary_line(report.comparison)}."
    return Facts(facts)


def compared(comparison: pd.DataFrame | None) -> list[Block]:
    """The summary, the cells that differ, and all cells folded away."""
    if comparison is None:
        return []
    apart = comparison[comparison["verdict"] == DIFFERS]
    differing = dict(zip(apart["cell"], apart["text"], strict=True))
    cells = Folded(f"All {len(comparison)} cells", cells_table(comparison))
    return [
        Strong(summary_line(comparison)),
        *([Facts(differing)] if differing else []),
        TOLERANCE_RULE,
        cells,
    ]


def provenance(runs: pd.DataFrame) -> dict[str, str]:
    """Machines, versions and dates, each value that occurs."""
    dates = sorted(str(date)[:16].replace("T", " ") for date in runs["finished"].dropna())
    facts = {
        "device": occurring(runs, "device"),
        "processor": occurring(runs, "cpu"),
        "cores and threads": f"{occurring(runs, 'cores')} and {occurring(runs, 'threads')}",
        "Python": occurring(runs, "python"),
        "torch": occurring(runs, "torch"),
        "clrkit": occurring(runs, "clrkit"),
        "git revision": occurring(runs, "git"),
        "data fingerprint": occurring(runs, "fingerprint"),
        "finished": f"{dates[0]} to {dates[-1]} (UTC)" if dates else "",
    }
    return {name: fact for name, fact in facts.items() if fact}


def occurring(runs: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted({str(value) for value in runs[column].dropna()} - {""}))

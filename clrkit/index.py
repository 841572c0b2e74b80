"""INDEX.md: what a reader sees of an experiment; claims and figures first, provenance last."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from clrkit.claims import SUPPORTED, Claim
from clrkit.comparison import DIFFERS, summary_line
from clrkit.drawing import Drawing
from clrkit.frames import dataset_name
from clrkit.tables import Table, all_tables, claims_table, duration, parts_table, verbatim

CLAIM_RULE = """\
An effect is supported beyond two standard errors above zero, not supported beyond two below, else undecided;
fewer than three seeds decide nothing. "Equals or beats" is supported where a loss of a percentage point is
excluded. Two standard errors over three seeds are a weak test: no effect passes it one time in eleven.
"""
TOLERANCE_RULE = """\
A cell is a setting; it is reproduced if own and reference means differ by at most three standard errors of
their difference, from a spread over seeds that is pooled over like cells, or by at most the sampling error
of an accuracy on the images measured.
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What INDEX.md is written from.

    Attributes:
        preset: name of the preset.
        source: whose runs these are, such as "own runs".
        runs: frame of the runs (`clrkit.frames.frame`).
        claims: from `clrkit.claims.evaluate`.
        drawings: the figures, in the order they are shown.
        figures: the folder they were saved in (`clrkit.drawing.save`).
        missing: names of figures that could not be drawn, and why.
        comparison: with the reference (`clrkit.comparison.compare`); None if there is nothing to compare.
        notebooks: executed notebooks.
    """

    preset: str
    source: str
    runs: pd.DataFrame
    claims: Sequence[Claim]
    drawings: Sequence[Drawing]
    figures: Path
    missing: Mapping[str, str] = field(default_factory=dict)
    comparison: pd.DataFrame | None = None
    notebooks: Sequence[Path] = ()


def write_index(path: Path, report: Report) -> None:
    """Writes the report as Markdown to `path`, with links relative to it."""
    tables, lacking = all_tables(report.runs)
    named, home = {table.name: table for table in tables}, path.parent
    missing = {**report.missing, **lacking}
    read = [named[name] for name in ("accuracy", "head", "distillation") if name in named]
    parts = [
        heading(report),
        section("Claims", claims_table(report.claims).markdown(), *claim_parts(report.claims)),
        section("Figures", *(shown(drawing, relative(report.figures, home)) for drawing in report.drawings)),
        section("Tables", *(f"**{table.title}.** {table.markdown()}" for table in read)),
        section("Beside the paper", *(table.markdown() for table in tables if table.name == "published")),
        section("Against the reference", *compared(report.comparison)),
        section("Notebooks", listing(f"[{each.stem}]({relative(each, home)})" for each in report.notebooks)),
        section("Not shown", listing(f"{name}: {why}" for name, why in missing.items())),
        section("Cost", named["cost"].markdown()),
        section("Provenance", provenance(report.runs)),
    ]
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8", newline="\n")


def section(title: str, *blocks: str) -> str:
    """A heading and its blocks; nothing where there are none."""
    filled = [block for block in blocks if block]
    return f"## {title}\n\n" + "\n".join(filled) if filled else ""


def listing(items: Iterable[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


def folded(summary: str, content: str) -> str:
    """Content that opens at a click where Markdown is shown as HTML."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n</details>\n"


def claim_parts(claims: Sequence[Claim]) -> list[str]:
    table = parts_table(claims)
    return [CLAIM_RULE, folded(f"The {len(table.rows)} parts of the claims", table.markdown())]


def relative(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()


def heading(report: Report) -> str:
    """What was run, on what, whose it is, and how it came out."""
    runs, whole = report.runs, [claim for claim in report.claims if not claim.is_part]
    seeds = sorted(runs["seed"].unique())
    drawn = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    supported = [claim.claim for claim in whole if claim.verdict == SUPPORTED]
    train, evaluation, part = runs[["train", "evaluation", "part"]].iloc[0]
    images = f"{train:,} training and {evaluation:,} {verbatim(part)} images"
    spent = duration(runs["seconds"].sum())
    names = f" ({', '.join(supported)})" if supported else ""
    lines = [
        f"# SimCLRv2 on {verbatim(dataset_name(runs))}, preset `{report.preset}`\n",
        f"{len(runs)} runs ({report.source}), {drawn}; {images}; {spent} of training in all.\n",
        f"- Claims of the paper: {len(supported)} of {len(whole)} supported{names}.",
    ]
    if report.comparison is not None:
        lines.append(f"- Against the reference: {summary_line(report.comparison)}.")
    return "\n".join(lines) + "\n"


def shown(drawing: Drawing, folder: str) -> str:
    """A figure with its alt text, and links to its other forms."""
    forms = " · ".join(f"[{form}]({folder}/{drawing.name}.{form})" for form in ("svg", "pdf", "csv", "json"))
    alt = drawing.alt.replace("[", "(").replace("]", ")")
    return f"### {drawing.title}\n\n![{alt}]({folder}/{drawing.name}.png)\n\n{drawing.alt} ({forms})\n"


def compared(comparison: pd.DataFrame | None) -> list[str]:
    """The summary, the cells that differ, and all cells folded away."""
    if comparison is None:
        return []
    apart = comparison[comparison["verdict"] == DIFFERS]
    differing = listing(f"{cell}: {text}" for cell, text in zip(apart["cell"], apart["text"], strict=True))
    cells = folded(f"All {len(comparison)} cells", cell_table(comparison))
    return [f"**{summary_line(comparison)}**\n", differing, TOLERANCE_RULE, cells]


def cell_table(comparison: pd.DataFrame) -> str:
    columns = ["cell", "own", "reference", "tolerance", "text"]
    rows = [
        [cell, *("-" if pd.isna(number) else f"{number:.1f}" for number in numbers), text]
        for cell, *numbers, text in comparison[columns].itertuples(index=False)
    ]
    columns[-1] = "verdict"
    return Table("cells", "", "Top-1 or kNN accuracy in %, mean over seeds.", columns, rows).markdown()


def provenance(runs: pd.DataFrame) -> str:
    """Machines, versions and dates, each value that occurs."""
    dates = sorted(runs["started"].dropna())
    facts = {
        "device": occurring(runs, "device"),
        "processor": occurring(runs, "cpu"),
        "cores and threads": f"{occurring(runs, 'cores')} and {occurring(runs, 'threads')}",
        "Python": occurring(runs, "python"),
        "torch": occurring(runs, "torch"),
        "clrkit": occurring(runs, "clrkit"),
        "git revision": occurring(runs, "git"),
        "data fingerprint": occurring(runs, "fingerprint"),
        "started": f"{dates[0]} to {dates[-1]}" if dates else "",
    }
    return listing(f"{name}: {fact}" for name, fact in facts.items() if fact)


def occurring(runs: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted({verbatim(str(value)) for value in runs[column].dropna()} - {""}))

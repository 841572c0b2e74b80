"""INDEX.md and report.html: what a reader sees of an experiment, from one `Report` and two Jinja2 templates.

The page needs nothing else: figures are in it as SVG and style is in its head; it has no script, and its
policy lets a browser load nothing. Everything is escaped, and the same records make the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clrkit.data.files import write_atomically
from clrkit.results.claims import SUPPORTED, Claim
from clrkit.results.comparison import DIFFERS, summary_line
from clrkit.results.records import dataset_name
from clrkit.results.style import FigureWithData
from clrkit.results.tables import CLAIMS_REMARK, all_tables, cells_table, claims_table, parts_table
from clrkit.results.text import Table, duration, verbatim

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
IN_URL = " !$()*+,-./:;=?@^_{|}~"  # legible in a data URL within double quotes
NUMBER = re.compile(r"-?|[+-]?[\d.,]+( ± [\d.]+)?( ?(s|min|h|MB|k|M))?")
READ = ("accuracy", "head", "distillation")  # tables in a section of their own


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of both pages.

    Attributes:
        preset: name of the preset.
        source: whose runs these are, such as "own runs".
        notice: what a reader must know first, if anything.
        runs: frame of the runs (`clrkit.results.records.records_to_frame`).
        claims: from `clrkit.results.claims.evaluate`.
        drawings: the figures, in the order they are shown.
        figures: the folder they were saved in (`clrkit.results.style.save`).
        missing: names of figures that could not be drawn, and why.
        comparison: with the reference (`clrkit.results.comparison.compare`), if there is one.
        notebooks: executed notebooks.
        ablations: along the settings of the lab (`clrkit.results.tables.ablation_table`), if recorded.
    """

    preset: str
    source: str
    notice: str = ""
    runs: pd.DataFrame
    claims: Sequence[Claim]
    drawings: Sequence[FigureWithData]
    figures: Path
    missing: Mapping[str, str] = field(default_factory=dict)
    comparison: pd.DataFrame | None = None
    notebooks: Sequence[Path] = ()
    ablations: Table | None = None


def write_index(path: Path, report: Report) -> None:
    """Write the report as Markdown, with links relative to `path`."""
    text = environment().get_template("index.md.j2").render(content(report), home=path.parent)
    compact = re.sub(r"\n{3,}", "\n\n", text.strip())
    write_atomically(path, f"{compact}\n".encode())


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML page that links to the notebooks in its folder and names the others.

    Raises:
        OSError: if a figure cannot be read from `report.figures` or the page cannot be written.
    """
    write_atomically(path, page(report, path.parent).encode())


def page(report: Report, home: Path) -> str:
    """The HTML page, to lie in the folder `home`."""
    return environment().get_template("report.html.j2").render(content(report), home=home)


def simple_page(title: str, body: Markup) -> str:
    """A page in the same style and with the same policy, of elements that are escaped already."""
    return environment().get_template("page.html.j2").render(title=title, body=body)


def table_element(table: Table, label: str) -> Markup:
    """A table as an HTML element that scrolls by itself, also by keyboard."""
    macros: Any = environment().get_template("macros.html.j2").module
    return Markup(macros.tabular(table, label))


@cache
def environment() -> Environment:
    """The templates; HTML is escaped by itself, Markdown by the filter `md`."""
    found = Environment(
        loader=PackageLoader("clrkit.results"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"md": verbatim, "anchor": anchor, "relative": relative, "below": below}
    found.filters |= {"classes": css_classes, "data_url": data_url, "pixels": pixels}
    return found


def content(report: Report) -> dict[str, Any]:
    """What the templates show; `sections` names those with content, claims first and provenance last."""
    tables, lacking = all_tables(report.runs)
    named = {table.name: table for table in tables}
    comparison = report.comparison
    apart = pd.DataFrame(columns=["cell", "text"])
    if comparison is not None:
        apart = comparison[comparison["verdict"] == DIFFERS]
    shown: dict[str, Any] = {
        "Claims": claims_table(report.claims),
        "Figures": report.drawings,
        "Tables": [named[name] for name in READ if name in named],
        "Ablations": report.ablations,
        "Beside the paper": named.get("published"),
        "Beside others": named.get("peers"),
        "Against the reference": None if comparison is None else cells_table(comparison),
        "Notebooks": report.notebooks,
        "Not shown": {**report.missing, **lacking},
        "Cost": named["cost"],
        "Provenance": provenance(report.runs),
    }
    return {
        "report": report,
        "title": f"SimCLRv2 on {dataset_name(report.runs)}",
        "summary": summary(report),
        "outcome": outcome(report),
        "sections": [name for name, value in shown.items() if value],
        "shown": shown,
        "claims_remark": CLAIMS_REMARK,
        "claim_rule": CLAIM_RULE,
        "parts_table": parts_table(report.claims),
        "tolerance_rule": TOLERANCE_RULE,
        "compared": None if comparison is None else summary_line(comparison),
        "differing": dict(zip(apart["cell"], apart["text"], strict=True)),
    }


def summary(report: Report) -> str:
    """What was run, on what, by whom, and how long it took."""
    runs, seeds = report.runs, sorted(report.runs["seed"].unique())
    drawn = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    train, evaluation, part = runs[["train", "evaluation", "part"]].iloc[0]
    images = f"{train:,} training and {evaluation:,} {part} images"
    spent = duration(runs["seconds"].sum())
    return f"{len(runs)} runs ({report.source}), {drawn}; {images}; {spent} of training in all."


def outcome(report: Report) -> dict[str, str]:
    """The result in a line each for the claims and the comparison."""
    whole = [claim for claim in report.claims if not claim.is_part]
    supported = [claim.claim for claim in whole if claim.verdict == SUPPORTED]
    names = f" ({', '.join(supported)})" if supported else ""
    facts = {"Claims of the paper": f"{len(supported)} of {len(whole)} supported{names}."}
    if report.comparison is not None:
        facts["Against the reference"] = f"{summary_line(report.comparison)}."
    return facts


def provenance(runs: pd.DataFrame) -> dict[str, str]:
    """Machines, versions and dates, each value that occurs."""

    def occurring(column: str) -> str:
        return ", ".join(sorted({str(value) for value in runs[column].dropna()} - {""}))

    dates = sorted(str(date)[:16].replace("T", " ") for date in runs["finished"].dropna())
    facts = {
        "device": occurring("device"),
        "processor": occurring("cpu"),
        "cores and threads": f"{occurring('cores')} and {occurring('threads')}",
        "Python": occurring("python"),
        "torch": occurring("torch"),
        "clrkit": occurring("clrkit"),
        "git revision": occurring("git"),
        "data fingerprint": occurring("fingerprint"),
        "finished": f"{dates[0]} to {dates[-1]} (UTC)" if dates else "",
    }
    return {name: fact for name, fact in facts.items() if fact}


# Filters of the templates


def anchor(text: str) -> str:
    """A title as an id."""
    return "-".join(re.findall(r"\w+", text.lower()))


def relative(path: Path, home: Path) -> str:
    """The path of a file from a folder, as a link in Markdown."""
    return Path(os.path.relpath(path, home)).as_posix()


def below(path: Path, home: Path) -> str:
    """The URL of a file from a folder that holds it; "" from any other."""
    found, home = path.resolve(), home.resolve()
    return quote(found.relative_to(home).as_posix()) if found.is_relative_to(home) else ""


def data_url(drawing: FigureWithData, folder: Path) -> str:
    """The saved SVG of a figure as a URL that holds it."""
    svg = re.sub(r"\s+", " ", (folder / f"{drawing.name}.svg").read_text(encoding="utf-8"))
    return f"data:image/svg+xml,{quote(svg, safe=IN_URL)}"


def pixels(drawing: FigureWithData) -> list[int]:
    """Width and height of a figure on a screen."""
    return [round(96 * inches) for inches in drawing.figure.get_size_inches()]


def css_classes(table: Table) -> list[str]:
    """The CSS classes of each column: numbers are aligned right, published ones have another ground."""
    found = []
    for column, *texts in zip(table.columns, *table.rows, strict=True):
        names = ["number"] if all(map(NUMBER.fullmatch, texts)) else []
        found.append(" ".join(names + ["published"] * column.startswith("published")))
    return found

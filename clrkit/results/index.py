"""INDEX.md: what a reader sees of an experiment (`clrkit.results.contents`) as Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from clrkit.results.contents import (
    Block,
    Facts,
    Files,
    Folded,
    Report,
    Strong,
    Titled,
    Verdicts,
    notice,
    outcome,
    sections,
    summary,
    title,
)
from clrkit.results.style import FigureWithData
from clrkit.results.table import Table, verbatim
from clrkit.results.tables import claims_table, parts_table
from clrkit.files import write_atomically


def write_index(path: Path, report: Report) -> None:
    """Writes the report as Markdown to `path`, with links relative to it."""
    first = f"**{text}**\n\n" if (text := notice(report)) else ""
    parts = [
        f"# {verbatim(title(report))}, preset `{report.preset}`\n\n{first}{verbatim(summary(report))}\n",
        listed(outcome(report)),
    ]
    for section in sections(report):
        blocks = [rendered(block, report, path.parent) for block in section.blocks]
        parts.append(f"## {section.title}\n\n" + "\n".join(blocks))
    write_atomically(path, "\n".join(parts).encode())


def rendered(block: Block, report: Report, home: Path) -> str:
    """A block as Markdown that ends its last line."""
    match block:
        case str():
            return block  # a rule of ours
        case Strong(text):
            return f"**{verbatim(text)}**\n"
        case Table():
            return block.markdown()
        case Titled(table):
            return f"**{table.title}.** {table.markdown()}"
        case Folded(summary, table):
            return folded(summary, table)
        case Verdicts(claims, rule):
            parts = parts_table(claims)
            lookup = folded(f"The {len(parts.rows)} parts of the claims", parts)
            return "\n".join([claims_table(claims).markdown(), rule, lookup])
        case FigureWithData():
            return shown(block, relative(report.figures, home))
        case Facts():
            return listed(block)
        case Files(paths):
            return listing(f"[{each.stem}]({relative(each, home)})" for each in paths)


def listing(items: Iterable[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


def listed(block: Facts) -> str:
    return listing(f"{verbatim(name)}: {verbatim(fact)}" for name, fact in block.facts.items())


def folded(summary: str, table: Table) -> str:
    """A table that opens at a click where Markdown is shown as HTML."""
    return f"<details><summary>{summary}</summary>\n\n{table.markdown()}\n</details>\n"


def relative(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()


def shown(drawing: FigureWithData, folder: str) -> str:
    """A figure with its alt text, and links to its other forms."""
    forms = " · ".join(f"[{form}]({folder}/{drawing.name}.{form})" for form in ("svg", "pdf", "csv", "json"))
    alt = verbatim(drawing.alt)
    return f"### {verbatim(drawing.title)}\n\n![{alt}]({folder}/{drawing.name}.png)\n\n{alt} ({forms})\n"

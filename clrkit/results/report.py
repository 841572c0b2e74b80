"""report.html: what a reader sees of an experiment (`clrkit.results.contents`) as one page that needs nothing else.

Figures are in it as SVG, style in its head; there is no script, and its policy lets a browser load nothing.
The same records make the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from clrkit.results.claims import Claim
from clrkit.results.contents import (
    Block,
    Facts,
    Files,
    Folded,
    Report,
    Section,
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
from clrkit.results.stylesheet import STYLE
from clrkit.results.table import Table
from clrkit.results.tables import CLAIMS_REMARK
from clrkit.files import write_atomically

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PAPER = "https://arxiv.org/abs/2006.10029"
IN_URL = " !$()*+,-./:;=?@^_{|}~"  # legible in a data URL within double quotes


def write_report(path: Path, report: Report) -> None:
    """Writes the report as one HTML page to `path`, whole or not at all.

    It links to notebooks that lie beside or below it, and names the others. The figures are read from
    `report.figures`.

    Raises:
        OSError: where a figure cannot be read or the page cannot be written.
    """
    write_atomically(path, page(report, path.parent).encode())


def page(report: Report, home: Path) -> str:
    """The page, to lie in the folder `home`."""
    name = escape(f"{title(report)}, preset {report.preset}")
    shown = sections(report)
    body = [
        f"<header>\n<h1>{name}</h1>\n{introduction(report)}\n</header>",
        contents(shown),
        "<main>",
        *(chapter(section, report, home) for section in shown),
        "</main>",
        f"<footer>{closing(report)}</footer>",
    ]
    return document(name, body)


def document(name: str, body: Sequence[str]) -> str:
    """A page of these elements that loads nothing; `name` and they are escaped."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{name}</title>
<style>{STYLE}</style>
</head>
<body>
{chr(10).join(body)}
</body>
</html>
"""


def introduction(report: Report) -> str:
    """What the page is, what was run, and how it came out."""
    paper = f'<a href="{PAPER}">Big Self-Supervised Models are Strong Semi-Supervised Learners</a>'
    what = (
        f"A reproduction of SimCLRv2 ({paper}, Chen et al., 2020): pretraining without labels, fine-tuning "
        "on few labels, distillation. Every number and figure is from the records of runs."
    )
    first = f"<p><strong>{text}</strong></p>\n" if (text := notice(report)) else ""
    return f"{first}<p>{what}</p>\n<p>{escape(summary(report))}</p>\n{listed(outcome(report))}"


def closing(report: Report) -> str:
    command = f"python -m clrkit report --preset {report.preset}"
    return f"Made by <code>{escape(command)}</code>; this page loads nothing from elsewhere."


def contents(shown: Sequence[Section]) -> str:
    links = "".join(f'<li><a href="#{anchor(each.title)}">{escape(each.title)}</a></li>' for each in shown)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def anchor(text: str) -> str:
    return "-".join(re.findall(r"\w+", text.lower()))


def chapter(section: Section, report: Report, home: Path) -> str:
    place = anchor(section.title)
    blocks = "\n".join(rendered(block, section, report, home) for block in section.blocks)
    heading = f'<h2 id="{place}-title">{escape(section.title)}</h2>'
    return f'<section id="{place}" aria-labelledby="{place}-title">\n{heading}\n{blocks}\n</section>'


def rendered(block: Block, section: Section, report: Report, home: Path) -> str:
    """A block as HTML; every text in it is escaped."""
    match block:
        case str():
            return f'<p class="soft">{escape(block)}</p>'
        case Strong(text):
            return f"<p><strong>{escape(text)}</strong></p>"
        case Table():
            return tabular(block, section.title)
        case Titled(table):
            return f"<h3>{escape(table.title)}</h3>\n{tabular(table, table.title)}"
        case Folded(summary, table):
            inner = tabular(table, table.title)
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"
        case Verdicts(claims, rule):
            return verdicts(claims, rule)
        case FigureWithData():
            return shown(block, report.figures)
        case Facts():
            return listed(block)
        case Files(paths):
            return "<ul>" + "".join(f"<li>{link(path, home)}</li>" for path in paths) + "</ul>"


def listed(block: Facts) -> str:
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in block.facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def link(path: Path, home: Path) -> str:
    """A file by name, as a link where the page's folder holds it."""
    name, home = escape(path.stem), home.resolve()
    if not (found := path.resolve()).is_relative_to(home):
        return name
    return f'<a href="{quote(found.relative_to(home).as_posix())}">{name}</a>'


def verdicts(claims: Sequence[Claim], rule: str) -> str:
    """The claims as cards, with their parts folded into them."""
    cards = []
    for claim in claims:
        if not claim.is_part:
            parts = [part for part in claims if part.is_part and part.claim.startswith(claim.claim)]
            statement = f'{escape(claim.statement)} <span class="soft">({escape(claim.source)})</span>'
            detail = f'<p class="soft">{escape(claim.detail)}</p>'
            cards.append(f"<li><p>{named(claim)} {statement}</p>{detail}{folded(parts)}</li>")
    remarks = "".join(f'<p class="soft">{escape(text)}</p>\n' for text in (CLAIMS_REMARK, rule))
    return f'<ul class="claims">\n{chr(10).join(cards)}\n</ul>\n{remarks}'


def named(claim: Claim) -> str:
    kind = claim.verdict.replace(" ", "-")
    return (
        f'<span class="name">{escape(claim.claim)}</span> <span class="verdict {kind}">{claim.verdict}</span>'
    )


def folded(parts: Sequence[Claim]) -> str:
    """The parts of a claim, to be opened; nothing where there are none."""
    if not parts:
        return ""
    rows = (
        f'<li>{named(part)} {escape(part.statement)}. <span class="soft">{escape(part.detail)}</span></li>'
        for part in parts
    )
    count = "1 part" if len(parts) == 1 else f"{len(parts)} parts"
    return f"<details><summary>{count} with numbers</summary><ul>{''.join(rows)}</ul></details>"


def shown(drawing: FigureWithData, folder: Path) -> str:
    """A figure on white, with its alt text as caption; on a narrow screen a box to tick makes it larger."""
    svg = re.sub(r"\s+", " ", (folder / f"{drawing.name}.svg").read_text(encoding="utf-8"))
    source = f"data:image/svg+xml,{quote(svg, safe=IN_URL)}"
    width, height = (round(96 * inches) for inches in drawing.figure.get_size_inches())
    title, alt, place = escape(drawing.title), escape(drawing.alt), f"larger-{anchor(drawing.name)}"
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{alt}">'
    box = f'<input type="checkbox" id="{place}" aria-label="Larger: {title}">'
    return (
        f'<h3>{title}</h3>\n<figure>\n<label class="paper" for="{place}">{image}</label>\n'
        f'<label class="larger">{box} larger</label>\n'
        f'<figcaption aria-hidden="true">{alt}</figcaption>\n</figure>'
    )


def tabular(table: Table, label: str) -> str:
    """A table in a box that scrolls by itself, also by keyboard."""
    classes = [css_class(column, texts) for column, *texts in zip(table.columns, *table.rows, strict=True)]
    head = "".join(
        f'<th scope="col"{css}>{escape(text)}</th>' for text, css in zip(table.columns, classes, strict=True)
    )
    rows = "\n".join(table_row(row, classes) for row in table.rows)
    return (
        f'<p class="soft">{escape(table.remark)}</p>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def css_class(column: str, texts: Sequence[str]) -> str:
    """Numbers are set right, published ones on ground of their own."""
    names = ["number"] if all(map(is_number, texts)) else []
    names += ["published"] if column.startswith("published") else []
    return f' class="{" ".join(names)}"' if names else ""


def is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?|[+-]?[\d.,]+( ± [\d.]+)?( ?(s|min|h|MB|k|M))?", text))


def table_row(texts: Sequence[str], classes: Sequence[str]) -> str:
    """A row whose first cell names it."""
    first, *others = texts
    cells = "".join(f"<td{css}>{escape(text)}</td>" for text, css in zip(others, classes[1:], strict=True))
    return f'<tr><th scope="row"{classes[0]}>{escape(first)}</th>{cells}</tr>'

"""Predictions as a table, as CSV and as JSON; file and class names are foreign and made harmless."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence

from clrkit.data.folders import UNSHOWABLE
from clrkit.experiments.describe import aligned
from clrkit.export.predict import Prediction

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one


def as_table(found: Sequence[Prediction], top: int) -> str:
    """Aligned columns: file, class, probability, runner-up, probability, ..., without unreadable files."""
    rows = [["file", "class", "probability", *(["runner-up", "probability"] * (top - 1))]]
    for each in found:
        pairs = [(shown(label), f"{share:.1%}") for label, share in each.found[:top]]
        rows += [[shown(each.file), *itertools.chain(*pairs)]] if pairs else []
    return "".join(f"{line}\n" for line in aligned(rows))


def shown(name: str) -> str:
    """A file name that can be printed, whatever its bytes."""
    return UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", name)


def as_csv(found: Sequence[Prediction], top: int) -> str:
    """Columns file, class, probability, class_2, probability_2, ..., problem."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ends = ["", *(f"_{place}" for place in range(2, top + 1))]
    rows.writerow(["file", *(f"{name}{end}" for end in ends for name in ("class", "probability")), "problem"])
    for each in found:
        pairs = [(harmless(label), f"{share:.6f}") for label, share in each.found[:top]] or [("", "")] * top
        rows.writerow([harmless(each.file), *itertools.chain(*pairs), harmless(each.problem)])
    return text.getvalue()


def harmless(name: str) -> str:
    """A name that no spreadsheet takes for a formula: an apostrophe comes before it (OWASP)."""
    return f"'{text}" if (text := shown(name)).startswith(FORMULA) else text


def as_json(found: Sequence[Prediction], top: int) -> str:
    """A list of objects: `file`, `classes` (each `class` and `probability`), and `problem` (a text)."""
    content = [
        {
            "file": shown(each.file),
            "classes": [{"class": shown(label), "probability": share} for label, share in each.found[:top]],
            "problem": shown(each.problem),
        }
        for each in found
    ]
    return json.dumps(content, indent=1) + "\n"

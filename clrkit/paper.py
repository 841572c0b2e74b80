"""Published numbers, read from results/paper.json. They never share a series with own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clrkit.frames import MissingRecords, fraction_name

PAPER = Path(__file__).parent.parent / "results" / "paper.json"


@dataclass(frozen=True)
class Finding:
    """What a paper found of a setting.

    Attributes:
        says: in a sentence or two.
        source: paper, with table or section.
        checked: whether it was compared with the source.
        numbers: `label` (of the value), `series`, `mean` in percent; no rows where none are published.
    """

    says: str
    source: str
    checked: bool
    numbers: pd.DataFrame

    @property
    def cited(self) -> str:
        """The source, and whether it is only recalled."""
        return self.source if self.checked else f"{self.source}, as recalled"


def published(path: Path = PAPER) -> pd.DataFrame:
    """One row a published number: `source`, `dataset`, `checked` and what the number is of.

    Columns as in `clrkit.frames`, where they mean the same: method, network, parameters (millions),
    fraction, metric, value (percent, unless `unit` says otherwise). Raises MissingRecords without the file,
    which lies in the checkout and not in an installed package.
    """
    return numbers_of(content(path, "groups"), path)


def finding(setting: str, path: Path = PAPER) -> Finding:
    """What is published of a setting of the ablation lab. Raises MissingRecords as `published`."""
    groups, told = content(path, "groups"), content(path, "findings")
    (found,) = (each for each in told if each["setting"] == setting)
    numbers = pd.DataFrame(columns=["label", "series", "mean"])
    if wanted := found.get("numbers"):
        rows = numbers_of([group for group in groups if group["id"] == wanted["group"]], path)
        for name, values in wanted["where"].items():
            rows = rows[rows[name].isin(values)]
        words = pd.DataFrame(
            {name: rows[name].map(worded(name)) for name in (wanted["along"], *wanted["by"])}
        )
        series = words[wanted["by"]].agg(", ".join, axis=1)
        numbers = pd.DataFrame({"label": words[wanted["along"]], "series": series, "mean": rows["value"]})
    return Finding(found["says"], found["source"], found["checked"], numbers)


def worded(field: str) -> Callable[[Any], str]:
    """What puts a field's values in words."""
    if field == "fraction":
        return lambda value: f"{fraction_name(value)} of the labels"
    return lambda value: value if isinstance(value, str) else f"{value:g}"


def content(path: Path, part: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise MissingRecords(f"{path}, the published numbers, is not there.")
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[part]
        return found
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MissingRecords(f"{path} is no list of published numbers.") from None


def numbers_of(groups: list[dict[str, Any]], path: Path) -> pd.DataFrame:
    common = ("source", "dataset", "checked")
    try:
        rows = [
            {**{name: group[name] for name in common}, **number}
            for group in groups
            for number in group["numbers"]
        ]
    except (KeyError, TypeError):
        raise MissingRecords(f"{path} is no list of published numbers.") from None
    return pd.DataFrame(rows)


def table_1(path: Path = PAPER) -> pd.DataFrame:
    """Table 1 in the columns of `clrkit.frames.summarise`: method, fraction, parameters, network, mean."""
    numbers = published(path)
    cells = numbers[numbers["source"] == "SimCLRv2, Table 1"].rename(columns={"value": "mean"})
    return cells[["method", "fraction", "parameters", "network", "mean"]].assign(stderr=float("nan"), seeds=1)

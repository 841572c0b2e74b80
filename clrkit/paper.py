"""Published numbers, read from results/paper.json. They never share a series with own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from clrkit.frames import MissingRecords

PAPER = Path(__file__).parent.parent / "results" / "paper.json"


def published(path: Path = PAPER) -> pd.DataFrame:
    """One row a published number: `source`, `dataset`, `checked` and what the number is of.

    Columns as in `clrkit.frames`, where they mean the same: method, network, parameters (millions),
    fraction, metric, value (percent, unless `unit` says otherwise). Raises MissingRecords without the file,
    which lies in the checkout and not in an installed package.
    """
    if not path.is_file():
        raise MissingRecords(f"{path}, the published numbers, is not there.")
    common = ("source", "dataset", "checked")
    try:
        groups: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["groups"]
        rows = [
            {**{name: group[name] for name in common}, **number}
            for group in groups
            for number in group["numbers"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MissingRecords(f"{path} is no list of published numbers.") from None
    return pd.DataFrame(rows)


def table_1(path: Path = PAPER) -> pd.DataFrame:
    """Table 1 in the columns of `clrkit.frames.summarise`: method, fraction, parameters, network, mean."""
    numbers = published(path)
    cells = numbers[numbers["source"] == "SimCLRv2, Table 1"].rename(columns={"value": "mean"})
    return cells[["method", "fraction", "parameters", "network", "mean"]].assign(stderr=float("nan"), seeds=1)

"""Published numbers, read from results/paper.json. They never share a series with own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clrkit.results.records import MissingRunsError, dataset_name, fraction_name

PEERS_DATASET = "CIFAR-10"
PAPER = Path(__file__).parents[2] / "results" / "paper.json"


@dataclass(frozen=True)
class Finding:
    """What a paper found of a setting.

    Attributes:
        says: sentences, each with its source.
        cited: the source of the numbers.
        numbers: `label` (of the value), `series`, `mean` in percent; no rows where none are published.
    """

    says: str
    cited: str
    numbers: pd.DataFrame


def published(path: Path = PAPER) -> pd.DataFrame:
    """One row a published number: `source`, `dataset`, `checked` and what the number is of.

    `cited` is the source with `doubt`, how the number is known where it was not compared with the source.
    Columns as in `clrkit.results.records`, where they mean the same: method, network, parameters (millions),
    fraction, metric, value (percent, unless `unit` says otherwise). Raises MissingRunsError without the file,
    which lies in the checkout and not in an installed package.
    """
    return numbers_of(content(path, "groups"), path)


def finding(setting: str, path: Path = PAPER) -> Finding:
    """What is published of a setting of the ablation lab. Raises MissingRunsError as `published`."""
    groups, told = content(path, "groups"), content(path, "findings")
    (found,) = (each for each in told if each["setting"] == setting)
    numbers, sources = pd.DataFrame(columns=["label", "series", "mean"]), list[str]()
    if wanted := found.get("numbers"):
        of_group = [group for group in groups if group["id"] == wanted["group"]]
        rows, sources = numbers_of(of_group, path), [cited(group) for group in of_group]
        for name, values in wanted["where"].items():
            rows = rows[rows[name].isin(values)]
        words = pd.DataFrame(
            {name: rows[name].map(worded(name)) for name in (wanted["along"], *wanted["by"])}
        )
        series = words[wanted["by"]].agg(", ".join, axis=1)
        numbers = pd.DataFrame({"label": words[wanted["along"]], "series": series, "mean": rows["value"]})
    says = " ".join(f"{said['text']} ({cited(said)})." for said in found["says"])
    return Finding(says, ", ".join(sources), numbers)


def cited(part: Mapping[str, Any]) -> str:
    """The source of a statement or a group, and how it is known where it was not compared with that."""
    return ", ".join(filter(None, (part["source"], doubt(part))))


def doubt(part: Mapping[str, Any]) -> str:
    """How a statement or a group is known that was not compared with its source; "" where it was."""
    return "" if part["checked"] else part.get("known", "as recalled")


def worded(field: str) -> Callable[[Any], str]:
    """What puts a field's values in words."""
    if field == "fraction":
        return lambda value: f"{fraction_name(value)} of the labels"
    return lambda value: value if isinstance(value, str) else f"{value:g}"


def content(path: Path, part: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise MissingRunsError(f"{path}, the published numbers, is not there.")
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[part]
        return found
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MissingRunsError(f"{path} is no list of published numbers.") from None


def numbers_of(groups: list[dict[str, Any]], path: Path) -> pd.DataFrame:
    common = ("source", "dataset", "checked")
    try:
        rows = [
            {"name": group.get("name", group["source"]), "cited": cited(group), "doubt": doubt(group)}
            | {name: group[name] for name in common}
            | number
            for group in groups
            for number in group["numbers"]
        ]
    except (KeyError, TypeError):
        raise MissingRunsError(f"{path} is no list of published numbers.") from None
    return pd.DataFrame(rows)


def table_1(path: Path = PAPER) -> pd.DataFrame:
    """Table 1 in the columns of `clrkit.results.records.summarise`: method, fraction, parameters, network, mean."""
    numbers = published(path)
    cells = numbers[numbers["source"] == "SimCLRv2, Table 1"].rename(columns={"value": "mean"})
    return cells[["method", "fraction", "parameters", "network", "mean"]].assign(stderr=float("nan"), seeds=1)


def peers(path: Path = PAPER) -> pd.DataFrame:
    """What others report on CIFAR-10, a row a number: few labels last, small networks first.

    Columns of `published`; missing where the source does not say: `labels` (their count), epochs, batch_size,
    device, seconds, std (over `seeds` runs). `metric` is knn, linear, linear_online (the classifier is
    trained beside the encoder) or top1 (of the method with that many labels).
    """
    numbers = published(path)
    numbers = numbers[numbers["dataset"] == PEERS_DATASET]
    few = numbers["labels"] < numbers["labels"].max()
    ordered = numbers.assign(few=few).sort_values(["few", "parameters", "epochs"], kind="stable")
    return ordered.drop(columns="few").dropna(axis=1, how="all").reset_index(drop=True)


def have_peers(runs: pd.DataFrame) -> bool:
    """Whether the runs are of the images that peers report on."""
    return len(runs) > 0 and dataset_name(runs) == PEERS_DATASET

"""Published numbers, from `published.json` in this package. They never share a series with own numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from clrkit.results.records import dataset_name, fraction_name

PEERS_DATASET = "CIFAR-10"


@dataclass(frozen=True)
class Finding:
    """What a paper found about a setting.

    Attributes:
        says: sentences, each with its source.
        cited: the source of the numbers.
        numbers: `label` (of the value), `series`, `mean` in percent; no rows if none are published.
    """

    says: str
    cited: str
    numbers: pd.DataFrame


@cache
def content() -> dict[str, Any]:
    """The file: `groups` of numbers, and `findings` on the settings of the ablation lab."""
    text = (files("clrkit.results") / "published.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def published() -> pd.DataFrame:
    """One row a published number: `source`, `dataset`, `checked` and what the number is of.

    `cited` is the source with `doubt`, which says how a number is known that was not compared with its
    source. Columns named as in `clrkit.results.records` mean the same: method, network, parameters
    (millions), fraction, metric, value (percent, unless `unit` says otherwise).
    """
    return numbers_of(content()["groups"])


def numbers_of(groups: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The numbers of groups as a frame, a row each."""
    common = ("source", "dataset", "checked")
    return pd.DataFrame(
        {"name": group.get("name", group["source"]), "cited": cited(group), "doubt": doubt(group)}
        | {name: group[name] for name in common}
        | number
        for group in groups
        for number in group["numbers"]
    )


def cited(part: Mapping[str, Any]) -> str:
    """The source of a statement or a group, with its doubt."""
    return ", ".join(filter(None, (part["source"], doubt(part))))


def doubt(part: Mapping[str, Any]) -> str:
    """How a statement or a group is known that was not compared with its source; "" if it was."""
    return "" if part["checked"] else part.get("known", "as recalled")


def finding(setting: str) -> Finding:
    """What is published about a setting of the ablation lab."""
    (found,) = (each for each in content()["findings"] if each["setting"] == setting)
    says = " ".join(f"{said['text']} ({cited(said)})." for said in found["says"])
    if not (wanted := found.get("numbers")):
        return Finding(says, "", pd.DataFrame(columns=["label", "series", "mean"]))
    groups = [group for group in content()["groups"] if group["id"] == wanted["group"]]
    rows = numbers_of(groups)
    for name, values in wanted["where"].items():
        rows = rows[rows[name].isin(values)]
    along, by = wanted["along"], wanted["by"]
    words = pd.DataFrame({name: [in_words(name, each) for each in rows[name]] for name in (along, *by)})
    series = words[by].agg(", ".join, axis=1)
    numbers = pd.DataFrame({"label": words[along], "series": series, "mean": rows["value"].array})
    return Finding(says, ", ".join(map(cited, groups)), numbers)


def in_words(field: str, value: Any) -> str:
    """A field's value as text."""
    if field == "fraction":
        return f"{fraction_name(value)} of the labels"
    return value if isinstance(value, str) else f"{value:g}"


def table_1() -> pd.DataFrame:
    """Table 1 in the columns of `clrkit.results.statistics.accuracy_cells`."""
    numbers = published()
    cells = numbers[numbers["source"] == "SimCLRv2, Table 1"].rename(columns={"value": "mean"})
    return cells[["method", "fraction", "parameters", "network", "mean"]].assign(stderr=float("nan"), seeds=1)


def peers() -> pd.DataFrame:
    """What others report on CIFAR-10, a row a number: few labels last, small networks first.

    Columns of `published`; NaN where the source does not say: `labels` (their count), epochs, batch_size,
    device, seconds, std (over `seeds` runs). `metric` is knn, linear, linear_online (the classifier is
    trained beside the encoder) or top1 (of the method with that many labels).
    """
    numbers = published()
    numbers = numbers[numbers["dataset"] == PEERS_DATASET]
    few = numbers["labels"] < numbers["labels"].max()
    ordered = numbers.assign(few=few).sort_values(["few", "parameters", "epochs"], kind="stable")
    return ordered.drop(columns="few").dropna(axis=1, how="all").reset_index(drop=True)


def have_peers(runs: pd.DataFrame) -> bool:
    """Whether the runs are of the images that peers report on."""
    return len(runs) > 0 and dataset_name(runs) == PEERS_DATASET

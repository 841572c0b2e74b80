"""Own numbers on CIFAR-10 and what others report, as a table."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from clrkit.results.cells import ALL_LABELS, KNN, LINEAR_PROBE, outcome_cells, pretrainings
from clrkit.results.style import size_name
from clrkit.results.records import seeds_named
from clrkit.results.published import peers
from clrkit.results.table import Table, duration, value


def peers_table(runs: pd.DataFrame) -> Table:
    """Own numbers on CIFAR-10, then what others report: a row a training, marked whose it is."""
    rows = [*own_trainings(runs), *published_trainings()]
    columns = ["", "network", "parameters", "epochs", "batch", "time", "on"]
    columns += ["kNN, %", "linear, %", "by number of labels, %"]
    remark = (
        f"Own: mean ± standard error over {seeds_named(runs)}, the time of pretraining one network. "
        "Published: ± standard deviation over runs, where it is given. Networks, devices and lengths of "
        "training differ."
    )
    return Table("peers", "CIFAR-10: own numbers and what others report", remark, columns, rows)


def own_trainings(runs: pd.DataFrame) -> Iterator[list[str]]:
    cells = outcome_cells(runs)
    cells["text"] = [value(mean, stderr) for mean, stderr in zip(cells["mean"], cells["stderr"], strict=True)]
    for _, training in pretrainings(runs).iterrows():
        mine = cells[cells["network"] == training["network"]]
        texts = mine.set_index("outcome")["text"]
        rest = mine[~mine["outcome"].isin([KNN, LINEAR_PROBE])].replace(
            {"outcome": {ALL_LABELS: "supervised"}}
        )
        known = texts.get(KNN, "-"), texts.get(LINEAR_PROBE, "-")
        yield ["own", *trained(training), *known, by_labels(rest)]


def published_trainings() -> Iterator[list[str]]:
    numbers = peers().rename(columns={"metric": "outcome"})
    numbers["text"] = [value(mean, std) for mean, std in zip(numbers["value"], numbers["std"], strict=True)]
    numbers.loc[numbers["outcome"] == "linear_online", "text"] += " (online)"
    numbers["outcome"] = numbers["outcome"].replace({"linear_online": "linear"})
    numbers["outcome"] = numbers["outcome"].mask(numbers["outcome"] == "top1", numbers["method"])
    for (source, *_), mine in numbers.groupby(
        ["cited", "network", "epochs", "batch_size"], sort=False, dropna=False
    ):
        texts = mine.set_index("outcome")["text"]
        rest = mine[~mine["outcome"].isin(["knn", "linear"])]
        known = texts.get("knn", "-"), texts.get("linear", "-")
        yield [f"published: {source}", *trained(mine.iloc[0]), *known, by_labels(rest)]


def trained(training: pd.Series) -> list[str]:
    """Network, parameters, epochs, batch, time and device of a training, as far as they are known."""
    known = training.notna()
    return [
        str(training["network"]),
        size_name(training["parameters"]),
        *(f"{training[name]:,.0f}" if known[name] else "-" for name in ("epochs", "batch_size")),
        duration(training["seconds"]) if known["seconds"] else "-",
        str(training["device"]) if known["device"] else "-",
    ]


def by_labels(cells: pd.DataFrame) -> str:
    """Accuracies of each outcome by the number of labels, as one text."""
    texts = (cells["labels"].map("{:,.0f}: ".format) + cells["text"]).groupby(cells["outcome"], sort=False)
    return "; ".join(f"{outcome} {', '.join(values)}" for outcome, values in texts) or "-"

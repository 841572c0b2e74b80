"""Statistics over seeds: means with errors, intervals and tests, and the cells of figures and tables.

Only runs that differ in nothing but their seed are averaged; `check_alike` makes sure of it. The functions
named `..._cells` take the frame of runs (`clrkit.results.records.records_to_frame`), return tidy cells with
`mean`, `stderr` and `seeds`, and raise MissingRunsError for what is not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from clrkit.results.records import (
    SIZE,
    MissingRunsError,
    MixedRunsError,
    by_size,
    distilled,
    finetuned,
    pick,
    probed,
    standard_head,
)

CONFIDENCE = 0.95
SEEDS_NEEDED = 3  # fewer decide nothing
CELL = ["fraction", *SIZE]
KNN, LINEAR_PROBE, FINE_TUNED = "kNN", "linear probe", "fine-tuned"
ALL_LABELS = "supervised, all labels"
SELF_DISTILLED = "self-distilled"
WHOLE_BUDGET = "supervised, whole budget"
LABELS_ONLY = "labels only"
WITHOUT_MEMORY, WITH_MEMORY = "without a memory", "with a memory"
# Rows of the paper's Table 2: name, whether the labels count in the loss, the images distilled on.
TARGETS = (
    (LABELS_ONLY, None, None),
    ("labels + distillation on the labelled images", True, "labelled"),
    ("labels + distillation on all images", True, "all"),
    ("distillation on all images", False, "all"),
)

# Intervals and tests


def mean_and_half_width(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean and half of its two-sided 95% interval (Student's t, n - 1 degrees of freedom).

    Args:
        values: two or more, independent. Where all are equal the half width is 0.
    """
    found = np.asarray(values, dtype=float)
    quantile = stdtrit(len(found) - 1, 0.5 + CONFIDENCE / 2)
    return float(found.mean()), float(quantile * standard_error(found))


def p_below(values: Sequence[float] | np.ndarray, bound: float) -> float:
    """One-sided p-value of Student's t test against "the mean is at least `bound`".

    Args:
        values: two or more, independent, not all equal.
    """
    found = np.asarray(values, dtype=float)
    return float(stdtr(len(found) - 1, (found.mean() - bound) / standard_error(found)))


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of two or more values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number by Holm's step-down procedure (1979), in the given order.

    Rejecting where an adjusted value is at most a level keeps the chance of any wrong rejection at that
    level, however the tests depend on each other.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of `count` images, in percent."""
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    # The ends enclose the share, whatever rounding does to a share of 0 or 1.
    low, high = float(100 * (centre - half)), float(100 * (centre + half))
    return min(max(low, 0.0), 100 * share), max(min(high, 100.0), 100 * share)


# Means over seeds


def mean_and_error(groups: Any) -> pd.DataFrame:
    """Columns `mean`, `stderr` (of the mean; NaN for one value) and `seeds` of grouped values."""
    cells: pd.DataFrame = groups.agg(mean="mean", stderr="sem", seeds="count")
    return cells.reset_index()


def summarise(runs: pd.DataFrame, by: Sequence[str], value: str = "top1") -> pd.DataFrame:
    """Columns `by`, and `mean`, `stderr` and `seeds` of a value over the runs of each cell."""
    check_alike(runs, by)
    return mean_and_error(runs.groupby(list(by))[value])


def by_seed(runs: pd.DataFrame, by: Sequence[str], value: str = "top1") -> pd.DataFrame:
    """A row a seed, a column a cell of `by`, as paired comparisons need them."""
    check_alike(runs, by)
    return runs.pivot(index="seed", columns=list(by), values=value)


def check_alike(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Raise MixedRunsError if runs in a cell of `by` differ in more than the seed, or share a seed."""
    same = runs.groupby(list(by), dropna=False)[["setup", "version", "fingerprint"]].transform("nunique")
    mixed = runs[(same > 1).any(axis=1)]
    if len(mixed):
        first = mixed.merge(mixed[list(by)].head(1), on=list(by))
        names = ", ".join(differences(first))
        raise MixedRunsError(f"{these(first)} differ in {names}; choose one setting of it.")
    again = runs[runs.duplicated([*by, "seed"])]
    if len(again):
        raise MixedRunsError(f"{these(again)} have seed {again['seed'].iloc[0]} more than once.")


def these(runs: pd.DataFrame) -> str:
    """The subject of a message on runs."""
    return f"The {runs['stage'].iloc[0]} runs of {runs['network'].iloc[0]}"


def differences(cell: pd.DataFrame) -> list[str]:
    """Names of the fields in which runs differ, seeds aside."""
    setups = pd.DataFrame([json.loads(setup) for setup in cell["setup"].unique()])
    fields = [str(name) for name in setups if setups[name].nunique(dropna=False) > 1]
    return fields + [name for name in ("version", "fingerprint") if cell[name].nunique() > 1]


# Cells of figures and tables


def stacked(parts: Mapping[str, pd.DataFrame], column: str = "method") -> pd.DataFrame:
    """Cells below each other, with their names in a column."""
    return pd.concat(parts, names=[column]).reset_index(column).reset_index(drop=True)


def accuracy_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 1: columns method (supervised, finetuned, linear), fraction, network, mean, stderr, seeds."""
    selected = {
        "supervised": pick(runs, "supervised"),
        "finetuned": finetuned(runs),
        "linear": probed(runs).assign(fraction=1.0),
    }
    return stacked({method: summarise(chosen, CELL) for method, chosen in selected.items()})


def budget_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Supervised training on as many images as pretraining and fine-tuning use, as `accuracy_cells`."""
    return summarise(pick(runs, "supervised", whole_budget=True), CELL).assign(method=WHOLE_BUDGET)


def gain_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 1: mean gain (%) over the smallest network by fraction and network."""
    gains = relative_gains(finetuned(runs)).melt(value_name="gain").dropna()
    return mean_and_error(gains.groupby(CELL)["gain"])


def relative_gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Gain (%) of each network over the smallest one, per seed (rows) and fraction, parameters, network."""
    smallest, *others = by_size(runs)
    if not others:
        raise MissingRunsError(
            f"Fine-tuned runs of two networks or more are needed; there is only {smallest}."
        )
    top1 = by_seed(runs, CELL)
    least = {column[0]: top1[column] for column in top1.columns if column[-1] == smallest}
    gains = {
        column: 100 * (top1[column] / least[column[0]] - 1) for column in top1.columns if column[0] in least
    }
    return pd.DataFrame(gains).rename_axis(columns=CELL)


def ablation_network(runs: pd.DataFrame) -> str:
    """The network with most settings of head depth and start layer; if several, the smallest."""
    tried = pick(runs, "finetune").groupby(SIZE)["setup"].nunique()
    return str(tried.index[int(tried.to_numpy().argmax())][1])


def head_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 5: accuracy of the ablation's network by fraction, head_layers and tap_layer."""
    tuned = pick(runs, "finetune", network=ablation_network(runs))
    cells = summarise(tuned, ["network", "fraction", "head_layers", "tap_layer"])
    several = cells.groupby("fraction")["tap_layer"].transform("nunique") > 1
    if not several.any():
        raise MissingRunsError("No finetune runs from two head layers or more of one network are recorded.")
    return cells[several].reset_index(drop=True)


def best_layers(cells: pd.DataFrame) -> pd.DataFrame:
    """The layer with the best mean for each fraction and head depth, chosen on the images measured."""
    return cells.loc[cells.groupby(["fraction", "head_layers"])["mean"].idxmax()]


def linear_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Each encoder's linear (`linear`, `linear_stderr`) and fine-tuned accuracy, by fraction."""
    encoder = [*SIZE, "head_layers"]
    linear = summarise(pick(runs, "probe"), encoder).drop(columns="seeds")
    tuned = summarise(finetuned(runs, any_head=True), ["fraction", *encoder])
    return tuned.merge(linear.rename(columns={"mean": "linear", "stderr": "linear_stderr"}), on=encoder)


def memory_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Appendix D: linear accuracy with and without a memory (`method`), of the networks that have both."""
    kinds = runs[runs["stage"] == "probe"].groupby(SIZE)["memory"].nunique() if len(runs) else pd.Series()
    networks = [network for _, network in kinds.index[kinds == 2]]
    if not networks:
        raise MissingRunsError("No network has probe runs both with and without a memory.")
    both = runs[runs["network"].isin(networks)]
    sides = {WITHOUT_MEMORY: False, WITH_MEMORY: True}
    return stacked({name: summarise(probed(both, memory=memory), SIZE) for name, memory in sides.items()})


def student_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Distilled on all images: method (self-distilled, distilled from ...), fraction, network, mean ..."""
    cells = summarise(distilled(runs), ["kind", "teacher", *CELL])
    cells["method"] = "distilled from " + cells["teacher"]
    # In self-distillation each network is its own teacher: one series, named without it.
    cells.loc[cells["kind"] == "self", "method"] = SELF_DISTILLED
    return cells.drop(columns=["kind", "teacher"])


def distillation_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 6: fine-tuned and distilled at the distilled fractions; supervised with all labels, if run."""
    students = student_cells(runs)
    tuned = summarise(finetuned(runs), CELL).assign(method=FINE_TUNED)
    alone = summarise(pick(runs, "supervised"), CELL).assign(method=ALL_LABELS)
    shown = tuned["fraction"].isin(students["fraction"])
    return pd.concat([alone[alone["fraction"] == 1], tuned[shown], students], ignore_index=True)


def method_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 2: every method's accuracy for the network that was distilled in most ways, by fraction."""
    students = student_cells(runs)
    ways = students.groupby(SIZE)["method"].nunique()
    network = ways.index[int(ways.to_numpy().argmax())][1]
    cells = pd.concat([accuracy_cells(runs), students])
    cells["method"] = cells["method"].replace({"finetuned": FINE_TUNED, "linear": LINEAR_PROBE})
    mine: pd.DataFrame = cells[cells["network"] == network]
    return mine.reset_index(drop=True)


def target_pair(runs: pd.DataFrame) -> tuple[str, str]:
    """Student and teacher with the most kinds of target; if several, the smallest student."""
    mixed = pick(runs, "distill")
    if not (mixed["label_weight"] > 0).any():
        raise MissingRunsError("No distill runs with a label term are recorded.")
    kinds = mixed.groupby([*SIZE, "teacher"])["setup"].nunique()
    _, student, teacher = kinds.sort_values(ascending=False, kind="stable").index[0]
    return student, teacher


def targets(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of Table 2 for `target_pair`, with what the student learned from in a column `target`."""
    student, teacher = target_pair(runs)
    pair = pick(runs, "distill", network=student, teacher=teacher)
    labels = pick(runs, "supervised", network=student)
    parts = [labels[labels["fraction"].isin(pair["fraction"])].assign(target=LABELS_ONLY)]
    for target, with_labels, transfer in TARGETS[1:]:
        chosen = ((pair["label_weight"] > 0) == with_labels) & (pair["transfer"] == transfer)
        parts.append(pair[chosen].assign(target=target))
    return pd.concat(parts)


def target_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 2: accuracy by fraction and `target`, in the paper's order."""
    cells = summarise(targets(runs), ["fraction", "target"])
    order = {target: place for place, (target, _, _) in enumerate(TARGETS)}
    cells = cells.assign(place=cells["target"].map(order))
    return cells.sort_values(["fraction", "place"]).drop(columns="place")


def outcome_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """What peers also report: `outcome` (kNN, linear probe, ...) by network, fraction and `labels`."""
    probes, stages = probed(runs), set(runs["stage"])
    frozen = {KNN: summarise(probes, SIZE, "knn"), LINEAR_PROBE: summarise(probes, SIZE)}
    parts = {outcome: cells.assign(fraction=1.0) for outcome, cells in frozen.items()}
    if "supervised" in stages:
        alone = summarise(pick(runs, "supervised"), CELL)
        parts[ALL_LABELS] = alone[alone["fraction"] == 1]
    if "finetune" in stages:
        parts[FINE_TUNED] = summarise(finetuned(runs), CELL)
    cells = stacked(parts, "outcome")
    if "distill" in stages:
        cells = pd.concat([cells, student_cells(runs).rename(columns={"method": "outcome"})])
    counts = runs.dropna(subset="fraction").groupby("fraction")["labels"].first()
    cells["labels"] = cells["fraction"].map(counts).fillna(runs["train"].iloc[0]).astype(int)
    return cells.sort_values([*SIZE, "fraction"], kind="stable", ignore_index=True)


def pretrainings(runs: pd.DataFrame) -> pd.DataFrame:
    """How each network was pretrained: epochs, batch_size, mean seconds and device, the smallest first.

    If seeds were pretrained on several devices, `device` lists them; None if no record names one.
    """
    chosen = pick(runs, "pretrain", head_layers=standard_head(runs))
    check_alike(chosen, SIZE)
    on = [device_name(*each) for each in zip(chosen["device"], chosen["threads"], strict=True)]
    cells = chosen.assign(device=pd.Series(on, chosen.index)).groupby(SIZE)
    devices = cells["device"].agg(every)
    wanted = {"epochs": "first", "batch_size": "first", "seconds": "mean"}
    return cells.agg(wanted).assign(device=devices).reset_index()


def every(names: pd.Series[str]) -> str | None:
    """The names that occur, each once."""
    return " and ".join(sorted(names.dropna().unique())) or None


def device_name(device: str | None, threads: float | None) -> str | None:
    """A recorded device; a CPU is named by its threads, if they are recorded."""
    if device != "cpu":
        return device
    return "CPU" if pd.isna(threads) else f"{threads:.0f} CPU thread{'s' if threads > 1 else ''}"

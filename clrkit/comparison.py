"""Own runs against the committed reference, cell by cell.

A cell is a setting: runs that differ in nothing but the seed. It is "reproduced" if the means of own and
reference runs differ by no more than the tolerance

    3 * s * sqrt(1/n_own + 1/n_reference),   but at least   sqrt(p * (100 - p) / N)

where n counts seeds and s is the standard deviation over seeds. Runs on one pretraining share its luck and
are no repetitions of it: n counts pretrainings, and s is that of the means of the runs on each. Two or three
seeds tell little about s, so it is pooled over like cells: those of the same stage and label fraction, own
and reference. Three standard errors, not two, since there are dozens of cells and none should differ by
chance. The floor is the sampling error of an accuracy p (%) on the N test images. With one seed everywhere,
that error stands in for s.

Equal seeds draw the same labels and weights on any machine, so equal code should come out well inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clrkit.frames import PAPER_HEAD_LAYERS, fraction_name
from clrkit.table import decimal

REPRODUCED, DIFFERS, NOT_RUN = "reproduced", "differs", "not run"
LIKE = ["stage", "measure", "fraction"]
CELL = ["stage", "measure", "setup"]
ERRORS = 3.0


def compare(own: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of the reference, in its order.

    Args:
        own: frame of own runs (`clrkit.frames.frame`), perhaps not all there.
        reference: frame of the reference's runs.

    Returns:
        Columns stage, cell (what it is), own, own_seeds, reference, reference_seeds (means in percent and
        how many, as n counts), tolerance, verdict (reproduced, differs, not run) and text, the verdict with
        the numbers.
    """
    measured = pd.concat([measures(own).assign(side="own"), measures(reference).assign(side="reference")])
    spread = pooled_spread(measured)
    ours = dict(list(measures(own).groupby(CELL))) if len(own) else {}
    rows = [
        compare_cell(ours.get(key), cell, spread[like_key(cell)])
        for key, cell in measures(reference).groupby(CELL, sort=False)
    ]
    return pd.DataFrame(rows)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of the runs, a row each: top-1, and kNN accuracy where frozen features were measured."""
    if runs.empty:
        return runs
    top1 = runs[runs["stage"] != "pretrain"].assign(measure="top-1", value=lambda rows: rows["top1"])
    knn = runs[runs["stage"] == "probe"].assign(measure="kNN", value=lambda rows: rows["knn"])
    return pd.concat([top1, knn]).fillna({"fraction": 1.0})


def repetitions(measured: pd.DataFrame, by: Sequence[str] = ()) -> pd.Series[float]:
    """Independent values: the mean of the runs on each pretraining, or of each seed where there is none."""
    return measured.groupby([*by, "pretrain_seed"])["value"].mean()


def pooled_spread(measured: pd.DataFrame) -> dict[tuple[str, str, float], float]:
    """Standard deviation of repetitions by stage, measure and fraction; NaN where every cell has one."""
    cell = [*LIKE, "side", "setup"]
    cells = repetitions(measured, cell).groupby(cell).agg(["var", "size"])
    cells["freedom"] = cells["size"] - 1
    cells["squares"] = cells["var"].fillna(0) * cells["freedom"]
    pooled = cells.groupby(LIKE)[["squares", "freedom"]].sum()
    variance = pooled["squares"] / pooled["freedom"].replace(0, np.nan)
    return dict(zip(variance.index.to_list(), np.sqrt(variance.to_numpy()).tolist(), strict=True))


def like_key(cell: pd.DataFrame) -> tuple[str, str, float]:
    first = cell.iloc[0]
    return first["stage"], first["measure"], first["fraction"]


def compare_cell(own: pd.DataFrame | None, reference: pd.DataFrame, spread: float) -> dict[str, object]:
    first, theirs = reference.iloc[0], repetitions(reference)
    expected = float(theirs.mean())
    row = {"stage": first["stage"], "cell": cell_name(first), "own": float("nan"), "own_seeds": 0}
    row |= {"reference": expected, "reference_seeds": len(theirs), "tolerance": float("nan")}
    if own is None:
        return row | {"verdict": NOT_RUN, "text": NOT_RUN}
    ours = repetitions(own)
    mean = float(ours.mean())
    limit = tolerance(spread, len(ours), len(theirs), expected, int(first["evaluation"]))
    row |= {"own": mean, "own_seeds": len(ours), "tolerance": limit}
    for column, what in (("fingerprint", "other images"), ("version", "another version of the stage")):
        if set(own[column]) != set(reference[column]):
            return row | {"verdict": DIFFERS, "text": f"{DIFFERS}: {what}"}
    if abs(mean - expected) <= limit:
        return row | {"verdict": REPRODUCED, "text": REPRODUCED}
    text = f"{DIFFERS}: own {decimal(mean)}, reference {decimal(expected)}, tolerance {decimal(limit)}"
    return row | {"verdict": DIFFERS, "text": text}


def tolerance(spread: float, own: int, reference: int, accuracy: float, images: int) -> float:
    """The difference of means, in percentage points, up to which a cell counts as reproduced.

    Args:
        spread: standard deviation of repetitions; NaN if unknown.
        own, reference: numbers of repetitions: seeds, or pretrainings where runs share them.
        accuracy: of the reference, percent.
        images: that were measured.
    """
    # One image more of either kind, so that an accuracy of 100% keeps an error.
    p = (accuracy / 100 * images + 1) / (images + 2)
    sampling = 100 * np.sqrt(p * (1 - p) / images)
    deviation = sampling if np.isnan(spread) else spread
    return float(max(ERRORS * deviation * np.sqrt(1 / own + 1 / reference), sampling))


def cell_name(run: pd.Series) -> str:
    """What a cell is, in words: fine-tuned, 1%, R8 1x, from layer 1."""
    network, share = run["network"], fraction_name(run["fraction"])
    depth = run["head_layers"]
    head = f", {depth}-layer head" if depth != PAPER_HEAD_LAYERS else ""
    head += ", with a memory" if run["memory"] else ""
    if run["stage"] == "supervised":
        return f"supervised, {share}, {network}"
    if run["stage"] == "probe":
        return f"{'linear probe' if run['measure'] == 'top-1' else 'kNN'}, {network}{head}"
    if run["stage"] == "finetune":
        return f"fine-tuned, {share}, {network}{head}, from layer {run['tap_layer']}"
    labels = f", label weight {run['label_weight']:g}" if run["label_weight"] else ""
    return f"distilled, {share}, {network} from {run['teacher']}, {run['transfer']} images{labels}"


def summary_line(comparison: pd.DataFrame) -> str:
    """The comparison in one line."""
    cells, counts = len(comparison), comparison["verdict"].value_counts()
    differing, absent = int(counts.get(DIFFERS, 0)), int(counts.get(NOT_RUN, 0))
    if absent == cells:
        return f"not compared: none of the reference's {cells} cells was run with these settings"
    missing = f"; {absent} cells not run" if absent else ""
    if not differing:
        number = f"all {cells}" if not absent else f"{cells - absent} of {cells}"
        return f"reproduced: {number} cells within tolerance of the reference{missing}"
    apart = comparison[comparison["verdict"] == DIFFERS]
    excess = (apart["own"] - apart["reference"]).abs() / apart["tolerance"]
    worst = apart.iloc[int(excess.to_numpy().argmax())]
    numbers = worst["text"].removeprefix(f"{DIFFERS}: ")
    return f"differs: {differing} of {cells} cells, most of all {worst['cell']}: {numbers}{missing}"

"""Compare own runs with the committed reference, cell by cell.

A cell is a setting: runs that differ in nothing but the seed. Equal seeds draw the same labels, weights and
order on any machine, so runs of equal seeds are compared with each other. The rest is rounding: another
processor adds in another order, and training amplifies it. How much depends on where it starts, which the
records show.

**If the pretraining came out the same** (its last loss agrees to 1 in 10,000), or there is none, a run moves
little. Of 51 fine-tuned runs of `mini`, made on an Intel Xeon for the reference and again on an AMD EPYC,
half moved by less than 0.3 points, the standard deviation was 1.1, and one run tipped by 6.5. `ROUNDING`
times Student's t with `FREEDOM` degrees of freedom has that median and that heavy a tail. It gives the
tolerance:

- A cell differs if more than half of its seeds are off by more than the tolerance, to the same side. One run
  that tips is outvoted, so a bimodal cell needs no wider tolerance than another.
- By rounding alone that happens to a cell with probability `CHANCE`: 60 cells pass together 99 times in a
  hundred. For three seeds the tolerance is 2.7 points; for a single one, which nothing outvotes, 13.9.
- It is never below the sampling error of a difference of two accuracies p (%) measured on N images,
  sqrt(2 p (100 - p) / N).
- Runs that are off by more than their tolerance are also counted over all cells. If rounding makes so many
  with a probability below `CHANCE` (Poisson's law), the comparison as a whole differs.

Own runs change no tolerance. Runs on one pretraining share its luck, but as they are compared on the same
pretraining it is in none of their differences, and each counts. The constants are measured on `mini` alone.

**If the pretraining came out otherwise**, an equal seed is as good as another seed. With PyTorch's AVX-512
kernels turned off, or the views' arithmetic in another order, the losses of `mini` were 1 in 1,000 or more
apart, and fine-tuned runs moved by 6 to 7 points (standard deviation), up to 25. Only the spread over the
reference's seeds can judge that, and few seeds say little about it. Such a cell, like one of other seeds
than the reference's, is never called reproduced. It is undecided, or differs if the means are apart by more
than

    4.5 * s * sqrt(1/n_own + 1/n_reference),   but at least   sqrt(2 p (100 - p) / N)

where n counts pretrainings, whose runs are averaged, and s is the larger of the standard deviations over the
reference's seeds in the cell and pooled over cells of its stage and label fraction; with one seed there is
no s and no such verdict. Of the 11 and 51 cells measured in these two ways, 4.5 lets all pass, 3 all but one
of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import betaincinv, pdtrc, stdtr, stdtrit

from clrkit.results.records import describe
from clrkit.results.text import decimal

REPRODUCED, DIFFERS, UNDECIDED, NOT_RUN = "reproduced", "differs", "undecided", "not run"
LIKE = ["stage", "measure", "fraction"]
CELL = ["stage", "measure", "setup"]
PAIR = ["seed", "pretrain_seed"]
ROUNDING, FREEDOM = 0.4, 2.5  # percentage points, and degrees of freedom: a standard deviation of 0.9
CHANCE = 0.0002
SAME_LOSS = 1e-4
ERRORS = 4.5


def compare(own: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of the reference, in its order.

    Args:
        own: frame of own runs (`clrkit.results.records.records_to_frame`), not necessarily all. Cells whose
            pretraining is not among them are undecided.
        reference: frame of the reference's runs, with their pretraining.

    Returns:
        Columns stage, cell (in words), own, own_seeds, reference, reference_seeds (means in percent, and how
        many seeds or pretrainings count), tolerance, verdict (reproduced, differs, undecided, not run) and
        text, the verdict with the numbers. Cells compared by seed also have pairs, strays (those off by more
        than the tolerance) and expected (how many rounding makes).
    """
    theirs = measures(reference)
    spread = pooled_spread(theirs)
    ours = dict(list(measures(own).groupby(CELL))) if len(own) else {}
    rows = [
        compare_cell(ours.get(key), cell, spread[like_key(cell)])
        for key, cell in theirs.groupby(CELL, sort=False)
    ]
    return pd.DataFrame(rows)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of the runs, a row each: top-1, and for probes kNN accuracy.

    `base_loss` is the last loss of the pretraining a run builds on; 0 without one, NaN if it is not recorded.
    """
    if runs.empty:
        return runs
    runs = runs.assign(base_loss=base_losses(runs))
    top1 = runs[runs["stage"] != "pretrain"].assign(measure="top-1", value=lambda rows: rows["top1"])
    knn = runs[runs["stage"] == "probe"].assign(measure="kNN", value=lambda rows: rows["knn"])
    return pd.concat([top1, knn]).fillna({"fraction": 1.0})


def base_losses(runs: pd.DataFrame) -> list[float]:
    """The last loss of the pretraining that each run builds on, as in `measures`."""
    parents = dict(zip(runs["key"], runs["parent"], strict=True))
    losses = runs.loc[runs["stage"] == "pretrain"].set_index("key")["loss"].to_dict()
    found = []
    for key, pretrained in zip(runs["key"], runs["head_layers"] > 0, strict=True):
        while parents.get(key):
            key = parents[key]
        found.append(losses.get(key, float("nan")) if pretrained else 0.0)
    return found


def repetitions(measured: pd.DataFrame, by: Sequence[str] = ()) -> pd.Series[float]:
    """Independent values: the mean of the runs on each pretraining, or of each seed without one."""
    return measured.groupby([*by, "pretrain_seed"])["value"].mean()


def pooled_spread(measured: pd.DataFrame) -> dict[tuple[str, str, float], float]:
    """Standard deviation of repetitions by stage, measure and fraction; NaN if no cell has two."""
    cell = [*LIKE, "setup"]
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
    cell = describe(first)
    cell = cell.replace("linear probe", "kNN") if first["measure"] == "kNN" else cell
    row = {"stage": first["stage"], "cell": cell, "own": float("nan"), "own_seeds": 0}
    row |= {"reference": float(theirs.mean()), "reference_seeds": len(theirs), "tolerance": float("nan")}
    row |= {"pairs": 0, "strays": 0, "expected": 0.0}
    if own is None:
        return row | {"verdict": NOT_RUN, "text": NOT_RUN}
    ours = repetitions(own)
    row |= {"own": float(ours.mean()), "own_seeds": len(ours)}
    for column, what in (("fingerprint", "other images"), ("version", "another version of the stage")):
        if set(own[column]) != set(reference[column]):
            return row | {"verdict": DIFFERS, "text": f"{DIFFERS}: {what}"}
    compared = [*PAIR, "value", "base_loss", "evaluation"]
    pairs = own[compared].merge(reference[compared], on=PAIR, suffixes=("_own", ""))
    followed = pairs[np.isclose(pairs["base_loss_own"], pairs["base_loss"], rtol=SAME_LOSS, atol=0)]
    if followed.empty:
        return row | spread_verdict(ours, reference, spread, bool(len(pairs)))
    return row | paired_verdict(followed)


def paired_verdict(pairs: pd.DataFrame) -> dict[str, object]:
    """The verdict on runs of equal seeds that build on the same pretraining."""
    count, apart = len(pairs), (pairs["value_own"] - pairs["value"]).to_numpy()
    accuracy = float(pairs["value"].mean())
    limit = tolerance(count, accuracy, int(pairs["evaluation"].iloc[0]))
    off = max(int((apart > limit).sum()), int((-apart > limit).sum()))
    found = {"tolerance": limit, "pairs": count, "strays": int((np.abs(apart) > limit).sum())}
    found["expected"] = count * 2 * float(stdtr(FREEDOM, -limit / ROUNDING))
    if off <= count / 2:
        return found | {"verdict": REPRODUCED, "text": REPRODUCED}
    means = f"own {decimal(float(pairs['value_own'].mean()))}, reference {decimal(accuracy)}"
    seeds = f"{off} of {count} seed{'s' if count > 1 else ''} off by more than {decimal(limit)}"
    return found | {"verdict": DIFFERS, "text": f"{DIFFERS}: {means}, {seeds}"}


def spread_verdict(
    ours: pd.Series, reference: pd.DataFrame, pooled: float, paired: bool
) -> dict[str, object]:
    """The verdict on runs that are not paired by seed, from the spread over the reference's seeds."""
    theirs = repetitions(reference)
    mean, expected = float(ours.mean()), float(theirs.mean())
    spread = np.fmax(theirs.std(), pooled)
    limit = ERRORS * float(spread) * np.sqrt(1 / len(ours) + 1 / len(theirs))
    limit = float(np.maximum(limit, sampling_error(expected, int(reference["evaluation"].iloc[0]))))
    numbers = f"own {decimal(mean)}, reference {decimal(expected)}"
    if abs(mean - expected) > limit:
        text = f"{DIFFERS}: {numbers}, more than {decimal(limit)} apart, which other seeds do not explain"
        return {"tolerance": limit, "verdict": DIFFERS, "text": text}
    why = "pretraining came out otherwise" if paired else "no seed in common"
    return {"tolerance": limit, "verdict": UNDECIDED, "text": f"{UNDECIDED}: {why}"}


def tolerance(seeds: int, accuracy: float, images: int) -> float:
    """The largest difference (percentage points) between runs of equal seeds in a reproduced cell.

    By rounding alone more than half of the runs exceed it, to one side, with probability `CHANCE`; the
    incomplete beta function inverts this binomial tail.

    Args:
        seeds: number of runs compared.
        accuracy: of the reference, in percent.
        images: number of images measured.
    """
    half = seeds // 2 + 1
    beyond = betaincinv(half, seeds - half + 1, CHANCE / 2)
    return max(-ROUNDING * float(stdtrit(FREEDOM, beyond)), sampling_error(accuracy, images))


def sampling_error(accuracy: float, images: int) -> float:
    """The standard error of a difference of two accuracies (percent) near this one."""
    # One image more of either kind, so that an accuracy of 100% keeps an error.
    p = (accuracy / 100 * images + 1) / (images + 2)
    return float(100 * np.sqrt(2 * p * (1 - p) / images))


def is_erratic(comparison: pd.DataFrame) -> bool:
    """Whether more runs exceed their tolerance, over all cells, than rounding makes."""
    strays, expected = int(comparison["strays"].sum()), float(comparison["expected"].sum())
    return strays > 0 and float(pdtrc(strays - 1, expected)) < CHANCE


def summary_line(comparison: pd.DataFrame) -> str:
    """The comparison in one line."""
    cells, counts = len(comparison), comparison["verdict"].value_counts()
    differing, absent = int(counts.get(DIFFERS, 0)), int(counts.get(NOT_RUN, 0))
    if absent == cells:
        return f"not compared: none of the reference's {cells} cells was run with these settings"
    missing = f"; {absent} cells not run" if absent else ""
    if differing:
        return f"differs: {differing} of {cells} cells, most of all {worst(comparison)}{missing}"
    if is_erratic(comparison):
        strays, pairs = int(comparison["strays"].sum()), int(comparison["pairs"].sum())
        few = "rounding makes fewer"
        return f"differs: {strays} of {pairs} runs are off by more than their tolerance, {few}{missing}"
    same, open_ = (comparison[comparison["verdict"] == verdict] for verdict in (REPRODUCED, UNDECIDED))
    unsaid = undecided(open_) if len(open_) else ""
    if same.empty:
        return f"{UNDECIDED}: {unsaid}{missing}"
    whole = f"all {cells}" if len(same) == cells else f"{len(same)} of {cells}"
    said = "reproduced in part" if len(open_) else REPRODUCED
    median = decimal(float(same["tolerance"].median()))
    within = f"{said}: {whole} cells within tolerance of the reference (median {median} points)"
    return f"{within}{f'; undecided: {unsaid}' if unsaid else ''}{missing}"


def worst(comparison: pd.DataFrame) -> str:
    """The cell that differs most in units of its tolerance, with its numbers."""
    apart = comparison[comparison["verdict"] == DIFFERS]
    excess = ((apart["own"] - apart["reference"]).abs() / apart["tolerance"]).fillna(np.inf)
    first = apart.iloc[int(excess.to_numpy().argmax())]
    return f"{first['cell']}: {first['text'].removeprefix(f'{DIFFERS}: ')}"


def undecided(cells: pd.DataFrame) -> str:
    """The number of undecided cells, why, and their mean distance from the reference."""
    reasons = " or ".join(sorted({text.removeprefix(f"{UNDECIDED}: ") for text in cells["text"]}))
    average = float((cells["own"] - cells["reference"]).mean())
    number = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
    return f"{number}, on average {average:+.1f} points off, as {reasons}"

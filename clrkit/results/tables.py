"""Tables from records: the paper's, own beside published numbers, cost, claims, comparison, ablations.

Functions of the frame of runs raise MissingRunsError naming what is not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from clrkit.config import Stage
from clrkit.experiments.ablation_settings import FACTORS, OUTCOMES, text_of
from clrkit.experiments.grid import Preset
from clrkit.results.ablation import grid_points, runs_at, summary
from clrkit.results.claims import Claim
from clrkit.results.published import have_peers, peers, published
from clrkit.results.records import (
    MissingRunsError,
    MixedRunsError,
    by_size,
    dataset_name,
    finetuned,
    fraction_name,
    fractions_of,
    pick,
    records_to_frame,
    seeds_named,
)
from clrkit.results.statistics import (
    ALL_LABELS,
    FINE_TUNED,
    KNN,
    LINEAR_PROBE,
    SELF_DISTILLED,
    WHOLE_BUDGET,
    accuracy_cells,
    budget_cells,
    head_cells,
    outcome_cells,
    pretrainings,
    stacked,
    student_cells,
    target_cells,
    target_pair,
)
from clrkit.results.text import Table, decimal, duration, megabytes, size_name, value
from clrkit.runs.store import Run, of_reference

METHODS = {"supervised": "supervised", "linear": LINEAR_PROBE, "finetuned": FINE_TUNED}
DISTILLED = "distilled into it"
ROWS = ("supervised", WHOLE_BUDGET, LINEAR_PROBE, FINE_TUNED, DISTILLED)
CLAIMS_REMARK = "Effects are differences within a seed: mean ± half of the 95% interval over what is named."
ABLATIONS_REMARK = "Top-1 accuracy in %, mean ± standard error over {}; all other settings as in the preset."


def with_texts(cells: pd.DataFrame, error: str = "stderr") -> pd.DataFrame:
    """The cells with their mean and error as `text`."""
    return cells.assign(text=[value(*each) for each in zip(cells["mean"], cells[error], strict=True)])


def spread_out(cells: pd.DataFrame, rows: Sequence[str], column: str) -> pd.DataFrame:
    """The texts of cells with a row for each value of `rows` and a column for each of `column`."""
    return with_texts(cells).pivot(index=list(rows), columns=column, values="text").fillna("-")


def accuracy_remark(runs: pd.DataFrame) -> str:
    """What the numbers of a table are."""
    return f"Top-1 accuracy in %, mean ± standard error over {seeds_named(runs)}."


def labels_name(share: float) -> str:
    """A label fraction as a table names it."""
    return "all labels" if share == 1 else fraction_name(share)


def by_fraction(runs: pd.DataFrame, column: str, form: str) -> str:
    """The first value of a column at each label fraction, as text."""
    values = runs.groupby("fraction")[column].first()
    return ", ".join(form.format(labels_name(float(str(share))), count) for share, count in values.items())


def budget_remark(runs: pd.DataFrame) -> str:
    """How long supervised and fine-tuned networks train, on labels and in all."""
    alone, tuned = (
        by_fraction(each, "epochs", "{1:,} ({0})") for each in (pick(runs, "supervised"), finetuned(runs))
    )
    both = (
        f"supervised and fine-tuned {alone}" if alone == tuned else f"supervised {alone}; fine-tuned {tuned}"
    )
    pretrained = finetuned(runs)["pretrain_epochs"].iloc[0]
    text = (
        f"Epochs on labels: {both}. Fine-tuned networks were pretrained before, for {pretrained} epochs on "
    )
    text += "all images."
    if runs["whole_budget"].any():
        whole = by_fraction(pick(runs, "supervised", whole_budget=True), "epochs", "{1:,} ({0})")
        text += f" The whole budget is as many images as both draw, on labels alone: {whole} epochs."
    return text


def accuracy_table(runs: pd.DataFrame) -> Table:
    """Table 1: supervised, linear and fine-tuned accuracy of every network."""
    cells = accuracy_cells(runs)
    if runs["whole_budget"].any():
        longer = budget_cells(runs)
        named = longer["network"] + ", whole budget"
        cells = pd.concat([cells, longer.assign(method="supervised", network=named)], ignore_index=True)
    keys = [(method, share) for method in METHODS for share in fractions_of(cells)]
    cells["column"] = list(zip(cells["method"], cells["fraction"], strict=True))
    wide = spread_out(cells, ["parameters", "network"], "column")
    keys = [key for key in keys if key in wide.columns]
    rows = [
        [network, size_name(size), *texts]
        for (size, network), texts in zip(wide.index, wide[keys].to_numpy(), strict=True)
    ]
    names = (f"{METHODS[method]}, {labels_name(share)}" for method, share in keys)
    title = "Accuracy by network and label fraction (the paper's Table 1)"
    labels = by_fraction(runs[runs["stage"] == "supervised"], "labels", "{} {:,}")
    remark = f"{accuracy_remark(runs)} Labels: {labels}. {budget_remark(runs)}"
    return Table("accuracy", title, remark, ["network", "parameters", *names], rows)


def head_table(runs: pd.DataFrame) -> Table:
    """Fig. 5 as a table: head depth by the layer fine-tuning starts from, at each fraction."""
    cells = head_cells(runs)
    wide = spread_out(cells, ["fraction", "head_layers"], "tap_layer")
    rows = [
        [labels_name(share), str(head), *texts]
        for (share, head), texts in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    columns = ["labels", "layers of the head", *(f"from layer {layer}" for layer in wide.columns)]
    network = cells["network"].iloc[0]
    title = f"Head depth and the layer fine-tuning starts from, {network} (the paper's Fig. 5)"
    remark = f"{accuracy_remark(runs)} Layer 0 is the encoder's output."
    return Table("head", title, remark, columns, rows)


def distillation_table(runs: pd.DataFrame) -> Table:
    """Table 2: what a student learns from labels, from the teacher, and from unlabelled images."""
    cells, (student, teacher) = target_cells(runs), target_pair(runs)
    wide = spread_out(cells, ["target"], "fraction").loc[cells["target"].unique()]
    rows = [[str(target), *row] for target, row in wide.iterrows()]
    columns = [
        "the student learns from",
        *(f"{fraction_name(share)} labelled" for share in fractions_of(cells)),
    ]
    title = f"What the student learns from, {teacher} teaching {student} (the paper's Table 2)"
    return Table("distillation", title, accuracy_remark(runs), columns, rows)


def published_table(runs: pd.DataFrame) -> Table:
    """Own numbers and the paper's in separate columns: other images, other networks, no common scale."""
    sizes, name = by_size(runs), dataset_name(runs)
    own, paper = own_numbers(runs), published()
    paper = paper[paper["source"].isin(["SimCLRv2, Table 1", "SimCLRv2, abstract"])]
    paper = paper.rename(columns={"value": "mean"}).assign(stderr=float("nan"))
    parts = {f"own: {name}, {each}": own[own["network"] == each] for each in (sizes[0], sizes[-1])}
    for each in ("R50 1x", "R152 3x SK"):
        parts[f"published: ImageNet, {each}"] = paper[paper["network"] == each]
    cells = stacked(parts, "column").replace({"method": METHODS | {"distilled": DISTILLED}})
    # Later cells replace earlier ones: a teacher that was first distilled into itself is the paper's way.
    cells = cells.drop_duplicates(["column", "method", "fraction"], keep="last")
    wide = spread_out(cells, ["method", "fraction"], "column")
    known = own.replace({"method": METHODS})[["method", "fraction"]].drop_duplicates()
    keys = sorted(known.itertuples(index=False, name=None), key=lambda key: (ROWS.index(key[0]), key[1]))
    texts = wide.reindex(index=keys, columns=list(parts), fill_value="-").to_numpy()
    rows = [
        [f"{method}, {labels_name(share)}", *row] for (method, share), row in zip(keys, texts, strict=True)
    ]
    remark = "Other images and other networks: compare how the rows of a column are ordered, not the columns."
    remark += f" {budget_remark(runs)}"
    return Table("published", "Own and published numbers", remark, ["top-1, %", *parts], rows)


def own_numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """Own cells by method; `distilled into it` are the students of a bigger teacher."""
    cells = [accuracy_cells(runs)]
    if runs["whole_budget"].any():
        cells.append(budget_cells(runs))
    if (runs["stage"] == "distill").any():
        students = student_cells(runs)
        students = students[students["method"] != SELF_DISTILLED].sort_values("method")
        cells.append(students.assign(method=DISTILLED))
    return pd.concat(cells, ignore_index=True)


def peers_table(runs: pd.DataFrame) -> Table:
    """Own numbers on CIFAR-10, then what others report: a row a training, with its owner."""
    columns = ["", "network", "parameters", "epochs", "batch", "time", "on"]
    columns += ["kNN, %", "linear, %", "by number of labels, %"]
    remark = (
        f"Own: mean ± standard error over {seeds_named(runs)}, the time of pretraining one network. "
        "Published: ± standard deviation over runs, where it is given. Networks, devices and lengths of "
        "training differ."
    )
    rows = [*own_trainings(runs), *published_trainings()]
    return Table("peers", "CIFAR-10: own numbers and what others report", remark, columns, rows)


def own_trainings(runs: pd.DataFrame) -> Iterator[list[str]]:
    """A row for each network."""
    cells = with_texts(outcome_cells(runs)).replace({"outcome": {ALL_LABELS: "supervised"}})
    for _, training in pretrainings(runs).iterrows():
        yield training_row("own", training, cells[cells["network"] == training["network"]])


def published_trainings() -> Iterator[list[str]]:
    """A row for each training that others report."""
    numbers = with_texts(peers().rename(columns={"metric": "outcome", "value": "mean"}), "std")
    numbers.loc[numbers["outcome"] == "linear_online", "text"] += " (online)"
    names = {"linear_online": LINEAR_PROBE, "linear": LINEAR_PROBE, "knn": KNN}
    numbers["outcome"] = numbers["outcome"].replace(names)
    numbers["outcome"] = numbers["outcome"].mask(numbers["outcome"] == "top1", numbers["method"])
    by = ["cited", "network", "epochs", "batch_size"]
    for (source, *_), cells in numbers.groupby(by, sort=False, dropna=False):
        yield training_row(f"published: {source}", cells.iloc[0], cells)


def training_row(whose: str, training: pd.Series, cells: pd.DataFrame) -> list[str]:
    """A training, as far as it is known, and its accuracies."""
    known, texts = training.notna(), cells.set_index("outcome")["text"]
    rest = cells[~cells["outcome"].isin([KNN, LINEAR_PROBE])]
    counted = (rest["labels"].map("{:,.0f}: ".format) + rest["text"]).groupby(rest["outcome"], sort=False)
    return [
        whose,
        str(training["network"]),
        size_name(training["parameters"]),
        *(f"{training[name]:,.0f}" if known[name] else "-" for name in ("epochs", "batch_size")),
        duration(training["seconds"]) if known["seconds"] else "-",
        str(training["device"]) if known["device"] else "-",
        texts.get(KNN, "-"),
        texts.get(LINEAR_PROBE, "-"),
        "; ".join(f"{outcome} {', '.join(values)}" for outcome, values in counted) or "-",
    ]


def cost_table(runs: pd.DataFrame) -> Table:
    """Time and memory of the runs, by stage."""
    stages = runs.groupby("stage", sort=False)
    costs = stages.agg(
        count=("key", "size"),
        seconds=("seconds", "sum"),
        median=("seconds", "median"),
        memory=("peak_memory_mb", "max"),
    )
    rows = [
        [str(stage), str(count), duration(seconds), duration(median), megabytes(float(memory))]
        for stage, count, seconds, median, memory in costs.itertuples()
    ]
    total = duration(runs["seconds"].sum())
    rows.append(["total", str(len(runs)), total, "", megabytes(float(runs["peak_memory_mb"].max()))])
    remark = "Time is summed over runs; runs made side by side end sooner. Memory is the whole process's."
    return Table("cost", "Cost", remark, ["stage", "runs", "time", "median run", "peak memory"], rows)


def claims_table(claims: Iterable[Claim]) -> Table:
    """The claims as wholes, each with the numbers of the part that decides."""
    rows = [
        [each.claim, each.verdict, f"{each.statement} ({each.source})", each.detail]
        for each in claims
        if not each.is_part
    ]
    columns = ["", "verdict", "claim", "numbers"]
    return Table("claims", "The paper's claims", CLAIMS_REMARK, columns, rows, strong="verdict")


def parts_table(claims: Iterable[Claim]) -> Table:
    """The parts of the claims."""
    rows = [[each.claim, each.verdict, each.statement, each.detail] for each in claims if each.is_part]
    return Table("parts", "Parts of the claims", CLAIMS_REMARK, ["", "verdict", "part", "numbers"], rows)


def cells_table(comparison: pd.DataFrame) -> Table:
    """Every cell of a comparison with the reference (`clrkit.results.comparison.compare`)."""
    columns = ["cell", "own", "reference", "tolerance", "text"]
    rows = [
        [cell, *("-" if pd.isna(number) else decimal(number) for number in numbers), text]
        for cell, *numbers, text in comparison[columns].itertuples(index=False)
    ]
    columns[-1] = "verdict"
    return Table("cells", "All cells", "Top-1 or kNN accuracy in %, mean over seeds.", columns, rows)


def ablation_table(preset: Preset, runs: Mapping[Stage, Run]) -> Table | None:
    """A row for each setting and outcome with two recorded values or more; None if there is none.

    Args:
        runs: from `clrkit.results.ablation.ablation_runs_found`.
    """
    found: dict[tuple[str, str], list[tuple[Any, Run]]] = {}
    for name, outcome, each in grid_points(preset):
        recorded = [(each, runs[config]) for config in runs_at(preset, name, outcome, each) if config in runs]
        found.setdefault((name, outcome), []).extend(recorded)
    rows = [
        [FACTORS[name].name, OUTCOMES[outcome], values_in_words(name, points)]
        for (name, outcome), points in found.items()
        if len({each for each, _ in points}) > 1
    ]
    if not rows:
        return None
    remark = ABLATIONS_REMARK.format(
        seeds_named(records_to_frame((run.record for run in runs.values()), preset))
    )
    owners = {of_reference(run) for run in runs.values()}
    if owners == {True}:
        remark += " From the committed reference."
    elif True in owners:
        remark += " Own runs, and where there is none the committed reference's."
    return Table("ablations", "Ablations", remark, ["setting", "measured", "accuracy at each value"], rows)


def values_in_words(name: str, points: list[tuple[Any, Run]]) -> str:
    """The accuracy at each value of a setting."""
    cells = summary(points).itertuples(index=False)
    return "; ".join(
        f"at {text_of(name, each)} {value(mean, error)}{' (1 seed)' if seeds == 1 else ''}"
        for each, mean, error, seeds in cells
    )


TABLES: tuple[Callable[[pd.DataFrame], Table], ...] = (
    accuracy_table,
    head_table,
    distillation_table,
    published_table,
    cost_table,
)


def all_tables(runs: pd.DataFrame) -> tuple[list[Table], dict[str, str]]:
    """Every table that the runs allow, and for each other its name and what is missing.

    The table of peers is made for CIFAR-10 only.
    """
    tables, missing = [], {}
    for table in (*TABLES, *([peers_table] if have_peers(runs) else [])):
        try:
            tables.append(table(runs))
        except (MissingRunsError, MixedRunsError) as reason:
            missing[table.__name__] = str(reason)
    return tables, missing

"""Tables from records: accuracies, distillation targets, own beside the paper's numbers, cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from clrkit.results.cells import (
    SELF_DISTILLED,
    WHOLE_BUDGET,
    accuracy_cells,
    budget_cells,
    head_cells,
    student_cells,
    target_cells,
    target_pair,
)
from clrkit.results.claims import Claim
from clrkit.results.style import size_name
from clrkit.results.records import (
    MissingRunsError,
    MixedRunsError,
    by_size,
    dataset_name,
    finetuned,
    fraction_name,
    fractions_of,
    pick,
    seeds_named,
)
from clrkit.results.published import have_peers, published
from clrkit.results.tables_peers import peers_table
from clrkit.results.table import Table, decimal, duration, megabytes, value

CLAIMS_REMARK = "Effects are differences within a seed: mean ± half of the 95% interval over what is named."


def spread(runs: pd.DataFrame) -> str:
    """What the numbers of a table are."""
    return f"Top-1 accuracy in %, mean ± standard error over {seeds_named(runs)}."


def grid(cells: pd.DataFrame, row: Sequence[str], column: str) -> pd.DataFrame:
    """The values of tidy cells as text, with rows of `row` and a column for each value of `column`."""
    texts = [value(mean, stderr) for mean, stderr in zip(cells["mean"], cells["stderr"], strict=True)]
    wide = cells.assign(text=texts).pivot(index=list(row), columns=column, values="text")
    return wide.fillna("-")


def accuracy_table(runs: pd.DataFrame) -> Table:
    """Table 1: supervised, linear and fine-tuned accuracy of every network."""
    cells = accuracy_cells(runs)
    names = {"supervised": "supervised", "linear": "linear probe", "finetuned": "fine-tuned"}
    if runs["whole_budget"].any():
        longer = budget_cells(runs)
        longer = longer.assign(method="supervised", network=longer["network"] + ", whole budget")
        cells = pd.concat([cells, longer], ignore_index=True)
    shares = fractions_of(cells)
    keys = [(method, share) for method in names for share in shares]
    cells["column"] = list(zip(cells["method"], cells["fraction"], strict=True))
    wide = grid(cells, ["parameters", "network"], "column")
    keys = [key for key in keys if key in wide.columns]
    rows = [
        [network, size_name(size), *(wide.loc[(size, network), [key]].iloc[0] for key in keys)]
        for size, network in wide.index
    ]
    columns = ["network", "parameters", *(f"{names[method]}, {labels_name(share)}" for method, share in keys)]
    title = "Accuracy by network and label fraction (the paper's Table 1)"
    remark = f"{spread(runs)} {labels_remark(runs)} {budget_remark(runs)}"
    return Table("accuracy", title, remark, columns, rows)


def with_budget(cells: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The cells and, where it is recorded, supervised training for the whole budget."""
    if not runs["whole_budget"].any():
        return cells
    return pd.concat([cells, budget_cells(runs)], ignore_index=True)


def budget_remark(runs: pd.DataFrame) -> str:
    """How long supervised and fine-tuned networks train, on labels and in all."""
    pretrained = finetuned(runs)["pretrain_epochs"].iloc[0]
    on_labels = epochs_by_fraction(pick(runs, "supervised")), epochs_by_fraction(finetuned(runs))
    texts = [f"supervised {on_labels[0]}", f"fine-tuned {on_labels[1]}"]
    if on_labels[0] == on_labels[1]:
        texts = [f"supervised and fine-tuned {on_labels[0]}"]
    text = (
        f"Epochs on labels: {'; '.join(texts)}. Fine-tuned networks were pretrained before, for {pretrained} "
    )
    text += "epochs on all images."
    if runs["whole_budget"].any():
        whole = epochs_by_fraction(pick(runs, "supervised", whole_budget=True))
        text += f" The whole budget is as many images as both draw, on labels alone: {whole} epochs."
    return text


def epochs_by_fraction(runs: pd.DataFrame) -> str:
    epochs = runs.groupby("fraction")["epochs"].first()
    return ", ".join(f"{count:,} ({labels_name(float(str(share)))})" for share, count in epochs.items())


def labels_remark(runs: pd.DataFrame) -> str:
    """How many labels the fractions are."""
    labels = runs[runs["stage"] == "supervised"].groupby("fraction")["labels"].first()
    counts = [f"{labels_name(float(str(share)))} {count:,}" for share, count in labels.items()]
    return f"Labels: {', '.join(counts)}."


def labels_name(share: float) -> str:
    return "all labels" if share == 1 else fraction_name(share)


def head_table(runs: pd.DataFrame) -> Table:
    """Fig. 5 as a table: head depth by the layer fine-tuning starts from, at each fraction."""
    cells = head_cells(runs)
    wide = grid(cells, ["fraction", "head_layers"], "tap_layer")
    rows = [[labels_name(share), str(head), *wide.loc[(share, head)]] for share, head in wide.index]
    columns = ["labels", "layers of the head", *(f"from layer {layer}" for layer in wide.columns)]
    title = (
        f"Head depth and the layer fine-tuning starts from, {cells['network'].iloc[0]} (the paper's Fig. 5)"
    )
    return Table("head", title, f"{spread(runs)} Layer 0 is the encoder's output.", columns, rows)


def distillation_table(runs: pd.DataFrame) -> Table:
    """Table 2: what a student learns from labels, from the teacher, and from unlabelled images."""
    cells, (student, teacher) = target_cells(runs), target_pair(runs)
    wide, shares = grid(cells, ["target"], "fraction").loc[cells["target"].unique()], fractions_of(cells)
    rows = [[str(target), *wide.loc[target]] for target in wide.index]
    columns = ["the student learns from", *(f"{fraction_name(share)} labelled" for share in shares)]
    title = f"What the student learns from, {teacher} teaching {student} (the paper's Table 2)"
    return Table("distillation", title, spread(runs), columns, rows)


def published_table(runs: pd.DataFrame) -> Table:
    """Own numbers and the paper's in blocks of their own: other images, other networks, no common scale."""
    own, paper = own_numbers(runs), paper_numbers()
    sizes, papers = by_size(runs), ["R50 1x", "R152 3x SK"]
    sizes = sizes if len(sizes) == 1 else [sizes[0], sizes[-1]]
    methods = ("supervised", WHOLE_BUDGET, "linear probe", "fine-tuned", "distilled into it")
    keys = sorted({key[:2] for key in own}, key=lambda key: (methods.index(key[0]), key[1]))
    rows = [
        [
            f"{method}, {labels_name(share)}",
            *(own.get((method, share, network), "-") for network in sizes),
            *(paper.get((method, share, network), "-") for network in papers),
        ]
        for method, share in keys
    ]
    name = dataset_name(runs)
    columns = [
        "top-1, %",
        *(f"own: {name}, {network}" for network in sizes),
        *(f"published: ImageNet, {network}" for network in papers),
    ]
    remark = "Other images and other networks: compare how the rows of a column are ordered, not the columns."
    remark += f" {budget_remark(runs)}"
    return Table("published", "Own and published numbers", remark, columns, rows)


Numbers = dict[tuple[str, float, str], str]


def own_numbers(runs: pd.DataFrame) -> Numbers:
    """Text by (method, fraction, network); `distilled into it` are the students of a bigger teacher."""
    cells = with_budget(accuracy_cells(runs), runs)
    if (runs["stage"] == "distill").any():
        students = student_cells(runs)
        students = students[students["method"] != SELF_DISTILLED].sort_values("method")
        # Of two ways to teach it the paper's stays: by a teacher that was distilled into itself.
        students = students.assign(method="distilled into it")
        cells = pd.concat([cells, students], ignore_index=True)
    return number_texts(cells)


def paper_numbers() -> Numbers:
    numbers = published()
    numbers = numbers[numbers["source"].isin(["SimCLRv2, Table 1", "SimCLRv2, abstract"])]
    cells = numbers.rename(columns={"value": "mean"}).assign(stderr=float("nan"))
    return number_texts(cells.replace({"method": {"distilled": "distilled into it"}}))


def number_texts(cells: pd.DataFrame) -> Numbers:
    names = {"finetuned": "fine-tuned", "linear": "linear probe"}
    columns = cells[["method", "fraction", "network", "mean", "stderr"]]
    return {
        (names.get(method, method), share, network): value(mean, stderr)
        for method, share, network, mean, stderr in columns.itertuples(index=False)
    }


def cost_table(runs: pd.DataFrame) -> Table:
    """What the runs took, by stage."""
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


TABLES: tuple[Callable[[pd.DataFrame], Table], ...] = (
    accuracy_table,
    head_table,
    distillation_table,
    published_table,
    cost_table,
)


def all_tables(runs: pd.DataFrame) -> tuple[list[Table], dict[str, str]]:
    """Every table the runs allow, and for each of the others its name and what is missing.

    That of peers is only of CIFAR-10.
    """
    tables, missing = [], {}
    for table in (*TABLES, *([peers_table] if have_peers(runs) else [])):
        try:
            tables.append(table(runs))
        except (MissingRunsError, MixedRunsError) as reason:
            missing[table.__name__] = str(reason)
    return tables, missing

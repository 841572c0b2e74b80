"""Tables from records: accuracies, distillation targets, own beside published numbers, cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from clrkit.cells import (
    ALL_LABELS,
    KNN,
    LINEAR_PROBE,
    SELF_DISTILLED,
    accuracy_cells,
    head_cells,
    outcome_cells,
    pretrainings,
    student_cells,
    target_cells,
    target_pair,
)
from clrkit.claims import Claim
from clrkit.drawing import size_name
from clrkit.frames import (
    MissingRecords,
    MixedRecords,
    by_size,
    dataset_name,
    fraction_name,
    fractions_of,
    seeds_named,
)
from clrkit.paper import have_peers, peers, published

CLAIMS_REMARK = "Effects are differences within a seed, mean ± standard error over seeds."


@dataclass(frozen=True)
class Table:
    """A table as plain text: a title, a remark, the names of the columns, and rows of cells.

    `strong` is the column whose cells are shown in bold.
    """

    name: str
    title: str
    remark: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: str | None = None

    def markdown(self) -> str:
        """As a Markdown table without the title."""
        rows = [
            [self.cell(name, text) for name, text in zip(self.columns, row, strict=True)] for row in self.rows
        ]
        lines = [list(map(verbatim, self.columns)), ["---"] * len(self.columns), *rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{verbatim(self.remark)}\n\n{body}\n"

    def cell(self, column: str, text: str) -> str:
        return f"**{verbatim(text)}**" if column == self.strong else verbatim(text)

    def _repr_markdown_(self) -> str:
        return f"**{self.title}.** {self.markdown()}"


def verbatim(text: str) -> str:
    """A text as Markdown shows it: without tags, links, emphasis, cells or lines of its own."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", " ".join(text.split()))


def value(mean: float, stderr: float) -> str:
    """A mean with its standard error, if there is one."""
    return f"{mean:.1f}" if pd.isna(stderr) else f"{mean:.1f} ± {stderr:.1f}"


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
    return Table("accuracy", title, f"{spread(runs)} {labels_remark(runs)}", columns, rows)


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
    methods = ("supervised", "linear probe", "fine-tuned", "distilled into it")
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
    return Table("published", "Own and published numbers", remark, columns, rows)


def peers_table(runs: pd.DataFrame) -> Table:
    """Own numbers on CIFAR-10, then what others report: a row a training, marked whose it is."""
    rows = [*own_trainings(runs), *published_trainings()]
    columns = ["", "network", "parameters", "epochs", "batch", "time", "on"]
    columns += ["kNN, %", "linear, %", "by number of labels, %"]
    remark = (
        "Own: mean ± standard error over seeds, the time of pretraining one network. Published: ± standard "
        "deviation over runs, where it is given. Networks, devices and lengths of training differ."
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
        yield ["own", *trained(training), texts[KNN], texts[LINEAR_PROBE], by_labels(rest)]


def published_trainings() -> Iterator[list[str]]:
    numbers = peers().rename(columns={"metric": "outcome"})
    numbers["text"] = [value(mean, std) for mean, std in zip(numbers["value"], numbers["std"], strict=True)]
    numbers.loc[numbers["outcome"] == "linear_online", "text"] += " (online)"
    numbers["outcome"] = numbers["outcome"].replace({"linear_online": "linear"})
    numbers["outcome"] = numbers["outcome"].mask(numbers["outcome"] == "top1", numbers["method"])
    for (source, *_), mine in numbers.groupby(
        ["source", "network", "epochs", "batch_size"], sort=False, dropna=False
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


Numbers = dict[tuple[str, float, str], str]


def own_numbers(runs: pd.DataFrame) -> Numbers:
    """Text by (method, fraction, network); `distilled into it` are the students of a bigger teacher."""
    cells = accuracy_cells(runs)
    if (runs["stage"] == "distill").any():
        students = student_cells(runs)
        students = students[students["method"] != SELF_DISTILLED].assign(method="distilled into it")
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


def megabytes(count: float) -> str:
    return "-" if pd.isna(count) else f"{count:,.0f} MB"


def duration(seconds: float) -> str:
    """A span of time as 8.2 s, 12 min or 3.4 h."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
    """Every cell of a comparison with the reference (`clrkit.comparison.compare`)."""
    columns = ["cell", "own", "reference", "tolerance", "text"]
    rows = [
        [cell, *("-" if pd.isna(number) else f"{number:.1f}" for number in numbers), text]
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
        except (MissingRecords, MixedRecords) as reason:
            missing[table.__name__] = str(reason)
    return tables, missing

"""The numbers behind figures and tables: tidy cells with their mean over seeds, standard error and seeds.

Every function takes the frame of runs (`clrkit.results.records.records_to_frame`) and raises MissingRunsError naming what it lacks.
"""

from __future__ import annotations

import pandas as pd

from clrkit.results.records import (
    SIZE,
    MissingRunsError,
    by_seed,
    by_size,
    check_alike,
    distilled,
    finetuned,
    pick,
    probed,
    standard_head,
    summarise,
)

KNN, LINEAR_PROBE, FINE_TUNED = "kNN", "linear probe", "fine-tuned"
ALL_LABELS = "supervised, all labels"
SELF_DISTILLED = "self-distilled"
WHOLE_BUDGET = "supervised, whole budget"
LABELS_ONLY = "labels only"
WITHOUT_MEMORY, WITH_MEMORY = "without a memory", "with a memory"
TARGETS = (
    (LABELS_ONLY, None, None),
    ("labels + distillation on the labelled images", True, "labelled"),
    ("labels + distillation on all images", True, "all"),
    ("distillation on all images", False, "all"),
)


def accuracy_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 1: columns method (supervised, finetuned, linear), fraction, network, mean, stderr, seeds."""
    selected = {
        "supervised": pick(runs, "supervised"),
        "finetuned": finetuned(runs),
        "linear": probed(runs).assign(fraction=1.0),
    }
    cells = {method: summarise(chosen, ["fraction", *SIZE]) for method, chosen in selected.items()}
    return pd.concat(cells, names=["method"]).reset_index("method").reset_index(drop=True)


def budget_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Supervised training on as many images as pretraining and fine-tuning draw: as `accuracy_cells`."""
    return summarise(pick(runs, "supervised", whole_budget=True), ["fraction", *SIZE]).assign(
        method=WHOLE_BUDGET
    )


def gain_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 1: mean gain (%) over the smallest network by fraction and network."""
    gains = relative_gains(finetuned(runs)).melt(value_name="gain").dropna()
    cells = gains.groupby(["fraction", *SIZE])["gain"].agg(mean="mean", stderr="sem", seeds="count")
    return cells.reset_index()


def ablation_network(runs: pd.DataFrame) -> str:
    """The network with most settings of head depth and starting layer; of equals the smallest."""
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
    """For each fraction and head depth the layer with the best mean, chosen on the images measured."""
    return cells.loc[cells.groupby(["fraction", "head_layers"])["mean"].idxmax()]


def linear_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Each encoder's linear (`linear`, `linear_stderr`) and fine-tuned accuracy, by fraction."""
    encoder = [*SIZE, "head_layers"]
    linear = summarise(pick(runs, "probe"), encoder).drop(columns="seeds")
    tuned = summarise(finetuned(runs, any_head=True), ["fraction", *encoder])
    return tuned.merge(linear.rename(columns={"mean": "linear", "stderr": "linear_stderr"}), on=encoder)


def memory_networks(runs: pd.DataFrame) -> list[str]:
    """Names of the networks that were probed both with and without a memory, the smallest first."""
    if runs.empty:
        return []
    kinds = runs[runs["stage"] == "probe"].groupby(SIZE)["memory"].nunique()
    return [str(network) for _, network in kinds.index[kinds == 2]]


def memory_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Appendix D: linear accuracy with and without a memory (`method`), of the networks that have both."""
    networks = memory_networks(runs)
    if not networks:
        raise MissingRunsError("No network has probe runs both with and without a memory.")
    both = runs[runs["network"].isin(networks)]
    sides = {WITHOUT_MEMORY: False, WITH_MEMORY: True}
    linear = {name: summarise(probed(both, memory=memory), SIZE) for name, memory in sides.items()}
    return pd.concat(linear, names=["method"]).reset_index("method").reset_index(drop=True)


def student_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Distilled on all images: method (self-distilled, distilled from ...), fraction, network, mean ..."""
    cells = summarise(distilled(runs), ["kind", "teacher", "fraction", *SIZE])
    cells["method"] = "distilled from " + cells["teacher"]
    # In self-distillation each network is its own teacher: one series, named without it.
    cells.loc[cells["kind"] == "self", "method"] = SELF_DISTILLED
    return cells.drop(columns=["kind", "teacher"])


def distillation_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 6: fine-tuned and distilled at the distilled fractions; supervised with all labels, if run."""
    students = student_cells(runs)
    tuned = summarise(finetuned(runs), ["fraction", *SIZE]).assign(method="fine-tuned")
    alone = summarise(pick(runs, "supervised"), ["fraction", *SIZE]).assign(method=ALL_LABELS)
    alone = alone[alone["fraction"] == 1]
    tuned = tuned[tuned["fraction"].isin(students["fraction"])]
    return pd.concat([alone, tuned, students], ignore_index=True)


def method_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Fig. 2: every method's accuracy for the network that was distilled in most ways, by fraction."""
    students = student_cells(runs)
    ways = students.groupby(SIZE)["method"].nunique()
    network = ways.index[int(ways.to_numpy().argmax())][1]
    cells = pd.concat([accuracy_cells(runs), students])
    cells["method"] = cells["method"].replace({"finetuned": "fine-tuned", "linear": "linear probe"})
    mine: pd.DataFrame = cells[cells["network"] == network]
    return mine.reset_index(drop=True)


def outcome_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """What peers report, too: `outcome` (kNN, linear probe, ...) by network, label fraction and `labels`."""
    probes, stages = probed(runs), set(runs["stage"])
    frozen = {KNN: summarise(probes, SIZE, "knn"), LINEAR_PROBE: summarise(probes, SIZE)}
    parts = {outcome: cells.assign(fraction=1.0) for outcome, cells in frozen.items()}
    if "supervised" in stages:
        alone = summarise(pick(runs, "supervised"), ["fraction", *SIZE])
        parts[ALL_LABELS] = alone[alone["fraction"] == 1]
    if "finetune" in stages:
        parts[FINE_TUNED] = summarise(finetuned(runs), ["fraction", *SIZE])
    cells = pd.concat(parts, names=["outcome"]).reset_index("outcome")
    if "distill" in stages:
        cells = pd.concat([cells, student_cells(runs).rename(columns={"method": "outcome"})])
    counts = runs.dropna(subset="fraction").groupby("fraction")["labels"].first()
    cells["labels"] = cells["fraction"].map(counts).fillna(runs["train"].iloc[0]).astype(int)
    return cells.sort_values([*SIZE, "fraction"], kind="stable", ignore_index=True)


def pretrainings(runs: pd.DataFrame) -> pd.DataFrame:
    """How each network was pretrained: epochs, batch_size, mean seconds and device, the smallest first.

    Where seeds were pretrained on several devices, `device` lists them; None where no record names one.
    """
    chosen = pick(runs, "pretrain", head_layers=standard_head(runs))
    check_alike(chosen, SIZE)
    on = [device_name(*each) for each in zip(chosen["device"], chosen["threads"], strict=True)]
    cells = chosen.assign(device=pd.Series(on, chosen.index)).groupby(SIZE)
    wanted = {"epochs": "first", "batch_size": "first", "seconds": "mean"}
    return cells.agg(wanted).assign(device=cells["device"].agg(every)).reset_index()


def device_name(device: str | None, threads: float | None) -> str | None:
    """What a record names as its device; a CPU by its threads, as far as they are recorded."""
    if device != "cpu":
        return device
    return "CPU" if pd.isna(threads) else f"{threads:.0f} CPU thread{'s' if threads > 1 else ''}"


def every(names: pd.Series[str]) -> str | None:
    """The names that occur, each once."""
    return " and ".join(sorted(names.dropna().unique())) or None


def relative_gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Gain (%) of each network over the smallest one, per seed (rows) and fraction, parameters, network."""
    smallest, *others = by_size(runs)
    if not others:
        raise MissingRunsError(f"Fine-tuned runs of two networks or more are needed; there is only {smallest}.")
    top1 = by_seed(runs, ["fraction", *SIZE])
    fractions = [column for column in top1.columns if column[-1] == smallest]
    least = {column[0]: top1[column] for column in fractions}
    gains = {
        column: 100 * (top1[column] / least[column[0]] - 1) for column in top1.columns if column[0] in least
    }
    return pd.DataFrame(gains).rename_axis(columns=["fraction", *SIZE])


def target_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 2: accuracy by fraction and `target`, what the student learnt from, in the paper's order."""
    cells = summarise(targets(runs), ["fraction", "target"])
    order = {target: place for place, (target, _, _) in enumerate(TARGETS)}
    place = cells["target"].map(order)
    return cells.assign(place=place).sort_values(["fraction", "place"]).drop(columns="place")


def targets(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of Table 2, one student and one teacher, with a column `target` naming what was learnt from.

    Of several pairs of student and teacher the one with the most kinds of target is taken.
    """
    student, teacher = target_pair(runs)
    pair = pick(runs, "distill", network=student, teacher=teacher)
    labels = pick(runs, "supervised", network=student)
    parts = [labels[labels["fraction"].isin(pair["fraction"])].assign(target=LABELS_ONLY)]
    for target, with_labels, transfer in TARGETS[1:]:
        chosen = ((pair["label_weight"] > 0) == with_labels) & (pair["transfer"] == transfer)
        parts.append(pair[chosen].assign(target=target))
    return pd.concat(parts)


def target_pair(runs: pd.DataFrame) -> tuple[str, str]:
    """Student and teacher with the most kinds of target; of equals the smallest student."""
    mixed = pick(runs, "distill")
    if not (mixed["label_weight"] > 0).any():
        raise MissingRunsError("No distill runs with a label term are recorded.")
    kinds = mixed.groupby([*SIZE, "teacher"])["setup"].nunique()
    _, student, teacher = kinds.sort_values(ascending=False, kind="stable").index[0]
    return student, teacher

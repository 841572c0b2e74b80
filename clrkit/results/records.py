"""Records as one table with a row a run, and the selections that figures, claims and tables share.

Selections raise MissingRunsError if no such run is recorded. Loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from clrkit.config import STAGES, Network
from clrkit.errors import ConfigError
from clrkit.experiments.fields import from_dict, stage_class
from clrkit.experiments.grid import Preset
from clrkit.runs.keys import keyed_fields

SIZE = ["parameters", "network"]
PAPER_HEAD_LAYERS = 3
DATASETS = {
    "tinted_mnist": "Tinted MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    "imagenet": "ImageNet",
}
STANDARDS = {
    "standard_head": "the preset's head",
    "standard_tap": "the preset's head layer to start from",
    "whole_budget": "the whole budget",
}
AGAIN = ", self-distilled"  # suffix for a teacher that was distilled into itself before it taught
NAN = float("nan")


class MissingRunsError(ConfigError):
    """A figure, claim or table needs runs that are not recorded; the message names them."""


class MixedRunsError(ConfigError):
    """Runs to average differ in more than their seed; the message names the fields."""


def records_to_frame(records: Iterable[Mapping[str, Any]], preset: Preset) -> pd.DataFrame:
    """One row a record, ordered by stage and settings. Accuracies in percent, `parameters` in millions.

    `setup` is the config that counts for the run's key, as JSON and without seeds: runs with equal setup,
    stage version and data are repetitions of each other.

    The preset defines what is standard, whichever runs exist: `standard_head`, `standard_tap` and
    `standard_memory` are true if the run has the preset's projection head, head layer to fine-tune from, and
    memory; `whole_budget` if supervised training is longer than fine-tuning.
    """
    runs = pd.DataFrame([row(record, preset) for record in records])
    if runs.empty:
        return runs
    order = {stage.name: place for place, stage in enumerate(STAGES)}
    by = ["fraction", "parameters", "head_layers", "memory", "tap_layer", "teacher", "label_weight"]
    runs = runs.assign(place=runs["stage"].map(order))
    return runs.sort_values(["place", *by, "setup", "seed"], ignore_index=True).drop(columns="place")


def links(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A recorded config and those of the stages it builds on, the first stage last."""
    chain = [config]
    while inner := chain[-1].get("pretrain") or chain[-1].get("teacher"):
        chain.append(inner)
    return chain


def label_share(chain: Sequence[Mapping[str, Any]], share: float) -> float:
    """The label fraction of a chain; `share` (labels per image) if a list names the labels."""
    labelled = next((link for link in chain if "fraction" in link), {})
    return share if labelled.get("label_list") else float(labelled.get("fraction", NAN))


def row(record: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """A record as a row of the frame."""
    config, dataset, metrics = record["config"], record["dataset"], record["metrics"]
    made, used = record["provenance"], ("seconds", "peak_memory_mb", "device", "cpu", "cores", "threads")
    chain = chain_columns(record["stage"], config, record["labels"] / dataset["train"])
    base, share, tap_layer = links(config)[-1], chain["fraction"], chain["tap_layer"]
    epochs = [each.epochs for each in preset.grid.labelled if each.fraction == share]
    return {
        "stage": record["stage"],
        "key": record["key"],
        "parent": record["parent"] or "",
        "seed": config["seed"],
        "dataset": dataset["name"],
        **{name: dataset[name] for name in ("part", "fingerprint", "train", "evaluation")},
        "version": record["version"],
        "labels": record["labels"],
        **{name: config[name] for name in ("epochs", "batch_size")},
        "parameters": record["parameters"] / 1e6,
        **chain,
        **{
            name: 100 * metrics.get(name, NAN)
            for name in ("top1", "top5", "knn", "teacher_top1", "agreement")
        },
        "loss": metrics.get("loss", NAN),
        **{name: made.get(name) for name in (*used, "python", "torch", "clrkit", "git", "finished")},
        "setup": setup(record["stage"], config),
        "standard_head": base.get("head_layers") == preset.pretrain.head_layers,
        "standard_tap": tap_layer >= 0 and tap_layer == preset.tap_layer(share),
        "standard_memory": chain["memory"] == preset.pretrain.memory,
        "whole_budget": record["stage"] == "supervised" and bool(epochs) and base["epochs"] > epochs[0],
    }


def chain_columns(stage: str, config: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Columns from a config and the stages it builds on; `share` of the images is labelled."""
    chain = links(config)
    base = chain[-1]
    tapped = next((link for link in chain if "tap_layer" in link), {})
    network = config.get("network") or base["network"]
    distills, pretrained = stage == "distill", "head_layers" in base
    again = distills and config.get("self_temperature", 0.0) > 0
    return {
        "fraction": label_share(chain, share),
        "network": network_name(network),
        **{name: network[name] for name in ("depth", "width", "sk_ratio", "stem")},
        "head_layers": base.get("head_layers", 0),
        "pretrain_epochs": base["epochs"] if pretrained else 0,
        "pretrain_seed": base["seed"] if pretrained else config["seed"],
        "temperature": base.get("temperature", NAN),
        "memory": bool(base.get("memory", False)),
        "tap_layer": tapped.get("tap_layer", -1),
        "teacher": network_name(base["network"]) + AGAIN * again if distills else "",
        "kind": ("self" if network == base["network"] and not again else "big-to-small") if distills else "",
        "self_temperature": config.get("self_temperature", 0.0) if distills else NAN,
        "distill_temperature": config["temperature"] if distills else NAN,
        "label_weight": config["label_weight"] if distills else NAN,
        "transfer": config["transfer"] if distills else "",
    }


def setup(stage: str, config: Mapping[str, Any]) -> str:
    """The fields of a recorded config that count for its key, without seeds, as JSON."""
    keyed = keyed_fields(from_dict(stage_class(stage), config))
    return json.dumps(dict(flatten(keyed)), sort_keys=True)


def flatten(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a config's fields, without seeds."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}{name}.")
        elif name != "seed":
            yield path + name, value


# Words


def network_name(network: Network | Mapping[str, Any]) -> str:
    """A network, or a recorded one, as the paper's tables name it: R50 2x SK."""
    fields = asdict(network) if isinstance(network, Network) else network
    return f"R{fields['depth']} {fields['width']:g}x" + (" SK" if fields["sk_ratio"] > 0 else "")


def fraction_name(fraction: float) -> str:
    """A fraction as a percentage: 1%."""
    return f"{100 * fraction:g}%"


def dataset_name(runs: pd.DataFrame) -> str:
    """The data set's name in figures and tables."""
    return " and ".join(DATASETS.get(name, name) for name in sorted(set(runs["dataset"])))


def describe(run: pd.Series) -> str:
    """A run's setting in words: fine-tuned, 1%, R8 1x, from layer 1."""
    network, share, depth = run["network"], fraction_name(run["fraction"]), run["head_layers"]
    head = f", {depth}-layer head" if depth != PAPER_HEAD_LAYERS else ""
    head += ", with a memory" if run["memory"] else ""
    if run["stage"] == "supervised":
        return f"supervised, {share}, {network}{', whole budget' if run['whole_budget'] else ''}"
    if run["stage"] == "probe":
        return f"linear probe, {network}{head}"
    if run["stage"] == "finetune":
        return f"fine-tuned, {share}, {network}{head}, from layer {run['tap_layer']}"
    labels = f", label weight {run['label_weight']:g}" if run["label_weight"] else ""
    return f"distilled, {share}, {network} from {run['teacher']}, {run['transfer']} images{labels}"


def seeds_named(runs: pd.DataFrame) -> str:
    """What repetitions differ in: seeds of the whole chain, or seeds on shared pretrainings."""
    if not len(runs) or (runs["pretrain_seed"] == runs["seed"]).all():
        return "seeds"
    number = runs.loc[runs["head_layers"] > 0, "pretrain_seed"].nunique()
    return "seeds on one pretraining" if number == 1 else f"seeds on {number} pretrainings"


# Selections


def only(runs: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The runs whose columns have the given values."""
    for name, value in where.items():
        runs = runs[runs[name] == value] if len(runs) else runs
    if runs.empty:
        what = ", ".join(STANDARDS.get(name, f"{name} {value}") for name, value in where.items())
        raise MissingRunsError(f"No runs with {what} are recorded.")
    return runs


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the preset's choice of a memory, and those without pretraining."""
    return runs[runs["standard_memory"] | (runs["head_layers"] == 0)] if len(runs) else runs


def pick(runs: pd.DataFrame, stage: str, **where: Any) -> pd.DataFrame:
    """The runs of a stage whose columns have the given values.

    They are `comparable` unless `memory` is given, and supervised training has fine-tuning's epochs unless
    `whole_budget` is given.
    """
    runs = runs if "memory" in where else comparable(runs)
    if "whole_budget" not in where and len(runs):
        runs = runs[~runs["whole_budget"]]
    return only(runs, stage=stage, **where)


def finetuned(runs: pd.DataFrame, any_head: bool = False) -> pd.DataFrame:
    """Runs fine-tuned from the preset's layer at each fraction, on its head unless `any_head`."""
    return pick(runs, "finetune", standard_tap=True, **({} if any_head else {"standard_head": True}))


def probed(runs: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Linear evaluation of encoders pretrained with the preset's head."""
    return pick(runs, "probe", standard_head=True, **where)


def distilled(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs distilled on all images without the label term (Eq. 2), as the paper recommends."""
    return pick(runs, "distill", label_weight=0.0, transfer="all", standard_head=True, standard_tap=True)


def standard_head(runs: pd.DataFrame) -> int:
    """Depth of the preset's projection head."""
    heads = set(runs.loc[runs["standard_head"], "head_layers"]) if len(runs) else set()
    if not heads:
        raise MissingRunsError("No runs pretrained with the preset's head are recorded.")
    return int(heads.pop())


def fractions_of(cells: pd.DataFrame) -> list[float]:
    """The label fractions in a table, rising."""
    return sorted(cells["fraction"].unique())


def by_size(runs: pd.DataFrame) -> list[str]:
    """Names of the networks, the smallest first."""
    return list(runs.sort_values(SIZE)["network"].unique())


def pretraining_seeds(runs: pd.DataFrame) -> pd.Series[int]:
    """For each seed that of the pretraining its runs build on; a shared one comes before its own."""
    built = runs[runs["head_layers"] > 0]
    own = built["pretrain_seed"] == built["seed"]
    return built.assign(own=own).sort_values("own", kind="stable").groupby("seed")["pretrain_seed"].first()

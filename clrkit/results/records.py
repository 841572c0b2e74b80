"""Records as one table, a row a run, and the selections that figures, claims and tables share.

Only like is averaged with like: runs in one cell may differ in their seed and in nothing else, which
`summarise` and `by_seed` check. No torch here: records are enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from clrkit.config import STAGES, from_dict, stage_class
from clrkit.runs.keys import keyed_fields
from clrkit.errors import ConfigError
from clrkit.experiments.grid import Preset

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
AGAIN = ", self-distilled"  # of a teacher's name, where it was distilled into itself before it taught


class MissingRunsError(ConfigError):  # noqa: N818  (says what is missing)
    """A figure, claim or table asks for runs that are not recorded; the message names them."""


class MixedRunsError(ConfigError):  # noqa: N818
    """Runs that differ in more than their seed would be averaged; the message names the fields."""


def records_to_frame(records: Iterable[Mapping[str, Any]], preset: Preset) -> pd.DataFrame:
    """One row a record. Accuracies are percentages, `parameters` millions, `seconds` wall time.

    `setup` is what the config adds to the key as text, without seeds: runs with the same setup, stage version
    and data are repetitions of each other. Rows are ordered by stage and settings, whatever the order of the
    records.

    The preset says what is standard, whichever runs there are: `standard_head`, `standard_tap` and
    `standard_memory` are true where the run's projection head, the head layer that fine-tuning starts from,
    and the memory are the preset's; `whole_budget` where supervised training is longer than fine-tuning.
    """
    runs = pd.DataFrame([row(record) | standards(record, preset) for record in records])
    if runs.empty:
        return runs
    order = {stage.name: place for place, stage in enumerate(STAGES)}
    by = ["fraction", "parameters", "head_layers", "memory", "tap_layer", "teacher", "label_weight"]
    by = ["place", *by, "setup", "seed"]
    runs = runs.assign(place=runs["stage"].map(order)).sort_values(by, ignore_index=True)
    return runs.drop(columns="place")


def standards(record: Mapping[str, Any], preset: Preset) -> dict[str, bool]:
    """Which of a run's choices are the preset's standard."""
    chain = links(record["config"])
    base, share = chain[-1], label_share(chain, record["labels"] / record["dataset"]["train"])
    tapped = next((link["tap_layer"] for link in chain if "tap_layer" in link), None)
    epochs = [each.epochs for each in preset.grid.labelled if each.fraction == share]
    return {
        "standard_head": base.get("head_layers") == preset.pretrain.head_layers,
        "standard_tap": tapped is not None and tapped == preset.tap_layer(share),
        "standard_memory": bool(base.get("memory", False)) == preset.pretrain.memory,
        "whole_budget": record["stage"] == "supervised" and bool(epochs) and base["epochs"] > epochs[0],
    }


def links(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A recorded config and those of the stages it builds on, the first stage last."""
    chain = [config]
    while inner := chain[-1].get("pretrain") or chain[-1].get("teacher"):
        chain.append(inner)
    return chain


def label_share(chain: Sequence[Mapping[str, Any]], share: float) -> float:
    """The label fraction of a chain; `share`, that of the images, where a list names the labels."""
    labelled = next((link for link in chain if "fraction" in link), {})
    return share if labelled.get("label_list") else float(labelled.get("fraction", "nan"))


def row(record: Mapping[str, Any]) -> dict[str, Any]:
    config, dataset, metrics = record["config"], record["dataset"], record["metrics"]
    provenance = record["provenance"]
    return {
        "stage": record["stage"],
        "key": record["key"],
        "parent": record["parent"] or "",
        "seed": config["seed"],
        "dataset": dataset["name"],
        "part": dataset["part"],
        "fingerprint": dataset["fingerprint"],
        "train": dataset["train"],
        "evaluation": dataset["evaluation"],
        "version": record["version"],
        "labels": record["labels"],
        **{name: config[name] for name in ("epochs", "batch_size")},
        "parameters": record["parameters"] / 1e6,
        **chain_columns(record["stage"], config, record["labels"] / dataset["train"]),
        **{name: 100 * metrics.get(name, float("nan")) for name in ("top1", "top5", "knn", "teacher_top1")},
        "agreement": 100 * metrics.get("agreement", float("nan")),
        "loss": metrics.get("loss", float("nan")),
        **{
            name: provenance.get(name)
            for name in ("seconds", "peak_memory_mb", "device", "cpu", "cores", "threads")
        },
        **{name: provenance.get(name) for name in ("python", "torch", "clrkit", "git", "finished")},
        "setup": setup(record["stage"], config),
    }


def chain_columns(stage: str, config: Mapping[str, Any], share: float) -> dict[str, Any]:
    """What the figures ask of a config and of the stages it builds on; `share` of the images is labelled."""
    chain = links(config)
    base = chain[-1]
    tapped = next((link for link in chain if "tap_layer" in link), {})
    network = config.get("network") or base["network"]
    distills = stage == "distill"
    again = distills and config.get("self_temperature", 0.0) > 0
    return {
        "fraction": label_share(chain, share),
        "network": network_name(network),
        **{name: network[name] for name in ("depth", "width", "sk_ratio", "stem")},
        "head_layers": base.get("head_layers", 0),
        "pretrain_epochs": base["epochs"] if "head_layers" in base else 0,
        "pretrain_seed": base["seed"] if "head_layers" in base else config["seed"],
        "temperature": base.get("temperature", float("nan")),
        "memory": bool(base.get("memory", False)),
        "tap_layer": tapped.get("tap_layer", -1),
        "teacher": network_name(base["network"]) + AGAIN * again if distills else "",
        "kind": ("self" if network == base["network"] and not again else "big-to-small") if distills else "",
        "self_temperature": config.get("self_temperature", 0.0) if distills else float("nan"),
        "distill_temperature": config["temperature"] if distills else float("nan"),
        "label_weight": config["label_weight"] if distills else float("nan"),
        "transfer": config["transfer"] if distills else "",
    }


def network_name(network: Mapping[str, Any]) -> str:
    """As the paper's tables have it: R50 2x SK."""
    return f"R{network['depth']} {network['width']:g}x" + (" SK" if network["sk_ratio"] > 0 else "")


def fraction_name(fraction: float) -> str:
    """A share as a percentage: 1%."""
    return f"{100 * fraction:g}%"


def fractions_of(cells: pd.DataFrame) -> list[float]:
    """The label fractions in a table, rising."""
    return sorted(cells["fraction"].unique())


def dataset_name(runs: pd.DataFrame) -> str:
    """What figures and tables call the data set."""
    return " and ".join(DATASETS.get(name, name) for name in sorted(set(runs["dataset"])))


def setup(stage: str, config: Mapping[str, Any]) -> str:
    """The fields of a recorded config that count for its key, seeds left out."""
    keyed = keyed_fields(from_dict(stage_class(stage), config))
    return json.dumps(dict(flatten(keyed)), sort_keys=True)


def flatten(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a config's fields, seeds left out."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}{name}.")
        elif name != "seed":
            yield path + name, value


def check_alike(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Raises MixedRunsError where runs in a cell of `by` differ in anything but the seed, or share a seed."""
    same = runs.groupby(list(by), dropna=False)[["setup", "version", "fingerprint"]].transform("nunique")
    mixed = runs[(same > 1).any(axis=1)]
    if len(mixed):
        first = mixed.merge(mixed[list(by)].head(1), on=list(by))
        names = ", ".join(differences(first))
        raise MixedRunsError(f"{these(first)} differ in {names}; choose one setting of it.")
    if (twice := runs.duplicated([*by, "seed"])).any():
        again = runs[twice]
        raise MixedRunsError(f"{these(again)} have seed {again['seed'].iloc[0]} more than once.")


def these(runs: pd.DataFrame) -> str:
    return f"The {runs['stage'].iloc[0]} runs of {runs['network'].iloc[0]}"


def differences(cell: pd.DataFrame) -> list[str]:
    """Names of the fields in which runs differ, seeds aside."""
    setups = pd.DataFrame([json.loads(setup) for setup in cell["setup"].unique()])
    fields = [str(name) for name in setups if setups[name].nunique(dropna=False) > 1]
    return fields + [name for name in ("version", "fingerprint") if cell[name].nunique() > 1]


def summarise(runs: pd.DataFrame, by: Sequence[str], value: str = "top1") -> pd.DataFrame:
    """Columns `by`, `mean`, `stderr` (of the mean, over seeds; NaN for one seed) and `seeds`."""
    check_alike(runs, by)
    cells = runs.groupby(list(by))[value].agg(mean="mean", stderr="sem", seeds="count")
    return cells.reset_index()


def seeds_named(runs: pd.DataFrame) -> str:
    """What repetitions differ in: seeds of the whole chain, or of what builds on shared pretrainings."""
    if not len(runs) or (runs["pretrain_seed"] == runs["seed"]).all():
        return "seeds"
    number = runs.loc[runs["head_layers"] > 0, "pretrain_seed"].nunique()
    return "seeds on one pretraining" if number == 1 else f"seeds on {number} pretrainings"


def pretraining_seeds(runs: pd.DataFrame) -> pd.Series[int]:
    """The seed of the pretraining that a seed's runs build on: where some share another's, that one."""
    built = runs[runs["head_layers"] > 0]
    own = built["pretrain_seed"] == built["seed"]
    return built.assign(own=own).sort_values("own", kind="stable").groupby("seed")["pretrain_seed"].first()


def by_seed(runs: pd.DataFrame, by: Sequence[str], value: str = "top1") -> pd.DataFrame:
    """A row a seed, a column a cell of `by`: what paired comparisons need."""
    check_alike(runs, by)
    return runs.pivot(index="seed", columns=list(by), values=value)


def only(runs: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The runs whose columns have the given values. Raises MissingRunsError if there are none."""
    for name, value in where.items():
        runs = runs[runs[name] == value] if len(runs) else runs
    if runs.empty:
        what = ", ".join(STANDARDS.get(name, f"{name} {value}") for name, value in where.items())
        raise MissingRunsError(f"No runs with {what} are recorded.")
    return runs


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with or without a memory as is standard, and those that were not pretrained."""
    return runs[runs["standard_memory"] | (runs["head_layers"] == 0)] if len(runs) else runs


def pick(runs: pd.DataFrame, stage: str, **where: Any) -> pd.DataFrame:
    """The runs of a stage whose columns have the given values. Raises MissingRunsError if there are none.

    Unless `memory` is among the values they are `comparable`; unless `whole_budget` is, supervised training
    has the epochs of fine-tuning.
    """
    runs = runs if "memory" in where else comparable(runs)
    if "whole_budget" not in where and len(runs):
        runs = runs[~runs["whole_budget"]]
    return only(runs, stage=stage, **where)


def standard_head(runs: pd.DataFrame) -> int:
    """Depth of the preset's projection head. Raises MissingRunsError where none of it is recorded."""
    heads = set(runs.loc[runs["standard_head"], "head_layers"]) if len(runs) else set()
    if not heads:
        raise MissingRunsError("No runs pretrained with the preset's head are recorded.")
    return int(heads.pop())


def finetuned(runs: pd.DataFrame, any_head: bool = False) -> pd.DataFrame:
    """Fine-tuned runs from the preset's layer at each fraction, on its head unless `any_head`.

    Raises MissingRunsError if there are none.
    """
    return pick(runs, "finetune", standard_tap=True, **({} if any_head else {"standard_head": True}))


def probed(runs: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Linear evaluation of encoders pretrained with the preset's head."""
    return pick(runs, "probe", standard_head=True, **where)


def distilled(runs: pd.DataFrame) -> pd.DataFrame:
    """Distilled on all images without the label term (Eq. 2), as the paper recommends."""
    return pick(runs, "distill", label_weight=0.0, transfer="all", standard_head=True, standard_tap=True)


def by_size(runs: pd.DataFrame) -> list[str]:
    """Names of the networks, the smallest first."""
    return list(runs.sort_values(SIZE)["network"].unique())

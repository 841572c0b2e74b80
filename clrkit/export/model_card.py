"""The model card of an export: what the model is, how accurate, how it was made; all from its records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from clrkit.config import Distill, Finetune, Labelled, Pretrain, Stage, Supervised
from clrkit.data.folders import UNSHOWABLE
from clrkit.data.images import WHOLE
from clrkit.experiments.fields import to_dict
from clrkit.export.source import ModelSource, describe_model
from clrkit.results.records import DATASETS, network_name
from clrkit.results.statistics import wilson_interval
from clrkit.results.text import Table, duration, verbatim

UNKNOWN = "not known"
SETTINGS = ("temperature", "head_layers", "tap_layer", "fraction", "label_weight", "transfer", "precision")


def card(source: ModelSource, files: Table) -> str:
    """Render the card as Markdown.

    Args:
        source: the model and its records.
        files: the table of the exported files.
    """
    data, metrics = source.record.get("dataset", {}), source.record.get("metrics", {})
    model = describe_model(source.model.config)
    facts = {
        "network": model.partition(",")[0],
        "model": model,
        "parameters": sum(parameter.numel() for parameter in source.model.parameters()),
        "training": training(source.stage),
        "classes": source.classes,
        "size": source.image_size,
        "squashed": source.image_size <= WHOLE,
        "folder": source.folder.name,
        "data": data,
        "dataset": DATASETS.get(data.get("name"), data.get("name")),
        "labels": labels_used(source),
        "metrics": metrics,
        "interval": wilson_interval(metrics["top1"], data["evaluation"]) if "top1" in metrics else None,
        "seen": seen_by(source.stage) if data.get("seen") else "",
        "made": made(source),
        "files": files.markdown().strip(),
        "validation": source.stage is not None and source.stage.images.evaluation == "validation",
    }
    environment = Environment(
        loader=PackageLoader("clrkit.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "grouped": "{:,}".format,
        "percent": lambda share: f"{100 * share:.1f}%",
        "verbatim": lambda text: verbatim(UNSHOWABLE.sub("?", text)),
    }
    return environment.get_template("model_card.md.j2").render(facts)


def training(stage: Stage | None) -> str:
    """How a model was trained, in a few words."""
    match stage:
        case Pretrain():
            return "pretrained without labels by SimCLRv2"
        case Finetune():
            few = "few" if stage.fraction < 1 or stage.label_list else "all"
            return f"pretrained without labels by SimCLRv2, then fine-tuned on {few} labels"
        case Supervised():
            return "trained on labels alone"
        case Distill():
            itself = " that was first distilled into itself" if stage.self_temperature else ""
            return f"distilled from a fine-tuned SimCLRv2 teacher{itself}"
        case _:
            return "not trained by clrkit, or without its record"


def labels_used(source: ModelSource) -> str:
    """How many labels the stage or its teacher was trained on, and where they come from."""
    labelled = source.stage.teacher if isinstance(source.stage, Distill) else source.stage
    if not isinstance(labelled, Labelled):
        return "no labels"
    origin = "given in a CSV" if labelled.images.labels_csv else "all that exist"
    if labelled.fraction < 1:
        origin = f"drawn with seed {labelled.seed}"
    if labelled.label_list:
        origin = "from a list"
    return f"{source.record['labels']:,} labels ({origin})"


def seen_by(stage: Stage | None) -> str:
    """The stages that saw the images to measure on, without labels."""
    if isinstance(stage, Supervised):
        return ""
    return "Pretraining and distillation" if isinstance(stage, Distill) else "Pretraining"


def made(source: ModelSource) -> str:
    """A table with a row per stage, and the versions used for the last one."""
    if not source.stage:
        return f"How it was made is {UNKNOWN}."
    by = source.record["provenance"]
    versions = [f"{name} {by[name]}" for name in ("clrkit", "torch", "numpy", "python") if name in by]
    git = [f"git {by['git']}"] if by.get("git") else []
    remark = f"Made with {', '.join([*versions, *git, *filter(None, [by.get('platform')])])}."
    rows = [row(stage, source.records.get(stage.name, {})) for stage in source.stage.chain]
    columns = ["stage", "settings", "seed", "epochs", "batch", "time", "on", "finished", "run"]
    return Table("made", "How it was made", remark, columns, rows).markdown().strip()


def row(stage: Stage, record: Mapping[str, Any]) -> list[str]:
    """The settings and the record of a stage, as cells."""
    by = record.get("provenance", {})
    on = by.get("cpu") if by.get("device") == "cpu" else by.get("device")
    threads = f", threads: {by['threads']}" if by.get("device") == "cpu" and "threads" in by else ""
    return [
        stage.name,
        settings(stage),
        str(stage.seed),
        str(stage.epochs),
        str(stage.batch_size),
        duration(by["seconds"]) if "seconds" in by else UNKNOWN,
        f"{on}{threads}" if on else UNKNOWN,
        str(by.get("finished", UNKNOWN)),
        str(record.get("key", UNKNOWN)),
    ]


def settings(stage: Stage) -> str:
    """The most important fields of a stage, by name."""
    values = {name: getattr(stage, name) for name in SETTINGS if hasattr(stage, name)}
    if hasattr(stage, "network"):
        values = {"network": network_name(to_dict(stage.network)), **values}
    if hasattr(stage, "augmentation"):
        values["color_strength"] = stage.augmentation.color_strength
    rule = stage.optimizer
    values |= {"optimizer": rule.optimizer, "learning_rate": f"{rule.learning_rate:g}"}
    return ", ".join(f"{name} {value}" for name, value in {**values, "scaling": rule.scaling}.items())

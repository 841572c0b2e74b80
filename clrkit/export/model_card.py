"""The model card: what an exported model is, how good, how it was made. All of it from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clrkit.cli.models import in_words
from clrkit.config import (
    Augmentation,
    Distill,
    Finetune,
    Labelled,
    Network,
    Pretrain,
    Stage,
    Supervised,
    to_dict,
)
from clrkit.data.folders import UNSHOWABLE
from clrkit.data.images import WHOLE
from clrkit.export.source import ModelSource
from clrkit.results.records import DATASETS, network_name
from clrkit.results.statistics import wilson_interval
from clrkit.results.text import Table, duration, verbatim

SHOWN_CLASSES = 20
UNKNOWN = "not known"
CLASSIFY = """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
probabilities = session.run(["probabilities"], {"images": np.asarray(image)[None]})[0][0]
for place in probabilities.argsort()[::-1][:3]:
    print(f"{probabilities[place]:.3f} {classes[place]}")
"""
DESCRIBE = """\
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")
features = session.run(["features"], {"images": np.asarray(image)[None]})[0][0]
print(features.shape)
"""


def card(origin: ModelSource, table: Table) -> str:
    """The card as Markdown.

    Args:
        origin: the model and its records.
        table: of the files, from the export.
    """
    sections = {
        "Use": use(origin),
        "Data and labels": data_text(origin),
        "Accuracy": accuracy_text(origin),
        "How it was made": made_text(origin),
        table.title: table.markdown(),
        "Limits": limits(origin),
    }
    parts = [f"# {title(origin)}", f"{what(origin)}\n"]
    parts += [f"## {name}\n\n{text.strip()}\n" for name, text in sections.items()]
    return "\n".join(parts)


def title(origin: ModelSource) -> str:
    given = f"{len(origin.classes):,} classes" if origin.classes else "features"
    return f"{in_words(origin.model.config).partition(',')[0]}: {given}" + (
        f" of {dataset(origin)}" if origin.stage else ""
    )


def dataset(origin: ModelSource) -> str:
    name = origin.record["dataset"]["name"]
    return verbatim(DATASETS.get(name, name))


def what(origin: ModelSource) -> str:
    """What it is, what goes in and what comes out."""
    parameters = sum(parameter.numel() for parameter in origin.model.parameters())
    trained = {
        Pretrain: "pretrained without labels by SimCLRv2",
        Finetune: "pretrained without labels by SimCLRv2, then fine-tuned on few labels",
        Supervised: "trained on labels alone",
        Distill: "distilled from a fine-tuned SimCLRv2 teacher",
    }
    if isinstance(origin.stage, Distill) and origin.stage.self_temperature:
        trained[Distill] += " that was first distilled into itself"
    how = trained[type(origin.stage)] if origin.stage else "not trained by clrkit, or without its record"
    if isinstance(origin.stage, Finetune) and origin.stage.fraction == 1 and not origin.stage.label_list:
        how = how.replace("few labels", "all labels")
    return f"{in_words(origin.model.config)}; {parameters:,} parameters; {how}."


def use(origin: ModelSource) -> str:
    size = origin.image_size
    seen = (
        f"the whole image, squashed to {size} x {size} pixels (bicubic, antialiased)"
        if size <= WHOLE
        else f"the central square of 87.5% of the shorter side, resized to {size} x {size} pixels (bicubic)"
    )
    given = (
        "`probabilities` and `logits`, (batch, classes)"
        if origin.classes
        else "`features`, (batch, channels), of the encoder"
    )
    clrkit = "`python -m clrkit predict FOLDER IMAGES...` does the same.\n" if origin.classes else ""
    return (
        f"In: `images`, upright RGB bytes (batch, height, width, 3), of any height and width from 2. The "
        f"preprocessing is inside: {seen}, divided by 255. Out: {given}.\n\n"
        f"```python\n{CLASSIFY if origin.classes else DESCRIBE}```\n\n{clrkit}"
        f"{classes_text(origin.classes)}"
    )


def classes_text(classes: Sequence[str]) -> str:
    if not classes:
        return ""
    named = ", ".join(verbatim(UNSHOWABLE.sub("?", name)) for name in classes[:SHOWN_CLASSES])
    more = f" and {len(classes) - SHOWN_CLASSES:,} more (model.json)" if len(classes) > SHOWN_CLASSES else ""
    return f"Classes: {named}{more}."


def data_text(origin: ModelSource) -> str:
    if not origin.stage:
        return f"Data and labels are {UNKNOWN}: the folder `{origin.folder.name}` has no record of a run."
    record, found = origin.record, origin.record["dataset"]
    labelled = origin.stage.teacher if isinstance(origin.stage, Distill) else origin.stage
    used = "no labels"
    if isinstance(labelled, Labelled):
        used = f"{record['labels']:,} labels, {source_of(labelled)},"
    return (
        f"{dataset(origin)}: {found['train']:,} training images, of which {used} were used; "
        f"{found['evaluation']:,} {verbatim(found['part'])} images to measure on. "
        f"Fingerprint of the data (SHA-256): `{verbatim(found['fingerprint'])}`."
    )


def source_of(stage: Labelled) -> str:
    """Where the labels come from."""
    if stage.label_list:
        return "from a list"
    if stage.fraction < 1:
        return f"drawn with seed {stage.seed}"
    return "given in a CSV" if stage.images.labels_csv else "all that there are"


def accuracy_text(origin: ModelSource) -> str:
    metrics = origin.record["metrics"] if origin.stage else {}
    if "top1" not in metrics:
        return f"Accuracy is {UNKNOWN}." + (
            "" if origin.classes else " The model gives features, not classes."
        )
    found = origin.record["dataset"]
    count = found["evaluation"]
    low, high = wilson_interval(metrics["top1"], count)
    text = (
        f"Top-1 **{100 * metrics['top1']:.1f}%** (95% interval, Wilson: {low:.1f} to {high:.1f}) on the "
        f"{count:,} images of the {verbatim(found['part'])} part, whose labels were not trained on."
    )
    if found.get("seen") and not isinstance(origin.stage, Supervised):
        stages = "Pretraining and distillation" if isinstance(origin.stage, Distill) else "Pretraining"
        text += f" {stages} saw these images, too, without their labels."
    if "top5" in metrics:
        text += f" Top-5 {100 * metrics['top5']:.1f}%."
    if "teacher_top1" in metrics:
        text += (
            f" Its teacher has {100 * metrics['teacher_top1']:.1f}% there; they agree on "
            f"{100 * metrics['agreement']:.1f}% of the images."
        )
    return text


def made_text(origin: ModelSource) -> str:
    """A row for each stage, and the versions of the last."""
    if not origin.stage:
        return f"How it was made is {UNKNOWN}."
    rows = [row(stage, origin.records.get(stage.name)) for stage in origin.stage.chain]
    columns = ["stage", "settings", "seed", "epochs", "batch", "time", "on", "finished", "run"]
    by = origin.record["provenance"]
    names = [f"{name} {by[name]}" for name in ("clrkit", "torch", "numpy", "python") if name in by]
    git = f"git {by['git']}" if by.get("git") else ""
    remark = f"Made with {', '.join(filter(None, [*names, git, by.get('platform', '')]))}."
    return Table("made", "How it was made", remark, columns, rows).markdown()


def row(stage: Stage, record: Mapping[str, Any] | None) -> list[str]:
    """What is set and what is recorded of a stage."""
    by = record["provenance"] if record else {}
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
        str(record["key"]) if record else UNKNOWN,
    ]


def settings(stage: Stage) -> str:
    """The fields that say most of a stage, by name."""
    names = ("temperature", "head_layers", "tap_layer", "fraction", "label_weight", "transfer", "precision")
    values = {name: getattr(stage, name) for name in names if hasattr(stage, name)}
    if isinstance(network := getattr(stage, "network", None), Network):
        values = {"network": network_name(to_dict(network)), **values}
    if isinstance(augmentation := getattr(stage, "augmentation", None), Augmentation):
        values["color_strength"] = augmentation.color_strength
    rule = stage.optimizer
    values |= {
        "optimizer": rule.optimizer,
        "learning_rate": f"{rule.learning_rate:g}",
        "scaling": rule.scaling,
    }
    return ", ".join(f"{name} {value}" for name, value in values.items())


def limits(origin: ModelSource) -> str:
    """What not to expect."""
    items = [
        "It was measured on images of its own data set; of others nothing is known.",
        "`model.pt2` is read by `torch.export.load`, which unpickles: load it only where you trust who gave "
        "it. `model.onnx` and `weights.safetensors` hold no code.",
    ]
    if origin.classes:
        items.insert(0, "It names one of its classes whatever the image shows, also where none fits.")
        items.insert(1, "Its probabilities are not calibrated: 0.9 need not be right nine times in ten.")
    if origin.stage and origin.stage.images.evaluation == "validation":
        items.append(
            "It was measured on images by which settings may have been chosen, not on the test part."
        )
    return "".join(f"- {item}\n" for item in items)

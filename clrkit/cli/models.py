"""Commands for models without runs: import a released checkpoint, evaluate a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from clrkit import config as configs
from clrkit.cli.options import AddCommand, UsageError, add_device, add_option
from clrkit.errors import ConfigError, known

if TYPE_CHECKING:
    from clrkit.cli.progress import ProgressLine
    from clrkit.data.splits import Split
    from clrkit.model import Model

# Side in pixels at which the images of a data set are measured.
SIDES = {"tinted_mnist": 28, "cifar10": 32, "cifar100": 32, "stl10": 96, "imagenet": 224}


def add(command: AddCommand) -> None:
    """Add these commands to the parser that `command` makes parsers for."""
    imported = command(
        "import-official", import_official, "Convert a released TensorFlow checkpoint into a model folder."
    )
    about = "prefix of a checkpoint, or folder (or zip, tar, tar.gz) of a checkpoint or SavedModel"
    imported.add_argument("checkpoint", type=Path, metavar="PATH", help=about)
    imported.add_argument("folder", type=Path, metavar="OUT", help="model folder to write")
    about = "head layer under the classifier (default 0, the encoder's output; see docs/checkpoints.md)"
    add_option(imported, "tap_layer", about, type=int, metavar="N")
    about = "selective-kernel ratio, if the variables do not show it (depth 18 or 34 with a CIFAR stem)"
    add_option(imported, "sk_ratio", about, type=float, metavar="X")
    add_option(imported, "ema", "take the weights of the momentum encoder", action="store_true")
    evaluated = command("evaluate", evaluate_model, "Measure a model with the official evaluation view.")
    about = "model folder, or the folder of a finished run"
    evaluated.add_argument("model", type=Path, metavar="MODEL", help=about)
    about = f"data set: {', '.join(SIDES)}, folder or torchvision:NAME"
    add_option(evaluated, "dataset", about, required=True, metavar="NAME")
    about = "folder of its images; for ImageNet, the one that contains val"
    add_option(evaluated, "root", about, default="", metavar="DIR")
    about = "pixels (default: the data set's usual size, or the model's)"
    add_option(evaluated, "image_size", about, type=int, metavar="N")
    about = "bicubic resize of TensorFlow 2 or 1 (default tf2)"
    add_option(evaluated, "resize", about, choices=("tf2", "tf1"), default="tf2")
    add_device(evaluated)
    add_option(evaluated, "json", "one JSON object, with accuracies from 0 to 1", action="store_true")


def import_official(options: argparse.Namespace) -> int:
    """Read a checkpoint, convert it, write the model folder, and describe the model."""
    from clrkit.data.archives import is_archive, unpacked
    from clrkit.export.source import describe_model
    from clrkit.runs.model_files import refuse_existing, write_model
    from clrkit.runs.provenance import provenance
    from clrkit.weights.official import convert, read_checkpoint

    refuse_existing(options.folder)
    checkpoint = unpacked(options.checkpoint) if is_archive(options.checkpoint) else options.checkpoint
    variables = read_checkpoint(checkpoint, model_only=True)
    asked = {"tap_layer": options.tap_layer, "sk_ratio": options.sk_ratio, "ema": options.ema}
    config, state = convert(variables, **asked)
    source = {"source": str(options.checkpoint.resolve()), **asked, **provenance()}
    write_model(options.folder, config, state, source)
    print(f"{options.folder}: {describe_model(config)}")
    if options.tap_layer is None and config.classes and config.head_layers and not config.tap_layer:
        print("(If it was fine-tuned on 1% or 10% of the labels, import it with --tap_layer 1.)")
    return 0


def evaluate_model(options: argparse.Namespace) -> int:
    """Measure a model on the test part of a data set and print its accuracy."""
    from clrkit.cli.progress import ProgressLine
    from clrkit.data.datasets import load_evaluation
    from clrkit.results.statistics import wilson_interval
    from clrkit.runs.model_files import read_classes, read_model
    from clrkit.runs.provenance import provenance

    data = evaluation_data(options)
    model, line = read_model(options.model), ProgressLine()
    if model.classifier is None:
        raise ConfigError(f"{options.model} has no classifier, so it has no accuracy.")
    part, classes = load_evaluation(data, options.resize, line.show)
    check_classes(options, read_classes(options.model), model.config.classes, classes)
    metrics = measured(model, part, data.image_size, options.device, line)
    asked = {
        "model": str(options.model),
        "dataset": options.dataset,
        "image_size": data.image_size,
        "resize": options.resize,
    }
    if options.json:
        print(json.dumps({**metrics, **asked, **provenance()}, allow_nan=False))
        return 0
    low, high = wilson_interval(metrics["top1"], len(part))
    top5 = f"top-5 {100 * metrics['top5']:.2f}%; " if "top5" in metrics else ""
    print(f"top-1 {100 * metrics['top1']:.2f}% (95%: {low:.2f} to {high:.2f}); {top5}{len(part):,} images")
    return 0


def evaluation_data(options: argparse.Namespace) -> configs.Data:
    """The data set in the options, at the size that these, the set or the model give. Raises UsageError."""
    from clrkit.export.source import known_size

    try:
        if not options.dataset.startswith(configs.TORCHVISION):
            known(options.dataset, [*configs.DATASETS], "data set")
        size = options.image_size
        if size is None:
            size = SIDES.get(options.dataset) or known_size(options.model)
        if size is None:
            raise ConfigError(f"{options.dataset} needs --image_size, the side of its images in pixels.")
        return configs.Data(dataset=options.dataset, root=options.root, image_size=size)
    except ConfigError as error:
        raise UsageError(str(error)) from None


def check_classes(
    options: argparse.Namespace, names: tuple[str, ...] | None, count: int, found: tuple[str, ...]
) -> None:
    """Raise ConfigError if the data set has other classes than the model."""
    if len(found) != count:
        raise ConfigError(f"{options.model} has {count:,} classes; {options.dataset} has {len(found):,}.")
    if names is not None and names != found:
        ours, theirs = next((a, b) for a, b in zip(names, found, strict=True) if a != b)
        raise ConfigError(
            f"{options.model} has a class {ours!r} in the place where {options.dataset} has {theirs!r}."
        )


def measured(model: Model, part: Split, size: int, device: str, line: ProgressLine) -> dict[str, float]:
    """Accuracy of a model's logits, with a progress line."""
    import numpy as np
    import torch

    from clrkit import evaluate
    from clrkit.device import choose_device

    chunks, done, place = [], 0, choose_device(device)
    model = model.to(place)
    with evaluate.frozen(model):
        for chunk in evaluate.outputs(model, part, size, place, np.arange(len(part))):
            chunks.append(chunk)
            done += len(chunk)
            line.show(f"evaluate: {done:,} of {len(part):,} images", done / len(part))
    line.clear()
    metrics = evaluate.classification_metrics(torch.cat(chunks), torch.from_numpy(part.labels))
    return {**metrics, "images": len(part)}

"""Commands for models apart from runs: import a released checkpoint, evaluate a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clrkit import config as configs
from clrkit.config import known
from clrkit.errors import ConfigError

if TYPE_CHECKING:
    from clrkit.data.datasets import Split
    from clrkit.model import Model, ModelConfig

Command = Callable[[argparse.Namespace], int]
# Side of the images measured where none is given.
SIDES = {"tinted_mnist": 28, "cifar10": 32, "cifar100": 32, "stl10": 96, "imagenet": 224}


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add these commands to the parser that `command` makes parsers for."""
    imported = command(
        "import-official", import_official, "Convert a released TensorFlow checkpoint into a model folder."
    )
    about = "prefix of a checkpoint, or folder (or zip, tar, tar.gz) of a checkpoint or SavedModel"
    imported.add_argument("checkpoint", type=Path, metavar="PATH", help=about)
    imported.add_argument("folder", type=Path, metavar="OUT", help="model folder to write")
    about = (
        "head layer the classifier was trained on (default 0, the encoder's output; see docs/checkpoints.md)"
    )
    imported.add_argument("--tap_layer", "--tap-layer", type=int, help=about)
    about = "selective-kernel ratio, where the variables do not show it (depth 18 or 34 with a CIFAR stem)"
    imported.add_argument("--sk_ratio", "--sk-ratio", type=float, help=about)
    imported.add_argument(
        "--ema", action="store_true", help="take the momentum encoder's copy of the weights"
    )
    evaluated = command("evaluate", evaluate_model, "Measure a model with the official evaluation view.")
    about = "model folder, or the folder of a finished run"
    evaluated.add_argument("model", type=Path, metavar="MODEL", help=about)
    evaluated.add_argument("--data", required=True, help=f"data set: {', '.join(SIDES)} or folder")
    evaluated.add_argument("--root", default="", help="folder of its images; of ImageNet, the one with val")
    evaluated.add_argument(
        "--image_size",
        "--image-size",
        type=int,
        help="pixels (default: the data set's usual size, else the model's)",
    )
    about = "the bicubic resize of TensorFlow 2 or 1 (default tf2)"
    evaluated.add_argument("--resize", choices=("tf2", "tf1"), default="tf2", help=about)
    evaluated.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    evaluated.add_argument("--json", action="store_true", help="one JSON object, shares of 1")


def import_official(options: argparse.Namespace) -> int:
    """Read a checkpoint, convert it, write the model folder, and say what it is."""
    from clrkit.data.archives import is_archive, unpacked
    from clrkit.runs.model_files import refuse_existing, write_model
    from clrkit.runs.provenance import provenance
    from clrkit.weights.official import convert, read_checkpoint

    refuse_existing(options.folder)
    checkpoint = unpacked(options.checkpoint) if is_archive(options.checkpoint) else options.checkpoint
    variables = read_checkpoint(checkpoint, model_only=True)
    told = {"tap_layer": options.tap_layer, "sk_ratio": options.sk_ratio, "ema": options.ema}
    config, state = convert(variables, **told)
    source = {"source": str(options.checkpoint.resolve()), **told, **provenance()}
    write_model(options.folder, config, state, source)
    print(f"{options.folder}: {in_words(config)}")
    if options.tap_layer is None and config.classes and config.head_layers and not config.tap_layer:
        print("(If it was fine-tuned on 1% or 10% of the labels: import it with --tap_layer 1.)")
    return 0


def evaluate_model(options: argparse.Namespace) -> int:
    """Measure a model on the test part of a data set, and print its accuracy."""
    from clrkit.cli.progress import ProgressLine
    from clrkit.data.datasets import load_evaluation
    from clrkit.export.source import known_size
    from clrkit.results.statistics import wilson_interval
    from clrkit.runs.model_files import read_classes, read_model
    from clrkit.runs.provenance import provenance

    known(options.data, [*SIDES, "folder"], "data set")
    model = read_model(options.model)
    size = options.image_size
    if size is None:
        size = SIDES.get(options.data) or known_size(options.model)
    if size is None:
        raise ConfigError(f"{options.data} needs --image_size, the side at which its images are measured.")
    data = configs.Data(dataset=options.data, root=options.root, image_size=size)
    if model.classifier is None:
        raise ConfigError(f"{options.model} has no classifier, so it has no accuracy.")
    part, classes = load_evaluation(data, options.resize, ProgressLine().show)
    check_classes(options, read_classes(options.model), model.config.classes, classes)
    metrics = measured(model, part, size, options.device)
    if options.json:
        asked = {
            "model": str(options.model),
            "data": options.data,
            "image_size": size,
            "resize": options.resize,
        }
        print(json.dumps({**metrics, **asked, **provenance()}, allow_nan=False))
    else:
        low, high = wilson_interval(metrics["top1"], len(part))
        top5 = f"top-5 {100 * metrics['top5']:.2f}%; " if "top5" in metrics else ""
        print(
            f"top-1 {100 * metrics['top1']:.2f}% (95%: {low:.2f} to {high:.2f}); {top5}{len(part):,} images"
        )
    return 0


def check_classes(
    options: argparse.Namespace, names: tuple[str, ...] | None, count: int, found: tuple[str, ...]
) -> None:
    """Refuse images of other classes than the model's, by name where the model knows names."""
    if len(found) != count:
        raise ConfigError(
            f"{options.model} tells {count:,} classes apart; {options.data} has {len(found):,}."
        )
    if names is not None and names != found:
        ours, theirs = next((a, b) for a, b in zip(names, found, strict=True) if a != b)
        raise ConfigError(f"{options.model} knows a class {ours!r} where {options.data} has {theirs!r}.")


def measured(model: Model, part: Split, size: int, device: str) -> dict[str, float]:
    """Accuracy of a model's logits, with a line that tells how far it is."""
    import numpy as np
    import torch

    from clrkit import evaluate
    from clrkit.cli.progress import ProgressLine
    from clrkit.device import choose_device

    line, chunks, done = ProgressLine(), [], 0
    place = choose_device(device)
    model = model.to(place)
    with evaluate.frozen(model):
        for chunk in evaluate.outputs(model, part, size, place, np.arange(len(part))):
            chunks.append(chunk)
            done += len(chunk)
            line.show(f"evaluate: {done:,} of {len(part):,} images")
    line.clear()
    metrics = evaluate.classification_metrics(torch.cat(chunks), torch.from_numpy(part.labels))
    return {**metrics, "images": len(part)}


def in_words(model: ModelConfig) -> str:
    """Network, head and classifier, for a line on the screen."""
    from clrkit.results.records import network_name

    head = f"head of {model.head_layers} layers to {model.head_dim}" if model.head_layers else "no head"
    tapped = f"head layer {model.tap_layer}" if model.tap_layer else "the encoder's output"
    classifier = f"{model.classes:,} classes on {tapped}" if model.classes else "no classifier"
    return f"{network_name(configs.to_dict(model.network))}, {head}, {classifier}"

"""Classify image files by an exported model, without PyTorch, or by a run or model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from clrkit.data.folders import images_of
from clrkit.data.images import WHOLE, read_photo, upright
from clrkit.device import available_cores
from clrkit.errors import ConfigError, DataError, reason
from clrkit.runs.checksums import ChecksumError, check_file, read_checked, read_sums

ONNX, DESCRIPTION = "model.onnx", "model.json"

Photo = UInt8[np.ndarray, "1 height width 3"]
Probabilities = Float32[np.ndarray, "1 classes"]


@dataclass(frozen=True)
class Classifier:
    """Class names, the side of the evaluation view, and a function from a photograph to probabilities."""

    classes: Sequence[str]
    image_size: int
    probabilities: Callable[[Photo], Probabilities]

    def __call__(self, path: str) -> list[tuple[str, float]]:
        """The classes of an image file with their probabilities, the most probable first.

        Raises:
            DataError: naming a file that cannot be read.
        """
        # As in `clrkit.data.images.to_view`: a large JPEG for a small view is decoded at a smaller size.
        photo = read_photo(path, self.image_size if self.image_size <= WHOLE else None)
        pixels = np.ascontiguousarray(upright(photo.pixels, photo.orientation))
        found = self.probabilities(pixels[None])[0]
        order = np.argsort(-found, kind="stable")
        return [(self.classes[place], float(found[place])) for place in order]


@dataclass(frozen=True)
class Prediction:
    """A file with its classes and probabilities, the most probable first, or with the problem it has."""

    file: str
    found: Sequence[tuple[str, float]] = ()
    problem: str = ""


def predictions(classifier: Classifier, files: Sequence[str]) -> Iterator[Prediction]:
    """Classify the files one by one; a broken file does not stop the others."""
    for file in files:
        try:
            yield Prediction(file, classifier(file))
        except DataError as error:
            yield Prediction(file, problem=str(error))


def image_files(paths: Sequence[Path]) -> list[str]:
    """The files, and all images in and below the folders, sorted by name.

    Raises:
        DataError: for a folder that has no images or cannot be read.
    """
    files: list[str] = []
    for path in paths:
        try:
            folder = path.is_dir()
            files += [str(path / file.name) for file in images_of(path, path, "")] if folder else [str(path)]
        except OSError as error:
            raise DataError(f"The folder {path} cannot be read: {reason(error)}.") from None
    return files


def open_classifier(folder: Path) -> Classifier:
    """Open the classifier of an export, of a finished run's folder or of a model folder.

    Raises:
        ConfigError: if it is missing, damaged, or not a classifier.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; give the folder of the model, {folder.parent}.")
    return from_export(folder) if (folder / ONNX).exists() else from_weights(folder)


def from_export(folder: Path) -> Classifier:
    """Open an export in onnxruntime after comparing its checksums."""
    try:
        sums = read_sums(folder) or {}
        check_file(folder / ONNX, sums)
        about = json.loads(read_checked(folder / DESCRIPTION, sums))["about"]
        size, names = int(about["image_size"]), about["classes"]
    except ChecksumError as damage:
        raise ConfigError(f"{damage.problem}; export the model again.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{folder / DESCRIPTION} does not describe an export.") from None
    probabilities, count = session(folder / ONNX)
    classes = [str(name) for name in (range(count) if names is None else names)]
    if len(classes) != count:
        raise ConfigError(f"{folder / DESCRIPTION} names {len(classes)} classes, but {ONNX} has {count}.")
    return Classifier(classes, size, probabilities)


def session(path: Path) -> tuple[Callable[[Photo], Probabilities], int]:
    """The ONNX model as a function, and its number of classes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    try:
        opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:  # the errors of onnxruntime have no common class
        raise ConfigError(f"onnxruntime cannot run {path}.") from None
    outputs = {output.name: output.shape for output in opened.get_outputs()}
    match outputs.get("probabilities"):
        case [_, int(count)]:
            return lambda photo: opened.run(["probabilities"], {"images": photo})[0], count
    raise ConfigError(f"{path} has no classifier; its outputs are {', '.join(outputs)}.")


def from_weights(folder: Path) -> Classifier:
    """Open a run or a model folder in PyTorch, with the same preprocessing."""
    import torch

    from clrkit.export.exported_module import ExportedModule
    from clrkit.export.source import read_source

    source = read_source(folder)
    if not source.classes:
        raise ConfigError(f"{folder} has no classifier, so it cannot predict classes.")
    module = ExportedModule(source.model, source.image_size).eval()

    def probabilities(photo: Photo) -> Probabilities:
        with torch.no_grad():
            found: Probabilities = module(torch.from_numpy(photo))[0].numpy()
            return found

    return Classifier(source.classes, source.image_size, probabilities)

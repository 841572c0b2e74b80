"""What a model sees in image files. Of an exported model, without loading torch."""

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
from clrkit.errors import ConfigError, DataError
from clrkit.runs.checksums import ChecksumError, check_file, read_checked, read_sums

ONNX, DESCRIPTION = "model.onnx", "model.json"

Photo = UInt8[np.ndarray, "1 height width 3"]
Probabilities = Float32[np.ndarray, "1 classes"]


@dataclass(frozen=True)
class Classifier:
    """Classes, the side of the view that is measured, and what gives the probabilities of a photograph."""

    classes: Sequence[str]
    image_size: int
    probabilities: Callable[[Photo], Probabilities]

    def __call__(self, path: str) -> list[tuple[str, float]]:
        """The classes of an image file with their probabilities, the likeliest first.

        Raises:
            DataError: naming a file that cannot be read.
        """
        # As in `clrkit.data.images.to_view`: a JPEG of which little is wanted is decoded at a smaller size.
        photo = read_photo(path, self.image_size if self.image_size <= WHOLE else None)
        pixels = np.ascontiguousarray(upright(photo.pixels, photo.orientation))
        found = self.probabilities(pixels[None])[0]
        order = np.argsort(-found, kind="stable")
        return [(self.classes[place], float(found[place])) for place in order]


@dataclass(frozen=True)
class Prediction:
    """A file with its classes and their probabilities, the likeliest first, or with what is wrong with it."""

    file: str
    found: Sequence[tuple[str, float]] = ()
    problem: str = ""


def predictions(classifier: Classifier, files: Sequence[str]) -> Iterator[Prediction]:
    """One for each file; a broken one does not stop the others."""
    for file in files:
        try:
            yield Prediction(file, classifier(file))
        except DataError as error:
            yield Prediction(file, problem=f"The image {file} is not there." if is_gone(file) else str(error))


def is_gone(file: str) -> bool:
    try:
        Path(file).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def image_files(paths: Sequence[Path]) -> list[str]:
    """The files, and all images in the folders and the folders below them, sorted by name.

    Raises:
        DataError: for a folder that has no images or cannot be read.
    """
    files: list[str] = []
    for path in paths:
        try:
            below = images_of(path, path, "") if path.is_dir() else None
        except OSError as error:
            raise DataError(f"The folder {path} cannot be read: {error.strerror}.") from None
        files += [str(path)] if below is None else [str(path / file.name) for file in below]
    return files


def open_classifier(folder: Path) -> Classifier:
    """The classifier of an export, of a finished run's folder or of a model folder.

    Raises:
        ConfigError: naming what is missing, damaged, or no classifier.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; give the folder of the model, {folder.parent}.")
    return from_export(folder) if (folder / ONNX).exists() else from_weights(folder)


def from_export(folder: Path) -> Classifier:
    """By onnxruntime, once the files are what was written."""
    try:
        sums = read_sums(folder) or {}
        check_file(folder / ONNX, sums)
        about = json.loads(read_checked(folder / DESCRIPTION, sums))["about"]
        size, names = int(about["image_size"]), about["classes"]
    except ChecksumError as damage:
        raise ConfigError(f"{damage.problem}; export the model anew.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{folder / DESCRIPTION} describes no export.") from None
    probabilities, count = session(folder / ONNX)
    classes = [str(name) for name in (range(count) if names is None else names)]
    if len(classes) != count:
        raise ConfigError(f"{folder / DESCRIPTION} names {len(classes)} classes; {ONNX} tells {count} apart.")
    return Classifier(classes, size, probabilities)


def session(path: Path) -> tuple[Callable[[Photo], Probabilities], int]:
    """The ONNX model as a function, and the number of its classes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    try:
        opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's own errors have no common class
        raise ConfigError(f"{path} is no model that onnxruntime can run.") from None
    given = {output.name: output.shape for output in opened.get_outputs()}
    match given.get("probabilities"):
        case [_, int(count)]:
            return lambda photo: opened.run(["probabilities"], {"images": photo})[0], count
    raise ConfigError(f"{path} has no classifier; it gives {', '.join(given)}.")


def from_weights(folder: Path) -> Classifier:
    """By PyTorch, with the same preprocessing."""
    import torch

    from clrkit.export.exported_module import ExportedModule
    from clrkit.export.source import read_source

    origin = read_source(folder)
    if not origin.classes:
        raise ConfigError(f"{folder} has no classifier, so it names no classes.")
    portable = ExportedModule(origin.model, origin.image_size).eval()

    def probabilities(photo: Photo) -> Probabilities:
        with torch.no_grad():
            found: Probabilities = portable(torch.from_numpy(photo))[0].numpy()
            return found

    return Classifier(origin.classes, origin.image_size, probabilities)

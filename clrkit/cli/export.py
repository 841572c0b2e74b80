"""Commands for using a model elsewhere: export it, and classify images with it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from clrkit.cli.options import AddCommand, UsageError, add_option
from clrkit.errors import ConfigError
from clrkit.experiments.describe import aligned


def add(command: AddCommand) -> None:
    """Add these commands to the parser that `command` makes parsers for."""
    exported = command(
        "export", export_model, "Write a model as ONNX, torch.export and safetensors, with a model card."
    )
    exported.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run, or of a model")
    about = "folder to write (default: exports/ and the name of the run)"
    add_option(exported, "out", about, type=Path, metavar="DIR")
    about = "side of the images in pixels, for a model folder without it"
    add_option(exported, "image_size", about, type=int, metavar="N")
    predicted = command("predict", predict, "Classify images, with probabilities.")
    about = "folder of an export (runs without PyTorch), of a finished run, or of a model"
    predicted.add_argument("model", type=Path, metavar="MODEL", help=about)
    about = "image files, and folders to search with their subfolders"
    predicted.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help=about)
    about = "classes to show per image (default 2)"
    add_option(predicted, "top", about, type=int, default=2, metavar="K")
    written = predicted.add_mutually_exclusive_group()
    written.add_argument("--csv", metavar="FILE", help="write a CSV instead of the table; - for the screen")
    written.add_argument("--json", metavar="FILE", help="write JSON instead of the table; - for the screen")


def export_model(options: argparse.Namespace) -> int:
    """Write the export and print its contents."""
    from clrkit.export.export import export

    out = options.out or Path("exports") / options.run.resolve().name
    done = export(options.run, out, options.image_size)
    print(f"{done.folder}: {', '.join(done.files)}\n")
    print("\n".join(aligned([done.table.columns, *done.table.rows])), end="\n\n")
    print(done.table.remark)
    return 0


def predict(options: argparse.Namespace) -> int:
    """Print or write the predictions; return 1 if a file could not be read, after a line that names it."""
    from clrkit.cli.progress import ProgressLine
    from clrkit.export.predict import image_files, open_classifier, predictions
    from clrkit.export.prediction_text import as_csv, as_json, as_table, shown

    place = options.csv or options.json or "-"
    refuse_target(place)
    if options.top < 1:
        raise UsageError(f"--top must be at least 1, not {options.top}.")
    classifier, files = open_classifier(options.model), image_files(options.images)
    top, found, progress = min(options.top, len(classifier.classes)), [], ProgressLine()
    for prediction in predictions(classifier, files):
        found.append(prediction)
        if prediction.problem:
            progress.clear()
            print(f"clrkit: {shown(prediction.problem)}", file=sys.stderr)
        if progress.live:
            progress.show(f"predict: {len(found):,} of {len(files):,} images", len(found) / len(files))
    progress.clear()
    write(place, (as_csv if options.csv else as_json if options.json else as_table)(found, top))
    return 1 if any(prediction.problem for prediction in found) else 0


def say(text: str) -> None:
    """Print at once. Raises ConfigError if the output cannot be written."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest at exit
        raise ConfigError(f"The output cannot be written: {error.strerror}.") from None


def refuse_target(place: str) -> None:
    """Raise ConfigError if a file cannot be written, before any work is done."""
    path = Path(place)
    if place != "-" and (path.is_dir() or not path.parent.is_dir()):
        why = "it is a folder" if path.is_dir() else "its folder does not exist"
        raise ConfigError(f"{place} cannot be written: {why}.")


def write(place: str, text: str) -> None:
    """Write a file atomically, or print for -. Raises ConfigError if it cannot be written."""
    from clrkit.data.files import write_atomically

    if place == "-":
        return say(text)
    path = Path(place).resolve()
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which cannot be replaced
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}.") from None

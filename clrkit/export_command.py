"""Commands that take a model away: export it as files that need no clrkit, and name what is in images."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clrkit.config import ConfigError

if TYPE_CHECKING:
    from clrkit.predict import Prediction

Command = Callable[[argparse.Namespace], int]


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add these commands to the parser that `command` makes parsers for."""
    exported = command(
        "export", export_model, "Write a model as ONNX, torch.export and safetensors, with a model card."
    )
    exported.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run, or of a model")
    about = "folder to write (default exports/ and the name of the run)"
    exported.add_argument("--out", type=Path, metavar="DIR", help=about)
    about = "pixels, for a model folder that does not say it"
    exported.add_argument("--image_size", "--image-size", type=int, help=about)
    predicted = command("predict", predict, "Name what is in images, with probabilities.")
    about = "folder of an export (runs without PyTorch), of a finished run, or of a model"
    predicted.add_argument("model", type=Path, metavar="MODEL", help=about)
    about = "image files, and folders that are searched with all below them"
    predicted.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help=about)
    about = "classes to tell of each image (default 2)"
    predicted.add_argument("--top", type=int, default=2, metavar="K", help=about)
    written = predicted.add_mutually_exclusive_group()
    written.add_argument("--csv", metavar="FILE", help="write a CSV in place of the table; - for the screen")
    written.add_argument("--json", metavar="FILE", help="write JSON in place of the table; - for the screen")


def export_model(options: argparse.Namespace) -> int:
    """Write the folder, then tell what is in it."""
    from clrkit.export import export

    out = options.out or Path("exports") / options.run.resolve().name
    done = export(options.run, out, options.image_size)
    print(f"{done.folder}: {', '.join(done.files)}\n\n{aligned([done.table.columns, *done.table.rows])}\n")
    print(done.table.remark)
    return 0


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, as a screen shows them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def predict(options: argparse.Namespace) -> int:
    """Print or write what is found; 1 where a file could not be read, which is told in a line of its own."""
    from clrkit.predict import image_files, open_classifier, predictions

    if options.top < 1:
        raise ConfigError(f"--top must be at least 1, not {options.top}.")
    classifier, files = open_classifier(options.model), image_files(options.images)
    top, screen, good = min(options.top, len(classifier.classes)), not (options.csv or options.json), []
    widths = [max(len(shown(name)) for name in ("file", *files))]
    widths += [max(len(shown(name)) for name in ("runner-up", *classifier.classes)), len("probability")] * top
    if screen:
        line(["file", "class", "probability", *(["runner-up", "probability"] * (top - 1))], widths)
    broken = 0
    for prediction in predictions(classifier, files):
        if prediction.problem:
            print(f"clrkit: {shown(prediction.problem)}", file=sys.stderr)
            broken += 1
        elif screen:
            cells = [text for label, share in prediction.found[:top] for text in (label, f"{share:.1%}")]
            line([prediction.file, *cells], widths)
        else:
            good.append(prediction)
    if place := options.csv or options.json:
        write(place, (as_csv if options.csv else as_json)(good, top))
    return 1 if broken else 0


def line(cells: Sequence[str], widths: Sequence[int]) -> None:
    """Print a row of the table."""
    print("  ".join(map(str.ljust, map(shown, cells), widths)).rstrip(), flush=True)


def shown(name: str) -> str:
    """A name as a text, whatever bytes a file is called by."""
    from clrkit.folders import UNSHOWABLE

    return UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", name)


def as_csv(found: Sequence[Prediction], top: int) -> str:
    """Columns file, class, probability, class_2, probability_2 and so on."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ends = ["", *(f"_{place}" for place in range(2, top + 1))]
    rows.writerow(["file", *(f"{name}{end}" for end in ends for name in ("class", "probability"))])
    for each in found:
        pairs = [(shown(label), f"{share:.6f}") for label, share in each.found[:top]]
        rows.writerow([shown(each.file), *(value for pair in pairs for value in pair)])
    return text.getvalue()


def as_json(found: Sequence[Prediction], top: int) -> str:
    """A list of objects with `file` and `classes`, which have `class` and `probability`."""
    content = [
        {
            "file": shown(each.file),
            "classes": [{"class": shown(label), "probability": share} for label, share in each.found[:top]],
        }
        for each in found
    ]
    return json.dumps(content, indent=1) + "\n"


def write(place: str, text: str) -> None:
    """To a file, or for - to the screen."""
    if place == "-":
        sys.stdout.write(text)
        return
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error.strerror}.") from None

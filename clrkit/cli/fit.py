"""The command `fit`: from a folder of images, with few or no labels yet, to a small trained model."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from clrkit.cli.options import (
    AddCommand,
    UsageError,
    add_device,
    add_fields,
    add_option,
    add_results,
    paths_of,
)
from clrkit.config import Distill, Stage

if TYPE_CHECKING:
    import torch

    from clrkit.own_images.scan import FolderScan
    from clrkit.runs.store import Progress, Run, Store

BUDGET = 50
WHOLE_CHAIN = ("seed", "flip")  # fields that hold in every stage
EPILOG = (
    "Fields of the recipe are options as of `run distill`: --pretrain.epochs 50, --image_size 48, "
    "--flip false (in all stages). Give the same command again to resume."
)


def add(command: AddCommand) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    about = "Train a small model on a folder of your own images, and choose which of them to label."
    made = command("fit", fit, about)
    made.epilog = EPILOG
    made.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images (or zip, tar)")
    add_option(made, "name", "name of the results (default: that of the folder)")
    add_results(made)
    about = "CSV of labels, with columns file and label (default: labels.csv in FOLDER)"
    add_option(made, "labels", about, type=Path, metavar="CSV")
    about = f"number of labelled images to reach; missing ones are proposed (default {BUDGET})"
    add_option(made, "budget", about, type=int, default=BUDGET, metavar="N")
    add_option(made, "classes", "names of all classes, separated by commas", default="")
    about = "without a CSV, take class folders as labels (default true)"
    add_option(made, "folders_are_labels", about, choices=("true", "false"), default="true")
    add_option(made, "student_width", "channel multiplier of the student", metavar="X")
    add_option(made, "student_depth", "layers of the student", metavar="N")
    add_device(made)
    add_fields(made)


def recipe_fields(options: argparse.Namespace) -> dict[str, str]:
    """The fields that were given, by their paths in the chain. Raises UsageError."""
    student = {"distill.width": options.student_width, "distill.depth": options.student_depth}
    given = {name: text for name, text in student.items() if text is not None}
    whole = {name: text for name, text in options.fields.items() if name in WHOLE_CHAIN}
    single = [name for name in (*given, *options.fields) if name not in whole]
    paths = paths_of(Distill(), single)
    return whole | {".".join(path): (given | options.fields)[name] for name, path in paths.items()}


def fit(options: argparse.Namespace) -> int:
    """Scan the folder, pretrain, propose images to label; with labels, train and export a small model."""
    from clrkit.cli.progress import ProgressLine
    from clrkit.device import choose_device
    from clrkit.own_images import fit as own
    from clrkit.own_images.scan import scan_folder
    from clrkit.runs.signals import STOPPING, raise_on_signals
    from clrkit.runs.store import Store

    if options.budget < 0:
        raise UsageError(f"--budget must be at least 0, not {options.budget}.")
    fields = recipe_fields(options)
    device = choose_device(options.device)
    labels = options.labels.expanduser() if options.labels else own.labels_of(options.folder)
    store, line = Store(options.results, own.name_of(options.folder, options.name or "")), ProgressLine()
    with raise_on_signals(*STOPPING):
        survey = scan_folder(options.folder, store, line.show, options.folders_are_labels == "true")
        line.clear()
        print("\n".join(survey.sentences()))
        return train(options, survey, store, labels, device, fields)


def train(
    options: argparse.Namespace,
    survey: FolderScan,
    store: Store,
    labels: Path,
    device: torch.device,
    fields: dict[str, str],
) -> int:
    """Pretrain and propose images to label; with labels, train the other stages."""
    from clrkit.own_images import fit as own
    from clrkit.own_images.recipe import recipe

    chain = recipe(survey, device.type, fields)
    rows = own.known_rows(survey, labels)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    print("\n".join(own.plan(survey, chain, rows, classes)), flush=True)
    pretrain = chain.teacher.pretrain
    pretrained = make(pretrain, store, options.device)
    if added := own.propose(survey, pretrain, pretrained, labels, options.budget, device):
        print(f"{len(added)} images to label first were added to {labels}, {added[0]} first.")
        rows = own.known_rows(survey, labels)
    if not any(row["label"] for row in rows):
        print(f"Next: fill the column label of {labels}, or label the images in notebook 07_your_images;")
        print("then give the same command again.")
        return 0
    chain = own.with_labels(chain, survey, rows, store, labels, classes, fields)
    summary = [*survey.sentences(), *own.plan(survey, chain, rows, classes)]
    return finish(options, chain, store, summary, pretrained)


def finish(
    options: argparse.Namespace, chain: Distill, store: Store, summary: list[str], pretrained: Run
) -> int:
    """Fine-tune, distil and measure; write the page and the exported model."""
    from clrkit.data.files import write_atomically
    from clrkit.own_images.cross_validation import crosscheck
    from clrkit.own_images.evaluation_report import assess, page
    from clrkit.own_images.fit import exported
    from clrkit.own_images.scan import write_locked

    run = make(chain, store, options.device)
    found = assess(chain, run, options.device)
    print("\n".join([found.sentence(), *found.remarks(), *found.lines()]))
    doubtful = crosscheck(chain.teacher, pretrained, options.device)
    content = page(f"{store.preset}: a small model", summary, found, doubtful).encode()
    write_locked(store, lambda: write_atomically(store.folder / "model.html", content))
    print(f"Page with figures, and labels to check: {store.folder / 'model.html'}")
    print(f"Exported model: {exported(run, store)}")
    return 0


def make(stage: Stage, store: Store, device: str) -> Run:
    """Train a run or resume it, showing a line.

    Raises:
        KeyboardInterrupt: after the first signal, with the state saved; at the second one at once.
    """
    from clrkit.cli.progress import ProgressLine
    from clrkit.runs.run import finish as to_end
    from clrkit.runs.run import run_or_load
    from clrkit.runs.signals import STOPPING, catch_signals
    from clrkit.runs.status import run_text

    line = ProgressLine()
    with (
        catch_signals(*STOPPING, second_raises=True) as stopped,
        closing(run_or_load(stage, store, device)) as work,
    ):

        def show(progress: Progress) -> None:
            if stopped:
                raise KeyboardInterrupt
            line.show(run_text(progress), progress.step / progress.total)

        try:
            made = to_end(work, show)
        finally:
            line.clear()
    if stopped:
        raise KeyboardInterrupt
    return made

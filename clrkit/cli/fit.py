"""python -m clrkit fit FOLDER: from one's own images, with few or no labels yet, to a small trained model."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from clrkit.config import Distill, Stage
from clrkit.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from clrkit.own_images.scan import FolderScan
    from clrkit.runs.store import Run, Store

Command = Callable[[argparse.Namespace], int]
STOPPING = (signal.SIGINT, signal.SIGTERM)
BUDGET = 50
EPILOG = (
    "Fields of the recipe are set by name as with `run`: --pretrain.epochs 50, --image_size 48, --flip false."
    " The command can be given again at any time; it goes on from what is there."
)


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the command to the parser that `command` makes parsers for."""
    about = "Train a small model on a folder of your own images, and say which of them to label."
    made = command("fit", fit, about)
    made.epilog = EPILOG
    made.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images (or zip, tar)")
    made.add_argument("--name", help="of the results (default: the folder's)")
    about = "folder of results (default results)"
    made.add_argument("--results", type=Path, default=Path("results"), help=about)
    about = "CSV of labels, columns file and label (default: labels.csv in FOLDER)"
    made.add_argument("--labels", type=Path, help=about)
    about = f"images that shall have labels; where fewer have, some are proposed (default {BUDGET})"
    made.add_argument("--budget", type=int, default=BUDGET, help=about)
    made.add_argument("--classes", default="", help="names of all classes, with commas between")
    about = "whether class folders give labels, where there is no CSV (default true)"
    names = ("--folders_are_labels", "--folders-are-labels")
    made.add_argument(*names, choices=("true", "false"), default="true", help=about)
    made.add_argument("--student_width", "--student-width", help="channel multiplier of the student")
    made.add_argument("--student_depth", "--student-depth", help="layers of the student")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")


def fit(options: argparse.Namespace) -> int:
    """Look, pretrain, propose, and with labels fine-tune, distil, measure and export."""
    from clrkit.cli.progress import ProgressLine, interrupting
    from clrkit.device import choose_device
    from clrkit.own_images import fit as own
    from clrkit.own_images.scan import scan_folder
    from clrkit.runs.store import Store

    if options.budget < 0:
        raise ConfigError(f"--budget must be at least 0, not {options.budget}.")
    device = choose_device(options.device)
    labels = options.labels.expanduser() if options.labels else own.labels_of(options.folder)
    store, line = Store(options.results, own.name_of(options.folder, options.name or "")), ProgressLine()
    with interrupting(*STOPPING):
        survey = scan_folder(options.folder, store, line.show, options.folders_are_labels == "true")
        line.clear()
        print("\n".join(survey.sentences()))
        return stages(options, survey, store, labels, device)


def stages(
    options: argparse.Namespace, survey: FolderScan, store: Store, labels: Path, device: torch.device
) -> int:
    from clrkit.own_images import fit as own
    from clrkit.own_images.recipe import recipe

    student = {"width": options.student_width, "depth": options.student_depth}
    fields = {**{name: value for name, value in student.items() if value is not None}, **options.fields}
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
        print(f"Next: fill the column label of {labels}, or label them in notebook 07_your_images;")
        print("then give the same command again.")
        return 0
    chain = own.with_labels(chain, survey, rows, store, labels, classes, fields)
    told = [*survey.sentences(), *own.plan(survey, chain, rows, classes)]
    return finish(options, chain, store, told, pretrained)


def finish(
    options: argparse.Namespace, chain: Distill, store: Store, told: list[str], pretrained: Run
) -> int:
    """Fine-tune, distil, measure, and write the page and the model."""
    from clrkit.files import write_atomically
    from clrkit.own_images.cross_validation import crosscheck
    from clrkit.own_images.evaluation_report import assess, page
    from clrkit.own_images.fit import exported
    from clrkit.own_images.scan import write_locked

    run = make(chain, store, options.device)
    found = assess(chain, run, options.device)
    print("\n".join([found.sentence(), *found.remarks(), *found.lines()]))
    doubtful = crosscheck(chain.teacher, pretrained, options.device)
    content = page(f"{store.preset}: a small model", told, found, doubtful).encode()
    write_locked(store, lambda: write_atomically(store.folder / "model.html", content))
    print(f"Page with figures, and labels to look at again: {store.folder / 'model.html'}")
    print(f"Exported model: {exported(run, store)}")
    return 0


def make(stage: Stage, store: Store, device: str) -> Run:
    """Make a run, or go on with it, showing a line.

    Raises:
        KeyboardInterrupt: once a signal came, with the state saved; at the second one at once.
    """
    from clrkit.cli.progress import ProgressLine, handled
    from clrkit.runs.run import finish as to_end
    from clrkit.runs.run import run_or_load

    line, stopped = ProgressLine(), list[int]()

    def note(number: int, _: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    def show(progress: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        line.run(progress)  # type: ignore[arg-type]

    with handled(STOPPING, note), closing(run_or_load(stage, store, device)) as work:
        try:
            made = to_end(work, show)
        finally:
            line.clear()
    if stopped:
        raise KeyboardInterrupt
    return made

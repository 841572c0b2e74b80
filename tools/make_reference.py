"""Make your own results of a preset the committed reference: `make reference PRESET=mini`.

    python tools/make_reference.py NAME [--results FOLDER]

The reference of a preset is a table of its records (`records.jsonl`), the executed notebooks, and figures,
index and page drawn from the table. It holds no weights. If the data set is not embedded, notebooks keep the
pictures of those cells only that their source tags `no-images`, and the text of all others.

If NAME is not a preset, such as `mini-trials`, only the records of `results/NAME` are committed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import nbformat

from clrkit.data.datasets import EMBEDDED
from clrkit.errors import ConfigError, reason
from clrkit.experiments.ablation_settings import with_ablations
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import PRESETS, preset
from clrkit.notebook.papermill import injected
from clrkit.notebook.publish import draw, execute_notebooks, notebooks_of, publishing
from clrkit.results.records import DATASETS
from clrkit.runs.check import check_run
from clrkit.runs.reproduce import complete
from clrkit.runs.store import RECORDS, REFERENCE_FOLDER, Run, RunError, Store, write_table

if TYPE_CHECKING:
    from nbformat import NotebookNode

NO_IMAGES = "no-images"  # tag of cells that show pictures or tables, but no image of the data set
TEXT = "text/plain"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", help="preset, or another folder of results")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    options = parser.parse_args(arguments)
    store = Store(options.results, options.name)
    known = options.name in [make.__name__ for make in PRESETS]
    try:
        reference = make_reference(preset(options.name), store) if known else make_table(store)
    except ConfigError as error:
        print(f"make_reference: {error}", file=sys.stderr)
        return 1
    print(f"{reference.folder}: {len(reference.folders())} runs")
    return 0


def make_reference(preset: Preset, store: Store) -> Store:
    """Replace the reference of a preset by the own results, completely or not at all.

    Raises:
        ConfigError: if a run is missing or damaged, a notebook fails, or nothing can be written.
    """
    runs, reference = own_runs(preset, store), reference_of(store)
    with publishing(store):
        execute_notebooks(preset, store, lambda text: print(text, file=sys.stderr))
        try:
            reference.results.mkdir(exist_ok=True)
            with TemporaryDirectory(dir=reference.results, prefix=".new-") as folder:
                new = Store(Path(folder), preset.name)
                (new.folder / "notebooks").mkdir(parents=True)
                (new.results / REFERENCE_FOLDER).mkdir()  # empty: there is nothing to compare with
                write_table(new.folder / RECORDS, runs)
                for source in notebooks_of(preset):
                    copy_notebook(source, store, new, preset.pretrain.data.dataset)
                draw(preset, new)
                exchange(new.folder, reference.folder)
        except OSError as error:
            raise RunError(f"{reference.folder} cannot be written: {reason(error)}.") from None
    return reference


def make_table(store: Store) -> Store:
    """Replace the reference of a folder of runs by a table of its records. Raises ConfigError."""
    runs, reference = store.all(), reference_of(store)
    if not runs:
        raise RunError(f"{store.folder} holds no runs.")
    try:
        reference.folder.mkdir(parents=True, exist_ok=True)
        write_table(reference.folder / RECORDS, runs)
    except OSError as error:
        raise RunError(f"{reference.folder} cannot be written: {reason(error)}.") from None
    return reference


def reference_of(store: Store) -> Store:
    return Store(store.results / REFERENCE_FOLDER, store.preset)


def own_runs(preset: Preset, store: Store) -> list[Run]:
    """All runs of the preset, and those of the ablation lab that exist. Raises ConfigError."""
    wanted = complete(preset.runs)
    lacking = len(wanted) - len(store.find_all(wanted))
    if lacking:
        remedy = f"first: python -m clrkit reproduce --preset {preset.name}"
        raise RunError(f"{store.folder} lacks {lacking} of {len(wanted)} runs; {remedy}.")
    runs = store.find_all(complete(with_ablations(preset, True)))
    for run in runs:
        check_run(run.folder)
    return runs


def copy_notebook(source: Path, store: Store, new: Store, dataset: str) -> None:
    """Copy an executed notebook, without the images of a data set that is not embedded."""
    document = nbformat.read(store.folder / "notebooks" / source.name, as_version=4)
    if dataset not in EMBEDDED:
        take_images_out(document, nbformat.read(source, as_version=4), DATASETS.get(dataset, dataset))
    nbformat.write(document, new.folder / "notebooks" / source.name)


def take_images_out(document: NotebookNode, source: NotebookNode, dataset: str) -> None:
    """Remove everything that may hold an image from the cells of a notebook without the tag.

    Args:
        document: the executed notebook; changed in place.
        source: the notebook, with the same cells. Only its tags count, not those of `document`.
        dataset: name of the data set for readers.
    """
    note = f"What may show images of {dataset} is not passed on; run the notebook to see it here."
    document.metadata.pop("widgets", None)  # state of the widgets, with what they show
    cells = iter([cell for cell in source.cells if not injected(cell)])
    for cell in document.cells:
        cell.pop("attachments", None)
        tags = [] if injected(cell) else next(cells).metadata.get("tags", [])
        if cell.cell_type == "code" and NO_IMAGES not in tags:
            cell.outputs = [as_text(output, note) for output in cell.outputs]


def as_text(output: NotebookNode, note: str) -> NotebookNode:
    """An output with its text and the note in place of everything else."""
    data = output.get("data", {})
    if not data.keys() - {TEXT}:
        return output
    text = [data[TEXT]] if TEXT in data else []
    return nbformat.from_dict({**output, "data": {TEXT: "\n".join([*text, note])}, "metadata": {}})


def exchange(new: Path, old: Path) -> None:
    """Replace a folder by another; restore it if that fails."""
    former = new.with_name("former")
    try:
        if old.exists():
            old.rename(former)
        new.rename(old)
    except BaseException:  # KeyboardInterrupt, too
        if former.exists() and not old.exists():
            former.rename(old)
        raise


if __name__ == "__main__":
    sys.exit(main())

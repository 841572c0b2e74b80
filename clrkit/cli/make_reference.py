"""One's own results of a preset made the reference that the repository holds: all but weights and images.

Of the data sets only the embedded ones may be passed on. Of the others a notebook may show images in any
cell, unless its source tags the cell `no-images`: of all cells but these, words alone are passed on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import nbformat

from clrkit.data.datasets import EMBEDDED
from clrkit.errors import reason
from clrkit.experiments.ablation_settings import with_ablations
from clrkit.experiments.grid import Preset
from clrkit.notebook.papermill import injected
from clrkit.notebook.publish import draw, notebooks_of, publishing, up_to_date, youngest_run
from clrkit.results.records import DATASETS
from clrkit.runs.check import Findings, check_files, check_runs
from clrkit.runs.checksums import REFERENCE, SUMS
from clrkit.runs.reproduce import complete
from clrkit.runs.store import HISTORY, RECORD, Run, RunError, Store, write_sums

if TYPE_CHECKING:
    from nbformat import NotebookNode

NO_IMAGES = "no-images"  # tag of the cells that show pictures or tables, but no image of the data set
IN_WORDS = "text/plain"


def make_reference(preset: Preset, store: Store) -> Store:
    """Put one's own results, whole or not at all, in the place of the preset's reference; returns that.

    Runs and notebooks are copied; figures, index and page are drawn from the copies.

    Raises:
        ConfigError: where a run or notebook is missing, damaged or out of date, or nothing can be written.
    """
    runs, reference = own_runs(preset, store), Store(store.results / REFERENCE, preset.name)
    with publishing(store):
        copies = own_notebooks(preset, store)
        try:
            reference.results.mkdir(exist_ok=True)
            with TemporaryDirectory(dir=reference.results, prefix=".new-") as folder:
                new = Store(Path(folder), preset.name)
                (new.results / REFERENCE).mkdir()  # an empty one: there is nothing to compare with
                copy_runs(runs, new)
                copy_notebooks(notebooks_of(preset), copies, new, preset.pretrain.data.dataset)
                draw(preset, new)
                exchange(new.folder, reference.folder)
        except OSError as error:
            raise RunError(f"{reference.folder} cannot be written: {reason(error)}.") from None
    return reference


def own_runs(preset: Preset, store: Store) -> list[Run]:
    """All runs of the preset, and those of the ablation lab that are there. Raises as `make_reference`."""
    wanted = complete(preset.runs)
    lacking = len(wanted) - len(store.find_all(wanted))
    if lacking:
        raise RunError(f"{store.folder} lacks {lacking} of {len(wanted)} runs; {remedy(preset)}.")
    found = Findings()
    check_runs(store, found)
    refuse(found)
    return store.find_all(complete(with_ablations(preset, True)))


def own_notebooks(preset: Preset, store: Store) -> list[Path]:
    """The executed notebooks of the preset. Raises as `make_reference`."""
    sources, folder = notebooks_of(preset), store.folder / "notebooks"
    found, copies = Findings(), [folder / source.name for source in sources]
    check_files(folder, [copy.name for copy in copies], found)
    refuse(found)
    youngest = youngest_run(preset, store)
    for source, copy in zip(sources, copies, strict=True):
        if not up_to_date(source, copy, youngest):
            why = "failed, is older than the notebook or the runs, or has other cells than the notebook"
            raise RunError(f"{copy} {why}; {remedy(preset)}.")
    return copies


def refuse(found: Findings) -> None:
    """Raises RunError where something is damaged."""
    if found.damaged:
        raise RunError(f"{found.damaged[0].rstrip('.')}; see: python -m clrkit check.")


def remedy(preset: Preset) -> str:
    return f"first: python -m clrkit reproduce --preset {preset.name}"


def copy_runs(runs: Sequence[Run], new: Store) -> None:
    """Records, histories and checksums; that of the weights tells whether others make the same to the bit."""
    for run in runs:
        folder = new.runs / run.folder.name
        folder.mkdir(parents=True)
        for name in (RECORD, HISTORY, SUMS):
            shutil.copyfile(run.folder / name, folder / name)


def copy_notebooks(sources: Sequence[Path], copies: Sequence[Path], new: Store, dataset: str) -> None:
    """Executed notebooks with their checksums, without the images of a data set that is not embedded."""
    folder = new.folder / "notebooks"
    folder.mkdir()
    for source, copy in zip(sources, copies, strict=True):
        document = nbformat.read(copy, as_version=4)
        if dataset not in EMBEDDED:
            take_images_out(document, nbformat.read(source, as_version=4), DATASETS.get(dataset, dataset))
        nbformat.write(document, folder / copy.name)
    write_sums(folder, [copy.name for copy in copies])


def take_images_out(document: NotebookNode, source: NotebookNode, dataset: str) -> None:
    """Leave nothing of an executed notebook that may hold an image: of cells without the tag words alone.

    Args:
        document: is changed.
        source: the notebook, with the same cells; what the copy says of its own cells does not count.
        dataset: its name for readers.
    """
    note = f"What may show images of {dataset} is not passed on; run the notebook to see it here."
    document.metadata.pop("widgets", None)  # their state, with what they show
    cells = iter([cell for cell in source.cells if not injected(cell)])
    for cell in document.cells:
        cell.pop("attachments", None)
        tags = [] if injected(cell) else next(cells).metadata.get("tags", [])
        if cell.cell_type == "code" and NO_IMAGES not in tags:
            cell.outputs = [in_words(output, note) for output in cell.outputs]


def in_words(output: NotebookNode, note: str) -> NotebookNode:
    """An output of a cell, with its words and the note in the place of anything but text."""
    data = output.get("data", {})
    if not data.keys() - {IN_WORDS}:
        return output
    told = [data[IN_WORDS]] if IN_WORDS in data else []
    return nbformat.from_dict({**output, "data": {IN_WORDS: "\n".join([*told, note])}, "metadata": {}})


def exchange(new: Path, old: Path) -> None:
    """Put a folder in the place of another, which is left beside where it was, or back where that fails."""
    former = new.with_name("former")
    try:
        if old.exists():
            old.rename(former)
        new.rename(old)
    except BaseException:  # an interrupt, too, may come between
        if former.exists() and not old.exists():
            former.rename(old)
        raise

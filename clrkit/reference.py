"""One's own results of a preset made the reference that the repository holds: all but weights and images.

Of the data sets only the embedded ones may be passed on. A notebook's cells that show images are tagged
`images`; of the other sets what they show stays out of the reference, and what they say in words stays in.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import nbformat

from clrkit.check import Findings, check_files, check_runs
from clrkit.checksums import REFERENCE, SUMS
from clrkit.data import EMBEDDED
from clrkit.frames import DATASETS
from clrkit.grid import Preset
from clrkit.images import reason
from clrkit.publish import draw, modified, notebooks_of, publishing
from clrkit.reproduce import complete
from clrkit.runs import HISTORY, RECORD, Run, RunError, Store, write_sums
from clrkit.settings import with_ablations

if TYPE_CHECKING:
    from nbformat import NotebookNode

IMAGES = "images"  # tag of the cells that show images of the data set
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
                copy_notebooks(copies, new, preset.pretrain.data.dataset)
                draw(preset, new)
                if reference.folder.exists():
                    reference.folder.rename(new.results / "former")
                new.folder.rename(reference.folder)
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
    youngest = max(modified(store.path(stage)) for stage in complete(preset.runs))
    for source, copy in zip(sources, copies, strict=True):
        if modified(copy) <= max(youngest, modified(source)):
            raise RunError(f"{copy} failed, or is older than the notebook or the runs; {remedy(preset)}.")
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


def copy_notebooks(copies: Sequence[Path], new: Store, dataset: str) -> None:
    """Executed notebooks with their checksums, without the images of a data set that is not embedded."""
    folder = new.folder / "notebooks"
    folder.mkdir()
    for path in copies:
        document = nbformat.read(path, as_version=4)
        if dataset not in EMBEDDED:
            take_images_out(document, DATASETS.get(dataset, dataset))
        nbformat.write(document, folder / path.name)
    write_sums(folder, [path.name for path in copies])


def take_images_out(document: NotebookNode, dataset: str) -> None:
    """Leave words alone of what the tagged cells of an executed notebook show.

    Args:
        document: is changed.
        dataset: its name for readers.
    """
    note = f"Images of {dataset} are not passed on; run the notebook to see them here."
    for cell in document.cells:
        if IMAGES in cell.metadata.get("tags", []):
            cell.outputs = [in_words(output, note) for output in cell.outputs]


def in_words(output: NotebookNode, note: str) -> NotebookNode:
    """An output of a cell, with the note and a picture's description in the place of anything but text."""
    data = output.get("data", {})
    if not data.keys() - {IN_WORDS}:
        return output
    told = [data[IN_WORDS]] if "image/png" in data else []  # of other outputs it is the name of a class
    return nbformat.from_dict({**output, "data": {IN_WORDS: "\n".join([*told, note])}, "metadata": {}})

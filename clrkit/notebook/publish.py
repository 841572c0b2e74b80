"""Publish the results of a preset: execute its notebooks, draw figures, write INDEX.md and report.html.

One process at a time publishes in a results folder; every file is written atomically.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import Timeout

from clrkit.data.files import HOUR, discard_left_over, file_lock
from clrkit.errors import reason
from clrkit.experiments.describe import describe
from clrkit.experiments.grid import Preset
from clrkit.notebook.papermill import execute, notebooks, own_dataset
from clrkit.runs.checksums import SUMS
from clrkit.runs.reproduce import REFERENCE, Evidence, complete, gather, project_root, refuse_empty
from clrkit.runs.store import NOTE_SECONDS, RunError, Store

if TYPE_CHECKING:
    from clrkit.results.report import Report

NAMED = 10  # missing runs that are listed one by one
INDEX, REPORT = "INDEX.md", "report.html"
OUTDATED = (
    f"figures/{SUMS}",
    "figures/drawn.json",
    f"notebooks/{SUMS}",
    SUMS,
    f"../{SUMS}",
)  # of old versions


NOT_YOURS = "Not your own runs: this shows the committed reference."


def publish(preset: Preset, store: Store, show: Callable[[str], None]) -> str:
    """Execute the notebooks and draw; return how the numbers compare with the reference.

    Args:
        preset: the experiment.
        store: its runs.
        show: called with the name of each notebook before it runs.

    Raises:
        RunError: if the results folder cannot be written.
        NotebookError: if a notebook fails.
    """
    with publishing(store):
        execute_notebooks(preset, store, show)
    index, verdict = draw(preset, store)
    return f"{verdict}; see {index}"


@contextmanager
def publishing(store: Store) -> Iterator[None]:
    """Hold the lock of the results folder; wait if another process publishes there.

    Raises:
        RunError: if the folder cannot be written.
    """
    lock = store.results / "publish.lock"
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(file_lock(lock, NOTE_SECONDS))
            except Timeout:
                print(f"clrkit: waiting for a process that publishes in {store.results}", file=sys.stderr)
                held.enter_context(file_lock(lock))
            for name in ("", store.preset, f"{store.preset}/figures", f"{store.preset}/notebooks"):
                discard_left_over(store.results / name, HOUR)
            for name in OUTDATED:
                (store.folder / name).unlink(missing_ok=True)
            yield
    except OSError as error:
        raise RunError(f"{error.filename or store.results} cannot be written: {reason(error)}.") from None


def execute_notebooks(preset: Preset, store: Store, show: Callable[[str], None]) -> None:
    """Execute the notebooks of a preset in a checkout, in order. Raises NotebookError if one fails."""
    if not (project_root() / "notebooks").is_dir():
        print(
            "clrkit: the notebooks are in the repository, not in the package; drawing only.", file=sys.stderr
        )
        return
    for source in notebooks_of(preset):
        show(f"notebook {source.name}")
        execute(source, store.folder / "notebooks" / source.name, {"preset": preset.name}, store.results)


def notebooks_of(preset: Preset) -> list[Path]:
    """All notebooks except those that need another data set than the preset's."""
    found = notebooks(project_root() / "notebooks")
    return [path for path in found if own_dataset(path) in (None, preset.pretrain.data.dataset)]


def draw(preset: Preset, store: Store) -> tuple[Path, str]:
    """Draw figures, INDEX.md and report.html; return the index and the verdict of the comparison.

    Raises:
        ConfigError: if there are neither own runs nor a reference.
        RunError: if the results folder cannot be written.
    """
    from clrkit.results.comparison import summary_line
    from clrkit.results.report import write_index, write_report
    from clrkit.results.style import save

    refuse_empty(preset, store)
    with publishing(store):
        report = examined(preset, store)
        for each in report.drawings:
            save(each, report.figures)
        for folder in (store.folder, store.results):
            write_index(folder / INDEX, report)
        write_report(store.folder / REPORT, report)
    compared = report.comparison
    return store.results / INDEX, (
        "no reference to compare with" if compared is None else summary_line(compared)
    )


def write_page(preset: Preset, store: Store, path: Path) -> None:
    """Write the report page to another place, and nothing into the results.

    Raises:
        ConfigError: if there are neither own runs nor a reference.
        RunError: if it cannot be written.
    """
    from clrkit.results.report import write_report
    from clrkit.results.style import encode

    report = examined(preset, store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            report = replace(report, figures=Path(folder))
            for each in report.drawings:
                (report.figures / f"{each.name}.svg").write_bytes(encode(each.figure, "svg"))
            write_report(path, report)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {reason(error)}.") from None


def examined(preset: Preset, store: Store) -> Report:
    """Evaluate the own runs, or the reference with a notice if they are not complete."""
    from clrkit.results import claims, comparison, figures
    from clrkit.results import records as run_records
    from clrkit.results.ablation import ablation_runs_found
    from clrkit.results.report import Report
    from clrkit.results.tables import ablation_table

    evidence = gather(preset, store)
    own = evidence.source != REFERENCE
    if not own:
        print(f"clrkit: {store.folder} holds no whole set of runs; this is {REFERENCE}.", file=sys.stderr)
    runs = run_records.records_to_frame(evidence.records, preset)
    drawings, missing = figures.draw_all(runs, preset.name)
    if lacking := missing_runs(preset, store, evidence):
        missing["runs"] = lacking
    reference = store.reference.find_all(complete(preset.runs)) if own else []
    frame = run_records.records_to_frame((run.record for run in reference), preset) if reference else None
    return Report(
        preset=preset.name,
        source=evidence.source,
        notice=NOT_YOURS if evidence.source == REFERENCE else "",
        runs=runs,
        claims=claims.evaluate(runs, preset),
        drawings=drawings,
        figures=store.folder / "figures",
        missing=missing,
        comparison=None if frame is None else comparison.compare(runs, frame),
        notebooks=sorted((store.folder / "notebooks").glob("*.ipynb")),
        ablations=ablation_table(preset, ablation_runs_found(preset, store)),
    )


def missing_runs(preset: Preset, store: Store, evidence: Evidence) -> str:
    """Name the runs of the preset that are not among the evidence; "" if all are."""
    there, wanted = {run.folder.name for run in evidence.runs}, complete(preset.runs)
    lacking = [describe(stage) for stage in wanted if store.path(stage).name not in there]
    if not lacking:
        return ""
    rest = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
    return f"{len(lacking)} of {len(wanted)} are not recorded: {'; '.join(lacking[:NAMED])}{rest}."

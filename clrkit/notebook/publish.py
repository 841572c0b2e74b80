"""What a reader sees of a preset: executed notebooks, figures, INDEX.md, report.html, each with its checksum.

One process at a time writes them in a results folder. What is whole and made from what is there now stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import Timeout

from clrkit.cli.progress import ProgressLine, describe
from clrkit.errors import reason
from clrkit.experiments.ablation_settings import with_ablations
from clrkit.experiments.grid import Preset
from clrkit.files import HOUR, discard_left_over
from clrkit.notebook.papermill import NotebookError, execute, executed_whole, notebooks, own_dataset
from clrkit.runs.check import published
from clrkit.runs.checksums import ChecksumError, check_file, digest_of, read_sums
from clrkit.runs.reproduce import REFERENCE, Evidence, complete, gather, project_root, refuse_empty
from clrkit.runs.store import (
    NOTE_SECONDS,
    RECORD,
    Run,
    RunError,
    Store,
    file_lock,
    read_json,
    write_json,
    write_sums,
)

if TYPE_CHECKING:
    from clrkit.results.report import Report

DRAWN = "drawn.json"  # in the folder of the figures: what they were drawn from
DRAWN_WITH = ("jinja2", "matplotlib", "numpy", "pandas", "seaborn")
NAMED = 10  # missing runs that are named one by one
INDEX, REPORT = "INDEX.md", "report.html"
NOT_YOURS = "Not your own runs: this shows the committed reference."


def publish(preset: Preset, store: Store) -> str:
    """Execute the notebooks, draw figures and index; returns how the numbers compare with the reference.

    A notebook is executed anew where it, its library or the runs are younger than the executed copy, or the
    copy is not what was written, has other cells or did not run to its end.

    Raises:
        RunError: where the results folder cannot be written.
        NotebookError: for a notebook that fails.
    """
    with publishing(store):
        execute_notebooks(preset, store)
    index, verdict = draw(preset, store)
    return f"{verdict}; see {index}"


@contextmanager
def publishing(store: Store) -> Iterator[None]:
    """Within, no other process publishes in the results folder; waits for one that does.

    Raises RunError where the folder cannot be written.
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
                discard_left_over(store.results / name, HOUR)  # others may write beside the published
            yield
    except OSError as error:
        raise RunError(f"{error.filename or store.results} cannot be written: {reason(error)}.") from None


def execute_notebooks(preset: Preset, store: Store) -> None:
    """Those of the preset that are not up to date. Raises NotebookError for one that fails."""
    line, folder = ProgressLine(), store.folder / "notebooks"
    youngest = max(youngest_run(preset, store), *map(modified, sources()))
    whole = {name for name, digest in sums_of(folder).items() if is_whole(folder / name, digest)}
    for source in notebooks_of(preset):
        target = folder / source.name
        if target.name in whole and up_to_date(source, target, youngest):
            continue
        line.show(f"notebook {source.name}", always=True)
        try:
            execute(source, target, {"preset": preset.name}, store.results)
        except NotebookError:
            if target.exists():
                os.utime(target, (0, 0))  # a copy that failed is never up to date
                write_sums(folder, [target.name], sums_of(folder))
            raise
        write_sums(folder, [target.name], sums_of(folder))
    line.clear()


def notebooks_of(preset: Preset) -> list[Path]:
    """The notebooks but those that show another data set than the preset's, whatever the preset."""
    found = notebooks(project_root() / "notebooks")
    return [path for path in found if own_dataset(path) in (None, preset.pretrain.data.dataset)]


def youngest_run(preset: Preset, store: Store) -> float:
    """When the last was made of the preset's runs and of those of the ablation lab that are there."""
    folders = map(store.path, complete(with_ablations(preset, True)))
    return max(modified(folder) for folder in folders if folder.exists())


def up_to_date(source: Path, copy: Path, youngest: float) -> bool:
    """Whether an executed copy is younger than its notebook and a time, has its cells, and ran to its end."""
    import nbformat

    if modified(copy) <= max(youngest, modified(source)):
        return False
    return executed_whole(*(nbformat.read(path, as_version=4) for path in (copy, source)))


def modified(path: Path) -> float:
    """When a file or folder was last written, in seconds."""
    return path.stat().st_mtime


def sums_of(folder: Path) -> dict[str, str]:
    """Digests by name, none where the folder's SHA256SUMS is missing or broken: all is made anew then."""
    try:
        return read_sums(folder) or {}
    except ChecksumError:
        return {}


def is_whole(path: Path, digest: str) -> bool:
    """Whether a file is what it was."""
    try:
        check_file(path, {path.name: digest})
    except ChecksumError:
        return False
    return True


def draw(preset: Preset, store: Store) -> tuple[Path, str]:
    """Figures, INDEX.md and report.html from the records; returns the index and the comparison's verdict.

    They are drawn anew unless they are whole and from the same records, code and libraries.

    Raises:
        ConfigError: if there are neither own runs nor a reference.
        RunError: where the results folder cannot be written.
    """
    refuse_empty(preset, store)
    with publishing(store):
        evidence, reference = found(preset, store), store.reference.find_all(complete(preset.runs))
        origin = origin_of(preset, evidence, reference, store)
        index, note = store.results / INDEX, drawn(store)
        if not note or note["origin"] != origin:
            verdict = draw_anew(preset, store, evidence, reference)
            note = {"origin": origin, "verdict": verdict, "index": digest_of(index)}
            figures = store.folder / "figures"
            figures.mkdir(exist_ok=True)  # few runs make no figure
            write_json(figures / DRAWN, note)
            write_sums(figures, published(figures))
            write_sums(store.folder, [INDEX, REPORT])
            write_sums(store.results, [INDEX])
    return index, note["verdict"]


def found(preset: Preset, store: Store) -> Evidence:
    """The runs to show; says so where they are not one's own."""
    evidence = gather(preset, store)
    if evidence.source == REFERENCE:
        print(f"clrkit: {store.folder} holds no whole set of runs; this is {REFERENCE}.", file=sys.stderr)
    return evidence


def drawn(store: Store) -> dict[str, str] | None:
    """The note of what was drawn and from what; None where any of it is not there as it was written."""
    figures = store.folder / "figures"
    sums = {folder: sums_of(folder) for folder in (figures, store.folder)}
    files = {folder / name: digest for folder in sums for name, digest in sums[folder].items()}
    if not {figures / DRAWN, store.folder / INDEX, store.folder / REPORT} <= files.keys():
        return None
    if not all(is_whole(path, digest) for path, digest in files.items()):
        return None
    note: dict[str, str] = read_json(figures / DRAWN)
    last = is_whole(store.results / INDEX, note["index"])  # it is of the preset that was drawn last
    return note if last else None


def origin_of(preset: Preset, evidence: Evidence, reference: Sequence[Run], store: Store) -> str:
    """SHA-256 over all that figures and index are made from: records, code, published numbers, libraries."""
    from clrkit.results.ablation import ablation_runs_found

    ablations = ablation_runs_found(preset, store)
    content = [
        [preset.name, evidence.source],
        [sums_of(run.folder)[RECORD] for run in [*evidence.runs, *reference, *ablations.values()]],
        [path.name for path in executed(store)],
        [digest_of(path) for path in sources()],
        [version(library) for library in DRAWN_WITH],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def sources() -> list[Path]:
    """The library's code, templates and published numbers."""
    kinds = (".py", ".j2", ".css", ".json")
    return sorted(path for path in Path(__file__).parents[1].rglob("*") if path.suffix in kinds)


def executed(store: Store) -> list[Path]:
    return sorted((store.folder / "notebooks").glob("*.ipynb"))


def draw_anew(preset: Preset, store: Store, evidence: Evidence, reference: Sequence[Run]) -> str:
    """Draw and write figures, indices and page; returns the verdict of the comparison with the reference."""
    from clrkit.results.comparison import summary_line
    from clrkit.results.report import write_index, write_report
    from clrkit.results.style import save

    report = examined(preset, store, evidence, reference)
    for each in report.drawings:
        save(each, report.figures)
    for folder in (store.folder, store.results):
        write_index(folder / INDEX, report)
    write_report(store.folder / REPORT, report)
    return "no reference to compare with" if report.comparison is None else summary_line(report.comparison)


def examined(preset: Preset, store: Store, evidence: Evidence, reference: Sequence[Run]) -> Report:
    """What the runs show."""
    from clrkit.results import claims, comparison, figures
    from clrkit.results import records as run_records
    from clrkit.results.ablation import ablation_runs_found
    from clrkit.results.report import Report
    from clrkit.results.tables import ablation_table

    runs = run_records.records_to_frame(evidence.records, preset)
    drawings, missing = figures.draw_all(runs, preset.name)
    if lacking := missing_runs(preset, store, evidence):
        missing["runs"] = lacking
    compared = None
    if reference and evidence.source != REFERENCE:
        compared = comparison.compare(
            runs, run_records.records_to_frame((run.record for run in reference), preset)
        )
    return Report(
        preset=preset.name,
        source=evidence.source,
        notice=NOT_YOURS if evidence.source == REFERENCE else "",
        runs=runs,
        claims=claims.evaluate(runs, preset),
        drawings=drawings,
        figures=store.folder / "figures",
        missing=missing,
        comparison=compared,
        notebooks=executed(store),
        ablations=ablation_table(preset, ablation_runs_found(preset, store)),
    )


def missing_runs(preset: Preset, store: Store, evidence: Evidence) -> str:
    """Which of the preset's runs are not among the evidence, in words; empty where all are."""
    there, wanted = {run.folder.name for run in evidence.runs}, complete(preset.runs)
    lacking = [describe(stage) for stage in wanted if store.path(stage).name not in there]
    if not lacking:
        return ""
    rest = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
    return f"{len(lacking)} of {len(wanted)} are not recorded: {'; '.join(lacking[:NAMED])}{rest}."


def write_page(preset: Preset, store: Store, path: Path) -> None:
    """The report page at another place; nothing is written into the results.

    Raises:
        ConfigError: if there are neither own runs nor a reference.
        RunError: where it cannot be written.
    """
    from clrkit.results.report import write_report
    from clrkit.results.style import encode

    evidence, reference = found(preset, store), store.reference.find_all(complete(preset.runs))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            report = replace(examined(preset, store, evidence, reference), figures=Path(folder))
            for each in report.drawings:
                (report.figures / f"{each.name}.svg").write_bytes(encode(each.figure, "svg"))
            write_report(path, report)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {reason(error)}.") from None

"""Verify finished runs, and rename damaged ones so that `reproduce` makes them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clrkit.errors import ConfigError, reason
from clrkit.runs.checksums import ChecksumError, check_file, read_sums
from clrkit.runs.store import HISTORY, RECORDS, REFERENCE_FOLDER, WEIGHTS, RunError, Store, read_run


@dataclass
class Findings:
    """The result of a check.

    Attributes:
        runs: number of runs that were verified, committed ones included.
        problems: what is wrong, by the folder of the run or the table of committed runs.
    """

    runs: int = 0
    problems: dict[Path, str] = field(default_factory=dict)

    @property
    def damaged(self) -> list[str]:
        return [*self.problems.values()]


def check(results: Path, preset: str | None = None) -> Findings:
    """Verify the runs in a results folder against their checksums, or those of one preset.

    Raises:
        ConfigError: if there are no results.
    """
    stores = [store for store in stores_in(results) if preset in (None, store.preset)]
    if not stores:
        raise ConfigError(f"{results} holds no results{f' of preset {preset}' if preset else ''}.")
    found = Findings()
    for store in stores:
        try:
            folders = store.folders()
        except ChecksumError as damage:  # the table of committed runs
            found.problems[store.folder / RECORDS] = f"{damage.problem}."
            continue
        found.runs += len(folders)
        for folder in folders:
            try:
                check_run(folder)
            except ChecksumError as damage:
                found.problems[folder] = f"{damage.problem}."
    return found


def stores_in(results: Path) -> Iterator[Store]:
    """The stores in a results folder, and in the reference beside them."""
    for root in (results, results / REFERENCE_FOLDER):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if (folder / "runs").is_dir() or (folder / RECORDS).exists():
                yield Store(root, folder.name)


def check_run(folder: Path) -> None:
    """Verify all files of a run. Raises ChecksumError naming the first that was changed."""
    read_run(folder)
    sums = read_sums(folder) or {}
    present = {name for name in (HISTORY, WEIGHTS) if (folder / name).exists()}
    for name in sorted({*sums} - {WEIGHTS} | present):  # weights may be deleted to save space
        check_file(folder / name, sums)


def set_aside(folder: Path) -> Path:
    """Rename a damaged run to `<name>.damaged`, with a number if that exists; return the new path.

    Raises:
        RunError: if it cannot be renamed.
    """
    number, target = 1, folder.with_name(f"{folder.name}.damaged")
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.damaged{number}")
    try:
        return folder.rename(target)
    except OSError as error:
        raise RunError(f"{folder} cannot be renamed: {reason(error)}.") from None

"""The results verified: every artefact against its checksum, every run against its key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clrkit.config import Labelled, Stage, from_dict, stage_class
from clrkit.errors import ConfigError, reason
from clrkit.experiments.fields import walk
from clrkit.files import UNDER_WAY
from clrkit.runs.checksums import REFERENCE, SUMS, ChecksumError, check_file, of_reference, read_sums
from clrkit.runs.keys import key
from clrkit.runs.store import HISTORY, RECORD, WEIGHTS, Run, RunError, Store, read_run


@dataclass
class Findings:
    """What was looked at, and what is wrong with it.

    Attributes:
        runs, files: how many runs, and how many other files, were verified.
        damaged_runs: what is wrong with a run, by its folder.
        damaged_files: what is wrong with figures, notebooks and indices.
        remarks: what is left over or lacks its parent; no error.
    """

    runs: int = 0
    files: int = 0
    damaged_runs: dict[Path, str] = field(default_factory=dict)
    damaged_files: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> list[str]:
        return [*self.damaged_runs.values(), *self.damaged_files]

    @property
    def made_again(self) -> list[Path]:
        """Damaged runs that `reproduce` makes again once they are put aside: all but the reference's."""
        return [folder for folder in self.damaged_runs if not of_reference(folder)]


def check(results: Path, preset: str | None = None) -> Findings:
    """Verify the stores under a results folder, those of one preset if it is named.

    Raises:
        ConfigError: where there is no store.
    """
    stores = [store for store in stores_under(results) if preset in (None, store.preset)]
    if not stores:
        raise ConfigError(f"{results} holds no results{f' of preset {preset}' if preset else ''}.")
    found = Findings()
    for store in stores:
        check_runs(store, found)
        for folder in (store.folder, store.folder / "figures", store.folder / "notebooks"):
            check_files(folder, published(folder), found)
    if preset is None:
        check_files(results, [name for name in published(results) if name == "INDEX.md"], found)
    return found


def stores_under(results: Path) -> Iterator[Store]:
    """The presets that have results, and those of a reference beside them."""
    for root in (results, results / REFERENCE):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if any((folder / part).is_dir() for part in ("runs", "figures", "notebooks")):
                yield Store(root, folder.name)


def check_runs(store: Store, found: Findings) -> None:
    """Verify a store's runs, and note what lies beside them."""
    whole: list[Run] = []
    for folder in store.folders():
        found.runs += 1
        try:
            if run := check_run(folder):
                whole.append(run)
            else:
                found.remarks.append(f"{folder} holds no record.")
        except ChecksumError as damage:
            found.damaged_runs[folder] = damage.problem + "."
    runs = {run.key: run for run in whole}
    for run in whole:
        try:
            check_key(run, runs)
        except ChecksumError as damage:
            found.damaged_runs[run.folder] = damage.problem + "."
        if (parent := run.record.get("parent")) and str(parent) not in runs:
            found.remarks.append(f"{run.folder} builds on run {parent}, which is gone or damaged.")
    found.remarks += [f"{path} {what}." for path, what in left_over(store)]


def check_run(folder: Path) -> Run | None:
    """The run of a folder, all its files verified. Raises Damaged naming the first that is not as written."""
    run, sums = read_run(folder), read_sums(folder) or {}
    there = {name for name in (HISTORY, WEIGHTS) if (folder / name).exists()}
    for name in sorted((sums.keys() | there) - {RECORD}):
        if name != WEIGHTS or name in there:  # a reference keeps no weights
            check_file(folder / name, sums)
    return run


def check_key(run: Run, runs: dict[str, Run]) -> None:
    """Raises Damaged unless the recorded key and the recorded config belong together.

    A label list counts by its contents, which are not recorded, and a run of an earlier version of a stage
    was given its key by that version: the keys of both are taken as they are.
    """
    path, record = run.folder / RECORD, run.record
    try:
        config = from_dict(stage_class(record["stage"]), record["config"])
        expected = key(config, record["dataset"]["fingerprint"])
        right = expected == run.key or has_label_list(config) or is_outdated(run, runs)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ChecksumError(path, f"has a config that cannot be ({str(error).rstrip('.')})") from None
    if not right:
        raise ChecksumError(path, "has another config than its key was made from")


def has_label_list(config: Stage) -> bool:
    return any(isinstance(node, Labelled) and node.label_list for _, node in walk(config))


def is_outdated(run: Run, runs: dict[str, Run]) -> bool:
    """Whether the run, or one it builds on, is of an earlier version of its stage."""
    link: Run | None = run
    seen: set[str] = set()
    while link and link.key not in seen:
        if link.record.get("version") != stage_class(link.record["stage"]).version:
            return True
        seen.add(link.key)
        link = runs.get(str(link.record.get("parent")))
    return False


def left_over(store: Store) -> Iterator[tuple[Path, str]]:
    """What lies beside the finished runs, and in them beside the results."""
    kinds = {".partial": "is a partial run", ".lock": "is a lock, in use or left over"}
    for path in sorted(store.runs.iterdir()) if store.runs.is_dir() else ():
        if path.suffix in kinds:
            yield path, kinds[path.suffix]
        elif path.suffix.startswith(".damaged"):
            yield path, "was set aside"
        elif path.is_dir():
            names = {each.name for each in path.iterdir()} - {RECORD, HISTORY, WEIGHTS, SUMS}
            yield from ((path / name, "is no part of a run") for name in sorted(names))


def published(folder: Path) -> list[str]:
    """Names of the files in a folder that its SHA256SUMS is over; not of what a killed writer left."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return [path.name for path in files if path.name != SUMS and path.suffix not in (".lock", UNDER_WAY)]


def check_files(folder: Path, names: Sequence[str], found: Findings) -> None:
    """Verify these files, and any that the folder's SHA256SUMS lists; damage is noted, not raised."""
    try:
        sums = read_sums(folder)
        if sums is None and names:
            raise ChecksumError(folder / SUMS, "is missing")
    except ChecksumError as damage:
        found.damaged_files.append(damage.problem + ".")
        return
    for name in sorted({*names, *(sums or {})}):
        found.files += 1
        try:
            check_file(folder / name, sums or {})
        except ChecksumError as damage:
            found.damaged_files.append(damage.problem + ".")


def set_aside(folder: Path) -> Path:
    """Rename a damaged run to `<name>.damaged`, numbered where that is taken; returns where it is now.

    Raises RunError where it cannot be.
    """
    number, target = 1, folder.with_name(f"{folder.name}.damaged")
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.damaged{number}")
    try:
        return folder.rename(target)
    except OSError as error:
        raise RunError(f"{folder} cannot be renamed: {reason(error)}.") from None

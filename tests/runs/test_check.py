"""Damaged runs are found, named and set aside; whole ones are left alone."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from clrkit.cli.main import main
from clrkit.experiments.presets import preset
from clrkit.runs.check import check
from clrkit.runs.checksums import SUMS, ChecksumError
from clrkit.runs.reproduce import plan
from clrkit.runs.store import RECORDS, Run, Store, write_run_sums, write_table

ROOT = Path(__file__).parents[2]
SMOKE = preset("smoke")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A chain of three runs without training."""
    (tmp_path / "reference").mkdir()  # else the reference is that of the checkout
    made = Store(tmp_path, "smoke")
    for stage in SMOKE.distill.chain:
        synthetic.put(made, stage)
    return made


def run(*words: str, results: Path) -> int:
    return main([*words, "--results", str(results)])


def files_of(store: Store) -> list[Path]:
    return sorted(path for path in store.folder.rglob("*") if path.is_file())


def test_the_committed_reference_is_whole() -> None:
    found = check(ROOT / "results" / "reference")
    assert found.damaged == []
    assert found.runs >= 1201


def test_checksums_are_those_of_sha256sum(store: Store) -> None:
    lists = [path for path in files_of(store) if path.name == SUMS]
    assert len(lists) == 3
    for path in lists:
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=path.parent, check=True)


def test_a_flipped_bit_is_found_and_its_run_is_named(store: Store, fault: Callable[..., None]) -> None:
    draw_at = random.Random(0)
    flips = [path for path in files_of(store) for _ in range(5)]
    for path in flips:
        content = path.read_bytes()
        place, bit = draw_at.randrange(len(content)), draw_at.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        (problem,) = check(store.results).damaged
        assert str(path.parent) in problem, (path, place, bit)
        path.write_bytes(content)
    assert check(store.results).damaged == []
    fault(
        "store: a bit of any file of a run flips",
        "a random bit of each file in turn",
        "nothing: its run is named",
        len(flips),
    )


def test_a_file_that_is_truncated_or_deleted_is_found(store: Store) -> None:
    for path in files_of(store):
        content = path.read_bytes()
        for cut in (content[:-1], content[: len(content) // 2], b""):
            path.write_bytes(cut)
            assert check(store.results).damaged, (path, cut)
        path.unlink()
        assert check(store.results).damaged, path
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["record.json", "history.json", SUMS])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", None])
def test_a_damaged_run_is_refused_when_it_is_read(store: Store, name: str, damage: bytes | None) -> None:
    stage = SMOKE.distill
    path = store.path(stage) / name
    assert store.find(stage)
    path.unlink() if damage is None else path.write_bytes(damage)

    def read() -> object:
        found = store.find(stage)
        return found and found.history

    with pytest.raises(ChecksumError, match=rf"{name} .*; `python -m clrkit check --set-aside`"):
        read()


def edited(run: Run, change: Callable[[dict], object]) -> None:
    """Change a record and write matching checksums."""
    change(run.record)
    (run.folder / "record.json").write_text(json.dumps(run.record))
    write_run_sums(run.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(key="0123456789abcdef"), "belongs to another run than its folder"),
        (lambda record: record.pop("metrics"), "is not a valid run record"),
        (lambda record: record.update(config=[]), "is not a valid run record"),
    ],
)
def test_a_record_with_right_checksums_must_still_be_one_of_its_folder(
    store: Store, change: Callable[[dict], object], message: str
) -> None:
    found = store.find(SMOKE.distill)
    assert found
    edited(found, change)
    (problem,) = check(store.results).damaged
    assert problem == f"{found.folder / 'record.json'} {message}."


def test_a_run_in_the_folder_of_another_is_not_used(store: Store) -> None:
    stage = SMOKE.distill.chain[0]
    original, other = store.path(stage), store.path(replace(stage, seed=7))
    for copy in (store.runs / f"{stage.name}-0000000000000000", other):
        shutil.copytree(original, copy)
        (problem,) = check(store.results).damaged
        assert problem == f"{copy}/record.json belongs to another run than its folder."
        with pytest.raises(ChecksumError, match="another run"):
            store.all()
        if copy == other:
            with pytest.raises(ChecksumError, match="another run"):
                store.find(replace(stage, seed=7))
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2Jb", "a\rb", "a\x7fb", "a\x9b2Jb"])
def test_a_name_that_no_file_can_have_makes_a_list_of_checksums_invalid(store: Store, name: str) -> None:
    path = store.path(SMOKE.distill) / SUMS
    path.write_bytes(path.read_bytes() + f"{'0' * 64}  {name}\n".encode())
    (problem,) = check(store.results).damaged
    assert problem == f"{path} is not a valid {SUMS} file."


def test_what_lies_beside_finished_runs_is_not_damage(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unfinished runs, notes of other commands, figures, and the checksums that older versions wrote."""
    for name in ("pretrain-0.partial", "probe-1.damaged"):
        (store.runs / name).mkdir()
    (store.runs / "pretrain-0.lock").touch()
    (store.folder / "survey.json").write_text("{}")
    (store.folder / "INDEX.md").write_text("changed by hand")
    (store.folder / SUMS).write_text(f"{'0' * 64}  INDEX.md\n")
    (store.results / "notes").mkdir()
    assert run("check", results=store.results) == 0
    assert capsys.readouterr().out == "3 runs checked; all are intact.\n"


def test_one_preset_can_be_checked_alone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    other = Store(store.results, "mini")
    (synthetic.put(other, SMOKE.pretrain) / "record.json").write_text("{}")
    assert run("check", "--preset", "smoke", results=store.results) == 0
    assert run("check", "--preset", "mini", results=store.results) == 1
    assert run("check", results=store.results) == 1
    assert "1 damaged; --set-aside renames damaged runs" in capsys.readouterr().out
    assert run("check", "--preset", "cifar10", results=store.results) == 1
    assert "holds no results of preset cifar10" in capsys.readouterr().err


def test_damaged_runs_are_set_aside_and_nothing_else_is_touched(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.path(SMOKE.distill)
    for aside in ("damaged", "damaged2"):
        (folder / "history.json").write_text("[]")
        before = {path: path.read_bytes() for path in files_of(store) if folder not in path.parents}
        assert run("check", "--set-aside", results=store.results) == 1
        assert f"{folder} is now {folder.name}.{aside}" in capsys.readouterr().out
        assert folder.with_name(f"{folder.name}.{aside}").is_dir()
        assert {path: path.read_bytes() for path in before} == before
        assert store.find(SMOKE.distill) is None
        assert [run.folder for run in store.all()] == sorted(map(store.path, SMOKE.distill.chain[:2]))
        assert run("check", results=store.results) == 0
        synthetic.put(store, SMOKE.distill)
    assert run("clean", "--preset", "smoke", results=store.results) == 0
    assert len(list(store.runs.glob("*.damaged*"))) == 2


def test_a_damaged_table_of_the_reference_is_named_and_stays(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = store.reference
    reference.folder.mkdir()
    path = reference.folder / RECORDS
    write_table(path, store.all())
    assert check(store.results).runs == 6
    path.write_bytes(path.read_bytes() + b"<<<<<<< HEAD\n")
    assert run("check", "--set-aside", results=store.results) == 1
    printed = capsys.readouterr().out
    assert f"damaged: {path} is damaged: line 4 is not a valid run record.\n" in printed
    assert "restore tables of the reference from the repository" in printed
    assert path.exists()
    with pytest.raises(ChecksumError, match=r"line 4 .*; restore it from the repository\.$"):
        reference.find(SMOKE.pretrain)


def test_a_plan_shows_a_damaged_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (store.path(SMOKE.distill) / "record.json").write_text("{}")
    (row,) = (row for row in plan([SMOKE.distill], store) if row["stage"] == "distill")
    assert (row["state"], row["share"]) == ("damaged", 0)
    assert run("plan", "--preset", "smoke", results=store.results) == 0
    assert "1 damaged" in capsys.readouterr().out


def test_reproduce_refuses_a_store_with_a_damaged_run(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = store.path(SMOKE.distill) / "record.json"
    damaged.write_text("{}")
    assert run("reproduce", "--preset", "smoke", results=store.results) == 1
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith(f"clrkit: {damaged} was changed since it was written")
    assert "check --set-aside" in printed
    assert not list(store.runs.glob("*.partial"))

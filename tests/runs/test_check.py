"""Checksums: what is damaged is found, named and put aside; what is whole is left alone."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from clrkit.cli.main import main
from clrkit.config import Finetune, to_dict
from clrkit.experiments.presets import preset
from clrkit.notebook import publish
from clrkit.notebook.publish import DRAWN, draw, drawn
from clrkit.results import figures, style
from clrkit.runs.check import check
from clrkit.runs.checksums import SUMS, ChecksumError
from clrkit.runs.reproduce import complete, plan
from clrkit.runs.store import Run, Store, write_run_sums, write_sums

ROOT = Path(__file__).parents[2]
SMOKE = preset("smoke")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A chain of three runs, a page of notebooks and an index, made of no training."""
    (tmp_path / "reference").mkdir()  # else the checkout's is the reference
    made = Store(tmp_path, "smoke")
    for stage in SMOKE.distill.chain:
        synthetic.put(made, stage)
    for folder, name in ((made.folder / "notebooks", "00_start.ipynb"), (made.folder, "INDEX.md")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("what was found\n")
        write_sums(folder, [name])
    return made


def run(*words: str, results: Path) -> int:
    return main([*words, "--results", str(results)])


def files_of(store: Store) -> list[Path]:
    return sorted(path for path in store.folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_committed_reference_is_what_was_written() -> None:
    found = check(ROOT / "results")
    assert found.damaged == []
    assert found.runs >= 180
    assert not [remark for remark in found.remarks if "reference" in remark]


def test_checksums_are_those_of_sha256sum(store: Store) -> None:
    lists = [path for path in files_of(store) if path.name == SUMS]
    assert len(lists) == 5
    for path in lists:
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=path.parent, check=True)


def test_a_bit_flipped_anywhere_is_found_and_its_file_is_named(
    store: Store, fault: Callable[..., None]
) -> None:
    draw_at = random.Random(0)
    flips = [path for path in files_of(store) for _ in range(5)]
    for path in flips:
        content = path.read_bytes()
        place, bit = draw_at.randrange(len(content)), draw_at.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        problems = check(store.results).damaged
        assert problems, (path, place, bit)
        assert all(str(path.parent) in problem for problem in problems)
        path.write_bytes(content)
    assert check(store.results).damaged == []
    fault(
        "store: a bit of any file flips",
        "a random bit of each file in turn",
        "nothing: it is named",
        len(flips),
    )


def test_a_file_that_is_cut_short_or_gone_is_found(store: Store) -> None:
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
def test_a_damaged_run_is_refused_by_whoever_reads_it(store: Store, name: str, damage: bytes | None) -> None:
    stage = SMOKE.distill
    path = store.path(stage) / name
    intact = store.find(stage)
    assert intact
    path.unlink() if damage is None else path.write_bytes(damage)

    def read() -> object:
        found = store.find(stage)
        return found and found.history

    with pytest.raises(
        ChecksumError, match=rf"{name} .*; `python -m clrkit check --set-aside` puts its run aside"
    ):
        read()


def edited(run: Run, change: Callable[[dict], object]) -> None:
    """Change a record as somebody would who makes the checksums anew."""
    change(run.record)
    (run.folder / "record.json").write_text(json.dumps(run.record))
    write_run_sums(run.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["config"].update(epochs=99), "has another config than its key was made from"),
        (lambda record: record["config"]["teacher"]["pretrain"].update(temperature=0.7), "another config"),
        (lambda record: record["dataset"].update(fingerprint="0" * 64), "another config"),
        (
            lambda record: record["config"].update(epochs=0),
            "config that cannot be .epochs must be at least 1",
        ),
        (lambda record: record["config"].update(epoch=3), "config that cannot be"),
        (lambda record: record["dataset"].update(fingerprint=float("nan")), "config that cannot be"),
        (
            lambda record: record["config"].update(epochs=99) or record.update(parent=record["key"]),
            "has another config than its key was made from",
        ),
        (lambda record: record.update(key="0123456789abcdef"), "another run than its folder is named for"),
        (lambda record: record.pop("metrics"), "is no record of a run"),
    ],
)
def test_a_record_that_is_not_that_of_its_key_is_found(
    store: Store, change: Callable[[dict], object], message: str
) -> None:
    found = store.find(SMOKE.distill)
    assert found
    edited(found, change)
    (problem,) = check(store.results).damaged
    assert str(found.folder / "record.json") in problem
    assert message.replace(".", "(", 1) in problem if "cannot be ." in message else message in problem


def test_a_label_list_or_an_older_version_of_a_stage_keeps_the_key_it_was_given(store: Store) -> None:
    listed = replace(SMOKE.finetune, label_list="gone.txt")
    assert isinstance(listed, Finetune)
    found = store.find(SMOKE.distill.teacher)
    student = store.find(SMOKE.distill)
    assert found
    assert student
    edited(found, lambda record: record.update(config=to_dict(listed)))
    assert check(store.results).damaged == []
    edited(found, lambda record: record.update(version=0))
    edited(student, lambda record: record["config"].update(epochs=99))  # as an older version may have had it
    assert check(store.results).damaged == []


def test_a_parent_that_cannot_be_is_no_fault_of_what_builds_on_it(store: Store) -> None:
    student, teacher = store.find(SMOKE.distill), store.find(SMOKE.distill.teacher)
    assert student
    assert teacher
    edited(student, lambda record: record.update(parent=["nobody"]))
    found = check(store.results)
    assert found.damaged == []
    assert f"{student.folder} builds on run ['nobody'], which is gone or damaged." in found.remarks
    edited(student, lambda record: record.update(parent=teacher.key))
    edited(teacher, lambda record: record.update(stage="warmup"))
    teacher.folder.rename(teacher.folder.with_name(f"warmup-{teacher.key}"))
    (problem,) = check(store.results).damaged
    assert "Unknown stage 'warmup'" in problem


def test_a_run_in_the_place_of_another_is_neither_used_nor_overlooked(store: Store) -> None:
    stage = SMOKE.distill.chain[0]
    original, other = store.path(stage), store.path(replace(stage, seed=7))
    for copy in (store.runs / f"{stage.name}-0000000000000000", other):
        shutil.copytree(original, copy)
        (problem,) = check(store.results).damaged
        assert problem == f"{copy}/record.json is the record of another run than its folder is named for."
        with pytest.raises(ChecksumError, match="another run"):
            store.all()
        if copy == other:
            with pytest.raises(ChecksumError, match="another run"):
                store.find(replace(stage, seed=7))
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2Jb", "a\rb", "a\x7fb", "a\x9b2Jb"])
def test_a_name_that_no_file_has_makes_no_list_of_checksums(store: Store, name: str) -> None:
    for folder in (store.folder, store.path(SMOKE.distill)):
        content = (folder / SUMS).read_bytes()
        (folder / SUMS).write_bytes(content + f"{'0' * 64}  {name}\n".encode())
        (problem,) = check(store.results).damaged
        assert problem == f"{folder / SUMS} is no list of checksums."
        (folder / SUMS).write_bytes(content)


def test_what_is_left_over_is_told_and_no_error(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.path(SMOKE.distill.chain[0])
    for name in ("pretrain-0.partial", "probe-1.damaged", "probe-1.damaged2"):
        (store.runs / name).mkdir()
    (store.runs / "pretrain-0.lock").touch()
    (store.path(SMOKE.distill) / "progress.json").touch()
    shutil.rmtree(first)
    assert run("check", results=store.results) == 0
    told = capsys.readouterr().out
    for remark in (
        "pretrain-0.partial is a partial run",
        "pretrain-0.lock is a lock",
        "probe-1.damaged was set aside",
        "probe-1.damaged2 was set aside",
        "progress.json is no part of a run",
        f"builds on run {first.name.rpartition('-')[2]}, which is gone",
        "2 runs and 2 other files checked; all are what was written.",
    ):
        assert remark in told


def test_one_preset_can_be_checked_alone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    other = Store(store.results, "mini")
    (synthetic.put(other, SMOKE.pretrain) / "record.json").write_text("{}")
    assert run("check", "--preset", "smoke", results=store.results) == 0
    assert run("check", "--preset", "mini", results=store.results) == 1
    assert run("check", results=store.results) == 1
    assert "1 damaged; --set-aside renames the damaged runs" in capsys.readouterr().out
    assert run("check", "--preset", "cifar10", results=store.results) == 1
    assert "holds no results of preset cifar10" in capsys.readouterr().err


def test_damaged_runs_are_put_aside_and_nothing_else_is_touched(
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


def test_a_damaged_run_of_the_reference_stays_where_it_is(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, own = store.reference, store.path(SMOKE.distill)
    committed = synthetic.put(reference, SMOKE.pretrain)
    for folder in (committed, own):
        (folder / "record.json").write_text("{}")
    assert run("check", "--set-aside", results=store.results) == 1
    told = capsys.readouterr().out
    assert "2 damaged" in told
    assert "what is of the reference, restore it from the repository" in told
    assert committed.is_dir()
    assert not own.exists()
    assert run("check", results=reference.results) == 1
    assert "--set-aside" not in capsys.readouterr().out
    with pytest.raises(ChecksumError, match=r"SHA256SUMS; restore it from the repository\.$"):
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
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"clrkit: {damaged} was changed since it was written")
    assert "check --set-aside" in told
    assert not list(store.runs.glob("*.partial"))


# Figures


@pytest.fixture(scope="module")
def once_drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Results with all runs of a preset and one figure, its pictures left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FIGURES", (figures.method_bars,))
        patch.setattr(style, "encode", lambda figure, kind: kind.encode())
        patch.setattr(publish, "sources", list)  # which somebody may be editing while the tests run
        store = Store(tmp_path_factory.mktemp("drawn"), "smoke")
        for stage in complete(SMOKE.runs):
            synthetic.put(store, stage, lambda stage: 75.0)
        draw(SMOKE, store)
        yield store.results


@pytest.fixture
def drawn_store(once_drawn: Path, tmp_path: Path) -> Store:
    shutil.copytree(once_drawn, tmp_path, dirs_exist_ok=True)
    return Store(tmp_path, "smoke")


def written(store: Store) -> dict[Path, int]:
    """When the files beside the runs were written."""
    files = [*files_of(store), store.results / "INDEX.md"]
    return {path: path.stat().st_mtime_ns for path in files if store.runs not in path.parents}


def test_figures_are_not_drawn_anew_where_nothing_changed(drawn_store: Store) -> None:
    before = written(drawn_store)
    assert {path.name for path in before} >= {DRAWN, "INDEX.md", SUMS, "method_bars.svg"}
    assert check(drawn_store.results).damaged == []
    draw(SMOKE, drawn_store)
    assert written(drawn_store) == before


@pytest.mark.slow
def test_damaged_figures_and_indices_are_drawn_anew(drawn_store: Store) -> None:
    names = (
        "figures/method_bars.svg",
        "report.html",
        "INDEX.md",
        "../INDEX.md",
        f"figures/{DRAWN}",
        f"figures/{SUMS}",
    )
    contents = {drawn_store.folder / name: (drawn_store.folder / name).read_bytes() for name in names}
    for path, content in contents.items():
        path.unlink()
        assert drawn(drawn_store) is None
        path.write_bytes(content)
        assert drawn(drawn_store)
        path.write_bytes(content[:-3])
        assert drawn(drawn_store) is None
        path.write_bytes(content)
    for path, content in contents.items():
        path.write_bytes(content[:-3])
    (drawn_store.folder / "figures" / "mine").mkdir()
    draw(SMOKE, drawn_store)
    assert {path: path.read_bytes() for path in contents} == contents


@pytest.mark.slow
def test_another_record_draws_the_figures_anew(drawn_store: Store) -> None:
    before = written(drawn_store)
    shutil.rmtree(drawn_store.path(SMOKE.finetune))
    synthetic.put(drawn_store, SMOKE.finetune, lambda stage: 12.5)
    draw(SMOKE, drawn_store)
    folder = drawn_store.folder / "figures"
    assert written(drawn_store)[folder / DRAWN] != before[folder / DRAWN]
    assert "12.5" in (folder / "method_bars.csv").read_text()

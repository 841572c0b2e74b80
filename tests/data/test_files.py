"""Files under way: readers see whole ones alone, no link is followed, and nothing stays of killed writers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from annotations import Record
from synthetic import put

from clrkit.data.files import HOUR, discard_left_over, write_atomically
from clrkit.experiments.presets import preset
from clrkit.notebook.publish import publishing
from clrkit.runs.check import check
from clrkit.runs.store import Store, partial_of, working_folder

SMOKE = preset("smoke")
SIZE = 300_000
WRITER = """
import sys
from pathlib import Path
from clrkit.data.files import write_atomically
for number in range(60):
    letter = sys.argv[2].encode()
    write_atomically(Path(sys.argv[1]), letter * 100_000, letter * 200_000)
"""


def test_a_reader_sees_whole_versions_alone_however_many_write_them(tmp_path: Path, fault: Record) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"z" * SIZE)
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "abc"]
    threads = [
        threading.Thread(target=lambda: [write_atomically(path, b"d" * SIZE) for _ in range(60)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    seen = set[bytes]()
    while any(writer.poll() is None for writer in writers) or any(map(threading.Thread.is_alive, threads)):
        content = path.read_bytes()
        assert len(content) == SIZE
        assert len(set(content)) == 1
        seen.add(content[:1])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]
    fault("store: many write one file at once", "3 processes and 2 threads, 60 times each", "nothing")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")
def test_a_link_in_the_way_leads_nowhere(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "results" / "record.json"
    path.parent.mkdir()
    victim.write_text("mine")
    for name in ("record.json", "record.json.new", ".record.json.new"):
        (path.parent / name).symlink_to(victim)
    write_atomically(path, b"{}")
    assert victim.read_text() == "mine"
    assert path.read_bytes() == b"{}"
    assert not path.is_symlink()


def test_what_was_there_stays_where_the_new_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "卷" * 85])
def test_a_name_may_be_as_long_as_the_file_system_lets_it(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_who_may_read_a_file_is_the_umask_s_to_say(tmp_path: Path) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    plain.write_bytes(b"")
    write_atomically(whole, b"")
    assert stat.S_IMODE(whole.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def left_in(folder: Path, age: float = 0.0) -> Path:
    """What a writer that was killed so many seconds ago leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".INDEX.md.0123456789abcdef.new"
    path.write_text("half of")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_only_what_is_old_enough_is_discarded_and_nothing_of_another_name(tmp_path: Path) -> None:
    other = tmp_path / "mine.new"
    other.touch()
    young = left_in(tmp_path)
    discard_left_over(tmp_path, HOUR)
    assert young.exists()
    discard_left_over(tmp_path)
    assert list(tmp_path.iterdir()) == [other]
    discard_left_over(tmp_path / "nowhere")


def test_what_killed_writers_left_is_no_damage_and_goes_when_the_folder_is_written_again(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path, "smoke")
    put(store, SMOKE.finetune)
    places = [store.folder, store.folder / "figures", store.folder / "notebooks"]
    left = [left_in(folder, 2 * HOUR) for folder in (store.results, *places)]
    assert check(store.results).damaged == []
    with publishing(store):
        under_way = left_in(store.folder)
    assert not any(path.exists() for path in left if path != under_way)
    with publishing(store):
        assert under_way.exists()
    assert check(store.results).damaged == []


def test_what_killed_writers_left_in_a_partial_run_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    path = Store(tmp_path, "smoke").path(SMOKE.pretrain)
    left = left_in(partial_of(path))
    (partial_of(path) / "state").touch()
    with working_folder(path) as partial:
        assert not left.exists()
        assert [file.name for file in partial.iterdir()] == ["state"]

import threading
from pathlib import Path

import pytest

from clrkit.files import UNFINISHED, write_whole


def test_a_file_is_what_was_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"first")
    write_whole(tmp_path / "a", b"sec", memoryview(b"ond"))
    assert (tmp_path / "a").read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_of_many_writers_of_one_path_a_reader_sees_whole_versions_alone(tmp_path: Path) -> None:
    path, size = tmp_path / "a", 200_000
    versions = [bytes([65 + number]) * size for number in range(8)]
    write_whole(path, versions[0])
    writers = [
        threading.Thread(target=lambda content=content: [write_whole(path, content) for _ in range(10)])
        for content in versions
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    assert seen <= set(versions)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_an_error_leaves_the_former_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"before")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", b"half", None)  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_links_that_others_planted_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "a.new").symlink_to(victim)
    guessed = tmp_path / f".a.{'0' * 16}{UNFINISHED}"
    guessed.symlink_to(victim)
    write_whole(tmp_path / "a", b"ours")
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", b"other")
    assert (victim.read_bytes(), (tmp_path / "a").read_bytes()) == (b"mine", b"ours")


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode

"""docs/extending.md does what it says: a copy of the library gets its examples, and passes their tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
CHAPTERS = [chapter.partition("\n")[0] for chapter in PAGE.split("\n## ")[1:]]


def blocks(chapter: str, kind: str) -> list[str]:
    """The code of one language below a heading."""
    text = next(each for each in PAGE.split("\n## ")[1:] if each.startswith(f"{chapter}\n"))
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


def changes(chapter: str) -> Iterator[tuple[str, str, str]]:
    """The files a chapter changes, the lines it finds there, and the lines that stand there afterwards."""
    for block in blocks(chapter, "diff"):
        name, *lines = block.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        yield name.removeprefix("--- ").strip(), old, new


def extend(folder: Path, chapter: str) -> None:
    """Make the changes of a chapter to the sources in a folder."""
    for name, old, new in changes(chapter):
        path = folder / name
        source = path.read_text(encoding="utf-8")
        assert f"\n{source}".count(f"\n{old}") == 1, f"{name} has not these lines, once:\n{old}"
        path.write_text(source.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_example_fits_the_sources_as_they_are_and_has_tests(chapter: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "clrkit", tmp_path / "clrkit", ignore=shutil.ignore_patterns("__pycache__"))
    extend(tmp_path, chapter)
    changed = {name for name, _, _ in changes(chapter)}
    assert len(changed) >= 2
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--config",
        ROOT / "pyproject.toml",
        "--select",
        "E,F,W",
    ]
    subprocess.run([*command, *(tmp_path / name for name in changed)], check=True, stdout=subprocess.DEVNULL)
    assert "def test_" in "".join(blocks(chapter, "python"))


@pytest.mark.slow
def test_the_examples_pass_their_tests_together(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "clrkit", tmp_path / "clrkit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "results").symlink_to(ROOT / "results")
    for number, chapter in enumerate(CHAPTERS):
        extend(tmp_path, chapter)
        tests = "\n".join(blocks(chapter, "python"))
        assert "\ndef test_" in tests
        (tmp_path / f"test_{number}.py").write_text(tests, encoding="utf-8")
    is_copy = (
        f"import clrkit\n\ndef test_it_is():\n    assert clrkit.__path__ == [{str(tmp_path / 'clrkit')!r}]\n"
    )
    (tmp_path / "test_copy.py").write_text(is_copy, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PAGE.count('def test_') + 1} passed" in done.stdout

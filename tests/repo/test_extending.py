"""The examples of docs/guides/extending.md fit the library, and a copy with them passes their tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides" / "extending.md").read_text(encoding="utf-8")
CHAPTERS = [chapter.partition("\n")[0] for chapter in PAGE.split("\n## ")[1:]]


def blocks(chapter: str, kind: str) -> list[str]:
    """The code of one language below a heading."""
    text = next(each for each in PAGE.split("\n## ")[1:] if each.startswith(f"{chapter}\n"))
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


def changes(chapter: str) -> Iterator[tuple[str, str, str]]:
    """The files that a chapter changes, the lines it looks for, and the lines that replace them."""
    for block in blocks(chapter, "diff"):
        name, *lines = block.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        yield name.removeprefix("--- ").strip(), old, new


def extend(folder: Path, chapter: str) -> None:
    """Make the changes of a chapter to the sources in a folder."""
    for name, old, new in changes(chapter):
        path = folder / name
        source = path.read_text(encoding="utf-8")
        assert f"\n{source}".count(f"\n{old}") == 1, f"{name} does not have these lines exactly once:\n{old}"
        path.write_text(source.replace(old, new), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "clrkit", tmp_path / "clrkit", ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_example_fits_the_sources_and_the_code_style(chapter: str, copy: Path) -> None:
    extend(copy, chapter)
    files = [copy / name for name in {name for name, _, _ in changes(chapter)}]
    assert len(files) >= 2
    files.append(copy / "test_example.py")
    files[-1].write_text("\n".join(blocks(chapter, "python")), encoding="utf-8")
    rules = ["--config", ROOT / "pyproject.toml"]
    for check in (["format", "--check"], ["check", "--select", "E,W,F401,F811,F841"]):
        command = [sys.executable, "-m", "ruff", *check, *rules, *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_examples_pass_their_tests_together(copy: Path) -> None:
    (copy / "results").symlink_to(ROOT / "results")
    for number, chapter in enumerate(CHAPTERS):
        extend(copy, chapter)
        tests = "\n".join(blocks(chapter, "python"))
        assert "\ndef test_" in tests
        (copy / f"test_{number}.py").write_text(tests, encoding="utf-8")
    is_copy = (
        f"import clrkit\n\ndef test_it_is():\n    assert clrkit.__path__ == [{str(copy / 'clrkit')!r}]\n"
    )
    (copy / "test_copy.py").write_text(is_copy, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PAGE.count('def test_') + 1} passed" in done.stdout

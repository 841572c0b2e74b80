from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from clrkit.errors import ConfigError
from clrkit.notebook.papermill import NotebookError, execute, notebooks

PARAMETERS = "preset = 'mini'\ntemperature = None\ninteractive = True"
# libzmq's race in a kernel that has answered all and is closing its sockets (zeromq/libzmq issue 3715)
ENDING_KERNEL = r"Assertion failed: pfd\.revents & POLLIN \(src/signaler\.cpp:\d+\)\n"


def write(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    """A notebook of code cells; the first one holds the parameters."""
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *sources)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def printed(path: Path) -> list[str]:
    """What the cells of an executed copy printed."""
    cells = nbformat.read(path, as_version=4).cells
    return [output.text for cell in cells for output in cell.get("outputs", []) if "text" in output]


@pytest.mark.slow
def test_an_executed_copy_has_results_and_no_trace_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CLRKIT_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    source = write(
        tmp_path / "00_a.ipynb",
        "import os\nresults = os.environ['CLRKIT_RESULTS']\nprint(os.path.basename(results))",
        "print(preset, temperature, interactive)",
    )
    copies = []
    for name in ("one", "two"):
        execute(source, Path(name) / "00_a.ipynb", {"preset": "smoke", "temperature": 0.1}, Path("results"))
        copies.append((tmp_path / name / "00_a.ipynb").read_text())
    assert printed(tmp_path / "one/00_a.ipynb") == ["results\n", "smoke 0.1 False\n"]
    assert copies[0] == copies[1]
    assert str(tmp_path) not in copies[0]
    assert "CLRKIT_RESULTS" not in os.environ
    out, errors = capfd.readouterr()
    assert (out, re.sub(ENDING_KERNEL, "", errors)) == ("", "")


def test_a_failing_cell_is_one_sentence_and_the_copy_shows_it(tmp_path: Path) -> None:
    source = write(tmp_path / "01_b.ipynb", "1 + 1", "raise ValueError('too hot.\\nsecond line')", "3")
    with pytest.raises(NotebookError) as caught:
        execute(source, tmp_path / "out/01_b.ipynb", {}, tmp_path)
    copy = tmp_path / "out/01_b.ipynb"
    assert str(caught.value) == f"01_b.ipynb failed in cell [4]: ValueError: too hot (see {copy})."
    assert "too hot" in copy.read_text()


@pytest.mark.slow
def test_a_kernel_that_dies_is_reported_with_the_notebook(tmp_path: Path) -> None:
    source = write(tmp_path / "01_b.ipynb", "import os\nos._exit(3)")
    with pytest.raises(NotebookError, match=r"01_b\.ipynb did not run to the end: .*died"):
        execute(source, tmp_path / "out.ipynb", {}, tmp_path)


def test_an_unknown_parameter_is_an_error_that_suggests_the_near_one(tmp_path: Path) -> None:
    source = write(tmp_path / "01_b.ipynb")
    message = r"Unknown parameter of 01_b\.ipynb 'temprature'; did you mean temperature\?"
    with pytest.raises(ConfigError, match=message):
        execute(source, tmp_path / "out.ipynb", {"temprature": 0.1}, tmp_path)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_copy_that_cannot_be_written_names_it(tmp_path: Path) -> None:
    source = write(tmp_path / "01_b.ipynb")
    (tmp_path / "file").touch()
    with pytest.raises(NotebookError, match=r"file/out\.ipynb cannot be written"):
        execute(source, tmp_path / "file/out.ipynb", {}, tmp_path)


def test_notebooks_are_found_by_number_and_in_order(tmp_path: Path) -> None:
    for name in ("10_c", "02_b", "notes"):
        write(tmp_path / f"{name}.ipynb")
    assert [path.name for path in notebooks(tmp_path)] == ["02_b.ipynb", "10_c.ipynb"]


def test_a_folder_without_notebooks_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="There are no numbered notebooks in"):
        notebooks(tmp_path)


# What is written into a notebook is a value, never code

HOSTILE = [
    "__import__('os').system('touch executed')",
    "'; import os; os.system('touch executed') #",
    '"; import os; os.system("touch executed") #',
    '"""\nimport os\nos.system("touch executed")\n"""',
    "\\",
    "\\'\\\"\\n",
    "a\nb\r\nc\td",
    "{preset} {0} {}",
    "%s %(x)s",
    "${HOME} $(touch executed) `touch executed`",
    "größe 大 \u2028 \x85 \x00",
    "",
]


def test_texts_arrive_as_they_are_and_are_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "{preset}").mkdir()
    source = write(tmp_path / "{preset}/00_a.ipynb", "import json\nprint(json.dumps([preset, temperature]))")
    given = {"preset": "\n".join(HOSTILE), "temperature": [*HOSTILE, 0.1, 3, True, None]}
    execute(source, tmp_path / "{0}/out.ipynb", given, tmp_path)
    (line,) = printed(tmp_path / "{0}/out.ipynb")
    assert json.loads(line) == list(given.values())
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"\xff", b'{"cells": 3}', b"[" * 99_999])
def test_a_file_that_is_not_a_notebook_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "01_b.ipynb").write_bytes(content)
    with pytest.raises(NotebookError, match=r"01_b\.ipynb is not a valid notebook: [^\n]*\.$"):
        execute(tmp_path / "01_b.ipynb", tmp_path / "out.ipynb", {}, tmp_path)
    assert not (tmp_path / "out.ipynb").exists()

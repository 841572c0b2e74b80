"""The labelling panel in a real JupyterLab, by mouse and keyboard: labels are on disk, a restart resumes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab_server import Lab, Notebook

from clrkit.own_images.example import digits
from clrkit.own_images.label_csv import add_rows, read_table

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip: .[ui])")
expect = sync_api.expect
pytestmark = pytest.mark.ui

CELL = """from pathlib import Path
from clrkit.notebook import controls, labelling_panel
from clrkit.own_images.label_csv import read_table
root = Path({root!r})
still = labelling_panel.proposals(root, read_table(root / "labels.csv"))
controls.show(labelling_panel.LabellingPanel(root, root / "labels.csv").box, still)"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Six digits to label in a folder with a blank in its name."""
    classes, _ = digits(tmp_path / "my digits", "smoke")
    rows = [{"file": name, "label": "", "part": "train"} for name in sorted(classes)[:6]]
    add_rows(tmp_path / "my digits" / "labels.csv", rows)
    return tmp_path / "my digits"


def given(own: Path) -> list[str]:
    return [row["label"] for row in read_table(own / "labels.csv")]


def opened(page: Any, lab: Lab, own: Path) -> Notebook:
    document = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL.format(root=str(own)))],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(document, lab.root / "labelling.ipynb")
    return Notebook(page, lab, "labelling.ipynb")


def test_images_are_labelled_by_keyboard_and_mouse_and_a_restart_resumes(
    page: Any, lab: Lab, own: Path, screenshot: Any
) -> None:
    book = opened(page, lab, own)
    book.run_all()
    progress, entry = page.locator(".clrkit-progress"), page.get_by_label("Class")
    expect(progress).to_contain_text("0 of 6 have labels")
    entry.focus()
    for done, text in enumerate(("zero", "one", "2"), start=1):
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        expect(progress).to_contain_text(f"{done} of 6 have labels")
    assert given(own)[:3] == ["zero", "one", "one"]
    page.locator("button.widget-button").filter(has_text=re.compile("zero")).click()
    expect(progress).to_contain_text("4 of 6 have labels")
    expect(page.locator(".clrkit-status")).to_have_attribute("role", "status")
    image = page.locator(".clrkit-image img")
    expect(image).to_have_attribute("alt", re.compile(r"^image \d+\.png$"))
    screenshot("labelling", page.locator(".jp-OutputArea-output").first)
    book.run_all(restart=True)
    expect(progress).to_contain_text("4 of 6 have labels")
    button = page.locator("button.widget-button").filter(has_text=re.compile("one"))
    button.focus()
    page.keyboard.press("Enter")
    expect(progress).to_contain_text("5 of 6 have labels")
    assert given(own) == ["zero", "one", "one", "zero", "one", ""]
    page.get_by_role("button", name="Back").click()
    expect(progress).to_contain_text("now one")

"""The notebooks and the ablation panel in a real JupyterLab."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab_server import Lab, Notebook

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip: .[ui])")
expect = sync_api.expect
pytestmark = pytest.mark.ui

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
Opener = Callable[..., Notebook]


def button(page: Any, name: str) -> Any:
    return page.locator("button.widget-button").filter(has_text=re.compile(name))


def status(page: Any) -> Any:
    return page.locator(".clrkit-status")


def figure(page: Any) -> str:
    """Address of the panel's picture: another one for every new picture."""
    return str(page.locator("img.clrkit-figure").get_attribute("src"))


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_opens_and_runs_cell_by_cell(notebook: Opener, name: str) -> None:
    outputs = notebook(name, preset="smoke").run_all()
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]


def test_a_slider_redraws_and_run_makes_the_missing_records(notebook: Opener, page: Any, lab: Lab) -> None:
    notebook("05_ablations", preset="smoke", temperature=0.3).run_all()
    before = figure(page)
    slider = page.get_by_role("slider").last
    slider.press("ArrowRight")
    expect(page.locator("img.clrkit-figure")).not_to_have_attribute("src", before)
    recorded = lab.records("finetune")
    button(page, "^Run the missing 2").click()
    expect(status(page)).to_have_text("Done.", timeout=60_000)
    expect(button(page, "Nothing is missing")).to_be_disabled()
    assert len(lab.records("finetune")) == len(recorded) + 2


def test_stop_stops_and_the_kernel_restarts(notebook: Opener, page: Any, lab: Lab) -> None:
    book = notebook("05_ablations", preset="mini", temperature=0.3)  # a value the reference does not have
    book.run_all()
    page.get_by_role("slider").last.press("ArrowRight")
    button(page, "^Run the missing").click()
    expect(status(page)).to_contain_text("run 1 of", timeout=30_000)
    pressed = time.monotonic()
    button(page, "^Stop$").click()
    expect(status(page)).to_contain_text("Stopped", timeout=2_000)
    assert time.monotonic() - pressed < 2
    assert list(lab.results.glob("mini/runs/pretrain-*.partial/state"))
    book.run_all(restart=True)
    page.get_by_role("slider").last.press("ArrowRight")
    expect(button(page, "^Run the missing")).to_be_enabled()

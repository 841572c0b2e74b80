"""The ablation lab in a real JupyterLab: with the mouse and with the keyboard alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from lab_server import Lab, Notebook, Screenshot

from clrkit.experiments.ablation_settings import FACTORS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip: .[ui])")
expect = sync_api.expect
pytestmark = pytest.mark.ui

Opener = Callable[..., Notebook]
NAMED = re.compile(r"\w")
LIVE = 'img[alt*="images/s"]'


def panel(page: Any) -> Any:
    return page.locator(".jp-Cell-outputArea").filter(has=page.locator(".clrkit-slider"))


def figure(page: Any) -> Any:
    """The picture of own records; every new one has another `src`."""
    return panel(page).locator("img.clrkit-figure").first


def slider(page: Any, name: str) -> Any:
    return panel(page).get_by_role("slider", name=name, exact=True)


def button(page: Any, name: str) -> Any:
    return panel(page).get_by_role("button", name=re.compile(name))


def status(page: Any) -> Any:
    """The status line of training; the one before it reports damaged records."""
    return panel(page).get_by_role("status").last


def seconds_until_redrawn(page: Any, act: Callable[[], None]) -> float:
    before, begun = figure(page).get_attribute("src"), time.monotonic()
    act()
    expect(figure(page)).not_to_have_attribute("src", before)
    return time.monotonic() - begun


def test_a_slider_redraws_and_run_trains_the_missing_runs_once(
    notebook: Opener, page: Any, lab: Lab, screenshot: Screenshot
) -> None:
    book = notebook("05_ablations", preset="smoke", temperature=0.3)
    book.run_all()
    seconds_until_redrawn(page, lambda: slider(page, "A temperature").press("ArrowRight"))
    seconds_until_redrawn(page, lambda: panel(page).get_by_label("compare A with B").check())
    seconds_until_redrawn(page, lambda: slider(page, "B temperature").press("End"))
    expect(figure(page)).to_have_attribute("alt", re.compile("A: temperature 0.3.*B: temperature 0.5"))
    seconds_until_redrawn(page, lambda: panel(page).get_by_label("compare A with B").uncheck())

    recorded = lab.records("finetune")
    button(page, "^Run the missing 2").click()
    expect(panel(page).locator(LIVE)).to_be_visible(timeout=30_000)
    expect(status(page)).to_have_text("Done.", timeout=60_000)
    expect(button(page, "Nothing is missing")).to_be_disabled()
    made = lab.records("finetune")
    assert len(made) == len(recorded) + 2

    times = {path: path.stat().st_mtime_ns for path in made}
    book.run_all(restart=True)
    seconds_until_redrawn(page, lambda: slider(page, "A temperature").press("ArrowRight"))
    expect(button(page, "Nothing is missing")).to_be_disabled()  # finished runs are found again
    assert {path: path.stat().st_mtime_ns for path in lab.records("finetune")} == times


def test_every_control_has_a_name_and_can_be_used_by_keyboard(
    notebook: Opener, page: Any, lab: Lab, screenshot: Screenshot
) -> None:
    book = notebook(
        "05_ablations", preset="mini", temperature=0.3
    )  # a value that the reference does not have
    book.run_all()
    for role in ("combobox", "checkbox", "slider", "button"):
        for control in panel(page).get_by_role(role).all():
            expect(control).to_have_accessible_name(NAMED)
    assert all(image.get_attribute("alt") for image in panel(page).get_by_role("img").all())
    screenshot("lab", panel(page))

    # From the first control on, by Tab.
    page.get_by_label("outcome").focus()
    page.keyboard.press("Tab")
    page.keyboard.type("temperature")  # chooses the axis
    expect(figure(page)).to_have_attribute("alt", re.compile("by temperature"))
    for name in ("compare A with B", *(f"A {setting.name}" for setting in FACTORS.values())):
        page.keyboard.press("Tab")
        expect(page.locator("*:focus")).to_have_accessible_name(name)
        if name == "compare A with B":
            seconds_until_redrawn(page, lambda: page.keyboard.press("Space"))
    page.keyboard.press("Tab")
    seconds_until_redrawn(page, lambda: page.keyboard.press("ArrowRight"))
    expect(slider(page, "B label fraction")).to_have_attribute("aria-valuetext", "10%")
    screenshot("lab_compare", panel(page))
    for _ in FACTORS:
        page.keyboard.press("Tab")
    expect(page.locator("*:focus")).to_have_accessible_name(re.compile(r"^Run the missing \d+, about"))
    page.keyboard.press("Enter")
    expect(panel(page).locator(LIVE)).to_be_visible(timeout=30_000)
    expect(status(page)).to_contain_text("run 1 of")
    expect(panel(page).locator(LIVE)).to_have_attribute("alt", re.compile("kNN accuracy"), timeout=60_000)
    screenshot("lab_training", panel(page))

    page.keyboard.press("Tab")
    expect(page.locator("*:focus")).to_have_accessible_name("Stop")
    pressed = time.monotonic()
    page.keyboard.press("Space")
    expect(status(page)).to_contain_text("Stopped", timeout=2_000)
    assert time.monotonic() - pressed < 2
    (state,) = lab.results.glob("mini/runs/pretrain-*.partial/state")

    # A kernel that is closed while it trains leaves a later state, and the panel works again.
    button(page, "^Run the missing").press("Enter")
    expect(status(page)).to_contain_text("run 1 of", timeout=30_000)
    expect(panel(page).locator(LIVE)).to_be_visible(timeout=30_000)
    saved = state.stat().st_mtime_ns
    book.run_all(restart=True)
    assert state.stat().st_mtime_ns > saved
    panel(page).get_by_label("horizontal axis").select_option("temperature")
    expect(button(page, "^Run the missing")).to_be_enabled()

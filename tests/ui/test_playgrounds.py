"""The playgrounds in a real JupyterLab: by keyboard, by pointer, and the map without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from lab_server import Lab, Notebook

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip: .[ui])")
expect = sync_api.expect
pytestmark = pytest.mark.ui

Opener = Callable[..., Notebook]
Screenshot = Callable[[str, Any], Any]
PANEL = "application/vnd.jupyter.widget-view+json"
HELD = 'div[id^="still-"]'  # the picture that stands where JupyterLab would have an error


def panel_of(page: Any, control: Any) -> Any:
    """The playground that a control is in."""
    return page.locator(".clrkit-panel").filter(has=control)


def move(page: Any, slider: Any) -> None:
    """Press a key: the picture changes, and the text below is its alt text."""
    figure = panel_of(page, slider).locator("img.clrkit-figure")
    before, text = figure.get_attribute("src"), figure.get_attribute("alt")
    slider.press("ArrowRight")
    expect(figure).not_to_have_attribute("src", before)
    expect(figure).not_to_have_attribute("alt", text)
    expect(panel_of(page, slider).get_by_role("status")).to_have_text(figure.get_attribute("alt"))


def point_at_the_map(page: Any) -> Any:
    """Only the image pointed at and its six neighbours are shown; returns the map."""
    plane = page.frame_locator("iframe[title*='images in the plane']").locator("svg")
    expect(plane.locator(".hint")).to_be_visible()
    plane.locator(".point > circle").last.hover()  # which no other covers
    expect(plane.locator(".card:visible use")).to_have_count(7)
    expect(plane.locator(".hint")).to_be_hidden()
    return plane


def test_the_playgrounds_of_pretraining_follow_keyboard_and_pointer(
    notebook: Opener, page: Any, lab: Lab, screenshot: Screenshot
) -> None:
    book = notebook("01_pretrain", preset="smoke")
    shown = [output for output in book.run_all() if "data" in output]
    names = ("colour strength", "blur half", "temperature", "query image")
    sliders = {name: page.get_by_role("slider", name=name) for name in names}
    for slider in sliders.values():
        move(page, slider)
    views = panel_of(page, sliders["colour strength"])
    before = views.locator("img.clrkit-figure").get_attribute("src")
    page.get_by_role("button", name="Draw again").press("Enter")
    expect(views.locator("img.clrkit-figure")).not_to_have_attribute("src", before)
    screenshot("augmentation", views)
    screenshot("nt-xent", panel_of(page, sliders["temperature"]))
    screenshot("embedding-map", point_at_the_map(page))
    assert not page.locator(f"{HELD}:visible").count()
    # What was saved has pictures in place of panels, and the map, without the kernel that made them.
    assert book.command("docmanager:save")["ok"]
    assert book.command("kernelmenu:shutdown")["ok"]
    saved = Notebook(page, lab, "01_pretrain.ipynb")
    expect(page.locator(f"{HELD}:visible")).to_have_count(sum(PANEL in each["data"] for each in shown))
    expect(page.get_by_text("Error displaying widget").filter(visible=True)).to_have_count(0)
    for held in page.locator(HELD).all():
        assert held.get_attribute("aria-label")
        assert held.bounding_box()["height"] > 100
    screenshot("saved", page)
    assert saved.command("kernelmenu:shutdown")["ok"]
    plane = point_at_the_map(page)
    plane.locator(".point > circle").last.click()
    page.mouse.move(0, 0)
    expect(plane.locator(".card:visible")).to_have_count(1)
    # A copy is not trusted: no widget, no frame, no style; one picture each, the map's among them.
    document = nbformat.read(lab.root / "01_pretrain.ipynb", as_version=4)
    document.cells[0].source += " (a copy)"
    nbformat.write(document, lab.root / "copy.ipynb")
    Notebook(page, lab, "copy.ipynb")
    pictures = page.locator(".jp-RenderedImage:visible, .clrkit-map img:visible")
    expect(pictures).to_have_count(sum("image/png" in each["data"] for each in shown))
    expect(page.locator(f"{HELD}:visible")).to_have_count(0)
    expect(page.get_by_text("VBox(")).to_have_count(0)


def test_teacher_and_student_follow_the_temperature(
    notebook: Opener, page: Any, screenshot: Screenshot
) -> None:
    notebook("03_distill", preset="smoke").run_all()
    for name in ("image", "temperature"):
        move(page, page.get_by_role("slider", name=name))
    screenshot("teacher-and-student", panel_of(page, page.get_by_role("slider", name="temperature")))

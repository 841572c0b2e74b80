"""The reference's report page in Chromium: on a phone and a screen, in the light, the dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clrkit.experiments.presets import preset
from clrkit.results import claims, figures, style
from clrkit.results import records as run_records
from clrkit.results.comparison import compare
from clrkit.results.report import Report, write_report
from clrkit.runs.reproduce import complete
from clrkit.runs.store import Store

pytestmark = pytest.mark.ui

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True}
SCREEN = {"viewport": {"width": 1280, "height": 900}}
SMALLEST_TEXT = 14  # pixels
CONTRAST = 4.5  # WCAG 2, AA
A4 = 673  # pixels between the margins

# Every element with text of its own: the text's size, and its contrast with what lies behind it.
TEXTS = """() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = channels(color).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const color = getComputedStyle(element).backgroundColor;
    return channels(color)[3] === 0 ? behind(element.parentElement) : color;
  };
  const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll('body *')].filter(own).filter(e => e.offsetParent).map(element => {
    const style = getComputedStyle(element);
    const [low, high] = [luminance(style.color), luminance(behind(element))].sort((a, b) => a - b);
    return {text: element.textContent.slice(0, 40), size: parseFloat(style.fontSize),
            contrast: (high + 0.05) / (low + 0.05)};
  });
}"""
# What reaches beyond the right edge, outside of boxes that scroll by themselves.
BEYOND = """() => [...document.querySelectorAll('body *')]
  .filter(e => e.parentElement.closest('.scroll, .paper') === null)
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 80))"""
WIDTHS = """() => [...document.images].map(
  image => [image.naturalWidth, image.getBoundingClientRect().right, image.closest('figure').clientWidth])"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed reference, compared with itself."""
    home = tmp_path_factory.mktemp("report")
    (home / "figures").mkdir()
    recorded = Store(REFERENCE, "mini").find_all(complete(preset("mini").runs))
    runs = run_records.records_to_frame((run.record for run in recorded), preset("mini"))
    drawings, missing = figures.draw_all(runs, "mini")
    for each in drawings:
        (home / "figures" / f"{each.name}.svg").write_bytes(style.encode(each.figure, "svg"))
    shown = Report(
        preset="mini",
        source="own runs",
        runs=runs,
        claims=claims.evaluate(runs, preset("mini")),
        drawings=drawings,
        figures=home / "figures",
        missing=missing,
        comparison=compare(runs, runs),
    )
    write_report(home / "report.html", shown)
    return home / "report.html"


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Any]:
    """Opens the page in a context of its own; it must ask for nothing and complain of nothing."""
    contexts, asked, said = [], set(), []

    def open_page(**settings: Any) -> Any:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("request", lambda sent: asked.add(sent.url.partition(",")[0]))
        page.on("console", lambda message: said.append(message.text))
        page.goto(report.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked <= {report.as_uri(), "data:image/svg+xml"}
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, SCREEN], ids=["phone", "screen"])
def test_the_page_is_readable(opened: Any, screenshot: Any, device: dict[str, Any], scheme: str) -> None:
    page = opened(**device, color_scheme=scheme)
    width = page.evaluate("document.documentElement.clientWidth")
    assert width == device["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(BEYOND) == []
    texts = page.evaluate(TEXTS)
    assert len(texts) > 500
    assert [each for each in texts if each["size"] < SMALLEST_TEXT] == []
    assert [each for each in texts if each["contrast"] < CONTRAST] == []
    pictures = page.evaluate(WIDTHS)
    assert len(pictures) >= 8
    assert all(natural and right <= width and inner <= width for natural, right, inner in pictures)
    white = "rgb(255, 255, 255)"
    assert page.locator(".paper").first.evaluate("e => getComputedStyle(e).backgroundColor") == white
    screenshot(f"report-{width}-{scheme}", page)


def test_a_figure_is_made_larger_by_a_tap_and_by_keyboard_in_a_box_of_its_own(opened: Any) -> None:
    page = opened(**PHONE, has_touch=True)
    figure = page.locator("figure").nth(1)
    image, before = figure.locator("img"), figure.locator("img").bounding_box()["width"]
    image.tap()
    assert image.bounding_box()["width"] > 2 * before
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    figure.get_by_role("checkbox").press("Space")
    assert image.bounding_box()["width"] == before


def test_the_page_fits_on_paper_with_all_that_was_folded(opened: Any, report: Path) -> None:
    page = opened(viewport={"width": A4, "height": 900}, color_scheme="dark")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == A4
    assert page.evaluate(BEYOND) == []
    overflowing = "e => e.scrollWidth > e.clientWidth"
    assert [box for box in page.locator(".scroll").all() if box.evaluate(overflowing)] == []
    assert page.locator("nav").is_hidden()
    assert page.locator("details").first.locator("li").first.is_visible()
    assert page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"

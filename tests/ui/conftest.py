"""A separate JupyterLab, driven in Chromium. Skipped if Playwright or the browser is missing.

JupyterLab serves 127.0.0.1 behind a token, in a folder of the test's; nothing else is asked of the network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab_server import Lab, Notebook, Screenshot

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
Opener = Callable[..., Notebook]
REPORTS = pytest.StashKey[list[Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("clrkit").addoption(
        "--screenshots", metavar="DIR", type=Path, help="keep the browser tests' pictures here"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    item.stash.setdefault(REPORTS, []).append(report)
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip: .[ui])")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=found, args=ARGUMENTS)


@pytest.fixture(scope="session")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.wait()
        yield lab
    finally:
        lab.close()


@pytest.fixture
def page(browser: Any, lab: Lab, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A tall page in a new context; the report of a failed test shows what the browser saw."""
    context = browser.new_context(viewport={"width": 1280, "height": 2400})
    page = context.new_page()
    events: list[str] = []
    hosts: set[str] = set()
    page.set_default_timeout(20_000)
    page.on("console", lambda said: events.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: events.append(f"page error: {error}"))
    page.on("request", lambda sent: hosts.add(sent.url.split("/")[2]) if "//" in sent.url[:8] else None)
    yield page
    for report in [each for each in request.node.stash.get(REPORTS, []) if each.failed]:
        page.screenshot(path=tmp_path / "failure.png")
        events += [f"screenshot: {tmp_path / 'failure.png'}"]
        report.sections += [("browser", "\n".join(events)), ("server log", lab.log.read_text()[-3000:])]
    for session in context.request.get(f"{lab.url}/api/sessions", headers=lab.headers).json():
        context.request.delete(f"{lab.url}/api/sessions/{session['id']}", headers=lab.headers)
    context.close()
    assert hosts <= {lab.url.removeprefix("http://")}, f"the page asked {hosts}"


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Screenshot:
    """`screenshot(name, page_or_locator)` keeps a picture, in --screenshots or the test's own folder."""
    folder: Path = request.config.getoption("--screenshots", None) or tmp_path

    def keep(name: str, shown: Any) -> Path:
        path = folder / f"{name}.png"
        shown.screenshot(path=path)  # makes the folder
        return path

    return keep


@pytest.fixture
def notebook(page: Any, lab: Lab) -> Iterator[Opener]:
    """Opens one of the notebooks with parameters of the test's."""

    def opened(name: str, **parameters: Any) -> Notebook:
        document = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        tagged = [cell.metadata.get("tags") == ["parameters"] for cell in document.cells].index(True)
        lines = [f"{parameter} = {value!r}" for parameter, value in parameters.items()]
        document.cells[tagged].source += "\n" + "\n".join(lines)
        nbformat.write(document, lab.root / f"{name}.ipynb")
        return Notebook(page, lab, f"{name}.ipynb")

    yield opened
    assert page.evaluate("() => window.callbackErrors ?? []") == []

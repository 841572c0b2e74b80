"""Controls: texts are escaped, panels have a static picture. (tests/ui checks their names in a browser.)"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from html import unescape
from html.parser import HTMLParser
from typing import Any

import ipywidgets as w
import pytest
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

from clrkit.notebook import controls
from clrkit.notebook.illustrations import Picture

HOSTILE = """<b>"a" & 'b'</b>"""


class Images(HTMLParser):
    """The attributes of the images in a piece of HTML, which holds nothing else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag == "img"
        self.found.append(dict(attributes))


def test_a_figure_is_an_image_with_alt_text() -> None:
    (image,) = Images(controls.figure(b"\x89PNG", HOSTILE)).found
    source = image["src"] or ""
    assert image["alt"] == HOSTILE
    assert b64decode(source.removeprefix("data:image/png;base64,")) == b"\x89PNG"


def test_the_text_of_a_status_line_is_escaped() -> None:
    line = controls.status()
    controls.say(line, HOSTILE)
    assert "<b>" not in line.value


@pytest.mark.parametrize("make", [controls.slider, controls.choice])
def test_a_control_has_the_values_of_its_options(make: Any) -> None:
    control = make("label fraction", [("1%", 0.01), ("10%", 0.1)], 0.1)
    assert (control.description, control.label, control.value) == ("label fraction", "10%", 0.1)


PICTURE = Picture(Figure(figsize=(1, 1)), HOSTILE)
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What is sent to the notebook: bundles of an output's forms, and their metadata."""
    sent: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def display(data: dict[str, Any], *, metadata: dict[str, Any] | None = None, raw: bool) -> None:
        assert raw
        sent.append((data, metadata or {}))

    monkeypatch.setattr(controls, "display", display)
    return sent


def test_a_panel_is_displayed_with_its_static_picture(displayed: Any) -> None:
    controls.show(w.HTML("x"), PICTURE)
    (data, metadata), _ = displayed
    assert set(data) == {WIDGET, "image/png", "text/plain"}
    assert b64decode(data["image/png"]) == PICTURE.png()
    assert data["text/plain"] == HOSTILE
    assert metadata["image/png"] == {"width": 96, "height": 96, "alt": HOSTILE}


def test_a_panel_is_displayed_with_the_script_that_names_its_sliders(displayed: Any) -> None:
    panel = controls.status()
    controls.show(panel, PICTURE)
    model = displayed[0][0][WIDGET]["model_id"]
    shown = w.widget_serialization["from_json"](f"IPY_MODEL_{model}", None)
    first, inner = shown.children
    assert first is panel
    script = inner.outputs[0]["data"]["application/javascript"]
    assert all(f".{name}" in script for name in (controls.PANEL, controls.SLIDER, controls.STATUS))
    assert controls.PANEL in panel._dom_classes
    assert controls.SLIDER in controls.slider("a", [("1", 1)], 1)._dom_classes
    assert controls.STATUS in panel._dom_classes


def test_the_second_output_of_a_panel_is_empty_if_styles_are_removed(displayed: Any) -> None:
    controls.show(w.HTML("x"), PICTURE)
    (data, _) = displayed[1]
    left = re.sub("<style>.*</style>", "", data["text/html"])
    assert re.fullmatch(r'<div id="still-\w+" role="img" aria-label="([^"<>]*)"></div>', left)
    assert unescape(left).count(HOSTILE) == 1
    assert data["text/plain"] == ""


def test_an_html_export_of_a_saved_panel_has_its_picture_once(displayed: Any) -> None:
    controls.show(w.HTML("x"), PICTURE)
    saved = [new_output("display_data", data=data, metadata=about) for data, about in displayed]
    page, _ = HTMLExporter().from_notebook_node(new_notebook(cells=[new_code_cell("", outputs=saved)]))
    body = re.sub("<style.*?</style>", "", page, flags=re.S)
    assert re.findall('src="data:image/png;base64,([^"]*)"', body) == [b64encode(PICTURE.png()).decode()]
    assert "widget-view" not in body


class Shell:
    """Stands for a kernel's shell; `asked` is the content of the request that is being answered."""

    def __init__(self, **asked: Any) -> None:
        self.asked = asked

    def get_parent(self) -> dict[str, Any]:
        return {"content": self.asked}


@pytest.mark.parametrize(
    ("shell", "somebody"),
    [
        (Shell(code="1", allow_stdin=True), True),
        (Shell(code="1", allow_stdin=False), False),
        (Shell(code="1"), False),
        (None, False),
    ],
)
def test_a_notebook_is_attended_if_its_requests_allow_input(
    monkeypatch: pytest.MonkeyPatch, shell: Any, somebody: bool
) -> None:
    monkeypatch.setattr(controls, "get_ipython", lambda: shell)
    assert controls.attended() is somebody

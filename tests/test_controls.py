"""Controls: what they say is text, not markup. (tests/ui looks at their names in a browser.)"""

from __future__ import annotations

from base64 import b64decode
from html.parser import HTMLParser
from typing import Any

import pytest

from clrkit import controls

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


def test_a_figure_is_an_image_with_its_sentence() -> None:
    (image,) = Images(controls.figure(b"\x89PNG", HOSTILE)).found
    source = image["src"] or ""
    assert image["alt"] == HOSTILE
    assert b64decode(source.removeprefix("data:image/png;base64,")) == b"\x89PNG"


def test_what_a_status_says_is_no_markup() -> None:
    line = controls.status()
    controls.say(line, HOSTILE)
    assert "<b>" not in line.value


@pytest.mark.parametrize("make", [controls.slider, controls.choice])
def test_a_control_has_the_values_behind_its_options(make: Any) -> None:
    control = make("label fraction", [("1%", 0.01), ("10%", 0.1)], 0.1)
    assert (control.description, control.label, control.value) == ("label fraction", "10%", 0.1)


def test_a_panel_is_shown_with_the_names_of_its_sliders(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(controls, "display", lambda *each: shown.extend(each))
    panel = controls.status()
    controls.show(panel)
    first, script = shown
    assert first is panel
    assert all(f".{name}" in script.data for name in (controls.PANEL, controls.SLIDER, controls.STATUS))
    assert controls.PANEL in panel._dom_classes
    assert controls.SLIDER in controls.slider("a", [("1", 1)], 1)._dom_classes
    assert controls.STATUS in panel._dom_classes

"""What all panels share: controls with names for screen readers, and a static picture beside the widget."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any, Protocol, runtime_checkable

import ipywidgets as w
from IPython import get_ipython
from IPython.display import display

# Layouts are dicts: a Layout made on import would leave its widget state in every executed notebook.
CONTROL: dict[str, Any] = {"layout": {"width": "380px"}, "style": {"description_width": "150px"}}
PANEL, SLIDER, STATUS = "clrkit-panel", "clrkit-slider", "clrkit-status"

# In ipywidgets a slider's handle has no name and no value text, its readout is a second Tab stop, and no
# element has a role. JupyterLab takes letters typed in a list for shortcuts, such as A for a new cell. The
# observer also sees what is drawn later; one per page is enough.
NAMING = f"""
if (!window.clrkitNaming) {{
  const set = (element, values) => {{
    for (const [name, value] of Object.entries(values))
      if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
  }};
  const name = () => {{
    for (const slider of document.querySelectorAll('.{SLIDER}')) {{
      const [label, text] = ['label', '.widget-readout'].map(part => slider.querySelector(part));
      const off = String(!!slider.querySelector('[disabled]'));
      const named = {{'aria-label': label?.textContent, 'aria-disabled': off}};
      set(slider.querySelector('.noUi-handle'), {{...named, 'aria-valuetext': text?.textContent}});
      set(text, {{tabindex: '-1'}});
    }}
    for (const line of document.querySelectorAll('.{STATUS}')) set(line, {{role: 'status'}});
    const quiet = {{'data-lm-suppress-shortcuts': 'true'}};
    const focused = '.{PANEL} :is(select, input, button, [tabindex])';
    for (const control of document.querySelectorAll(focused)) set(control, quiet);
  }};
  window.clrkitNaming = new MutationObserver(name);
  const changes = {{childList: true, characterData: true, attributeFilter: ['aria-valuetext', 'disabled']}};
  window.clrkitNaming.observe(document.body, {{...changes, subtree: true}});
  name();
}}
"""


@runtime_checkable
class Still(Protocol):
    """A static picture with alt text, such as `Picture` and `FigureWithData`."""

    @property
    def alt(self) -> str: ...

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]: ...


def attended() -> bool:
    """Whether a person can use widgets: Papermill and nbconvert send requests that do not allow input."""
    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(request.get("content", {}).get("allow_stdin", False))


def show(panel: w.DOMWidget, still: Still) -> None:
    """Display a panel with names for screen readers, and its static picture in the same output.

    A widget needs a kernel; a notebook that is saved, exported to HTML or opened on GitHub shows the picture.
    The script is inside the panel, so it is not saved.
    """
    panel.add_class(PANEL)
    script = {"output_type": "display_data", "data": {"application/javascript": NAMING}, "metadata": {}}
    shown = w.VBox([panel, w.Output(outputs=(script,))])
    png, about = still._repr_png_()
    picture = {"image/png": b64encode(png).decode(), "text/plain": still.alt}
    display(shown._repr_mimebundle_() | picture, metadata={"image/png": about}, raw=True)
    fallback = in_place_of_an_error(shown.model_id, picture["image/png"], about)
    display({"text/html": fallback, "text/plain": ""}, raw=True)


def in_place_of_an_error(name: str, png: str, about: dict[str, Any]) -> str:
    """HTML with the picture that replaces JupyterLab's error about a panel without a kernel.

    In a trusted notebook JupyterLab tries to show the widget, even if the kernel has ended and the output
    holds a picture. The HTML shows nothing elsewhere, and is an empty element if styles are removed.

    Args:
        name: identifier of the widget.
        png: the picture in base64.
        about: its width, height and alt text.
    """
    failed = f".jp-OutputArea-child:has(.jupyter-widgets):not(:has(.{PANEL}))"
    image = f"url(data:image/png;base64,{png}) left / contain no-repeat"
    size = f"max-width: 100%; width: {about['width']}px; aspect-ratio: {about['width']} / {about['height']}"
    return (
        f"<style>#still-{name} {{ display: none }} {failed}:has(+ * #still-{name}) {{ display: none }} "
        f"{failed} + * #still-{name} {{ display: block; {size}; background: {image} }}</style>"
        f'<div id="still-{name}" role="img" aria-label="{escape(about["alt"])}"></div>'
    )


def figure(png: bytes, alt: str) -> str:
    """HTML image with alt text, for a `w.HTML`: the Image widget has no alt text."""
    content = b64encode(png).decode()
    return (
        f'<img class="clrkit-figure" style="max-width: 100%" alt="{escape(alt)}" '
        f'src="data:image/png;base64,{content}">'
    )


def slider(name: str, options: Sequence[tuple[str, Any]], value: Any) -> w.SelectionSlider:
    """A slider over the given options, pairs of text and value."""
    made = w.SelectionSlider(options=options, value=value, description=name, tooltip=name, **CONTROL)
    made.add_class(SLIDER)
    return made


def choice(name: str, options: Sequence[tuple[str, Any]], value: Any) -> w.Dropdown:
    """A drop-down list of the given options, pairs of text and value."""
    return w.Dropdown(options=options, value=value, description=name, tooltip=name, **CONTROL)


def status() -> w.HTML:
    """A line of text; screen readers announce it when `say` changes it."""
    made = w.HTML()
    made.add_class(STATUS)
    return made


def say(status: w.HTML, text: str) -> None:
    """Change the text of a status line."""
    status.value = escape(text)

"""What every panel shares: controls that work by keyboard and are named for screen readers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any, Protocol, runtime_checkable

import ipywidgets as w
from IPython import get_ipython
from IPython.display import display

# Layouts are dicts: a widget made on import would leave its state in every executed notebook.
CONTROL: dict[str, Any] = {"layout": {"width": "380px"}, "style": {"description_width": "150px"}}
PANEL, SLIDER, STATUS = "clrkit-panel", "clrkit-slider", "clrkit-status"

# ipywidgets gives a slider's handle neither a name nor the text of its value, makes a second stop for Tab of
# that text, and gives no element a role. JupyterLab takes letters that are typed to choose from a list for
# shortcuts, such as A for a new cell. The observer sees what is drawn later too; one is enough for a page.
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
    """What a panel shows where nobody can move it: a picture, and the sentence for who cannot see it."""

    @property
    def alt(self) -> str: ...

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]: ...


def attended() -> bool:
    """Whether somebody is at this notebook who could move a panel.

    Papermill and nbconvert say in every request that nobody can be asked for input; JupyterLab and others
    with a person before them do not.
    """
    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(request.get("content", {}).get("allow_stdin", False))


def show(panel: w.DOMWidget, still: Still) -> None:
    """Display a panel, with names that screen readers can tell, and keys that stay in it.

    Its picture goes with it in the same output: a widget needs a kernel, and a notebook that was saved,
    exported to HTML or opened on GitHub has none. The script is inside the panel, so it is not saved.
    """
    panel.add_class(PANEL)
    script = {"output_type": "display_data", "data": {"application/javascript": NAMING}, "metadata": {}}
    shown = w.VBox([panel, w.Output(outputs=(script,))])
    png, about = still._repr_png_()
    picture = {"image/png": b64encode(png).decode(), "text/plain": still.alt}
    display(shown._repr_mimebundle_() | picture, metadata={"image/png": about}, raw=True)
    display({"text/html": in_place_of_an_error(still, shown.model_id), "text/plain": ""}, raw=True)


def in_place_of_an_error(still: Still, name: str) -> str:
    """HTML that shows the picture where JupyterLab has an error in place of a panel, and nothing elsewhere.

    Of a notebook that is trusted JupyterLab tries to show the widget, whatever else an output holds, and
    after the kernel's end it finds none. Where styles are taken out, an empty element is left.
    """
    png, about = still._repr_png_()
    failed = f".jp-OutputArea-child:has(.jupyter-widgets):not(:has(.{PANEL}))"
    image = f"url(data:image/png;base64,{b64encode(png).decode()}) left / contain no-repeat"
    size = f"max-width: 100%; width: {about['width']}px; aspect-ratio: {about['width']} / {about['height']}"
    return (
        f"<style>#still-{name} {{ display: none }} {failed}:has(+ * #still-{name}) {{ display: none }} "
        f"{failed} + * #still-{name} {{ display: block; {size}; background: {image} }}</style>"
        f'<div id="still-{name}" role="img" aria-label="{escape(still.alt)}"></div>'
    )


def figure(png: bytes, alt: str) -> str:
    """An `<img>` with alt text, for the value of a `w.HTML`: ipywidgets' Image has no alt text."""
    content = b64encode(png).decode()
    return (
        f'<img class="clrkit-figure" style="max-width: 100%" alt="{escape(alt)}" '
        f'src="data:image/png;base64,{content}">'
    )


def slider(name: str, options: Sequence[tuple[str, Any]], value: Any) -> w.SelectionSlider:
    """A slider that stops at the options, pairs of text and value, and nowhere else."""
    made = w.SelectionSlider(options=options, value=value, description=name, tooltip=name, **CONTROL)
    made.add_class(SLIDER)
    return made


def choice(name: str, options: Sequence[tuple[str, Any]], value: Any) -> w.Dropdown:
    """A list to choose from; options are pairs of text and value."""
    return w.Dropdown(options=options, value=value, description=name, tooltip=name, **CONTROL)


def status() -> w.HTML:
    """A line of text that screen readers announce when `say` changes it."""
    made = w.HTML()
    made.add_class(STATUS)
    return made


def say(status: w.HTML, text: str) -> None:
    """Change what a status line says."""
    status.value = escape(text)

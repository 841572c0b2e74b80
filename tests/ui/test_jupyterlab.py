"""Every notebook in a real JupyterLab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lab_server import Notebook

pytestmark = pytest.mark.ui

PANEL = "application/vnd.jupyter.widget-view+json"
PANELS = {"01_pretrain": 3, "03_distill": 1, "05_ablations": 1, "07_your_images": 1}
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
Opener = Callable[..., Notebook]


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_runs_cell_by_cell_and_every_panel_has_its_picture(notebook: Opener, name: str) -> None:
    outputs = notebook(name, preset="smoke").run_all()
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(output["metadata"]["image/png"]["alt"] for output in pictures)
    assert sum(PANEL in output["data"] for output in pictures) == PANELS.get(name, 0)
    assert sum(PANEL in output.get("data", {}) for output in outputs) == PANELS.get(name, 0)
    texts = ["".join(output["data"]["text/plain"]) for output in outputs if "data" in output]
    assert not [text for text in texts if text.startswith("VBox(") or "Javascript object" in text]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]

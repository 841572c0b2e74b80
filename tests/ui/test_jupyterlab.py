"""Every notebook in a real JupyterLab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lab_server import Notebook

pytestmark = pytest.mark.ui

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
Opener = Callable[..., Notebook]


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_opens_and_runs_cell_by_cell(notebook: Opener, name: str) -> None:
    outputs = notebook(name, preset="smoke").run_all()
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]

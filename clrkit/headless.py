"""Papermill, made strict: notebooks run one after another, each in a kernel of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from clrkit.config import ConfigError, known

RESULTS_VARIABLE = "CLRKIT_RESULTS"  # tells a notebook's kernel where results are


class NotebookError(ConfigError):
    """A notebook that cannot be run; the message names it and says why in one sentence."""


def notebooks(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in their order."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise NotebookError(f"There are no numbered notebooks in {folder}.")
    return found


def execute(source: Path, target: Path, parameters: Mapping[str, Any], results: Path) -> None:
    """Run a notebook headless and store the executed copy.

    Args:
        source: the notebook, without outputs.
        target: where the executed copy goes; it is written there when it fails, too.
        parameters: values for its `parameters` cell.
        results: folder of results that its runs read and write.

    Raises:
        NotebookError: for a parameter the notebook does not have, or a cell that fails.
    """
    names = list(papermill.inspect_notebook(str(source)))
    for name in parameters:
        known(name, names, f"parameter of {source.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(RESULTS_VARIABLE)
    os.environ[RESULTS_VARIABLE] = str(results.resolve())
    try:
        papermill.execute_notebook(
            str(source), str(target), dict(parameters), progress_bar=False, kernel_name="python3"
        )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{source.name} failed in cell {error.cell_index}: {error.ename}: {error.evalue} (see {target})."
        ) from None
    finally:
        os.environ.pop(RESULTS_VARIABLE)
        if before is not None:
            os.environ[RESULTS_VARIABLE] = before


def execute_all(folder: Path, target: Path, preset: str, results: Path) -> Iterator[Path]:
    """Run every numbered notebook of a folder with a preset; yields each executed copy."""
    for source in notebooks(folder):
        execute(source, target / source.name, {"preset": preset}, results)
        yield target / source.name

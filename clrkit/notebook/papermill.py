"""Run notebooks headless with Papermill, and refuse unknown parameters before anything runs.

Papermill itself only warns of an unknown parameter. (`clrkit.notebook.parameters` checks types inside the
notebook, and names too if Papermill is used directly.) An executed copy holds no
time stamps and no machine paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clrkit.errors import ConfigError, known, reason
from clrkit.runs.reproduce import RESULTS_VARIABLE

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

OUTPUT_SECONDS = 120  # Papermill waits 4 s for the last output of a cell: too short on a busy machine
INJECTED = "injected-parameters"  # tag of the cell that Papermill adds with the given values


class NotebookError(ConfigError):
    """A notebook that cannot be run; the message names it and says why in one sentence."""


def notebooks(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in order. Raises NotebookError if it has none."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise NotebookError(f"There are no numbered notebooks in {folder}.")
    return found


def execute(source: Path, target: Path, parameters: Mapping[str, Any], results: Path) -> None:
    """Run a notebook headless and write the executed copy atomically, even if a cell fails.

    Args:
        source: the notebook, without outputs.
        target: path of the executed copy.
        parameters: values for its `parameters` cell; `interactive` is False unless given.
        results: folder of results that its runs read and write.

    Raises:
        ConfigError: for an unknown parameter, naming the nearest.
        NotebookError: for a file that is not a notebook, a cell that fails, or a copy that cannot be written.
    """
    from papermill.exceptions import PapermillExecutionError

    from clrkit.data.files import write_atomically

    given = checked_parameters(source, parameters)
    # The number of threads must not depend on the machine. A user's own choice has priority.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    variables = {RESULTS_VARIABLE: str(results.resolve()), "OMP_NUM_THREADS": threads}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="clrkit-") as folder:  # Papermill writes the copy while it runs
            copy = Path(folder).resolve() / target.name
            try:
                with environment(variables):
                    run_papermill(source.resolve(), copy, given)
            except PapermillExecutionError as error:
                raise NotebookError(describe_failure(source, target, error)) from None
            finally:
                if copy.exists():
                    write_atomically(target, cleaned(copy))
    except OSError as error:
        raise NotebookError(f"{target} cannot be written: {error.strerror or error}.") from None


def checked_parameters(source: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, plus `interactive=False` if the notebook has it. Raises as `execute`."""
    names = parameter_names(source)
    for name in parameters:
        known(name, names, f"parameter of {source.name}")
    headless = {"interactive": False} if "interactive" in names else {}
    return headless | dict(parameters)


def parameter_names(source: Path) -> list[str]:
    """Names in the `parameters` cell. Raises NotebookError for a file that is not a notebook."""
    import papermill

    with naming(source):
        read(source)
        return list(papermill.inspect_notebook(literal(source.resolve())))


def own_dataset(source: Path) -> str | None:
    """The data set that a notebook shows whatever the preset, from its metadata; None: the preset's.

    Raises NotebookError for a file that is not a notebook.
    """
    with naming(source):
        found: str | None = read(source).metadata.get("clrkit", {}).get("dataset")
        return found


def read(path: Path) -> NotebookNode:
    """Read and validate a notebook."""
    import nbformat

    document = nbformat.read(path, as_version=4)
    nbformat.validate(document)
    return document


@contextmanager
def naming(source: Path) -> Iterator[None]:
    """Re-raise any error as a NotebookError that names the notebook."""
    try:
        yield
    except Exception as error:  # nbformat and Papermill raise nearly anything on a malformed file
        why = reason(error).strip().partition("\n")[0].rstrip(".:")
        raise NotebookError(f"{source} is not a valid notebook: {why}.") from None


def literal(path: Path) -> str:
    """A path for Papermill, which would replace {names} by the values of parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def run_papermill(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    import papermill

    try:
        papermill.execute_notebook(
            literal(source),
            literal(target),
            parameters,
            kernel_name="python3",
            cwd=str(source.parent),
            progress_bar=False,
            record_timing=False,
            iopub_timeout=OUTPUT_SECONDS,
            extra_arguments=["--log-level=CRITICAL"],
        )
    except RuntimeError as error:  # the kernel died or did not start
        raise NotebookError(f"{source.name} did not run to the end: {error}") from None


def describe_failure(source: Path, target: Path, error: PapermillExecutionError) -> str:
    """Notebook, number of the failed cell in the copy, and first line of the error, in one sentence."""
    what = f"{error.ename}: {error.evalue}".strip().splitlines()[0].rstrip(".")
    return f"{source.name} failed in cell [{error.exec_count}]: {what} (see {target})."


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started inside."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
            if name in before:
                os.environ[name] = before[name]


def cleaned(copy: Path) -> bytes:
    """An executed copy without Papermill's metadata (paths, times)."""
    import nbformat

    document = nbformat.read(copy, as_version=4)
    document.metadata.pop("papermill", None)
    for cell in document.cells:
        cell.metadata.pop("papermill", None)
        if injected(cell):
            cell.id = INJECTED  # Papermill draws a random one
    return f"{nbformat.writes(document)}\n".encode()


def injected(cell: NotebookNode) -> bool:
    """Whether Papermill added this cell."""
    return INJECTED in cell.metadata.get("tags", [])

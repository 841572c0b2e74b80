"""Papermill, made strict: notebooks run one after another, each in a kernel of its own.

Papermill only warns of a parameter that a notebook does not have; here that is an error before anything runs.
(Types, and names with plain Papermill, are checked by `clrkit.notebook.parameters` within the notebook.) An
executed copy holds no time stamps and no path of the machine it was made on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType
from typing import TYPE_CHECKING, Any

from clrkit.config import known
from clrkit.errors import ConfigError, reason
from clrkit.runs.reproduce import RESULTS_VARIABLE

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

HEADLESS = {"interactive": False}  # for the notebooks that have it: figures in place of widgets
OUTPUT_SECONDS = 120  # Papermill gives a cell's last output 4 s to arrive, too few on a busy machine
INJECTED = "injected-parameters"  # tag of the cell that Papermill puts parameters into
QUIET = ["--log-level=CRITICAL"]  # the kernel's own log, which would come between our lines


class NotebookError(ConfigError):
    """A notebook that cannot be run; the message names it and says why in one sentence."""


def notebooks(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in their order. Raises NotebookError where there are none."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise NotebookError(f"There are no numbered notebooks in {folder}.")
    return found


def execute(source: Path, target: Path, parameters: Mapping[str, Any], results: Path) -> None:
    """Run a notebook headless and store the executed copy, whole or not at all.

    Args:
        source: the notebook, without outputs.
        target: where the executed copy goes; it is written there when it fails, too.
        parameters: values for its `parameters` cell.
        results: folder of results that its runs read and write.

    Raises:
        ConfigError: for a parameter the notebook does not have, naming the nearest, or a value that is no
            text, number, true, false, None or list of them.
        NotebookError: for a file that is no notebook, a cell that fails, or a copy that cannot be written.
    """
    from papermill.exceptions import PapermillExecutionError

    from clrkit.files import write_atomically

    given = checked_parameters(source, parameters)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="clrkit-") as folder:  # Papermill writes the copy as it goes along
            copy = Path(folder).resolve() / target.name
            try:
                with environment(**{RESULTS_VARIABLE: str(results.resolve()), **one_thread()}):
                    run_papermill(source.resolve(), copy, given)
            except PapermillExecutionError as error:
                raise NotebookError(failure(source, target, error)) from None
            finally:
                if copy.exists():
                    write_atomically(target, cleaned(copy))
    except OSError as error:
        raise NotebookError(f"{target} cannot be written: {error.strerror or error}.") from None


def checked_parameters(source: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, with what the notebook is told of having no reader. Raises as `execute`."""
    names = parameter_names(source)
    for name, value in parameters.items():
        known(name, names, f"parameter of {source.name}")
        check_value(name, value)
    return {name: value for name, value in HEADLESS.items() if name in names} | dict(parameters)


def parameter_names(source: Path) -> list[str]:
    """Names in a notebook's `parameters` cell. Raises NotebookError for a file that is no notebook."""
    import papermill  # loaded where it is used: notebooks import this module for its variable alone

    with refused(source):
        read(source)
        return list(papermill.inspect_notebook(literal(source.resolve())))


def own_dataset(source: Path) -> str | None:
    """The data set that a notebook shows whatever the preset, which its metadata name; None: the preset's.

    Raises NotebookError for a file that is no notebook.
    """
    with refused(source):
        found: str | None = read(source).metadata.get("clrkit", {}).get("dataset")
        return found


def read(path: Path) -> NotebookNode:
    """A notebook's content, valid."""
    import nbformat

    document = nbformat.read(path, as_version=4)
    nbformat.validate(document)
    return document


@contextmanager
def refused(source: Path) -> Iterator[None]:
    """Within, what goes wrong is told as a NotebookError that names the notebook."""
    try:
        yield
    except Exception as error:  # nbformat and Papermill raise nearly anything on a malformed file
        why = reason(error).strip().partition("\n")[0].rstrip(".:")
        raise NotebookError(f"{source} is no notebook that can be run: {why}.") from None


def check_value(name: str, value: Any) -> None:
    """Refuse what Papermill would not quote: it writes parameters into a cell as Python source."""
    if type(value) is list:
        for each in value:
            check_value(name, each)
    elif type(value) not in (str, int, float, bool, NoneType):
        raise ConfigError(
            f"{name} must be a text, a number, true, false, None or a list of them, "
            f"not a {type(value).__name__}."
        )
    elif isinstance(value, str) and not encodable(value):
        raise ConfigError(f"{name} must be a text of Unicode characters, not {value!r}.")


def encodable(text: str) -> bool:
    """Whether a text can be written to a file; one that holds half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def literal(path: Path) -> str:
    """A path as Papermill takes it, which would put the values of parameters in place of {names}."""
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
            extra_arguments=QUIET,
        )
    except RuntimeError as error:  # a kernel that died or did not start
        raise NotebookError(f"{source.name} was not run to its end: {error}") from None


def failure(source: Path, target: Path, error: PapermillExecutionError) -> str:
    """The failure in a sentence: notebook, number of the failed cell in the copy, first line of the error."""
    what = f"{error.ename}: {error.evalue}".strip().splitlines()[0].rstrip(".")
    return f"{source.name} failed in cell [{error.exec_count}]: {what} (see {target})."


def one_thread() -> dict[str, str]:
    """One thread, as a run has: the same numbers on any machine. A user's own choice stays."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Within, these environment variables are set, for the processes that are started."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def cleaned(copy: Path) -> bytes:
    """An executed copy without Papermill's notes (paths, times)."""
    import nbformat

    document = nbformat.read(copy, as_version=4)
    document.metadata.pop("papermill", None)
    for cell in document.cells:
        cell.metadata.pop("papermill", None)
        if injected(cell):
            cell.id = INJECTED  # Papermill draws a new one each time
    content: str = nbformat.writes(document)
    return f"{content}\n".encode()


def injected(cell: NotebookNode) -> bool:
    """Whether Papermill put the cell there, with the values of parameters."""
    return INJECTED in cell.metadata.get("tags", [])

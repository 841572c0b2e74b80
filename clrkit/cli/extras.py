"""Name the extra that a missing package belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clrkit.errors import ConfigError

# Packages of the extras, by the name under which they are imported.
EXTRAS = {
    "cluster": ("submitit",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "fast": ("numba",),
    "notebooks": ("IPython", "ipykernel", "ipywidgets", "jupyterlab", "nbformat", "papermill"),
    "own-images": ("sklearn",),
    "plots": ("jinja2", "matplotlib", "seaborn"),
}


@contextmanager
def needs_extra(command: str) -> Iterator[None]:
    """Name the extra to install if a package of it is missing.

    Raises:
        ConfigError: for a missing package that an extra installs; other errors pass.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                install = f'pip install "clrkit[{extra}]"'
                raise ConfigError(f"{command} needs {package}, of the extra `{extra}`: {install}.") from None
        raise

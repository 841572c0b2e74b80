"""What every test stands on: checked tensor shapes, a decoded-image cache of its own, official numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import clrkit.config  # noqa: F401  (checks its types itself, so it comes before the hook)

# Every other annotation is enforced, shapes included; an int is accepted where a float is meant.
install_import_hook("clrkit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

torch.set_num_threads(1)
settings.register_profile("clrkit", deadline=None, derandomize=True)
settings.load_profile("clrkit")

Golden = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def _decoded_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("CLRKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Reads a file of numbers that the official TensorFlow code computed; skips where there are none.

    CLRKIT_GOLDEN names their folder. They are not part of the repository.
    """
    folder = os.environ.get("CLRKIT_GOLDEN")
    if not folder:
        pytest.skip("CLRKIT_GOLDEN is not set")

    def read(name: str) -> dict[str, Any]:
        with np.load(Path(folder) / f"{name}.npz") as file:
            return dict(file)

    return read

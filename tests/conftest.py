"""What every test stands on: checked tensor shapes, a decoded-image cache of its own, official numbers."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotations import Exact, Golden, Record
from exactness import WHOLE_SET, Deviation, ExactnessTable
from faults import Fault, FaultTable, function_of
from hypothesis import settings
from jaxtyping import install_import_hook
from session_table import SessionTable

import clrkit.config  # noqa: F401  (checks its types itself, so it comes before the hook)

# Every other annotation is enforced, shapes included; an int is accepted where a float is meant.
install_import_hook("clrkit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

torch.set_num_threads(1)
settings.register_profile("clrkit", deadline=None, derandomize=True)
settings.load_profile("clrkit")

COMMITTED = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def _decoded_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("CLRKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


# The official numbers


def arrays(file: Path) -> dict[str, Any]:
    with np.load(file) as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Reads a file of numbers that the official TensorFlow code computed (tests/golden/README.md)."""
    return lambda name: arrays(COMMITTED / f"{name}.npz")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The whole set of official numbers, too large for the repository: CLRKIT_GOLDEN; skips without it."""
    folder = os.environ.get("CLRKIT_GOLDEN")
    if not folder:
        pytest.skip("CLRKIT_GOLDEN is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def full_golden(golden_folder: Path) -> Golden:
    """Reads a file of the whole set of official numbers."""
    return lambda name: arrays(golden_folder / f"{name}.npz")


@pytest.fixture
def exact(request: pytest.FixtureRequest) -> Exact:
    """Asserts that a tensor, array or number is the official one, and notes by how much it is not.

    `exact(part, ours, official, bound)`: equal shapes, and max |ours - official| <= bound * max |official|.
    `part` is a heading of docs/exactness.md and what is compared ("head: every tap in training mode"); all
    comparisons of one part and precision make one row there. `remark` says why a bound is as large as it is.
    """
    needs_all = "golden_folder" in request.fixturenames

    def compare(part: str, ours: Any, official: Any, bound: float, remark: str = "") -> None:
        remark = f"{WHOLE_SET} {remark}".strip() if needs_all else remark
        deviation = Deviation.between(part, ours, official, bound, remark)
        request.node.user_properties.append(("exactness", asdict(deviation)))
        deviation.check()

    return compare


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Record:
    """Records a fault that the test injected, for docs/faults.md; called last, after all is asserted.

    `fault(name, injected, lost, times=1)`: `name` is a heading of docs/faults.md and what goes wrong
    ("store: a full disk while a state is written"), `injected` how ("a tmpfs of 1 MB"), `lost` what the test
    asserts was lost ("nothing"), `times` how many injections it made. A parametrised test that records is
    slow as a whole or not at all, so that a session that runs it knows all its rows.
    """

    def record(name: str, injected: str, lost: str, times: int = 1) -> None:
        noted = Fault(name, injected, lost, function_of(request.node.nodeid), times)
        request.node.user_properties.append(("faults", asdict(noted)))

    return record


# The tables made of what tests noted

TABLES: tuple[type[SessionTable], ...] = (ExactnessTable, FaultTable)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clrkit")
    for table in TABLES:
        file = f"docs/{table.name}.md"
        group.addoption(f"--{table.name}", metavar="PATH", help=f"write {file} anew, to PATH")
        check = f"fail unless {file} lists what the tests noted"
        group.addoption(f"--check-{table.name}", action="store_true", help=check)


def pytest_configure(config: pytest.Config) -> None:
    # Workers send their reports to the process that started them, which alone makes the tables.
    if not hasattr(config, "workerinput"):
        for table in TABLES:
            config.pluginmanager.register(table(config))

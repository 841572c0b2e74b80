"""What every test stands on: checked tensor shapes, a decoded-image cache of its own, official numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from exactness import TABLE, WHOLE_SET, Deviation, disagreement, markdown
from hypothesis import settings
from jaxtyping import install_import_hook

import clrkit.config  # noqa: F401  (checks its types itself, so it comes before the hook)

# Every other annotation is enforced, shapes included; an int is accepted where a float is meant.
install_import_hook("clrkit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

torch.set_num_threads(1)
settings.register_profile("clrkit", deadline=None, derandomize=True)
settings.load_profile("clrkit")

COMMITTED = Path(__file__).parent / "golden"

Golden = Callable[[str], dict[str, Any]]


class Exact(Protocol):
    def __call__(self, part: str, ours: Any, official: Any, bound: float, remark: str = "") -> None: ...


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
        request.node.user_properties.append(("exact", deviation.record()))
        deviation.check()

    return compare


# The table of deviations


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clrkit")
    group.addoption("--exactness", metavar="PATH", help="write the deviations from the official code to PATH")
    group.addoption(
        "--check-exactness", action="store_true", help="fail unless docs/exactness.md lists what was compared"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Workers send their reports to the process that started them, which alone makes the table.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(ExactnessTable(config))


class ExactnessTable:
    """Gathers what the tests of a session compared; after a session without failure, writes or checks it."""

    def __init__(self, config: pytest.Config) -> None:
        self.path, self.check = config.getoption("exactness"), config.getoption("check_exactness")
        self.deviations: list[Deviation] = []
        self.difference = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            noted = [value for name, value in report.user_properties if name == "exact"]
            self.deviations += [Deviation(**value) for value in noted]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self.path:
            Path(self.path).write_text(markdown(self.deviations))
        if exitstatus == pytest.ExitCode.OK and self.check:
            self.difference = disagreement(self.deviations, TABLE.read_text() if TABLE.exists() else "")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if self.difference else exitstatus

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.difference:
            terminalreporter.section("docs/exactness.md is out of date: run `make exactness`", red=True)
            terminalreporter.write_line(self.difference)

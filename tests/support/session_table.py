"""Tables in docs/ that tests make: what they noted through a fixture, written or checked at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def document(preface: str, headings: Sequence[str], columns: str, rows: Sequence[tuple[str, str]]) -> str:
    """A preface, and under each heading that has rows a table of them.

    Args:
        preface: in Markdown, with its title.
        headings: in lower case, in their order.
        columns: the table's head and the line below it.
        rows: what each is called, "heading: name", and its line of the table.
    """
    lines = [preface.rstrip()]
    for heading in headings:
        under = [line for name, line in rows if name.startswith(f"{heading}: ")]
        if under:
            lines += ["", f"## {heading.capitalize()}", "", columns, *under]
    return "\n".join(lines) + "\n"


class SessionTable:
    """A pytest plugin that gathers notes and, after a session without failure, writes or checks their table.

    A subclass has a `name`: of its file in docs/, of its options (`--name PATH` writes, `--check-name`
    checks) and of the user properties in which a fixture leaves notes, plain values.
    """

    name: ClassVar[str]

    def __init__(self, config: pytest.Config) -> None:
        self.path = config.getoption(self.name)
        self.check = config.getoption(f"check_{self.name}")
        self.file = DOCS / f"{self.name}.md"
        self.difference = ""

    def note(self, value: dict[str, Any]) -> None:
        """Take up what one test noted."""
        raise NotImplementedError

    def markdown(self) -> str:
        """The document made of all notes."""
        raise NotImplementedError

    def disagreement(self, committed: str) -> str:
        """How the committed document differs from the notes, in words; empty where it does not."""
        raise NotImplementedError

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == self.name:
                    self.note(value)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self.path:
            Path(self.path).write_text(self.markdown())
        if exitstatus == pytest.ExitCode.OK and self.check:
            self.difference = self.disagreement(self.file.read_text() if self.file.exists() else "")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if self.difference else exitstatus

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.difference:
            title = f"docs/{self.name}.md is out of date: run `make {self.name}`"
            terminalreporter.section(title, red=True)
            terminalreporter.write_line(self.difference)

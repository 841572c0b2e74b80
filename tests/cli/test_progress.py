"""The line that shows what a command is doing."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from clrkit.cli.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_is_printed_every_15_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("clrkit.cli.progress.monotonic", lambda: now)
    line = ProgressLine()
    for now in (100.0, 101.0, 114.9, 115.0):
        line.show(f"at {now:g}", 0.5)
        line.clear()
    assert capsys.readouterr().err == "at 100\nat 115\n"


def test_a_terminal_has_one_line_with_a_bar_that_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("clrkit.cli.progress.REDRAW_SECONDS", 0.0)
    threads = threading.active_count()
    line = ProgressLine()
    line.show("decoding")
    line.show("training", 0.5)
    assert threading.active_count() == threads
    drawn = terminal.getvalue().split("\r")
    assert drawn[-2].strip() == "decoding"
    assert "training" in drawn[-1]
    assert drawn[-1].count("#") == 8
    assert "\n" not in terminal.getvalue()
    line.show("")
    assert terminal.getvalue().split("\r")[-2].strip() == ""
    line.show("again")
    assert terminal.getvalue().endswith("again")
    line.clear()

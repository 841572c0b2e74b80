import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "test.py"


def parts(**outputs: tuple[int, str]) -> dict[str, tuple[str, ...]]:
    """Parts that print a text and end with a status."""
    return {
        name: (sys.executable, "-c", f"import sys; print({text!r}); sys.exit({status})")
        for name, (status, text) in outputs.items()
    }


def carried_out(monkeypatch: pytest.MonkeyPatch, chosen: dict[str, tuple[str, ...]], *names: str) -> int:
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "PARTS", chosen)
    status: int = script["main"](names)
    return status


def test_all_parts_run_though_one_fails_and_the_summary_names_what_failed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = "FAILED tests/test_a.py::test_b - assert 1 == 2\n== 1 failed, 4 passed, 2 skipped in 3.10s =="
    passing = "=========== 10 passed, 1 skipped in 62.00s (0:01:02) ==========="
    chosen = parts(lint=(1, "E501"), unit=(1, failing), slow=(0, passing))
    assert carried_out(monkeypatch, chosen) == 1
    lines = capfd.readouterr().out.splitlines()
    summary = lines[lines.index("--- summary") + 1 :]
    assert [line.split()[:2] for line in summary[:-1]] == [
        ["lint", "failed"],
        ["unit", "failed"],
        ["FAILED", "tests/test_a.py::test_b"],
        ["slow", "passed"],
    ]
    assert summary[-1].startswith("===== 2 failed, 14 passed, 3 skipped in ")


def test_where_everything_passes_so_does_the_whole(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = parts(types=(0, "Success"), unit=(0, "10 passed in 62.00s"))
    assert carried_out(monkeypatch, chosen) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("===== 11 passed in ")
    assert carried_out(monkeypatch, chosen, "types") == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("===== 1 passed in ")


def test_an_unknown_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="Unknown part 'slwo'; the parts are unit, slow"):
        carried_out(monkeypatch, parts(unit=(0, ""), slow=(0, "")), "slwo")

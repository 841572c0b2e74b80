"""The shell completes commands, options and their values."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from clrkit.cli.main import main


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", "bash"]) == 0
    return capsys.readouterr().out


def completed(script: str, *words: str) -> set[str]:
    """What bash offers after these words, the last of them unfinished."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _clrkit; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {*done.stdout.split()}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], {"reproduce", "reference", "report"}),
        (["run", "fine"], {"finetune"}),
        (["run", "finetune", "--pretrain.tem"], {"--pretrain.temperature"}),
        (["run", "finetune", "--tap"], {"--tap_layer"}),
        (["sweep", "--optimizer", "s"], {"sgd"}),
        (["sweep", "--finetune.optimizer", "s"], {"sgd"}),
        (["run", "--preset", "sm"], {"smoke"}),
        (["evaluate", "--resize", ""], {"tf1", "tf2"}),
        (["plan", "--tap"], set()),
        (["nonsense", "--"], set()),
    ],
)
def test_bash_completes_what_the_parser_reads(script: str, words: list[str], found: set[str]) -> None:
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    reply = completed(script, "clrkit", *words)
    assert reply == found or found - {"reference", "report"} <= reply <= found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_same_words(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "pretrain.temperature" in script
    assert "reproduce" in script
    assert ("bashcompinit" in script) == (shell == "zsh")
    assert ("complete -c clrkit" in script) == (shell == "fish")

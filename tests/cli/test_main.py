"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clrkit.cli.main import main, read_fields
from clrkit.errors import ConfigError
from clrkit.experiments.presets import preset
from clrkit.runs.store import Store, working_folder

SMOKE = ["--preset", "smoke"]


def run(*words: str, results: Path) -> int:
    return main([*words, "--results", str(results)])


def test_a_run_is_made_then_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "pretrain", *SMOKE, results=tmp_path) == 0
    assert capsys.readouterr().out.startswith("done: ")
    assert run("run", "pretrain", *SMOKE, results=tmp_path) == 0
    assert capsys.readouterr().out.startswith("cached: ")


def test_fields_are_options_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "finetune", *SMOKE, "--tap-layer", "0", "--pretrain.temperature=0.3", "--seed", "4"]
    assert run(*words, results=tmp_path) == 0
    config = preset("smoke").resolve("finetune", tap_layer=0, seed=4, **{"pretrain.temperature": 0.3})
    found = Store(tmp_path, "smoke").find(config)
    assert found is not None
    assert found.record["config"]["pretrain"]["seed"] == 4


def test_the_plan_is_one_object_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("run", "pretrain", *SMOKE, results=tmp_path)
    capsys.readouterr()
    assert run("plan", *SMOKE, "--json", results=tmp_path) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"stage", "key", "state"} <= rows[0].keys()
    states = {row["state"]: row for row in rows if row["stage"] == "pretrain" and not row["config"]["memory"]}
    assert states.keys() == {"cached"}
    assert {row["state"] for row in rows if row["stage"] != "pretrain"} == {"missing"}
    assert run("plan", *SMOKE, results=tmp_path) == 0
    assert "1 cached" in capsys.readouterr().out


def test_clean_deletes_partial_runs_and_keeps_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("run", "pretrain", *SMOKE, results=tmp_path)
    runs = tmp_path / "smoke" / "runs"
    (runs / "pretrain-0123456789abcdef.partial").mkdir()
    assert run("clean", *SMOKE, results=tmp_path) == 0
    assert len(list(runs.iterdir())) == 1
    assert run("clean", *SMOKE, "--all", results=tmp_path) == 0
    assert not (tmp_path / "smoke").exists()


@pytest.mark.slow
def test_claims_of_one_seed_are_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("run", "finetune", *SMOKE, results=tmp_path)
    capsys.readouterr()
    assert run("claims", *SMOKE, "--json", results=tmp_path) == 0
    claims = json.loads(capsys.readouterr().out)
    assert {"C1", "C2", "C3", "C4", "C5", "C6"} <= {claim["claim"] for claim in claims}
    assert {claim["verdict"] for claim in claims} <= {"undecided", "reported"}
    assert all({"effect", "half_width", "seeds"} <= claim.keys() for claim in claims)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "pretrain", "--preset", "mni"], "Unknown preset 'mni'; did you mean mini?"),
        (["run", "pretrain", "--temprature", "1"], "Unknown field 'temprature'; did you mean temperature?"),
        (["run", "pretrain", "--temperature", "warm"], "temperature must be a number, not 'warm'."),
        (["run", "pretrain", "--temperature", "0"], "temperature must be above 0, not 0.0."),
        (["run", "pretrain", "--temperature"], "--temperature needs a value."),
        (["run", "pretrain", "quickly"], "Unexpected argument 'quickly'"),
        (["run", "pretrain", "--batch_size", "5000"], "batch_size 5000 of pretrain is larger than its 4000"),
        (["run", "finetune", "--fraction", "0.001"], "fewer than one for each of the 10 classes"),
        (["run", "finetune", "--tap_layer", "7"], "tap_layer must be at most 3"),
        (["run", "pretrain", "--dataset", "folder", "--root", "nowhere"], "nowhere"),
        (["run", "finetune", "--label_list", "nowhere.txt"], "nowhere.txt"),
        (["run", "pretrain", "--learning_rate", "1e30"], "The loss or its gradient is not finite at step 3"),
        (["run", "pretrain", "--device", "abacus"], "abacus"),
        (["plan", "--temperature", "1"], "plan has no option --temperature."),
        (["claims", *SMOKE], "holds no runs of preset smoke"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words if "--preset" in words else [*words, *SMOKE]
    assert run(*words, results=tmp_path) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("clrkit: ")
    assert message in told


def test_a_results_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("run", "pretrain", *SMOKE, results=tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_an_option_may_have_an_equals_sign_or_a_dash() -> None:
    assert read_fields(["--batch-size=3", "--seed", "-1"]) == {"batch_size": "3", "seed": "-1"}
    with pytest.raises(ConfigError, match="needs a value"):
        read_fields(["--seed"])


@pytest.mark.parametrize("command", ["plan", "run", "reproduce", "figures", "claims", "clean"])
def test_help_is_quick_and_loads_no_torch(command: str) -> None:
    code = (
        "import sys, clrkit.cli.main as m\n"
        f"try: m.main([{command!r}, '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("False")
    assert "--preset" in shown


def test_clean_keeps_what_a_process_works_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = preset("smoke").resolve("pretrain")
    with working_folder(Store(tmp_path, "smoke").path(config)) as partial:
        assert run("clean", *SMOKE, results=tmp_path) == 0
        assert partial.exists()
        assert "a process is working on it" in capsys.readouterr().out
        assert run("clean", *SMOKE, "--all", results=tmp_path) == 1
        assert partial.exists()

"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from clrkit.cli.extras import needs_extra
from clrkit.cli.main import main
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


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "pretrain", "--batch_size", "5000"], "batch_size 5000 of pretrain is larger than its 4000"),
        (["run", "finetune", "--fraction", "0.001"], "fewer than one for each of the 10 classes"),
        (["run", "pretrain", "--dataset", "folder", "--root", "nowhere"], "nowhere"),
        (["run", "finetune", "--label_list", "nowhere.txt"], "nowhere.txt"),
        (["run", "pretrain", "--learning_rate", "1e30"], "The loss or its gradient is not finite at step 3"),
        (["run", "pretrain", "--device", "abacus"], "abacus"),
        (["claims"], "holds no runs of preset smoke"),
    ],
)
def test_an_error_is_one_sentence_with_status_1(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, *SMOKE, results=tmp_path) == 1
    line = last_line(capsys)
    assert line.startswith("clrkit: ")
    assert message in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "pretrain", "--preset", "mni"], "Unknown preset 'mni'; did you mean mini?"),
        (["run", "pretrian"], "invalid choice: 'pretrian'"),
        (["run"], "required: STAGE"),
        (["rn"], "invalid choice: 'rn'"),
        (["run", "pretrain", "quickly"], "unrecognized arguments: quickly"),
        (
            ["run", "--temprature", "1", "pretrain"],
            "run has no option --temprature; did you mean --temperature?",
        ),
        (["run", "pretrain", "--lr=1"], "run has no option --lr; did you mean --learning_rate?"),
        (["run", "pretrain", "--temp", "1"], "run has no option --temp; did you mean --temperature?"),
        (["run", "pretrain", "--pretrain.epoch", "1"], "did you mean --pretrain.epochs?"),
        (["run", "pretrain", "--température", "1"], "no option --température; did you mean --temperature?"),
        (["run", "pretrain", "--o\nther", "1"], "run has no option --o ther; "),
        (["plan", "--temperature", "1"], "plan has no option --temperature; "),
        (["run", "pretrain", "--temperature"], "argument --temperature: expected one argument"),
        (["run", "pretrain", "--temperature", ""], "temperature must be a number, not ''."),
        (["run", "pretrain", "--temperature", "warm"], "temperature must be a number, not 'warm'."),
        (["run", "pretrain", "--temperature", "0"], "temperature must be above 0, not 0.0."),
        (["run", "pretrain", "--temperature", "１e999"], "temperature must be a finite number, not inf."),
        (["run", "pretrain", "--epochs", "9" * 30], "epochs is too large; whole numbers end at 2^63."),
        (["run", "pretrain", "--epochs", "9" * 5000], "epochs must be a whole number"),
        (["run", "pretrain", "--seed", "-1"], "seed must be at least 0, not -1."),
        (["run", "finetune", "--tap_layer", "7"], "tap_layer must be at most 3"),
        (["run", "pretrain", "--tap_layer", "1"], "--tap_layer is a field of finetune, not of pretrain."),
        (["run", "pretrain", "--epochs", "1", "--epochs", "2"], "--epochs is given twice; write it once."),
        (["run", "pretrain", "--batch-size=9", "--batch_size=9"], "--batch_size is given twice"),
        (
            ["run", "finetune", "--pretrain.epochs", "1", "--pretrain.epochs", "2"],
            "--pretrain.epochs is given twice; write it once.",
        ),
        (
            ["run", "distill", "--teacher.epochs", "1", "--finetune.epochs", "1"],
            "--teacher.epochs and --finetune.epochs are the same field; write one of them.",
        ),
        (
            ["run", "finetune", "--epochs", "3"],
            "--epochs means finetune.epochs or pretrain.epochs here; write one of them.",
        ),
        (
            ["run", "distill", "--temperature", "1"],
            "--temperature means distill.temperature or pretrain.temp",
        ),
        (["run", "pretrain", "--minutes", "0"], "argument --minutes: must be above 0, not 0"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_with_status_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words if "--preset" in words else [words[0], *SMOKE, *words[1:]] if words != ["rn"] else words
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("clrkit: ")
    assert error.endswith((".\n", "?\n"))
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("run", "pretrain", *SMOKE, results=tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_parent_is_announced_before_it_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--minutes", "0.000001"]  # stop after the first step
    assert run("run", "pretrain", *SMOKE, results=tmp_path) == 0
    key = next((tmp_path / "smoke" / "runs").iterdir()).name
    capsys.readouterr()
    assert run("run", "finetune", *SMOKE, *words, "--pretrain.epochs", "3", results=tmp_path) == 75
    assert capsys.readouterr().err.splitlines()[0] == (
        f"pretraining is not recorded and will be trained first (nearest recorded: {key}, "
        "differs in epochs 1/3)."
    )
    assert run("run", "finetune", *SMOKE, *words, results=tmp_path) == 75
    assert "not recorded" not in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(
        "clrkit.export.predict.open_classifier", lambda _: importlib.import_module("onnxruntime")
    )
    assert main(["predict", str(tmp_path), str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        'clrkit: predict needs onnxruntime, of the extra `export`: pip install "clrkit[export]".\n'
    )


def test_a_package_that_no_extra_installs_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("run"):
        importlib.import_module("no_such_package")


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

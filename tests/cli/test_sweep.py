"""The command `sweep`: which runs a grid is, what is refused, and what is printed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from clrkit.cli.main import main
from clrkit.cli.sweep import PATHS, grid
from clrkit.config import STAGES, Augmentation, Data, Network, Optimizer
from clrkit.errors import ConfigError
from clrkit.experiments.presets import preset
from clrkit.runs.store import Store

SMOKE = preset("smoke")
KINDS = (*STAGES, Data, Network, Augmentation, Optimizer)


def run(*words: str, results: Path) -> int:
    return main(["sweep", *words, "--preset", "smoke", "--results", str(results)])


def test_a_grid_is_the_product_of_its_lists() -> None:
    points = grid(SMOKE, "finetune", {"temperature": "0.1,0.5", "tap_layer": "1", "seed": "0,1,2"})
    assert len(points) == 6
    for stage, settings in points.items():
        assert stage == SMOKE.resolve("finetune", **settings)
    assert {stage.pretrain.temperature for stage in points} == {0.1, 0.5}
    assert {stage.pretrain.seed for stage in points} == {0, 1, 2}


def test_a_grid_of_nothing_is_the_standard_run() -> None:
    assert grid(SMOKE, "probe", {}) == {SMOKE.probe: {}}


def test_a_comma_in_a_path_is_a_part_of_it() -> None:
    paths = {"root": "/data/a,b", "pretrain.data.labels_csv": "a,b.csv", "label_list": "0,1.txt"}
    (stage,) = grid(SMOKE, "finetune", paths | {"dataset": "folder"})
    assert stage == SMOKE.resolve("finetune", dataset="folder", **paths)
    free = {item.name for kind in KINDS for item in fields(kind) if item.default == ""}
    assert free == {*PATHS}


def test_a_run_that_is_gone_at_the_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clrkit.cli.progress.make_runs", lambda *_: True)
    assert run("pretrain", "--seed", "0,1", results=tmp_path) == 1
    path = Store(tmp_path, "smoke").path(SMOKE.pretrain)
    assert f"clrkit: {path} was deleted during the sweep" in capsys.readouterr().err


def test_a_name_of_two_stages_is_refused_in_a_grid() -> None:
    with pytest.raises(ConfigError, match=r"^--epochs means finetune.epochs or pretrain.epochs here;"):
        grid(SMOKE, "finetune", {"epochs": "1,2"})


def test_a_value_given_twice_is_one_run() -> None:
    assert len(grid(SMOKE, "pretrain", {"temperature": "0.1,0.10", "seed": "0,0"})) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temprature", "0.1,0.2"], "sweep has no option --temprature; did you mean --temperature?"),
        (["--temperature", "0.1,warm"], "temperature must be a number, not 'warm'."),
        (["--temperature", "0.1,"], "temperature must be a number, not ''."),
        (["--batch_size", "250,5000"], "batch_size 5000 of pretrain is larger than its 4000"),
        (["--stage", "probe"], "sweep has no option --stage"),
        (["--cluster_set", "timeout_min=5"], "it needs --cluster slurm or --cluster local."),
        (["--cluster", "local", "--cluster-set", "timeout_min"], "--cluster_set needs NAME=VALUE"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_trained(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pretrain", *words, results=tmp_path) in (1, 2)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("clrkit: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_grid_is_made_printed_and_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--tap-layer", "0,1", "--workers", "2"]
    assert run(*words, "--json", results=tmp_path) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["settings"] for row in rows] == [{"tap_layer": "0"}, {"tap_layer": "1"}]
    runs = {found.key: found for found in Store(tmp_path, "smoke").all()}
    assert len(runs) == 3
    assert all(row["metrics"] == runs[row["key"]].metrics for row in rows)
    assert run(*words, results=tmp_path) == 0
    printed = capsys.readouterr()
    assert "nothing is trained" in printed.err
    assert printed.out.splitlines()[2].split() == ["tap_layer", "top-1,", "%", "seeds"]

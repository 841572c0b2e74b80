"""The command `sweep`: which runs a grid is, what is refused, and what is printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from synthetic import put

from clrkit.cli.main import main
from clrkit.cli.sweep import PATHS, beside_reference, grid, table
from clrkit.config import STAGES, Augmentation, Data, Network, Optimizer, Stage
from clrkit.errors import ConfigError
from clrkit.experiments.presets import preset
from clrkit.losses import nt_xent
from clrkit.runs.store import Run, Store

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
    monkeypatch.setattr("clrkit.runs.reproduce.make_runs", lambda *_: True)
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


def made(**metrics: float) -> Run:
    return Run(Path(), {"stage": "probe", "key": "0" * 16, "metrics": metrics})


def test_the_table_averages_over_seeds_and_has_no_column_of_what_does_not_vary() -> None:
    accuracies = {("0.1", "0"): 0.5, ("0.1", "1"): 0.6, ("0.5", "0"): 0.25, ("0.5", "1"): 0.25}
    runs = [
        ({"temperature": temperature, "width": "1", "seed": seed}, made(top1=accuracy, loss=1.0))
        for (temperature, seed), accuracy in accuracies.items()
    ]
    assert table(runs)[2:] == [
        "temperature  top-1, %    seeds",
        "0.1          55.0 ± 5.0  2",
        "0.5          25.0 ± 0.0  2",
    ]


def test_a_grid_is_judged_by_what_all_its_runs_have() -> None:
    monitored, short = made(loss=3.0, knn=0.5), made(loss=2.0)
    assert table([({"epochs": "9"}, monitored)])[2:] == ["kNN, %  seeds", "50.0    1"]
    assert table([({"epochs": "9"}, monitored), ({"epochs": "1"}, short)])[2:] == [
        "epochs  loss   seeds",
        "9       3.000  1",
        "1       2.000  1",
    ]


def losses(*fields: str) -> str:
    """What a table says above the losses of a grid over these fields."""
    grid = [(dict.fromkeys(fields, value), made(loss=3.0)) for value in ("1", "2")]
    return table(grid)[0]


@pytest.mark.parametrize(
    "field", ["temperature", "pretrain.batch_size", "memory", "memory_size", "summed_views", "crop_area"]
)
def test_losses_are_said_to_be_incomparable_where_a_varied_field_makes_them_losses_of_something_else(
    field: str,
) -> None:
    assert losses(field, "epochs") == (
        "2 runs; loss is a mean ± its standard error over seeds. "
        f"Losses at different {field} cannot be compared, and these runs have no accuracy."
    )
    assert "cannot be compared" not in losses("learning_rate", "epochs", "depth")


def test_pretrainings_are_judged_by_their_knn_whatever_their_losses_are_of() -> None:
    grid = [({"temperature": text}, made(loss=loss, knn=0.5)) for text, loss in (("0.1", 1.0), ("1", 6.0))]
    assert table(grid)[0] == "2 runs; kNN, % is a mean ± its standard error over seeds."


def test_the_loss_is_another_where_its_scale_or_its_negatives_are() -> None:
    """The reason for the sentence: equal projections, another loss."""
    z1, z2 = (
        F.normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))) for seed in (0, 1)
    )
    loss = nt_xent(z1, z2, 0.5)
    further = F.normalize(torch.randn(100, 8, generator=torch.Generator().manual_seed(2)))
    for other in (
        nt_xent(z1, z2, 0.1),
        nt_xent(z1[:16], z2[:16], 0.5),
        nt_xent(z1, z2, 0.5, further),
        nt_xent(z1, z2, 0.5, summed_views=True),
    ):
        assert abs(other - loss) > 0.5


def exactly(percent: float) -> Callable[[Stage], float]:
    return lambda stage: percent + stage.seed


def store_with_reference(results: Path) -> Store:
    """A store with a reference of its own, in place of the committed one; it is empty."""
    (results / "reference").mkdir()
    return Store(results, "smoke")


def test_the_cells_that_the_reference_has_too_are_compared_with_it(tmp_path: Path) -> None:
    store, seeds = store_with_reference(tmp_path), (0, 1, 2)
    tuned = [SMOKE.resolve("finetune", seed=seed) for seed in seeds]
    others = [SMOKE.resolve("finetune", seed=seed, temperature=0.9) for seed in seeds]
    for stage in tuned:
        for link in stage.chain:
            put(store.reference, link, exactly(60))
            put(store, link, exactly(60.5))
    for stage in others:
        put(store, stage, exactly(30))
    lines = beside_reference(store.find_all([*tuned, *others]), store)
    (cell,) = [line for line in lines if line.startswith("fine-tuned, 1%")]
    assert cell.split()[-4:-2] == ["61.5", "61.0"]
    assert lines[-1].startswith("reproduced: all 1 cells within tolerance of the reference (median ")
    damaged = store.reference.path(others[0])
    damaged.mkdir()
    (damaged / "record.json").write_text("{}")
    shutil.rmtree(store.runs)
    for stage in tuned:
        put(store, stage, exactly(60))
    assert beside_reference(store.find_all(tuned), store)[-1].startswith(
        "undecided: 1 cell, "
    )  # its pretraining is not there
    shutil.rmtree(store.runs)
    for stage in tuned:
        put(store, stage, exactly(50))
    for stage in tuned:
        put(store, stage.pretrain, exactly(0))
    assert beside_reference(store.find_all(tuned), store)[-1].startswith("differs: 1 of 1 cells")


def test_runs_that_the_reference_has_not_are_compared_with_nothing(tmp_path: Path) -> None:
    store, stage = store_with_reference(tmp_path), SMOKE.resolve("finetune", temperature=0.9)
    put(store, stage)
    assert beside_reference(store.find_all([stage]), store) == []
    put(store.reference, SMOKE.finetune)
    assert beside_reference(store.find_all([stage]), store) == []
    put(store, stage.pretrain)
    assert beside_reference(store.find_all([stage.pretrain]), store) == []


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

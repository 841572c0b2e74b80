"""The table of a sweep, and its comparison with the reference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from synthetic import put

from clrkit.config import Stage
from clrkit.experiments.presets import preset
from clrkit.losses import nt_xent
from clrkit.results.sweep_table import beside_reference, sweep_table
from clrkit.runs.store import Run, Store

SMOKE = preset("smoke")


def made(**metrics: float) -> Run:
    return Run(Path(), {"stage": "probe", "key": "0" * 16, "metrics": metrics})


def test_the_table_averages_over_seeds_and_has_no_column_of_what_does_not_vary() -> None:
    accuracies = {("0.1", "0"): 0.5, ("0.1", "1"): 0.6, ("0.5", "0"): 0.25, ("0.5", "1"): 0.25}
    runs = [
        ({"temperature": temperature, "width": "1", "seed": seed}, made(top1=accuracy, loss=1.0))
        for (temperature, seed), accuracy in accuracies.items()
    ]
    assert sweep_table(runs)[2:] == [
        "temperature  top-1, %    seeds",
        "0.1          55.0 ± 5.0  2",
        "0.5          25.0 ± 0.0  2",
    ]


def test_a_grid_is_judged_by_what_all_its_runs_have() -> None:
    monitored, short = made(loss=3.0, knn=0.5), made(loss=2.0)
    assert sweep_table([({"epochs": "9"}, monitored)])[2:] == ["kNN, %  seeds", "50.0    1"]
    assert sweep_table([({"epochs": "9"}, monitored), ({"epochs": "1"}, short)])[2:] == [
        "epochs  loss   seeds",
        "9       3.000  1",
        "1       2.000  1",
    ]


def losses(*fields: str) -> str:
    """What a table says above the losses of a grid over these fields."""
    grid = [(dict.fromkeys(fields, value), made(loss=3.0)) for value in ("1", "2")]
    return sweep_table(grid)[0]


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
    assert sweep_table(grid)[0] == "2 runs; kNN, % is a mean ± its standard error over seeds."


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

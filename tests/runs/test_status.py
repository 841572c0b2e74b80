"""Where runs stand, in words."""

from __future__ import annotations

import math
from pathlib import Path

import synthetic

from clrkit.experiments.fields import with_fields
from clrkit.experiments.presets import preset
from clrkit.runs.status import SweepStatus, missing_parents, run_text
from clrkit.runs.store import Progress, Store

SMOKE = preset("smoke")


def line_of(loss: float, **metrics: float) -> str:
    return run_text(Progress(SMOKE.pretrain, 1, 4, loss, 200.0, 30.0, metrics))


def test_a_run_has_no_loss_before_the_first_is_logged() -> None:
    assert line_of(math.nan, knn=0.25) == "pretrain seed 0: 25%, knn 0.250, 200 images/s, 30 s left"
    assert line_of(2.5) == "pretrain seed 0: 25%, loss 2.500, 200 images/s, 30 s left"


def test_a_sweep_counts_its_runs_and_names_those_at_work(tmp_path: Path) -> None:
    runs = [SMOKE.resolve("pretrain", seed=seed, epochs=7) for seed in range(12)]
    status = SweepStatus(runs, Store(tmp_path, "smoke"), 2)
    assert status.text(None).startswith("0 of 12 runs; none at work yet; 0 images/s, ")
    status.text(Progress(runs[0], 1, 1, 1.0, 10.0, 0.0, {}))
    text = status.text(Progress(runs[1], 1, 4, 1.0, 10.0, 0.0, {}))
    assert text.startswith("1 of 12 runs; pretrain seed 1; 10 images/s, ")
    for run in runs[2:]:
        text = status.text(Progress(run, 1, 4, 1.0, 10.0, 0.0, {}))
    assert "pretrain seed 8 | and 3 more; 110 images/s" in text


def test_a_missing_parent_is_named_with_the_nearest_recorded_run(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path, "smoke"), SMOKE.finetune
    (sentence,) = missing_parents([wanted], store)
    assert sentence == "pretraining is not recorded and will be trained first"
    far = with_fields(wanted.pretrain, {"epochs": 9, "temperature": 0.7, "color_strength": 0.4})
    near = with_fields(wanted.pretrain, {"epochs": 3, "color_strength": 0.4, "monitor_epochs": 2})
    for stage in (far, near, SMOKE.supervised):
        synthetic.put(store, stage)
    (sentence,) = missing_parents([wanted], store)
    assert sentence == (
        "pretraining is not recorded and will be trained first "
        f"(nearest recorded: {store.path(near).name}, differs in epochs 3/1, color_strength 0.4/1)"
    )
    synthetic.put(store, wanted.pretrain)
    assert not list(missing_parents([wanted], store))
    (sentence,) = missing_parents([SMOKE.distill], store)
    assert sentence == "fine-tuning is not recorded and will be trained first"


def test_many_differences_are_counted_and_a_parent_in_the_list_is_not_named(tmp_path: Path) -> None:
    store, wanted = Store(tmp_path, "smoke"), SMOKE.finetune
    other = {"epochs": 3, "head_layers": 2, "head_dim": 8, "temperature": 0.7, "blur": True, "depth": 14}
    synthetic.put(store, with_fields(wanted.pretrain, other))
    (sentence,) = missing_parents([wanted, wanted], store)
    assert sentence.endswith("epochs 3/1, temperature 0.7/0.2, head_layers 2/3, head_dim 8/128, 2 more)")
    assert not list(missing_parents([wanted, wanted.pretrain], store))

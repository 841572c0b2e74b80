"""Records of runs that never were, with known accuracies, for the tests of figures, claims and tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clrkit.config import Distill, Finetune, Network, Pretrain, Probe, Stage, Supervised
from clrkit.data.datasets import fingerprint
from clrkit.experiments.fields import to_dict
from clrkit.experiments.grid import ExperimentGrid, LabelSchedule, Preset
from clrkit.results import records as run_records
from clrkit.runs.keys import key
from clrkit.runs.store import Store, write_run_sums

FRACTIONS = (0.01, 0.1, 1.0)
LABEL_EPOCHS = Supervised().epochs
PARAMETERS = {0.25: 5_062, 0.5: 19_700, 1.0: 77_680, 2.0: 308_450}
WIDTHS = (0.5, 1.0, 2.0)
SEEDS = (0, 1, 2)
BASE = {0.01: 64.0, 0.1: 94.5, 1.0: 97.2}  # fine-tuned from layer 1, width 1
STEP = {0.01: 8.0, 0.1: 1.0, 1.0: 0.4}  # percentage points that a doubling of the width gains
LAYERS = {0: -24.0, 1: 0.0, 2: -2.0, 3: -9.0}
HEADS = {2: -6.0, 3: 0.0, 4: 1.0}
MEMORY = 0.5  # percentage points that a memory adds to linear accuracy
SUPERVISED = {0.01: 20.0, 0.1: 92.0, 1.0: 97.0}

Accuracy = Callable[[Stage], float]


def stages(seed: int, widths: Sequence[float] = WIDTHS) -> Iterator[Stage]:
    """The grid of the mini preset: all networks, one's head, distillation."""
    for width in widths:
        pretrain = Pretrain(network=Network(width=width), seed=seed)
        yield pretrain
        yield Probe(pretrain=pretrain, seed=seed)
        yield replace(pretrain, memory=True)
        yield Probe(pretrain=replace(pretrain, memory=True), seed=seed)
        for fraction in FRACTIONS:
            yield Supervised(network=Network(width=width), fraction=fraction, seed=seed)
            yield tuned(seed, width, fraction, tap_layer=int(fraction < 1))
    yield from head_stages(seed, widths[0])
    for fraction in FRACTIONS[:2]:
        yield distilled(seed, fraction, teacher=1.0, student=1.0)
        small = distilled(seed, fraction, teacher=widths[-1], student=widths[0])
        yield small
        yield replace(small, label_weight=0.5)
        yield replace(small, label_weight=0.5, transfer="labelled")


def head_stages(seed: int, width: float) -> Iterator[Stage]:
    for head_layers in HEADS:
        if head_layers != 3:
            pretrain = Pretrain(network=Network(width=width), head_layers=head_layers, seed=seed)
            yield pretrain
            yield Probe(pretrain=pretrain, seed=seed)
        for fraction in FRACTIONS[:2]:
            for tap_layer in LAYERS:
                if tap_layer <= head_layers and (head_layers, tap_layer) != (3, 1):
                    yield tuned(seed, width, fraction, tap_layer, head_layers)


def tuned(seed: int, width: float, fraction: float, tap_layer: int = 1, head_layers: int = 3) -> Finetune:
    pretrain = Pretrain(network=Network(width=width), head_layers=head_layers, seed=seed)
    return Finetune(pretrain=pretrain, fraction=fraction, tap_layer=tap_layer, seed=seed)


def distilled(seed: int, fraction: float, teacher: float, student: float) -> Distill:
    return Distill(teacher=tuned(seed, teacher, fraction), network=Network(width=student), seed=seed)


def expected(stage: Stage) -> float:
    """The accuracy (%) of the story: every claim of the paper holds, clearly."""
    match stage:
        case Probe():
            size = np.log2(stage.pretrain.network.width)
            return 90 + 4 * size + HEADS[stage.pretrain.head_layers] / 6 + MEMORY * stage.pretrain.memory
        case Supervised():
            return SUPERVISED[stage.fraction] + 0.1 * np.log2(stage.network.width)
        case Finetune():
            shift = LAYERS[stage.tap_layer] if stage.fraction < 1 else 0
            shift += HEADS[stage.pretrain.head_layers]
            size = np.log2(stage.pretrain.network.width)
            return BASE[stage.fraction] + STEP[stage.fraction] * (size + shift / 8)
        case Distill():
            gain = 2.0 if stage.teacher.pretrain.network == stage.network else 0.0
            cost = 40.0 if stage.transfer == "labelled" else 0.0
            return expected(stage.teacher) + STEP[stage.teacher.fraction] * (gain - cost) / 8
    return 0.0


def noisy(stage: Stage) -> float:
    """`expected` with the same small noise on every call."""
    draw = np.random.default_rng(int(hashlib.sha256(str(stage).encode()).hexdigest()[:8], 16))
    return expected(stage) + 0.05 * float(draw.normal())


def record(stage: Stage, accuracy: Accuracy = noisy) -> dict[str, Any]:
    """A record as the store keeps it."""
    network = stage.network if isinstance(stage, Supervised | Distill) else stage.chain[0].network  # type: ignore[attr-defined]
    labelled = stage.teacher if isinstance(stage, Distill) else stage
    share = getattr(labelled, "fraction", 1.0)
    top1 = accuracy(stage) / 100
    metrics = {"loss": 0.5} | ({} if stage.name == "pretrain" else {"top1": top1})
    if isinstance(stage, Probe):
        metrics["knn"] = top1 - 0.03
    if isinstance(stage, Distill):
        metrics |= {"teacher_top1": accuracy(stage.teacher) / 100, "agreement": 0.8}
    return {
        "stage": stage.name,
        "key": key(stage, "tint"),
        "parent": key(stage.source, "tint") if stage.source else None,
        "version": 1,
        "config": json.loads(json.dumps(to_dict(stage))),
        "dataset": {
            "name": "tinted_mnist",
            "fingerprint": "tint",
            "part": "test",
            "train": 4000,
            "evaluation": 1000,
            "classes": [str(digit) for digit in range(10)],
        },
        "labels": 0 if stage.name == "pretrain" else round(4000 * share),
        "parameters": PARAMETERS[network.width],
        "metrics": metrics,
        "provenance": PROVENANCE | {"finished": f"2026-11-23T01:0{stage.seed}:00Z"},
    }


def put(store: Store, stage: Stage, accuracy: Accuracy = noisy) -> Path:
    """Write the record of a run that never was where the store has its place; returns its folder."""
    folder = store.path(stage)
    folder.mkdir(parents=True)
    made = record(stage, accuracy)
    made["key"] = folder.name.rpartition("-")[2]
    made["parent"] = store.path(stage.source).name.rpartition("-")[2] if stage.source else None
    made["dataset"]["fingerprint"] = fingerprint(stage.images)
    (folder / "record.json").write_text(json.dumps(made))
    (folder / "history.json").write_text(json.dumps({"step": [1], "loss": [0.5], "learning_rate": [0.1]}))
    write_run_sums(folder)
    return folder


def on_cifar10(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records as if all of CIFAR-10 had been used."""
    for made in records:
        made["labels"] = round(made["labels"] * 50_000 / 4000)
        made["dataset"] |= {"name": "cifar10", "train": 50_000, "evaluation": 10_000}
    return records


PROVENANCE = {
    "seconds": 12.5,
    "peak_memory_mb": 512,
    "device": "cpu",
    "cpu": "Test CPU",
    "cores": 2,
    "threads": 1,
    "python": "3.11.7",
    "torch": "2.14.1",
    "clrkit": "0.1.0",
    "git": "abc123",
}


def records(
    accuracy: Accuracy = noisy, seeds: Sequence[int] = SEEDS, widths: Sequence[float] = WIDTHS
) -> list[dict[str, Any]]:
    return [record(stage, accuracy) for seed in seeds for stage in stages(seed, widths)]


def runs(
    accuracy: Accuracy = noisy, seeds: Sequence[int] = SEEDS, widths: Sequence[float] = WIDTHS
) -> pd.DataFrame:
    return records_to_frame(records(accuracy, seeds, widths))


def records_to_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The records as a frame of the story's preset."""
    return run_records.records_to_frame(records, PRESET)


def preset(widths: Sequence[float] = WIDTHS) -> Preset:
    """The experiment that the story's runs belong to."""
    tuned_at = tuned(0, widths[-1], FRACTIONS[0])
    return Preset(
        name="story",
        probe=Probe(pretrain=tuned_at.pretrain),
        supervised=Supervised(),
        distill=Distill(teacher=tuned_at),
        grid=ExperimentGrid(
            seeds=SEEDS,
            networks=tuple(Network(width=width) for width in widths),
            self_temperature=1.0,
            labelled=tuple(
                LabelSchedule(fraction=fraction, epochs=Supervised().epochs, batch_size=50)
                for fraction in FRACTIONS
            ),
            head_layers=tuple(HEADS),
            tap_layers=tuple(LAYERS),
            memory_size=1000,
        ),
    )


PRESET = preset()

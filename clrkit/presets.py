"""Presets: functions that return every run of an experiment; docstrings give hardware, time and result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from clrkit.config import (
    Augmentation,
    Data,
    Distill,
    Finetune,
    Network,
    Optimizer,
    Pretrain,
    Probe,
    Stage,
    Supervised,
    known,
    stage_class,
    with_fields,
)


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """A label fraction, and how long supervised and fine-tuned training go on at it, the same for both."""

    fraction: float
    epochs: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The extent of an experiment.

    Attributes:
        seeds: each goes through the whole chain: pretraining, label draw, fine-tuning, distillation.
        networks: the smallest first. The last is distilled into itself, and is the teacher of big-to-small
            distillation; the first is its student, and the network whose head is varied.
        self_temperature: of self-distillation; big-to-small has that of `Preset.distill`.
        labelled: label fractions, rising; the last is fine-tuned from the encoder's output.
        head_layers: depths of the projection head that are compared.
        tap_layers: head layers from which fine-tuning starts, compared at all fractions but the last.
    """

    seeds: tuple[int, ...]
    networks: tuple[Network, ...]
    self_temperature: float
    labelled: tuple[Labelling, ...]
    head_layers: tuple[int, ...]
    tap_layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An experiment: its standard run of each stage, and how far it varies them.

    Attributes:
        name: of the preset and of its results folder.
        probe, supervised, distill: the standard runs; fine-tuning and pretraining are part of `distill`.
        grid: the extent.
    """

    name: str
    probe: Probe
    supervised: Supervised
    distill: Distill
    grid: Grid

    @property
    def finetune(self) -> Finetune:
        return self.distill.teacher

    @property
    def pretrain(self) -> Pretrain:
        return self.finetune.pretrain

    def resolve(self, stage: str, **settings: Any) -> Any:
        """The standard run of a stage with single fields changed by name; None changes nothing.

        Raises:
            ConfigError: for an unknown stage or field, naming the nearest, or an impossible value.
        """
        stage_class(stage)
        return with_fields(getattr(self, stage), settings)

    @property
    def runs(self) -> tuple[Stage, ...]:
        """Every run that `reproduce` makes."""
        return tuple(dict.fromkeys(run for seed in self.grid.seeds for run in self.seed_runs(seed)))

    def seed_runs(self, seed: int) -> Iterator[Stage]:
        yield from self.network_runs(seed)
        yield from self.head_runs(seed)
        yield from self.distill_runs(seed)

    def network_runs(self, seed: int) -> Iterator[Stage]:
        """Supervised, linear and fine-tuned accuracy of every network at every label fraction.

        At the smallest fraction also from the encoder's output: does the head's gain shrink with size?
        """
        for network in reversed(self.grid.networks):
            pretrain = replace(self.pretrain, network=network, seed=seed)
            yield replace(self.probe, pretrain=pretrain, seed=seed)
            yield self.tuned(pretrain, self.grid.labelled[0], tap_layer=0)
            for labelling in self.grid.labelled:
                tap = 0 if labelling == self.grid.labelled[-1] else self.finetune.tap_layer
                yield self.tuned(pretrain, labelling, tap)
                yield replace(self.supervised, network=network, seed=seed, **asdict(labelling))

    def head_runs(self, seed: int) -> Iterator[Stage]:
        """The first network's head: its depth, and the layer fine-tuning starts from."""
        for layers in self.grid.head_layers:
            pretrain = replace(self.pretrain, network=self.grid.networks[0], head_layers=layers, seed=seed)
            yield replace(self.probe, pretrain=pretrain, seed=seed)
            for labelling in self.grid.labelled[:-1]:
                for tap in self.grid.tap_layers:
                    if tap <= layers:
                        yield self.tuned(pretrain, labelling, tap)

    def distill_runs(self, seed: int) -> Iterator[Stage]:
        """Self-distillation, big-to-small, and the rows of the paper's Table 2 for the small student."""
        small, big = self.grid.networks[0], self.grid.networks[-1]
        for labelling in self.grid.labelled[:-1]:
            itself = self.student(seed, labelling, teacher=big, student=big)
            yield replace(itself, temperature=self.grid.self_temperature)
            taught = self.student(seed, labelling, teacher=big, student=small)
            yield taught
            yield replace(taught, label_weight=0.5)
            yield replace(
                taught,
                label_weight=0.5,
                transfer="labelled",
                epochs=labelling.epochs,
                batch_size=labelling.batch_size,
            )

    def tuned(self, pretrain: Pretrain, labelling: Labelling, tap_layer: int) -> Finetune:
        changes = {"tap_layer": tap_layer, "seed": pretrain.seed, **asdict(labelling)}
        return replace(self.finetune, pretrain=pretrain, **changes)

    def student(self, seed: int, labelling: Labelling, teacher: Network, student: Network) -> Distill:
        pretrain = replace(self.pretrain, network=teacher, seed=seed)
        tuned = self.tuned(pretrain, labelling, self.finetune.tap_layer)
        return replace(self.distill, teacher=tuned, network=student, seed=seed)


def preset(name: str) -> Preset:
    """The preset of a name. Raises ConfigError for an unknown one, naming the nearest."""
    presets = {make.__name__: make for make in PRESETS}
    return presets[known(name, list(presets), "preset")]()


def adamw(learning_rate: float, weight_decay: float, warmup_epochs: float = 0.0) -> Optimizer:
    return Optimizer(
        optimizer="adamw",
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
    )


def mini() -> Preset:
    """The whole story on tinted MNIST: three networks of 5,000 to 78,000 parameters, three seeds.

    About 10 minutes on two CPU cores. Chosen on the validation split (docs/mini.md).
    """
    data = Data(dataset="tinted_mnist", image_size=28)
    crops = Augmentation(crop_area=0.5, flip=False, color_strength=0.0)
    pretrain = Pretrain(
        data=data,
        network=Network(depth=8, width=1.0, stem="stride2"),
        augmentation=replace(crops, color_strength=1.0),
        optimizer=adamw(4e-3, 1e-4, warmup_epochs=1.0),
        epochs=20,
        batch_size=64,
        temperature=0.2,
    )
    labelled = (
        Labelling(fraction=0.01, epochs=150, batch_size=32),
        Labelling(fraction=0.1, epochs=30, batch_size=50),
        Labelling(fraction=1.0, epochs=8, batch_size=125),
    )
    finetune = Finetune(
        pretrain=pretrain, augmentation=crops, optimizer=adamw(4e-3, 1e-4), **asdict(labelled[0])
    )
    return Preset(
        name="mini",
        probe=Probe(pretrain=pretrain, optimizer=adamw(1e-2, 0.0), epochs=30, batch_size=250),
        supervised=Supervised(
            data=data,
            network=pretrain.network,
            augmentation=crops,
            optimizer=adamw(1.6e-2, 1e-4),
            **asdict(labelled[0]),
        ),
        distill=Distill(
            teacher=finetune,
            network=pretrain.network,
            augmentation=crops,
            optimizer=adamw(8e-3, 1e-4),
            epochs=10,
            batch_size=125,
        ),
        grid=Grid(
            seeds=(0, 1, 2),
            networks=tuple(replace(pretrain.network, width=width) for width in (0.25, 0.5, 1.0)),
            self_temperature=1.0,
            labelled=labelled,
            head_layers=(2, 3, 4),
            tap_layers=(0, 1, 2, 3),
        ),
    )


def smoke() -> Preset:
    """Every stage for a moment: the notebooks and tests run through it, its numbers mean nothing.

    About half a minute on two CPU cores.
    """
    full = mini()
    labelled = (
        Labelling(fraction=0.01, epochs=2, batch_size=40),
        Labelling(fraction=0.1, epochs=1, batch_size=100),
    )
    short = {"epochs": 1, "batch_size": 250}
    network = {"width": 0.25}
    finetune = with_fields(
        full.finetune, {"pretrain.epochs": 1, "pretrain.batch_size": 250, "pretrain.width": 0.25}
    )
    finetune = with_fields(finetune, asdict(labelled[0]))
    return Preset(
        name="smoke",
        probe=with_fields(replace(full.probe, pretrain=finetune.pretrain), short),
        supervised=with_fields(full.supervised, {**network, **asdict(labelled[0])}),
        distill=with_fields(replace(full.distill, teacher=finetune), {**network, **short}),
        grid=Grid(
            seeds=(0,),
            networks=(finetune.pretrain.network,),
            self_temperature=1.0,
            labelled=labelled,
            head_layers=(3,),
            tap_layers=(0, 1),
        ),
    )


PRESETS = (smoke, mini)

"""Experiments: the standard run of each stage, and the grid of runs that vary it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from clrkit.config import Distill, Finetune, Network, Pretrain, Probe, Stage, Supervised
from clrkit.experiments.fields import stage_class, with_fields

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True, kw_only=True)
class LabelSchedule:
    """A label fraction with the epochs and batch size of supervised training and fine-tuning."""

    fraction: float
    epochs: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class AblationGrid:
    """Runs for the ablation lab: every combination of some settings; the others are the preset's.

    Attributes:
        outcomes: names in `clrkit.experiments.ablation_settings.OUTCOMES`.
        settings: values by name in `clrkit.experiments.ablation_settings.FACTORS`.
    """

    outcomes: tuple[str, ...]
    settings: Mapping[str, tuple[Any, ...]] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class ExperimentGrid:
    """The runs of an experiment.

    Attributes:
        seeds: each seed has its own pretraining, label draw, fine-tuning and distillation.
        pretrain_seed: seed of one pretraining that all seeds share; None: each seed has its own.
        networks: the smallest first. The first is the student of big-to-small distillation, and its head is
            varied. The last is the teacher, before and after it is distilled into itself.
        self_distilled: further networks that are distilled into themselves.
        self_temperature: of self-distillation; big-to-small distillation has that of `Preset.distill`.
        labelled: label fractions, rising; the last is fine-tuned from the encoder's output.
        head_layers: depths of the projection head to compare.
        tap_layers: head layers that fine-tuning starts from, compared at all fractions but the last.
        memory_size, memory_momentum: of an additional pretraining with a memory (appendix D); 0 for none.
        memory_network: its network; None for the last.
        whole_budget: also train the first network supervised for as many images as pretraining and
            fine-tuning see together.
        ablated: the network of the ablation lab; None for the first.
        ablations: runs for the lab only.
    """

    seeds: tuple[int, ...]
    pretrain_seed: int | None = None
    networks: tuple[Network, ...]
    self_distilled: tuple[Network, ...] = ()
    self_temperature: float
    labelled: tuple[LabelSchedule, ...]
    head_layers: tuple[int, ...]
    tap_layers: tuple[int, ...]
    memory_size: int = 0
    memory_momentum: float = 0.999
    memory_network: Network | None = None
    whole_budget: bool = False
    ablated: Network | None = None
    ablations: tuple[AblationGrid, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An experiment.

    Attributes:
        name: of the preset and its results folder.
        probe, supervised, distill: the standard runs; `distill` contains fine-tuning and pretraining.
        grid: how the runs vary.
    """

    name: str
    probe: Probe
    supervised: Supervised
    distill: Distill
    grid: ExperimentGrid

    @property
    def finetune(self) -> Finetune:
        return self.distill.teacher

    @property
    def pretrain(self) -> Pretrain:
        return self.finetune.pretrain

    def resolve(self, stage: str, /, **settings: Any) -> Any:
        """The standard run of a stage with single fields changed by name (`fields.with_fields`).

        Raises:
            ConfigError: for an unknown stage or field, or an impossible value.
        """
        stage_class(stage)
        return with_fields(getattr(self, stage), settings)

    @property
    def runs(self) -> tuple[Stage, ...]:
        """Every run that `reproduce` makes, by seed, or by pretraining if seeds share it."""
        runs = dict.fromkeys(run for seed in self.grid.seeds for run in self.seed_runs(seed))
        return tuple(runs if self.grid.pretrain_seed is None else sorted(runs, key=self.place))

    def place(self, run: Stage) -> tuple[int, bool]:
        """Sort key if seeds share pretrainings: small networks first, the standard pretraining first."""
        first = run.chain[0]
        assert isinstance(first, Pretrain | Supervised)
        standard = self.pretraining(first.seed, network=first.network)
        return self.grid.networks.index(first.network), isinstance(first, Pretrain) and first != standard

    def pretraining(self, seed: int, **changes: Any) -> Pretrain:
        """The pretraining of a seed."""
        shared = self.grid.pretrain_seed
        return replace(self.pretrain, seed=seed if shared is None else shared, **changes)

    def tap_layer(self, fraction: float) -> int:
        """The head layer that fine-tuning starts from when sizes are compared: 0 with most labels."""
        return 0 if fraction >= self.grid.labelled[-1].fraction else self.finetune.tap_layer

    def whole_budget(self, labelling: LabelSchedule) -> int:
        """Epochs of supervised training that see as many images as pretraining and fine-tuning together."""
        return labelling.epochs + round(self.pretrain.epochs / labelling.fraction)

    def seed_runs(self, seed: int) -> Iterator[Stage]:
        yield from self.network_runs(seed)
        yield from self.budget_runs(seed)
        yield from self.head_runs(seed)
        yield from self.distill_runs(seed)
        yield from self.memory_runs(seed)

    def network_runs(self, seed: int) -> Iterator[Stage]:
        """Every network at every label fraction: supervised, linear probe and fine-tuned.

        At the smallest fraction fine-tuning also starts from the encoder: does the head's gain shrink?
        """
        for network in reversed(self.grid.networks):
            pretrain = self.pretraining(seed, network=network)
            yield self.probed(pretrain)
            yield self.tuned(seed, pretrain, self.grid.labelled[0], tap_layer=0)
            for labelling in self.grid.labelled:
                yield self.tuned(seed, pretrain, labelling, self.tap_layer(labelling.fraction))
                yield self.alone(seed, network, labelling, labelling.epochs)

    def budget_runs(self, seed: int) -> Iterator[Stage]:
        """Supervised training of the first network for the whole budget of images."""
        if self.grid.whole_budget:
            for labelling in self.grid.labelled:
                yield self.alone(seed, self.grid.networks[0], labelling, self.whole_budget(labelling))

    def head_runs(self, seed: int) -> Iterator[Stage]:
        """Depths of the first network's head, and the layers that fine-tuning starts from."""
        for layers in self.grid.head_layers:
            pretrain = self.pretraining(seed, network=self.grid.networks[0], head_layers=layers)
            yield self.probed(pretrain)
            for labelling in self.grid.labelled[:-1]:
                for tap in self.grid.tap_layers:
                    if tap <= layers:
                        yield self.tuned(seed, pretrain, labelling, tap)

    def distill_runs(self, seed: int) -> Iterator[Stage]:
        """Self-distillation, big-to-small distillation, and the rows of the paper's Table 2."""
        small, big = self.grid.networks[0], self.grid.networks[-1]
        for labelling in self.grid.labelled[:-1]:
            for network in (*self.grid.self_distilled, big):
                itself = self.student(seed, labelling, teacher=network, student=network)
                yield replace(itself, temperature=self.grid.self_temperature)
            taught = self.student(seed, labelling, teacher=big, student=small)
            yield taught
            if small != big:
                yield replace(taught, self_temperature=self.grid.self_temperature)
            yield replace(taught, label_weight=0.5)
            few = lasting(taught, labelling.epochs)
            yield replace(few, label_weight=0.5, transfer="labelled", batch_size=labelling.batch_size)

    def memory_runs(self, seed: int) -> Iterator[Stage]:
        """The linear probe of a network pretrained with a memory."""
        if self.grid.memory_size:
            pretrain = self.pretraining(
                seed,
                network=self.grid.memory_network or self.grid.networks[-1],
                memory=True,
                memory_size=self.grid.memory_size,
                memory_momentum=self.grid.memory_momentum,
            )
            yield self.probed(pretrain)

    def probed(self, pretrain: Pretrain) -> Probe:
        """The linear probe of a pretraining, with its seed: it draws no labels."""
        return replace(self.probe, pretrain=pretrain, seed=pretrain.seed)

    def alone(self, seed: int, network: Network, labelling: LabelSchedule, epochs: int) -> Supervised:
        """Supervised training."""
        changes = {**asdict(labelling), "epochs": epochs}
        return replace(lasting(self.supervised, epochs), network=network, seed=seed, **changes)

    def tuned(self, seed: int, pretrain: Pretrain, labelling: LabelSchedule, tap_layer: int) -> Finetune:
        changes = {"tap_layer": tap_layer, "seed": seed, **asdict(labelling)}
        return replace(self.finetune, pretrain=pretrain, **changes)

    def student(self, seed: int, labelling: LabelSchedule, teacher: Network, student: Network) -> Distill:
        pretrain = self.pretraining(seed, network=teacher)
        tuned = self.tuned(seed, pretrain, labelling, self.finetune.tap_layer)
        return replace(self.distill, teacher=tuned, network=student, seed=seed)


def lasting(stage: S, epochs: int) -> S:
    """Change the epochs of a stage; the warmup keeps its share of them."""
    warmup = stage.optimizer.warmup_epochs * epochs / stage.epochs
    return replace(stage, epochs=epochs, optimizer=replace(stage.optimizer, warmup_epochs=warmup))


def describe(stage: Stage) -> str:
    """A run in a few words, such as "finetune fraction 0.1 tap_layer 1 seed 0"."""
    values = {name: getattr(stage, name) for name in ("fraction", "tap_layer") if hasattr(stage, name)}
    words = [f"{name} {value:g}" for name, value in values.items()]
    return " ".join([stage.name, *words, f"seed {stage.seed}"])

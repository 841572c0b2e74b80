"""An experiment: its standard run of each stage, and how far it varies them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from clrkit.config import Distill, Finetune, Network, Pretrain, Probe, Stage, Supervised, stage_class
from clrkit.experiments.fields import with_fields

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True, kw_only=True)
class LabelSchedule:
    """A label fraction, and how long supervised and fine-tuned training go on at it, the same for both."""

    fraction: float
    epochs: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class AblationGrid:
    """Runs for the ablation lab: every combination of some settings, the others at the preset's value.

    Attributes:
        outcomes: what is measured at each combination (`clrkit.experiments.ablation_settings.OUTCOMES`).
        settings: values by the name of a setting (`clrkit.experiments.ablation_settings.FACTORS`).
    """

    outcomes: tuple[str, ...]
    settings: Mapping[str, tuple[Any, ...]] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class ExperimentGrid:
    """The extent of an experiment.

    Attributes:
        seeds: each goes through the whole chain: pretraining, label draw, fine-tuning, distillation.
        pretrain_seed: of the one pretraining that all seeds build on, where several are too dear; None: each
            seed has its own.
        networks: the smallest first. The last is distilled into itself, and is the teacher of big-to-small
            distillation, before that and after; the first is its student, and the network whose head is
            varied.
        self_distilled: further networks that are distilled into themselves.
        self_temperature: of self-distillation; big-to-small has that of `Preset.distill`.
        labelled: label fractions, rising; the last is fine-tuned from the encoder's output.
        head_layers: depths of the projection head that are compared.
        tap_layers: head layers from which fine-tuning starts, compared at all fractions but the last.
        memory_size, memory_momentum: of the memory (appendix D) that a network is also pretrained with; size
            0 for no such run.
        memory_network: which network that is; None for the last.
        whole_budget: whether the first network is also trained on the labels alone for as many images as
            pretraining and fine-tuning draw together.
        ablated: the network of the ablation lab; None for the first.
        ablations: runs for the lab, beyond those that the figures are drawn from.
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
    grid: ExperimentGrid

    @property
    def finetune(self) -> Finetune:
        return self.distill.teacher

    @property
    def pretrain(self) -> Pretrain:
        return self.finetune.pretrain

    def resolve(self, stage: str, /, **settings: Any) -> Any:
        """The standard run of a stage with single fields changed by name; None changes nothing.

        Raises:
            ConfigError: for an unknown stage or field, naming the nearest, or an impossible value.
        """
        stage_class(stage)
        return with_fields(getattr(self, stage), settings)

    @property
    def runs(self) -> tuple[Stage, ...]:
        """Every run that `reproduce` makes: seed by seed, or by the pretraining that the seeds share."""
        runs = dict.fromkeys(run for seed in self.grid.seeds for run in self.seed_runs(seed))
        return tuple(runs if self.grid.pretrain_seed is None else sorted(runs, key=self.place))

    def place(self, run: Stage) -> tuple[int, bool]:
        """Of a run where seeds share pretrainings: small networks first, of each the standard one first."""
        first = run.chain[0]
        assert isinstance(first, Pretrain | Supervised)
        standard = self.pretraining(first.seed, network=first.network)
        return self.grid.networks.index(first.network), isinstance(first, Pretrain) and first != standard

    def pretraining(self, seed: int, **changes: Any) -> Pretrain:
        """The pretraining that the runs of a seed build on."""
        shared = self.grid.pretrain_seed
        return replace(self.pretrain, seed=seed if shared is None else shared, **changes)

    def tap_layer(self, fraction: float) -> int:
        """The head layer that fine-tuning starts from in the size comparisons: 0 with the most labels."""
        return 0 if fraction >= self.grid.labelled[-1].fraction else self.finetune.tap_layer

    def whole_budget(self, labelling: LabelSchedule) -> int:
        """Epochs on the labels that draw as many images as pretraining and fine-tuning together."""
        return labelling.epochs + round(self.pretrain.epochs / labelling.fraction)

    def seed_runs(self, seed: int) -> Iterator[Stage]:
        yield from self.network_runs(seed)
        yield from self.budget_runs(seed)
        yield from self.head_runs(seed)
        yield from self.distill_runs(seed)
        yield from self.memory_runs(seed)

    def network_runs(self, seed: int) -> Iterator[Stage]:
        """Supervised, linear and fine-tuned accuracy of every network at every label fraction.

        At the smallest fraction also from the encoder's output: does the head's gain shrink with size?
        """
        for network in reversed(self.grid.networks):
            pretrain = self.pretraining(seed, network=network)
            yield self.probed(pretrain)
            yield self.tuned(seed, pretrain, self.grid.labelled[0], tap_layer=0)
            for labelling in self.grid.labelled:
                yield self.tuned(seed, pretrain, labelling, self.tap_layer(labelling.fraction))
                yield self.alone(seed, network, labelling, labelling.epochs)

    def budget_runs(self, seed: int) -> Iterator[Stage]:
        """The first network on the labels alone, for as many images as pretraining and fine-tuning draw."""
        if self.grid.whole_budget:
            for labelling in self.grid.labelled:
                yield self.alone(seed, self.grid.networks[0], labelling, self.whole_budget(labelling))

    def head_runs(self, seed: int) -> Iterator[Stage]:
        """The first network's head: its depth, and the layer fine-tuning starts from."""
        for layers in self.grid.head_layers:
            pretrain = self.pretraining(seed, network=self.grid.networks[0], head_layers=layers)
            yield self.probed(pretrain)
            for labelling in self.grid.labelled[:-1]:
                for tap in self.grid.tap_layers:
                    if tap <= layers:
                        yield self.tuned(seed, pretrain, labelling, tap)

    def distill_runs(self, seed: int) -> Iterator[Stage]:
        """Self-distillation, big-to-small, and the rows of the paper's Table 2 for the small student."""
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
        """Linear accuracy of a network pretrained with a memory; to compare with that without."""
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
        """Linear evaluation, once of each pretraining: no labels are drawn for it."""
        return replace(self.probe, pretrain=pretrain, seed=pretrain.seed)

    def alone(self, seed: int, network: Network, labelling: LabelSchedule, epochs: int) -> Supervised:
        """Supervised training on the labels alone."""
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
    """The stage over another number of epochs; the warmup keeps its share of them."""
    warmup = stage.optimizer.warmup_epochs * epochs / stage.epochs
    return replace(stage, epochs=epochs, optimizer=replace(stage.optimizer, warmup_epochs=warmup))


def describe(stage: Stage) -> str:
    """A run in a few words, such as "finetune fraction 0.1 tap_layer 1 seed 0"."""
    values = {name: getattr(stage, name) for name in ("fraction", "tap_layer") if hasattr(stage, name)}
    words = [f"{name} {value:g}" for name, value in values.items()]
    return " ".join([stage.name, *words, f"seed {stage.seed}"])

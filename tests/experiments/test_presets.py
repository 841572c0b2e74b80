"""Presets: every run they plan is sound, and the comparisons they make are fair."""

import itertools
import re
from dataclasses import replace
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DATA

from clrkit.config import (
    Augmentation,
    Distill,
    Finetune,
    Network,
    Optimizer,
    Pretrain,
    Probe,
    Stage,
    Supervised,
)
from clrkit.data.datasets import load
from clrkit.errors import ConfigError
from clrkit.experiments.ablation_settings import OUTCOMES, ablation_runs, run_at
from clrkit.experiments.fields import with_fields
from clrkit.experiments.grid import Preset
from clrkit.experiments.presets import PRESETS, preset
from clrkit.model import Model
from clrkit.optim import peak_rate
from clrkit.runs.keys import key
from clrkit.stages import begin, check, steps

NAMES = [make.__name__ for make in PRESETS]
every_preset = pytest.mark.parametrize("chosen", [make() for make in PRESETS], ids=lambda each: each.name)


@cache
def runs(chosen: Preset) -> tuple[Stage, ...]:
    return chosen.runs


def of(kind: type[Stage], chosen: Preset) -> list[Any]:
    return [run for run in runs(chosen) if type(run) is kind]


@every_preset
def test_a_preset_is_called_as_its_function_and_says_what_it_costs(chosen):
    make = next(make for make in PRESETS if make.__name__ == chosen.name)
    assert preset(chosen.name) == chosen
    assert re.search(r"CPU|GPU|TPU", make.__doc__)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^Unknown preset 'minni'; did you mean mini\?$"):
        preset("minni")


@every_preset
def test_no_run_is_planned_twice(chosen):
    assert len({key(run, "f") for run in runs(chosen)}) == len(set(runs(chosen))) == len(runs(chosen))


@every_preset
def test_every_run_can_be_trained_on_its_images(chosen):
    if chosen.pretrain.data.dataset != "tinted_mnist":
        pytest.skip("its images are not embedded")
    images = load(chosen.pretrain.data)
    for run in runs(chosen):
        check(run, images)


@every_preset
def test_one_seed_goes_through_the_whole_chain_but_for_a_shared_pretraining(chosen):
    shared = chosen.grid.pretrain_seed
    for run in runs(chosen):
        pretrained = [stage for stage in run.chain if isinstance(stage, Pretrain)]
        assert shared is None or {stage.seed for stage in pretrained} <= {shared}
        assert len({stage.seed for stage in run.chain if shared is None or stage not in pretrained}) <= 1
    seeds = {
        seed: {with_fields(run, {"seed": 0}) for run in chosen.seed_runs(seed)} for seed in chosen.grid.seeds
    }
    assert all(runs == seeds[chosen.grid.seeds[0]] for runs in seeds.values())


@every_preset
def test_every_stage_is_run(chosen):
    assert {type(run) for run in runs(chosen)} == {Probe, Supervised, Finetune, Distill}


@every_preset
def test_the_standard_run_of_each_stage_is_one_of_the_runs_that_are_made(chosen):
    sources = {stage for run in runs(chosen) for stage in run.chain}
    seed = chosen.grid.seeds[0]
    for stage in (chosen.pretrain, chosen.finetune, chosen.probe, chosen.supervised, chosen.distill):
        assert with_fields(stage, {"seed": seed}) in sources, stage.name


@every_preset
def test_all_runs_see_the_same_images(chosen):
    assert len({run.images for run in runs(chosen)}) == 1


@every_preset
def test_supervised_training_is_as_long_as_fine_tuning_and_sees_the_same_labels(chosen):
    shared = attrgetter("fraction", "label_list", "epochs", "batch_size", "augmentation", "seed")
    longer = {run for seed in chosen.grid.seeds for run in chosen.budget_runs(seed)}
    alone = {shared(run) for run in of(Supervised, chosen) if run not in longer}
    assert alone == {shared(run) for run in of(Finetune, chosen)}


def test_the_whole_budget_draws_as_many_images_as_pretraining_and_fine_tuning():
    for chosen in (preset("mini"), preset("cifar10_cpu")):
        longer = list(chosen.budget_runs(0))
        assert [run.fraction for run in longer] == [each.fraction for each in chosen.grid.labelled]
        images = 40_000
        for run, labelling in zip(longer, chosen.grid.labelled, strict=True):
            drawn = chosen.pretrain.epochs * images + labelling.epochs * labelling.fraction * images
            assert run.epochs * run.fraction * images == pytest.approx(drawn)
            assert run.network == chosen.grid.networks[0]
            assert run in chosen.runs


@every_preset
def test_supervised_and_fine_tuned_networks_are_the_same(chosen):
    networks = {run.network for run in of(Supervised, chosen)}
    assert networks == {run.pretrain.network for run in of(Probe, chosen)}
    assert networks == {run.pretrain.network for run in of(Finetune, chosen)}


@every_preset
def test_every_network_is_measured_at_every_label_fraction(chosen):
    grid = chosen.grid
    cells = set(
        itertools.product(grid.networks, (labelling.fraction for labelling in grid.labelled), grid.seeds)
    )
    assert {(run.network, run.fraction, run.seed) for run in of(Supervised, chosen)} == cells
    assert {(run.pretrain.network, run.fraction, run.seed) for run in of(Finetune, chosen)} >= cells


@every_preset
def test_all_labels_are_fine_tuned_from_the_encoder_s_output_and_few_from_the_head(chosen):
    *few, most = chosen.grid.labelled
    assert all(labelling.fraction < most.fraction for labelling in few)
    taps = {run.tap_layer for run in of(Finetune, chosen) if run.fraction == most.fraction}
    assert taps == {0}
    for labelling in few:
        taps = {run.tap_layer for run in of(Finetune, chosen) if run.fraction == labelling.fraction}
        assert taps >= {0, 1}


@every_preset
def test_the_head_is_varied_alone(chosen):
    standard = replace(chosen.pretrain, network=chosen.grid.networks[0])
    sources = {run.pretrain for run in of(Finetune, chosen) if run.pretrain.network == standard.network}
    for source in sources:
        assert replace(source, head_layers=standard.head_layers, seed=standard.seed) == standard
    assert {source.head_layers for source in sources} >= set(chosen.grid.head_layers)


@every_preset
def test_a_memory_is_compared_with_none_in_the_biggest_network_or_the_one_said(chosen):
    with_memory = [run for run in of(Probe, chosen) if run.pretrain.memory != chosen.pretrain.memory]
    pretrainings = len(chosen.grid.seeds) if chosen.grid.pretrain_seed is None else 1
    assert len(with_memory) == (pretrainings if chosen.grid.memory_size else 0)
    plain = {run.pretrain for run in of(Probe, chosen)} - {run.pretrain for run in with_memory}
    for run in with_memory:
        plainly = {"memory_size": 65536, "memory_momentum": 0.999}
        source = replace(run.pretrain, memory=False, **plainly)
        assert source.network == (chosen.grid.memory_network or chosen.grid.networks[-1])
        assert source in plain


@every_preset
def test_every_run_warms_up_for_a_small_part_of_its_epochs(chosen):
    if chosen.name != "smoke":  # whose runs are over in a moment
        made = [link for run in runs(chosen) for link in run.chain]
        # The paper's share is 5%; an epoch of very few is a little more.
        assert all(run.optimizer.warmup_epochs <= max(1, 0.05 * run.epochs) for run in made)


@every_preset
def test_students_learn_from_teachers_that_are_among_the_runs(chosen):
    tuned = set(of(Finetune, chosen))
    assert all(run.teacher in tuned for run in of(Distill, chosen))


@every_preset
def test_distillation_is_compared_as_in_the_paper_s_table_2(chosen):
    small, big = chosen.grid.networks[0], chosen.grid.networks[-1]
    for labelling, seed in itertools.product(chosen.grid.labelled[:-1], chosen.grid.seeds):
        students = [
            run
            for run in of(Distill, chosen)
            if (run.network, run.teacher.pretrain.network) == (small, big)
            and (run.teacher.fraction, run.seed) == (labelling.fraction, seed)
        ]
        rows = {(run.transfer, run.label_weight > 0) for run in students}
        assert rows >= {("all", False), ("all", True), ("labelled", True)}


@every_preset
def test_the_biggest_network_is_distilled_into_itself(chosen):
    selves = [run for run in of(Distill, chosen) if run.network == run.teacher.pretrain.network]
    temperatures = {(run.network, run.temperature) for run in selves}
    assert (chosen.grid.networks[-1], chosen.grid.self_temperature) in temperatures


@every_preset
def test_the_smallest_network_is_taught_by_the_biggest_before_and_after_that_is_distilled_into_itself(chosen):
    small, big = chosen.grid.networks[0], chosen.grid.networks[-1]
    pairs = [run for run in of(Distill, chosen) if run.teacher.pretrain.network == big != run.network]
    taught = [run for run in pairs if run.transfer == "all"]
    assert {run.network for run in taught} <= {small}
    plain = [run for run in taught if not run.self_temperature and not run.label_weight]
    after = [run for run in taught if run.self_temperature]
    assert [replace(run, self_temperature=0.0) for run in after] == plain
    assert {run.source for run in after} <= set(of(Distill, chosen))
    assert all(run.source.network == run.source.teacher.pretrain.network for run in after)


@every_preset
@pytest.mark.parametrize("stage", ["pretrain", "probe", "supervised", "finetune", "distill"])
def test_single_fields_of_a_standard_run_are_changed_by_name(chosen, stage):
    standard = chosen.resolve(stage)
    assert standard == getattr(chosen, stage)
    assert standard.name == stage
    changed = chosen.resolve(stage, epochs=77, width=None)
    assert changed == replace(standard, epochs=77)


def test_a_resolved_field_may_lie_anywhere_in_the_chain():
    changed = preset("smoke").resolve("distill", **{"pretrain.temperature": "0.5", "seed": 4})
    assert changed.teacher.pretrain.temperature == 0.5
    assert [stage.seed for stage in changed.chain] == [4, 4, 4]


def test_an_unknown_stage_or_field_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^Unknown stage 'pretrian'; did you mean pretrain\?$"):
        preset("smoke").resolve("pretrian")
    with pytest.raises(ConfigError, match=r"^Unknown field 'temprature'; did you mean temperature\?$"):
        preset("smoke").resolve("pretrain", temprature=0.1)


@every_preset
def test_pretraining_distorts_colours_and_the_other_stages_do_not(chosen):
    assert chosen.pretrain.augmentation.color_strength > 0
    for stage in (chosen.finetune, chosen.supervised, chosen.distill):
        assert stage.augmentation.color_strength == 0
        assert not stage.augmentation.blur


def test_the_smoke_preset_has_the_stages_of_mini_in_short():
    smoke, mini = preset("smoke"), preset("mini")
    assert len(runs(smoke)) < len(runs(mini))
    assert max(run.epochs for run in runs(smoke)) <= 2
    assert smoke.pretrain.augmentation == mini.pretrain.augmentation


# Every number of the published recipes, written down a second time (facts of paper and official README).


@pytest.mark.parametrize("name", ["imagenet_r50", "imagenet_r152_3x_sk"])
def test_the_imagenet_presets_have_the_paper_s_recipe(name):
    chosen = preset(name)
    pretrain, finetune, probe, distill = chosen.pretrain, chosen.finetune, chosen.probe, chosen.distill
    assert (pretrain.epochs, pretrain.batch_size, pretrain.temperature) == (800, 4096, 0.1)
    assert pretrain.optimizer == Optimizer(
        optimizer="lars", learning_rate=0.1, scaling="sqrt", momentum=0.9, weight_decay=1e-4, warmup_epochs=40
    )
    assert peak_rate(pretrain.optimizer, 4096) == pytest.approx(6.4)
    assert pretrain.optimizer.warmup_epochs == 0.05 * pretrain.epochs
    assert (pretrain.head_layers, pretrain.head_dim, pretrain.data.image_size) == (3, 128, 224)
    assert (pretrain.memory, pretrain.memory_size, pretrain.memory_momentum) == (True, 65536, 0.999)
    assert pretrain.augmentation == Augmentation(
        crop_area=0.08, flip=True, color_strength=1.0, brightness="multiplied", blur=True
    )
    assert finetune.optimizer == Optimizer(
        optimizer="lars", learning_rate=0.005, scaling="sqrt", weight_decay=0.0, warmup_epochs=0.0
    )
    assert peak_rate(finetune.optimizer, finetune.batch_size) == pytest.approx(0.16)
    lengths = {(each.fraction, each.epochs, each.batch_size) for each in chosen.grid.labelled}
    assert lengths == {(0.01, 60, 1024), (0.1, 30, 1024), (1.0, 30, 1024)}
    assert finetune.tap_layer == 1
    assert finetune.augmentation == Augmentation(crop_area=0.08, flip=True, color_strength=0.0, blur=False)
    assert (probe.optimizer.optimizer, probe.epochs, probe.batch_size) == ("sgd", 90, 4096)
    assert (probe.optimizer.weight_decay, peak_rate(probe.optimizer, 4096)) == (1e-6, 1.6)
    assert (distill.temperature, chosen.grid.self_temperature, distill.epochs) == (1.0, 0.1, 400)
    assert distill.label_weight == 0


def test_the_cifar_10_preset_has_the_official_readme_s_recipe():
    chosen = preset("cifar10_official")
    pretrain, probe = chosen.pretrain, chosen.probe
    assert pretrain.network == Network(depth=18, width=1, sk_ratio=0, stem="cifar")
    assert (pretrain.epochs, pretrain.batch_size, pretrain.temperature) == (1000, 512, 0.5)
    assert pretrain.optimizer == Optimizer(
        optimizer="lars", learning_rate=1.0, scaling="linear", weight_decay=1e-4, warmup_epochs=10
    )
    assert pretrain.augmentation == Augmentation(crop_area=0.08, color_strength=0.5, blur=False)
    assert not pretrain.memory
    assert (probe.optimizer.optimizer, probe.epochs, probe.batch_size) == ("sgd", 100, 512)
    assert (probe.optimizer.weight_decay, peak_rate(probe.optimizer, 512)) == (0.0, 0.2)


def test_the_gpu_preset_of_cifar_10_is_the_official_recipe_in_bfloat16_but_for_the_probe():
    chosen, official = preset("cifar10"), preset("cifar10_official")
    assert (
        replace(chosen.pretrain, network=official.pretrain.network, precision="float32") == official.pretrain
    )
    assert chosen.pretrain.head_layers == 3
    assert {stage.precision for run in runs(chosen) for stage in run.chain if stage.name != "probe"} == {
        "bfloat16"
    }
    assert {run.precision for run in of(Probe, chosen)} == {"float32"}
    assert replace(chosen.probe, pretrain=official.pretrain) == official.probe
    assert chosen.finetune.optimizer == official.finetune.optimizer
    networks = [(each.depth, each.width, each.sk_ratio > 0) for each in chosen.grid.networks]
    assert networks == [(18, 1, False), (50, 1, True), (18, 2, False), (50, 2, True)]
    images = {each.fraction: each.fraction * 50_000 for each in chosen.grid.labelled}
    assert [*images.values()] == [50, 500, 5_000, 50_000]
    for each in chosen.grid.labelled:  # on the validation split, too, which leaves a tenth of the images out
        assert each.batch_size <= 0.9 * images[each.fraction]


@pytest.mark.slow
def test_a_few_steps_of_every_stage_of_the_gpu_preset_go_through_on_a_cpu():
    chosen = preset("cifar10")
    small, *_, big = (replace(network, width=0.25) for network in chosen.grid.networks)
    cut = {"batch_size": 4, "epochs": 1, "warmup_epochs": 0, "image_size": 8}
    pretrained = with_fields(replace(chosen.pretrain, network=big), cut)
    remembering = replace(pretrained, network=small, memory=True, memory_size=16)
    tuned = with_fields(replace(chosen.finetune, pretrain=pretrained), cut | {"fraction": 1.0})
    student = with_fields(replace(chosen.distill, teacher=tuned, network=small), cut)
    model = a_few_steps(pretrained, None)
    a_few_steps(remembering, None)
    a_few_steps(with_fields(replace(chosen.probe, pretrain=pretrained), cut), model)
    a_few_steps(with_fields(replace(chosen.supervised, network=big), cut | {"fraction": 1.0}), None)
    taught = a_few_steps(student, a_few_steps(tuned, model))
    assert {value.dtype for value in taught.parameters()} == {
        torch.float32
    }  # only the arithmetic is bfloat16


def a_few_steps(stage: Stage, parent: Model | None) -> Any:
    """What three steps of a stage make of a model."""
    training = begin(stage, DATA, torch.device("cpu"), parent)
    before = [value.clone() for value in training.model.parameters()]
    losses = [float(step.loss) for step in itertools.islice(steps(stage, DATA, training, parent), 3)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert any((old != new).any() for old, new in zip(before, training.model.parameters(), strict=True))
    return training.model


def test_runs_that_share_a_pretraining_come_together_the_smallest_network_first():
    chosen = preset("cifar10")
    sources = [run.chain[0] for run in runs(chosen) if isinstance(run.chain[0], Pretrain)]
    assert [network for network, _ in itertools.groupby(each.network for each in sources)] == [
        *chosen.grid.networks
    ]
    assert len(set(sources)) == len(chosen.grid.networks) + 4  # three more heads, a memory
    first = sources[: sources.count(sources[0])]
    assert first == [sources[0]] * len(first)  # all seeds on the standard pretraining, then the variants
    seeds = {run.seed for run in runs(chosen) if run.chain[0] == sources[0]}
    assert seeds == {*chosen.grid.seeds}


def test_the_lab_s_ablations_of_the_gpu_preset_are_of_resnet_18():
    chosen = preset("cifar10")
    runs = ablation_runs(chosen)
    for run in runs:
        first = run.chain[0]
        assert first.network == chosen.grid.networks[0]
        assert first.seed == chosen.grid.pretrain_seed
    standard = {run_at(chosen, outcome, {}, seed) for outcome in OUTCOMES for seed in chosen.grid.seeds}
    assert standard <= {*runs}
    probes = [run for run in runs if isinstance(run, Probe)]
    assert len(probes) == len({run.pretrain for run in probes})


def test_the_big_preset_distils_the_paper_s_biggest_network_into_its_smallest():
    chosen = preset("imagenet_r152_3x_sk")
    big, small = chosen.pretrain.network, chosen.distill.network
    assert big == Network(depth=152, width=3, sk_ratio=0.0625, stem="imagenet")
    assert small == preset("imagenet_r50").pretrain.network == Network(depth=50, stem="imagenet")
    assert chosen.distill.teacher.pretrain.network == big

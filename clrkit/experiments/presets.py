"""Presets: each function returns an experiment; its docstring gives hardware, time and expected result."""

from __future__ import annotations

from dataclasses import asdict, replace
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
    Supervised,
)
from clrkit.errors import known
from clrkit.experiments.fields import with_fields
from clrkit.experiments.grid import AblationGrid, ExperimentGrid, LabelSchedule, Preset, lasting


def preset(name: str) -> Preset:
    """Return the preset of a name. Raises ConfigError for an unknown one."""
    presets = {make.__name__: make for make in PRESETS}
    return presets[known(name, list(presets), "preset")]()


def adamw(rate: float, decay: float, warmup_epochs: float = 0.0) -> Optimizer:
    """AdamW, whose rate does not depend on the batch size."""
    return Optimizer(optimizer="adamw", learning_rate=rate, weight_decay=decay, warmup_epochs=warmup_epochs)


def lars(rate: float, scaling: str, decay: float, warmup_epochs: float = 0.0) -> Optimizer:
    """LARS, whose rate grows with the batch size by `scaling`."""
    return replace(adamw(rate, decay, warmup_epochs), optimizer="lars", scaling=scaling)


def of_widths(network: Network, *widths: float) -> tuple[Network, ...]:
    return tuple(replace(network, width=width) for width in widths)


def crossed(outcomes: tuple[str, ...], **settings: tuple[Any, ...]) -> AblationGrid:
    """Runs of the ablation lab: the outcomes at every combination of the settings' values."""
    return AblationGrid(outcomes=outcomes, settings=settings)


FEW = (0.01, 0.1)
TUNED, DISTILLED = ("linear", "finetuned"), ("distilled",)


def smoke() -> Preset:
    """Every stage for a moment, for notebooks and tests; its numbers mean nothing.

    About half a minute on two CPU cores.
    """
    full = mini()
    labelled = (
        LabelSchedule(fraction=0.01, epochs=2, batch_size=40),
        LabelSchedule(fraction=0.1, epochs=1, batch_size=100),
    )
    fewest = asdict(labelled[0])
    short, small = {"epochs": 1, "batch_size": 250}, {"width": 0.25}
    pretrain = with_fields(full.pretrain, short | small)
    finetune = replace(full.finetune, pretrain=pretrain, **fewest)
    return Preset(
        name="smoke",
        probe=with_fields(replace(full.probe, pretrain=pretrain), short),
        supervised=with_fields(full.supervised, small | fewest),
        distill=with_fields(replace(full.distill, teacher=finetune), short | small),
        grid=ExperimentGrid(
            seeds=(0,),
            networks=(pretrain.network,),
            self_temperature=1.0,
            labelled=labelled,
            head_layers=(3,),
            tap_layers=(0, 1),
            memory_size=500,
            memory_momentum=0.9,
            ablations=(crossed(TUNED, temperature=(0.2, 0.5)),),
        ),
    )


def mini() -> Preset:
    """The whole story on tinted MNIST: three networks of 5,000 to 78,000 parameters, three seeds.

    About 12 minutes on two CPU cores. Chosen on the validation split; docs/mini.md has settings and results.
    """
    pretrain = Pretrain(
        data=Data(dataset="tinted_mnist", image_size=28),
        network=Network(depth=8, width=1.0, stem="stride2"),
        augmentation=Augmentation(crop_area=0.5, flip=False, color_strength=1.0),
        optimizer=adamw(4e-3, 1e-4, warmup_epochs=1.0),
        epochs=20,
        batch_size=64,
        temperature=0.2,
    )
    labelled = (
        LabelSchedule(fraction=0.01, epochs=150, batch_size=32),
        LabelSchedule(fraction=0.1, epochs=30, batch_size=50),
        LabelSchedule(fraction=1.0, epochs=8, batch_size=125),
    )
    fewest, crops = asdict(labelled[0]), replace(pretrain.augmentation, color_strength=0.0)
    finetune = Finetune(pretrain=pretrain, augmentation=crops, optimizer=adamw(4e-3, 1e-4), **fewest)
    return Preset(
        name="mini",
        probe=Probe(pretrain=pretrain, optimizer=adamw(1e-2, 0.0), epochs=30, batch_size=250),
        supervised=Supervised(
            data=pretrain.data,
            network=pretrain.network,
            augmentation=crops,
            optimizer=adamw(1.6e-2, 1e-4),
            **fewest,
        ),
        distill=Distill(
            teacher=finetune,
            network=pretrain.network,
            augmentation=crops,
            optimizer=adamw(8e-3, 1e-4),
            epochs=10,
            batch_size=125,
        ),
        grid=ExperimentGrid(
            seeds=(0, 1, 2),
            networks=of_widths(pretrain.network, 0.25, 0.5, 1.0),
            self_temperature=1.0,
            labelled=labelled,
            head_layers=(2, 3, 4),
            tap_layers=(0, 1, 2, 3),
            memory_size=1024,
            memory_momentum=0.9,
            whole_budget=True,
            ablated=replace(pretrain.network, width=0.5),
            ablations=(
                crossed(
                    TUNED,
                    temperature=(0.05, 0.1, 0.2, 0.5, 1.0),
                    color_strength=(0.0, 0.25, 0.5, 1.0),
                    fraction=FEW,
                ),
                crossed(TUNED, head_layers=(1, 2, 3, 4), tap_layer=(0, 1, 2, 3), fraction=(*FEW, 1.0)),
                crossed(TUNED, crop_area=(0.08, 0.25, 0.5, 0.8), fraction=FEW),
                crossed(TUNED, batch_size=(32, 64, 128, 256), fraction=FEW),
                crossed(TUNED, memory=(False, True), fraction=FEW),
                crossed(TUNED, width=(0.25, 0.5, 1.0), fraction=(*FEW, 1.0)),
                crossed(
                    DISTILLED,
                    distill_temperature=(0.25, 0.5, 1.0, 2.0, 4.0),
                    label_weight=(0.0, 0.5, 0.9),
                ),
                crossed(
                    DISTILLED,
                    distill_temperature=(0.25, 0.5, 1.0, 2.0, 4.0),
                    width=(0.5, 1.0),
                    fraction=FEW,
                ),
            ),
        ),
    )


def cifar10_cpu() -> Preset:
    """All three stages on CIFAR-10, 50,000 images: networks of 20,000 to 308,000 parameters, three seeds.

    3.2 hours on two CPU cores, 3.9 with the ablations. Chosen on the validation split; results are in
    docs/results.md. Images in `--root` or CLRKIT_ROOT are not downloaded.
    """
    pretrain = Pretrain(
        data=Data(dataset="cifar10", image_size=32),
        network=Network(depth=8, width=2.0, stem="stride2"),
        augmentation=Augmentation(crop_area=0.2, color_strength=0.5),
        optimizer=adamw(8e-3, 1e-4, warmup_epochs=1.0),
        epochs=16,
        batch_size=128,
        temperature=0.2,
    )
    labelled = (
        LabelSchedule(fraction=0.01, epochs=60, batch_size=50),
        LabelSchedule(fraction=0.1, epochs=20, batch_size=100),
        LabelSchedule(fraction=1.0, epochs=6, batch_size=250),
    )
    fewest, crops = asdict(labelled[0]), replace(pretrain.augmentation, color_strength=0.0)
    finetune = Finetune(pretrain=pretrain, augmentation=crops, optimizer=adamw(8e-3, 1e-4), **fewest)
    return Preset(
        name="cifar10_cpu",
        probe=Probe(pretrain=pretrain, optimizer=adamw(1e-2, 0.0), epochs=20, batch_size=500),
        supervised=Supervised(
            data=pretrain.data,
            network=pretrain.network,
            augmentation=crops,
            optimizer=adamw(1.6e-2, 1e-4),
            **fewest,
        ),
        distill=Distill(
            teacher=finetune,
            network=pretrain.network,
            augmentation=crops,
            optimizer=adamw(8e-3, 1e-4),
            epochs=6,
            batch_size=125,
        ),
        grid=ExperimentGrid(
            seeds=(0, 1, 2),
            networks=of_widths(pretrain.network, 0.5, 1.0, 2.0),
            self_temperature=1.0,
            labelled=labelled,
            head_layers=(1, 2, 3),
            tap_layers=(0, 1, 2, 3),
            memory_size=4096,
            memory_momentum=0.99,
            memory_network=replace(pretrain.network, width=0.5),
            whole_budget=True,
            ablations=(  # of the smallest network, which a core pretrains in five minutes
                crossed(TUNED, temperature=(0.1, 0.2, 0.5), fraction=FEW),
                crossed(TUNED, color_strength=(0.0, 0.5, 1.0), fraction=FEW),
                crossed(TUNED, head_layers=(1, 2, 3), tap_layer=(0, 1, 2, 3), fraction=FEW),
                crossed(TUNED, width=(0.5, 1.0, 2.0), fraction=FEW),
                crossed(TUNED, memory=(False, True), fraction=FEW),
                crossed(DISTILLED, distill_temperature=(0.25, 1.0, 4.0)),
            ),
        ),
    )


def cifar10_official() -> Preset:
    """CIFAR-10 by the official README: ResNet-18 for 1,000 epochs, then linear evaluation.

    The README expects about 91%. For one GPU: a peer took 20 minutes for 100 such epochs on an A100. This
    project has not run it. The README does not cover fine-tuning and distillation on CIFAR-10; their settings
    are those of ImageNet, untuned, with batches of at most 500 for the few labels.

    The authors' advice for smaller batches: `--scaling sqrt --learning_rate 0.2 --head_layers 2 --head_dim 64
    --temperature 0.2`.
    """
    pretrain = Pretrain(
        data=Data(dataset="cifar10", image_size=32),
        network=Network(depth=18, stem="cifar"),
        augmentation=Augmentation(color_strength=0.5),
        optimizer=lars(1.0, "linear", 1e-4, warmup_epochs=10),
        epochs=1000,
        batch_size=512,
        temperature=0.5,
        summed_views=True,
    )
    labelled = (
        LabelSchedule(fraction=0.01, epochs=60, batch_size=250),
        LabelSchedule(fraction=0.1, epochs=30, batch_size=500),
        LabelSchedule(fraction=1.0, epochs=30, batch_size=500),
    )
    return official("cifar10_official", pretrain, (pretrain.network,), labelled, 100, 512, 0.0)


def cifar10() -> Preset:
    """All three stages on CIFAR-10 for one GPU: the official recipe with SimCLRv2's changes, in bfloat16.

    Four networks, one pretraining each; three seeds for labels, fine-tuning and distillation. This project
    has only run a few steps of each stage on a CPU, and chose no setting by trials: fine-tuning has the
    paper's optimiser, with steps that suit the fraction.

    Cost: a peer took 20 minutes for 100 epochs of ResNet-18 on an A100. Per image, ResNet-50 1x SK takes 3.4
    times as many operations, ResNet-18 2x 4.0 times, ResNet-50 2x SK 13.6 times; all runs together take 44
    times the pretraining of ResNet-18, `--ablations` adds 14 times. The backward pass keeps 2.4 GiB for
    ResNet-18 and 37 GiB for ResNet-50 2x SK, so a GPU with 80 GB is enough. Expected: the peer's linear
    evaluation reached 85.6% after 100 epochs and 91.9% after 1,000 (dkobak/simclr-cifar10).

    In parts of ten minutes, the smallest network first:
    `while python -m clrkit reproduce --preset cifar10 --minutes 9; [ $? -eq 75 ]; do :; done`.
    One pretraining alone: `run pretrain --depth 18 --width 1 --sk_ratio 0 --minutes 9`. Other labels on the
    same pretraining: `--seed 1 --pretrain.seed 0`.
    """
    few = (0.001, *FEW)
    small = Network(depth=18, stem="cifar")
    big = Network(depth=50, width=2.0, sk_ratio=0.0625, stem="cifar")
    pretrain = replace(cifar10_official().pretrain, network=big, precision="bfloat16")
    labelled = (  # a step of LARS moves weights by a fixed share, so few labels need many epochs
        LabelSchedule(fraction=0.001, epochs=1000, batch_size=40),
        LabelSchedule(fraction=0.01, epochs=300, batch_size=100),
        LabelSchedule(fraction=0.1, epochs=100, batch_size=250),
        LabelSchedule(fraction=1.0, epochs=50, batch_size=500),
    )
    networks = (small, replace(big, width=1.0), replace(small, width=2.0), big)
    standard = official("cifar10", pretrain, networks, labelled, 100, 512, 0.0)
    grid = replace(
        standard.grid,
        seeds=(0, 1, 2),
        pretrain_seed=0,
        self_distilled=(small,),
        head_layers=(1, 2, 3, 4),
        tap_layers=(0, 1, 2, 3),
        memory_size=8192,  # sixteen batches, as in the paper
        memory_network=small,
        ablated=small,
        ablations=(
            crossed(TUNED, temperature=(0.1, 0.2, 0.5, 1.0), fraction=few),
            crossed(TUNED, color_strength=(0.0, 0.25, 0.5, 1.0), fraction=few),
            crossed(TUNED, head_layers=(1, 2, 3, 4), tap_layer=(0, 1, 2, 3), fraction=(*few, 1.0)),
            crossed(TUNED, memory=(False, True), batch_size=(256, 512, 1024), fraction=few),
            crossed(DISTILLED, distill_temperature=(0.1, 0.5, 1.0, 2.0), fraction=few),
            crossed(DISTILLED, label_weight=(0.0, 0.5, 0.9), fraction=few),
        ),
    )
    return replace(standard, distill=lasting(standard.distill, 100), grid=grid)


def imagenet_r50() -> Preset:
    """ImageNet, ResNet-50 1x: the paper's recipe for its smallest network.

    Published (v2 Table 1): linear 71.7; fine-tuned on 1, 10 and 100% of the labels 57.9, 68.4 and 76.3;
    supervised 76.6. By the official README, 100 of the 800 epochs take 6 hours on 32 TPU v3. This project has
    not run it: a batch of 4,096 does not fit on one device.

    Needs `--root`, a folder with `train/<class>` and `val/<class>`. Lists of the labelled images are in
    `imagenet_subsets` of the official repository: fine-tune with `--label_list 1percent.txt`, or with
    `--label_list 10percent.txt --finetune.epochs 30`. The authors' advice for smaller batches of pretraining:
    `--learning_rate 0.075 --temperature 0.2`.
    """
    return imagenet("imagenet_r50", (Network(depth=50, stem="imagenet"),))


def imagenet_r152_3x_sk() -> Preset:
    """ImageNet, ResNet-152 3x with selective kernels (795M parameters), distilled into a ResNet-50.

    Published (v2 Table 1): linear 79.8; fine-tuned on 1, 10 and 100% of the labels 74.9, 80.1 and 83.1;
    supervised 80.5. Distilled into a ResNet-50: 73.9 with 1%, 77.5 with 10% (the paper's teacher was first
    distilled into itself). The paper used Cloud TPUs. This project has not run it: it takes many devices.

    Arguments as for `imagenet_r50`. Wider networks are said to need a lower rate in fine-tuning,
    `--finetune.learning_rate 0.002` (as recalled, not checked against the paper).
    """
    big = Network(depth=152, width=3, sk_ratio=0.0625, stem="imagenet")
    return imagenet("imagenet_r152_3x_sk", (Network(depth=50, stem="imagenet"), big))


def imagenet(name: str, networks: tuple[Network, ...]) -> Preset:
    """The paper's ImageNet recipe for networks of rising size."""
    pretrain = Pretrain(
        data=Data(dataset="imagenet", image_size=224),
        network=networks[-1],
        augmentation=Augmentation(color_strength=1.0, blur=True),
        optimizer=lars(0.1, "sqrt", 1e-4, warmup_epochs=40),
        epochs=800,
        batch_size=4096,
        temperature=0.1,
        summed_views=True,
        memory=True,
    )
    labelled = (
        LabelSchedule(fraction=0.01, epochs=60, batch_size=1024),
        LabelSchedule(fraction=0.1, epochs=30, batch_size=1024),
        LabelSchedule(fraction=1.0, epochs=30, batch_size=1024),
    )
    return official(name, pretrain, networks, labelled, 90, 4096, 1e-6)


def official(
    name: str,
    pretrain: Pretrain,
    networks: tuple[Network, ...],
    labelled: tuple[LabelSchedule, ...],
    probe_epochs: int,
    probe_batch: int,
    probe_decay: float,
) -> Preset:
    """The settings that the official recipes share, with one seed.

    The probe uses Nesterov momentum in float32, fine-tuning LARS without weight decay. Supervised training
    and distillation use pretraining's optimiser with 5% of warmup epochs; the paper does not give theirs.
    """
    crops = replace(pretrain.augmentation, color_strength=0.0, blur=False)
    probe = Probe(
        pretrain=pretrain,
        optimizer=Optimizer(optimizer="sgd", learning_rate=0.1, scaling="linear", weight_decay=probe_decay),
        epochs=probe_epochs,
        batch_size=probe_batch,
    )
    finetune = Finetune(
        pretrain=pretrain,
        augmentation=crops,
        optimizer=lars(0.005, "sqrt", 0.0),
        precision=pretrain.precision,
        **asdict(labelled[0]),
    )
    supervised = Supervised(
        data=pretrain.data,
        network=pretrain.network,
        augmentation=crops,
        optimizer=warming_up(pretrain.optimizer, labelled[0].epochs),
        precision=pretrain.precision,
        **asdict(labelled[0]),
    )
    distill = Distill(
        teacher=finetune,
        network=networks[0],
        augmentation=crops,
        optimizer=warming_up(pretrain.optimizer, 400),
        epochs=400,
        batch_size=pretrain.batch_size,
        precision=pretrain.precision,
        temperature=1.0,
    )
    grid = ExperimentGrid(
        seeds=(0,),
        networks=networks,
        self_temperature=0.1,
        labelled=labelled,
        head_layers=(3,),
        tap_layers=(0, 1),
    )
    return Preset(name=name, probe=probe, supervised=supervised, distill=distill, grid=grid)


def warming_up(optimizer: Optimizer, epochs: int) -> Optimizer:
    return replace(optimizer, warmup_epochs=0.05 * epochs)


PRESETS = (smoke, mini, cifar10_cpu, cifar10, cifar10_official, imagenet_r50, imagenet_r152_3x_sk)

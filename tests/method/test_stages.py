"""The training loops on a few tiny images: what each step sees, changes and leaves alone."""

import io
import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import (
    CLASSES,
    DATA,
    FINETUNE,
    PRETRAIN,
    REMEMBERING,
    STAGES,
    images,
    model_config,
    parent,
)
from torch import Tensor, nn

from clrkit import evaluate, stages
from clrkit import model as model_module
from clrkit import training as training_module
from clrkit.augment import ViewParams, apply_view, sample_view_params
from clrkit.config import Pretrain, Stage
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.device import choose_device
from clrkit.errors import ConfigError
from clrkit.evaluate import evaluation_view
from clrkit.experiments.fields import with_fields
from clrkit.model import seeded_model
from clrkit.optim import learning_rate
from clrkit.resnet import BatchNorm
from clrkit.runs.record import measured
from clrkit.runs.run import monitored_before
from clrkit.stages import begin, monitor, steps
from clrkit.training import Step, Training, batch_order, seed_of

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CPU = torch.device("cpu")

every_stage = pytest.mark.parametrize(
    "stage",
    [*STAGES, REMEMBERING],
    ids=lambda stage: "memory" if stage == REMEMBERING else stage.name,
)


def train(stage: Stage, data: DataSet = DATA, device: str = "cpu") -> tuple[Training, list[Step]]:
    source = parent(stage)
    training = begin(stage, data, torch.device(device), source)
    return training, list(steps(stage, data, training, source))


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in training.model.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def saved(training: Training) -> bytes:
    buffer = io.BytesIO()
    torch.save(training.state_dict(), buffer)
    return buffer.getvalue()


# Steps


@every_stage
@pytest.mark.parametrize("device", DEVICES)
def test_every_stage_takes_its_steps_at_the_schedule_s_rates(stage, device):
    training, taken = train(stage, device=device)
    total = stage.epochs * (training.images // stage.batch_size)
    assert [step.step for step in taken] == list(range(1, total + 1))
    assert {step.total for step in taken} == {total}
    assert total >= 4
    for step in taken:
        assert step.learning_rate == learning_rate(
            stage.optimizer, step.step - 1, stage.batch_size, training.images, total
        )
        assert math.isfinite(step.loss.item())
        assert not step.loss.requires_grad


@every_stage
def test_every_stage_trains_on_all_the_images_it_may_see(stage):
    expected = {"pretrain": 40, "probe": 30, "supervised": 15, "finetune": 15, "distill": 40}
    assert train(stage)[0].images == expected[stage.name]


def test_distillation_can_be_kept_to_the_labelled_images():
    stage = with_fields(STAGES[-1], {"transfer": "labelled", "batch_size": 5})
    assert train(stage)[0].images == 15


@every_stage
def test_every_stage_changes_its_model(stage):
    before = begin(stage, DATA, CPU, parent(stage))
    assert not same(weights(before), weights(train(stage)[0]))


@pytest.mark.parametrize("stage", STAGES[1:], ids=lambda stage: stage.name)
def test_a_classifier_begins_at_the_loss_of_a_guess(stage):
    assert train(stage)[1][0].loss.item() == pytest.approx(math.log(3), rel=1e-6)


# (With a memory, a third of the queue would be images of the same colour; see test_memory.py.)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_learns_what_can_be_learnt(stage):
    colours = np.zeros((40, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 3
    colours[np.arange(40), labels] = np.random.RandomState(0).randint(60, 256, (40, 8, 8))
    part = Split(PixelArray(colours), labels.astype(np.int64), [str(index) for index in range(40)])
    stage = with_fields(stage, {"epochs": 20, "optimizer.optimizer": "adamw", "learning_rate": 0.02})
    _, taken = train(stage, DataSet(part, part, CLASSES, "fingerprint"))
    losses = [step.loss.item() for step in taken]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


# Order


@given(
    images=st.integers(2, 50),
    share=st.floats(0, 1),
    epochs=st.integers(1, 3),
    skipped=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_every_epoch_takes_each_image_at_most_once_and_drops_the_remainder(
    images, share, epochs, skipped, seed
):
    size = max(2, round(share * images))
    config = Pretrain(batch_size=size, epochs=epochs, seed=seed)
    order = list(batch_order(config, images, 0))
    per_epoch = images // size
    assert [len(batch) for batch in order] == [size] * epochs * per_epoch
    for epoch in range(epochs):
        taken = np.concatenate(order[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(set(taken.tolist())) == len(taken)
        assert set(taken.tolist()) <= set(range(images))
    start = round(skipped * len(order))
    rest = list(batch_order(config, images, start))
    assert len(rest) == len(order) - start
    assert all(np.array_equal(a, b) for a, b in zip(rest, order[start:], strict=True))


def test_every_epoch_has_an_order_of_its_own():
    orders = list(batch_order(Pretrain(batch_size=40, epochs=5), 40, 0))
    assert not any(np.array_equal(first, second) for first, second in pairwise(orders))
    assert not np.array_equal(orders[0], next(batch_order(Pretrain(batch_size=40, seed=1), 40, 0)))


def test_a_batch_has_the_pixels_of_its_indices():
    pixels = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), dtype=np.uint8)
    part = replace(DATA.train, pixels=PixelArray(pixels))
    training = begin(PRETRAIN, DATA, CPU)
    seen = 0
    for step, indices, chunk, _ in training.batches(part):
        assert chunk[:, 0, 0, 0].tolist() == indices.tolist()
        assert step == seen
        seen += 1
    assert seen == training.total


def test_every_view_of_every_step_is_drawn_anew(monkeypatch):
    seen: list[Tensor] = []

    def look(*arguments: Any) -> Tensor:
        seen.append(apply_view(*arguments))
        return seen[-1]

    monkeypatch.setattr(training_module, "apply_view", look)
    alike = np.repeat(DATA.train.pixels.array[:1], 40, axis=0)
    train(PRETRAIN, altered(pixels=alike))
    views = torch.cat(seen).flatten(1)
    assert len(views) == 2 * 2 * 36
    assert len(views.unique(dim=0)) > 135  # of 8 x 8 pixels, a few are alike by chance


@pytest.mark.parametrize(
    "stage", [stage for stage in STAGES if stage.name != "probe"], ids=lambda stage: stage.name
)
def test_every_image_is_cropped_in_its_own_geometry(stage, monkeypatch):
    numbers = np.arange(40, dtype=np.uint8)
    pixels = numbers[:, None, None, None] * np.ones((1, 3, 8, 8), dtype=np.uint8)
    squares = PixelArray(pixels, 1 + numbers.astype(np.float32) / 40)
    seen: list[Tensor] = []
    drawn_with: list[Tensor] = []

    def draw(*arguments: Any) -> ViewParams:
        drawn_with.append(arguments[-1])
        return sample_view_params(*arguments)

    def cut(images: Tensor, *arguments: Any) -> Tensor:
        torch.testing.assert_close(drawn_with[-1], 1 + images[:, 0, 0, 0] / 40)
        seen.append(images)
        return apply_view(images, *arguments)

    monkeypatch.setattr(training_module, "sample_view_params", draw)
    monkeypatch.setattr(training_module, "apply_view", cut)
    train(stage, replace(DATA, train=replace(DATA.train, pixels=squares)))
    assert seen


# Resuming and seeds


@every_stage
def test_a_run_resumed_at_any_step_ends_bit_for_bit_as_one_that_never_stopped(stage):
    source = parent(stage)
    training = begin(stage, DATA, CPU, source)
    states = [saved(training)]
    states += [saved(training) for _ in steps(stage, DATA, training, source)]
    for done, state in enumerate(states):
        resumed = begin(stage, DATA, CPU, source)
        resumed.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        rest = [step.step for step in steps(stage, DATA, resumed, source)]
        assert rest == list(range(done + 1, training.total + 1))
        assert same(weights(resumed), weights(training)), done


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_every_optimiser_resumes(optimizer):
    stage = with_fields(PRETRAIN, {"optimizer.optimizer": optimizer})
    training = begin(stage, DATA, CPU)
    states = [saved(training) for _ in steps(stage, DATA, training, None)]
    resumed = begin(stage, DATA, CPU)
    resumed.load_state_dict(torch.load(io.BytesIO(states[1]), weights_only=True))
    list(steps(stage, DATA, resumed, None))
    assert same(weights(resumed), weights(training))


def test_weights_are_those_of_the_seed_whatever_other_threads_draw(monkeypatch):
    """Those that `torch.manual_seed` gives, which the committed records were made with."""
    config, build = PRETRAIN, model_module.Model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stages.seed_of(config.seed, "weights"))
        expected = build(model_config(config)).state_dict()

    def beside_another(settings):
        other = threading.Thread(target=torch.rand, args=(1,))
        other.start()
        other.join()
        return build(settings)

    monkeypatch.setattr(model_module, "Model", beside_another)
    before = torch.get_rng_state()
    drawn = seeded_model(model_config(config), seed_of(config.seed, "weights")).state_dict()
    assert same(drawn, expected)
    torch.set_rng_state(before)
    torch.rand(1)  # the other thread's
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    seeded_model(model_config(config), seed_of(config.seed, "weights"))
    assert torch.equal(torch.get_rng_state(), after)


@every_stage
def test_a_seed_is_a_run_whatever_the_global_random_state(stage):
    torch.manual_seed(1)
    np.random.seed(1)
    first, losses = train(stage)
    torch.manual_seed(2)
    np.random.seed(2)
    second, losses_again = train(stage)
    assert same(weights(first), weights(second))
    assert [step.loss for step in losses] == [step.loss for step in losses_again]


@every_stage
def test_training_leaves_the_global_random_state_alone(stage):
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(stage)
    assert torch.get_rng_state().equal(before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


@every_stage
def test_another_seed_is_another_run(stage):
    assert not same(weights(train(stage)[0]), weights(train(replace(stage, seed=1))[0]))


def test_seeds_are_unrelated_and_fit_a_generator():
    seeds = {seed_of(seed, what, step) for seed in range(5) for what in "ab" for step in range(50)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


# What a stage may not see


def altered(labels: np.ndarray | None = None, pixels: np.ndarray | None = None) -> DataSet:
    """The data with other labels or pixels in the training part."""
    array = DATA.train.pixels.array if pixels is None else pixels
    part = Split(PixelArray(array), DATA.train.labels if labels is None else labels, DATA.train.names)
    return replace(DATA, train=part)


@pytest.mark.parametrize("stage", [STAGES[0], STAGES[4]], ids=lambda stage: stage.name)
def test_pretraining_and_unlabelled_distillation_do_not_see_labels(stage):
    labels = np.where(DATA.train.labels < 0, -1, (DATA.train.labels + 1) % 3)
    assert same(weights(train(stage)[0]), weights(train(stage, altered(labels))[0]))


@pytest.mark.parametrize("stage", [STAGES[2], STAGES[3]], ids=lambda stage: stage.name)
def test_labelled_training_sees_the_chosen_images_alone(stage):
    chosen = stages.labelled_indices(stage, DATA)
    pixels = np.zeros_like(DATA.train.pixels.array)
    pixels[chosen] = DATA.train.pixels.array[chosen]
    assert same(weights(train(stage)[0]), weights(train(stage, altered(pixels=pixels))[0]))


def test_the_label_term_of_distillation_sees_the_teacher_s_labelled_images_alone():
    stage = with_fields(STAGES[4], {"label_weight": 1.0, "batch_size": 40, "epochs": 1})
    chosen = stages.labelled_indices(stage.teacher, DATA)
    visible, hidden = np.zeros_like(DATA.train.pixels.array), DATA.train.pixels.array.copy()
    visible[chosen] = DATA.train.pixels.array[chosen]
    hidden[chosen] = 0

    def gradient(data: DataSet) -> Tensor:
        training = begin(stage, data, CPU)
        training.model.encoder.eval()  # so that no image changes the features of another
        next(steps(stage, data, training, parent(stage)))
        return training.model.classifier.weight.grad

    torch.testing.assert_close(gradient(DATA), gradient(altered(pixels=visible)))
    assert not gradient(DATA).allclose(gradient(altered(pixels=hidden)))


@every_stage
def test_no_stage_sees_the_images_that_are_measured(stage):
    other = replace(DATA, evaluation=images(8, seed=5))
    first, second = train(stage), train(stage, other)
    assert same(weights(first[0]), weights(second[0]))
    assert [step.metrics for step in first[1]] == [step.metrics for step in second[1]]


def test_a_list_of_names_chooses_the_labelled_images(tmp_path):
    (tmp_path / "few.txt").write_text("004\n000\n008\n")
    stage = replace(STAGES[2], label_list=str(tmp_path / "few.txt"))
    assert stages.labelled_indices(stage, DATA).tolist() == [0, 4, 8]


# What a stage leaves alone


def test_fine_tuning_from_the_encoder_s_output_leaves_the_head_alone():
    stage = replace(FINETUNE, tap_layer=0)
    before, (training, _) = parent(stage), train(stage)
    assert same(before.head.state_dict(), training.model.head.state_dict())
    assert all(parameter.grad is None for parameter in training.model.head.parameters())
    assert not same(before.encoder.state_dict(), training.model.encoder.state_dict())


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_fine_tuning_from_a_head_layer_trains_the_head_up_to_it(optimizer):
    stage = with_fields(FINETUNE, {"tap_layer": 2, "optimizer.optimizer": optimizer})
    before, (training, _) = parent(stage), train(stage)
    for index, layer in enumerate(training.model.head):
        assert same(before.head[index].state_dict(), layer.state_dict()) == (index >= 2)


def test_fine_tuning_begins_with_the_pretrained_network_and_an_empty_classifier():
    source = parent(FINETUNE)
    model = begin(FINETUNE, DATA, CPU, source).model
    assert same(source.encoder.state_dict(), model.encoder.state_dict())
    assert same(source.head.state_dict(), model.head.state_dict())
    assert model.classifier.weight.eq(0).all()
    assert model.encoder is not source.encoder


@pytest.mark.parametrize("stage", STAGES[1:2] + STAGES[3:], ids=lambda stage: stage.name)
@pytest.mark.parametrize("training_mode", [True, False])
def test_what_a_stage_builds_on_keeps_weights_statistics_and_mode(stage, training_mode):
    source = parent(stage).train(training_mode)
    before = {name: value.clone() for name, value in source.state_dict().items()}
    list(steps(stage, DATA, begin(stage, DATA, CPU, source), source))
    assert same(before, source.state_dict())
    assert all(module.training == training_mode for module in source.modules())
    assert all(parameter.grad is None for parameter in source.parameters())


def test_micro_batches_are_the_batch_s_own_gradient_where_nothing_is_normalised():
    probe = STAGES[1]
    whole, parts = (train(replace(probe, micro_batch=size)) for size in (0, 3))
    for one, other in zip(whole[1], parts[1], strict=True):
        torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(weights(whole[0]), weights(parts[0]))


@pytest.mark.parametrize(
    "stage", [STAGES[0], REMEMBERING, STAGES[3], STAGES[4]], ids=lambda stage: stage.name
)
def test_running_statistics_follow_every_micro_batch_once(stage, monkeypatch):
    """In the second of two passes, not in the first."""
    followed: list[int] = []
    source = parent(stage)
    training = begin(replace(stage, micro_batch=4), DATA, CPU, source)
    norm = next(module for module in training.model.modules() if isinstance(module, BatchNorm))
    forward = norm.forward

    def count(x: Tensor) -> Tensor:
        followed.extend([len(x)] * norm.follows)
        return forward(x)

    monkeypatch.setattr(norm, "forward", count)
    next(steps(training.config, DATA, training, source))
    views = 2 if isinstance(stage, Pretrain) else 1
    assert followed == [views * sum(counts) for counts in training.partition.counts]


def test_the_probe_trains_a_linear_layer_on_the_frozen_features():
    stage, source = STAGES[1], parent(STAGES[1])
    training = begin(stage, DATA, CPU, source)
    assert isinstance(training.model, nn.Linear)
    first = next(steps(stage, DATA, training, source))
    at = np.flatnonzero(DATA.train.labels >= 0)[next(batch_order(stage, 30, 0))]
    view = evaluation_view(torch.from_numpy(DATA.train.pixels.array[at]), 8)
    features, labels = source.encoder.eval()(view), torch.from_numpy(DATA.train.labels[at])
    linear = nn.Linear(source.encoder.features, 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    nn.functional.cross_entropy(linear(features), labels).backward()
    # Nesterov's first step goes 1 + momentum times the gradient.
    expected = -first.learning_rate * 1.9 * linear.weight.grad
    torch.testing.assert_close(training.model.weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_features_that_a_probe_trains_on_are_taken_once_and_vote_in_its_knn(monkeypatch):
    stage, source = STAGES[1], parent(STAGES[1])
    labelled, shown = (
        part.subset(np.flatnonzero(part.labels >= 0)) for part in (DATA.train, DATA.evaluation)
    )
    data, taken = replace(DATA, evaluation=shown), []
    for module in (stages, evaluate):
        monkeypatch.setattr(
            module, "extract", lambda *args, take=module.extract: taken.append(len(args[1])) or take(*args)
        )
    training = begin(stage, data, CPU, source)
    for _ in steps(stage, data, training, source):
        pass
    found = measured(stage, data, training, source, {})["metrics"]["knn"]
    assert taken == [len(labelled), len(shown)]
    monkeypatch.undo()
    bank, queries = (evaluate.extract(source.encoder, part, 8, CPU) for part in (labelled, shown))
    votes = evaluate.knn_predict(bank, torch.from_numpy(labelled.labels), queries, 3, stage.neighbours)
    assert found == evaluate.accuracy(nn.functional.one_hot(votes, 3).float(), torch.from_numpy(shown.labels))


# Monitoring


def test_monitoring_happens_every_so_many_epochs_and_at_the_end():
    stage = replace(PRETRAIN, epochs=5, monitor_epochs=2)
    monitored = {step.step: step.metrics for step in train(stage)[1] if step.metrics}
    assert monitored.keys() == {6, 12, 15}
    for metrics in monitored.values():
        assert metrics.keys() == {"knn"}
        assert 0 <= metrics["knn"] <= 1


def test_monitoring_does_not_disturb_the_training():
    often, never = (train(replace(PRETRAIN, monitor_epochs=epochs)) for epochs in (1, 100))
    assert sum(bool(step.metrics) for step in often[1]) > 1
    assert [step.step for step in never[1] if step.metrics] == [never[1][-1].total]
    assert same(weights(often[0]), weights(never[0]))
    assert often[0].model.training


def test_random_weights_are_monitored_before_the_first_step_alone_and_stay_as_they_are():
    training, untouched = (begin(PRETRAIN, DATA, CPU) for _ in range(2))
    drawn = torch.random.get_rng_state()
    assert monitored_before(PRETRAIN, DATA, training) == monitor(untouched.model, DATA, 8, CPU)
    assert same(weights(training), weights(begin(PRETRAIN, DATA, CPU)))
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert training.model.training
    next(steps(PRETRAIN, DATA, training, None))
    assert monitored_before(PRETRAIN, DATA, training) == {}
    supervised = STAGES[2]
    assert monitored_before(supervised, DATA, begin(supervised, DATA, CPU)) == {}


def test_images_without_any_label_are_not_monitored():
    data = altered(labels=np.full(40, -1))
    assert not any(step.metrics for step in train(replace(PRETRAIN, monitor_epochs=1), data)[1])


# Errors


@every_stage
def test_a_batch_larger_than_the_set_is_refused_by_name(stage):
    count = train(stage)[0].images
    with pytest.raises(
        ConfigError,
        match=rf"^batch_size {count + 1} of {stage.name} is larger than its {count} training images",
    ):
        begin(replace(stage, batch_size=count + 1), DATA, CPU, parent(stage))
    assert begin(replace(stage, batch_size=count), DATA, CPU, parent(stage)).steps_per_epoch == 1


def test_a_batch_too_large_for_a_later_stage_is_refused_before_the_first_is_trained():
    stage = with_fields(STAGES[4], {"teacher.batch_size": 16})
    with pytest.raises(
        ConfigError, match=r"^batch_size 16 of finetune is larger than its 15 training images"
    ):
        stages.check(stage, DATA)


def test_a_fraction_of_less_than_a_label_a_class_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"^fraction 0\.01 of 30 labelled images is 0, fewer than one"):
        begin(replace(STAGES[2], fraction=0.01), DATA, CPU)


def test_the_device_is_the_best_there_is_unless_it_is_named():
    assert choose_device("cpu") == CPU
    assert choose_device().type == (DEVICES[-1] if not torch.backends.mps.is_available() else "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(
        ConfigError, match=rf"^device must be one of auto, .*cpu on this machine, not '{name}'"
    ):
        choose_device(name)

"""The memory against a list of projections and a plain moving average, and its place in pretraining."""

import copy
import io
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clrkit import stages
from clrkit import training as training_module
from clrkit.augment import apply_view, random_view
from clrkit.config import Augmentation, Data, Network, Optimizer, Pretrain
from clrkit.data.splits import DataSet, PixelArray, Split
from clrkit.errors import ConfigError
from clrkit.evaluate import frozen
from clrkit.losses import nt_xent
from clrkit.model import Model, ModelConfig
from clrkit.momentum_queue import MomentumQueue
from clrkit.stages import begin, steps
from clrkit.training import Training, batch_order, step_generator

CPU = torch.device("cpu")
DIM = 4


def tiny_model(seed: int = 0) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Model(ModelConfig(network=Network(width=0.25), head_layers=2, head_dim=DIM)).double()


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((count, DIM)))


def some_images(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).uniform(size=(count, 3, 8, 8)))


def as_set(projections: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in projections.tolist()}


# The queue


@given(size=st.integers(1, 12), batches=st.lists(st.integers(1, 30), max_size=8))
def test_the_queue_holds_the_latest_projections_whatever_the_batches(size, batches):
    memory, expected = MomentumQueue(tiny_model(), size, 0.9), deque(maxlen=size)
    for number, count in enumerate(batches):
        projections = rows(count, seed=number)
        memory.write(projections)
        expected.extend(map(tuple, projections.tolist()))
        assert len(memory.negatives) == len(expected)
        assert as_set(memory.negatives) == set(expected)


def test_a_new_queue_has_no_negatives_and_a_full_one_as_many_as_its_size():
    memory, counts = MomentumQueue(tiny_model(), 10, 0.9), []
    for _ in range(4):
        counts.append(len(memory.negatives))
        memory.write(rows(4))
    assert counts == [0, 4, 8, 10]


def test_a_ring_replaces_the_oldest_in_place():
    memory, first, second = MomentumQueue(tiny_model(), 5, 0.9), rows(3, seed=1), rows(4, seed=2)
    memory.write(first)
    memory.write(second)
    assert memory.queue.equal(torch.stack((second[2], second[3], first[2], second[0], second[1])))


# The network that follows


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.999, 1.0])
def test_the_weights_are_the_moving_average_of_the_trained_ones(momentum):
    model = tiny_model()
    memory = MomentumQueue(model, 8, momentum)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(3):
        trained = tiny_model(seed=step + 1)
        memory.follow(trained)
        for index, parameter in enumerate(trained.parameters()):
            expected[index] = momentum * expected[index] + (1 - momentum) * parameter.detach()
        for mine, mean in zip(memory.network.parameters(), expected, strict=True):
            torch.testing.assert_close(mine, mean, rtol=1e-12, atol=1e-15)


def test_the_network_begins_as_a_copy_that_is_not_trained():
    model = tiny_model()
    memory = MomentumQueue(model, 8, 0.9)
    for mine, trained in zip(memory.network.parameters(), model.parameters(), strict=True):
        assert mine.equal(trained)
        assert mine.data_ptr() != trained.data_ptr()
        assert not mine.requires_grad
        assert trained.requires_grad


def test_keys_are_normalised_projections_on_the_statistics_of_the_batch_and_an_update_keeps_them():
    trained = tiny_model(seed=1)
    memory, images = MomentumQueue(tiny_model(), 8, 0.5), some_images(6)
    follower = copy.deepcopy(memory.network).train()
    keys = memory.project(images)
    torch.testing.assert_close(keys, F.normalize(follower.project(images)))
    assert not keys.requires_grad
    memory.update(trained, keys)
    assert memory.negatives.equal(keys)
    for mine, theirs in zip(follower.parameters(), trained.parameters(), strict=True):
        mine.copy_(0.5 * mine + 0.5 * theirs)
    torch.testing.assert_close(memory.project(images), F.normalize(follower.project(images)))


def test_running_statistics_are_its_own():
    model = tiny_model()
    memory, before = MomentumQueue(model, 8, 0.5), copy.deepcopy(model.state_dict())
    memory.update(model, memory.project(some_images(6)))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    name = next(name for name in before if name.endswith("running_mean"))
    assert not memory.network.state_dict()[name].equal(before[name])


def test_a_memory_comes_back_from_its_state_bit_for_bit():
    memory = MomentumQueue(tiny_model(), 7, 0.9)
    for step in range(3):
        memory.update(tiny_model(seed=step), memory.project(some_images(3, seed=step)))
    buffer = io.BytesIO()
    torch.save(memory.state_dict(), buffer)
    buffer.seek(0)
    restored = MomentumQueue(tiny_model(seed=9), 7, 0.9)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert restored.written == 9
    for each in (memory, restored):
        each.update(tiny_model(seed=5), each.project(some_images(3, seed=5)))
    assert restored.queue.equal(memory.queue)
    for mine, theirs in zip(restored.network.parameters(), memory.network.parameters(), strict=True):
        assert mine.equal(theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_device_is_not_waited_for():
    model = tiny_model().cuda()
    memory, images = MomentumQueue(model, 7, 0.9), some_images(5).cuda()
    memory.update(model, memory.project(images))  # libraries may be set up by the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            keys = memory.project(images)
            nt_xent(images[:, 0, 0, :DIM], images[:, 1, 0, :DIM], 0.1, memory.negatives, keys=(keys, keys))
            memory.update(model, keys)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# In pretraining

PRETRAIN = Pretrain(
    data=Data(image_size=8),
    network=Network(width=0.25),
    optimizer=Optimizer(optimizer="sgd", learning_rate=0.1),
    epochs=2,
    batch_size=12,
    temperature=0.5,
    head_dim=DIM,
    memory=True,
    memory_size=20,
    memory_momentum=0.9,
)


def noise(count: int) -> Split:
    pixels = np.random.RandomState(0).randint(0, 256, (count, 3, 8, 8)).astype(np.uint8)
    return Split(PixelArray(pixels), np.arange(count) % 3, [str(index) for index in range(count)])


DATA = DataSet(noise(40), noise(8), ("red", "green", "blue"), "fingerprint")


def train(config: Pretrain) -> tuple[Training, list[float]]:
    training = begin(config, DATA, CPU)
    return training, [step.loss.item() for step in steps(config, DATA, training, None)]


def views_of(config: Pretrain, step: int, indices: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(DATA.train.pixels.array[indices])
    rng = step_generator(config, step)
    return random_view(torch.cat((pixels, pixels)), config.augmentation, 8, rng).double()


def slow_loss(config: Pretrain, z: Tensor, keys: Tensor, queue: list[Tensor]) -> Tensor:
    """NT-Xent, one anchor at a time, with the positive of the memory's network."""
    count, losses = len(z), []
    for i in range(count):
        other = (i + count // 2) % count
        negatives = [z[k] for k in range(count) if k not in (i, other)]
        candidates = torch.stack([*negatives, keys[other], *queue])
        positive = keys[other] @ z[i]
        losses.append((candidates @ z[i] / config.temperature).logsumexp(0) - positive / config.temperature)
    return torch.stack(losses).mean()


def slow_pretraining(config: Pretrain) -> list[float]:
    """The losses in float64, with a list for the queue and the average written out."""
    training = begin(replace(config, memory=False), DATA, CPU)
    model, follower = training.model.double(), copy.deepcopy(training.model)
    queue: list[Tensor] = []
    losses = []
    for step, indices in enumerate(batch_order(config, 40, 0)):
        views = views_of(config, step, indices)
        with torch.no_grad():
            keys = F.normalize(follower.project(views))
        loss = slow_loss(config, F.normalize(model.project(views)), keys, queue)
        (batch,) = training.micro_batches(views, copies=2)
        training.backward(loss, batch)
        losses.append(training.step().loss.item())
        with torch.no_grad():
            for mine, trained in zip(follower.parameters(), model.parameters(), strict=True):
                mine.copy_(config.memory_momentum * mine + (1 - config.memory_momentum) * trained)
            queue = (queue + list(keys[:12]))[-config.memory_size :]
    return losses


@pytest.mark.parametrize("changes", [{}, {"memory_size": 5}, {"memory_size": 40, "memory_momentum": 0.5}])
def test_pretraining_with_a_memory_is_what_a_slow_loop_does(changes, monkeypatch):
    config = replace(PRETRAIN, **changes)
    expected = slow_pretraining(config)
    monkeypatch.setattr(training_module, "apply_view", lambda *arguments: apply_view(*arguments).double())
    monkeypatch.setattr(stages, "monitor", lambda *_: {})  # kNN is measured in float32
    training = begin(config, DATA, CPU)
    training.model.double()
    training.queue.double()
    losses = [step.loss.item() for step in steps(config, DATA, training, None)]
    assert len(losses) == 6
    assert losses == pytest.approx(expected, rel=1e-9)


def test_the_first_step_has_no_further_negatives_and_later_ones_have():
    plain, remembering = (train(replace(PRETRAIN, memory=memory))[1] for memory in (False, True))
    assert remembering[0] == pytest.approx(plain[0], rel=1e-6)  # the networks are still the same
    assert all(more > less + 0.1 for more, less in zip(remembering[1:], plain[1:], strict=True))


@pytest.mark.slow
def test_views_of_an_image_become_alike_and_of_different_images_do_not():
    random = np.random.RandomState(0)
    pixels = np.repeat(np.repeat(random.randint(0, 256, (64, 3, 2, 2)), 4, 2), 4, 3).astype(np.uint8)
    part = Split(PixelArray(pixels), np.arange(64) % 3, [str(index) for index in range(64)])
    data = DataSet(part, part, ("red", "green", "blue"), "fingerprint")
    views = Augmentation(crop_area=0.6, flip=False, color_strength=0.0)
    adamw = Optimizer(optimizer="adamw", learning_rate=0.01)
    changes = {"augmentation": views, "optimizer": adamw, "epochs": 30, "batch_size": 16, "memory_size": 32}
    config = replace(PRETRAIN, temperature=0.2, **changes)
    training = begin(config, data, CPU)
    gaps = []
    for _ in range(2):
        both = random_view(
            torch.from_numpy(pixels).repeat(2, 1, 1, 1), views, 8, torch.Generator().manual_seed(0)
        )
        with frozen(training.model):
            z = F.normalize(training.model.project(both))
        similarity = z[:64] @ z[64:].T
        gaps.append(similarity.diagonal().mean() - similarity.mean())
        for _ in steps(config, data, training, None):
            pass
    assert gaps[1] > 0.5
    assert gaps[1] > 2 * gaps[0]


def test_the_queue_and_the_loss_are_of_the_settings():
    training, _ = train(PRETRAIN)
    assert training.queue.queue.shape == (20, DIM)
    assert training.queue.written == 6 * 12
    torch.testing.assert_close(training.queue.negatives.norm(dim=1), torch.ones(20))


def test_without_a_memory_there_is_none_and_its_settings_change_nothing():
    plain = replace(PRETRAIN, memory=False)
    other = replace(plain, memory_size=3, memory_momentum=0.1)
    assert train(plain)[0].queue is None
    assert "memory" not in train(plain)[0].state_dict()
    assert train(plain)[1] == train(other)[1]


def test_a_queue_longer_than_the_set_is_refused():
    with pytest.raises(ConfigError, match=r"^memory_size 41 is larger than the 40 training images, so that"):
        begin(replace(PRETRAIN, memory_size=41), DATA, CPU)
    assert begin(replace(PRETRAIN, memory=False, memory_size=41), DATA, CPU).queue is None


def test_the_sum_of_the_views_trains_as_twice_the_rate_does_without_decay():
    plain = replace(PRETRAIN, memory=False, epochs=1)
    summed = train(replace(plain, summed_views=True))
    faster = train(replace(plain, optimizer=replace(plain.optimizer, learning_rate=0.2)))
    assert summed[1] == pytest.approx([2 * loss for loss in faster[1]], rel=1e-5)

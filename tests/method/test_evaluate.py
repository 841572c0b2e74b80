"""Measuring: accuracy, confusion, kNN, and that nothing about a model changes while it is measured."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from clrkit import evaluate
from clrkit.config import Network
from clrkit.data.splits import PixelArray, Split
from clrkit.model import Model, ModelConfig

CPU = torch.device("cpu")
RANDOM = np.random.RandomState(0)


def normal(*shape: int) -> Tensor:
    return torch.from_numpy(RANDOM.standard_normal(shape)).float()


def labels(count: int, classes: int) -> Tensor:
    return torch.from_numpy(RANDOM.randint(0, classes, count))


def part(count: int, side: int = 10) -> Split:
    pixels = RANDOM.randint(0, 256, (count, 3, side, side)).astype(np.uint8)
    return Split(PixelArray(pixels), labels(count, 3).numpy(), [str(index) for index in range(count)])


def model() -> Model:
    made = Model(ModelConfig(network=Network(width=0.25), classes=3))
    nn.init.normal_(made.classifier.weight)
    made(torch.rand(8, 3, 10, 10))  # statistics other than the initial ones
    return made


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_is_scikit_learn_s(k):
    logits, truth = normal(200, 12), labels(200, 12)
    expected = top_k_accuracy_score(truth, logits, k=k, labels=range(12))
    assert evaluate.accuracy(logits, truth, k) == pytest.approx(expected)


def test_accuracy_is_the_share_of_images_whose_class_comes_first():
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3], [0.9, 0.1, 0.0]])
    assert evaluate.accuracy(logits, torch.tensor([2, 1, 1, 2])) == 0.5
    assert evaluate.accuracy(logits, torch.tensor([2, 1, 1, 2]), 2) == 0.75


def test_confusion_counts_rows_against_columns():
    rows, columns = labels(300, 4), labels(300, 4)
    assert evaluate.confusion(rows, columns, 4) == confusion_matrix(rows, columns).tolist()
    assert evaluate.confusion(torch.tensor([0, 0, 2]), torch.tensor([1, 1, 0]), 3) == [
        [0, 2, 0],
        [0, 0, 0],
        [1, 0, 0],
    ]


def test_metrics_have_a_top_5_where_there_are_more_than_ten_classes():
    for classes, names in ((10, {"top1", "loss"}), (11, {"top1", "loss", "top5"})):
        assert evaluate.classification_metrics(normal(20, classes), labels(20, classes)).keys() == names


def test_the_measured_loss_is_the_mean_cross_entropy():
    logits, truth = normal(20, 4), labels(20, 4)
    expected = -sum(F.softmax(logits[i], 0)[truth[i]].log().item() for i in range(20)) / 20
    assert evaluate.classification_metrics(logits, truth)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("neighbours", [1, 5, 20])
def test_knn_is_scikit_learn_s_with_votes_weighted_by_cosine_similarity(neighbours):
    bank, truth, queries = normal(100, 6), labels(100, 4), normal(50, 6)
    reference = KNeighborsClassifier(
        neighbours, metric="cosine", algorithm="brute", weights=lambda apart: np.exp((1 - apart) / 0.07)
    )
    expected = reference.fit(bank.numpy(), truth.numpy()).predict(queries.numpy())
    votes = evaluate.knn_predict(bank, truth, queries, 4, neighbours)
    assert votes.tolist() == expected.tolist()


def test_knn_is_a_vote_one_query_at_a_time():
    bank, truth, queries = normal(30, 3), labels(30, 3), normal(10, 3)
    votes = evaluate.knn_predict(bank, truth, queries, 3, 7)
    for query, vote in zip(queries, votes.tolist(), strict=True):
        likeness = [float(F.cosine_similarity(query, row, dim=0)) for row in bank]
        nearest = sorted(range(30), key=lambda i: -likeness[i])[:7]
        ballot = [sum(np.exp(likeness[i] / 0.07) for i in nearest if truth[i] == c) for c in range(3)]
        assert vote == int(np.argmax(ballot))


def test_a_query_in_the_bank_is_its_own_nearest_neighbour():
    bank, truth = normal(40, 5), labels(40, 3)
    assert evaluate.knn_predict(bank, truth, 3 * bank, 3, 1).equal(truth)


def test_more_neighbours_than_images_are_all_images():
    bank, truth, queries = normal(6, 3), labels(6, 2), normal(4, 3)
    all_of_them = evaluate.knn_predict(bank, truth, queries, 2, 6)
    assert evaluate.knn_predict(bank, truth, queries, 2, 100).equal(all_of_them)


def test_the_evaluation_view_is_the_stored_one_in_0_to_1():
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(evaluate.evaluation_view(pixels, 8), pixels.float() / 255)
    exact = torch.rand(2, 3, 8, 8)
    assert evaluate.evaluation_view(exact, 8).equal(exact)


def test_an_image_of_another_size_is_not_measured():
    with pytest.raises(ValueError, match="stored at 9 pixels is not an evaluation view of 8"):
        evaluate.evaluation_view(torch.zeros(2, 3, 9, 9, dtype=torch.uint8), 8)


def test_training_images_are_measured_by_their_views():
    network, images = model(), part(6)
    squares = PixelArray(np.zeros((6, 3, 14, 14), np.uint8))
    training = Split(squares, images.labels, images.names, images.pixels)
    expected = evaluate.extract(network.encoder, images, 10, CPU)
    assert evaluate.extract(network.encoder, training, 10, CPU).equal(expected)
    chosen = np.array([4, 1])
    torch.testing.assert_close(
        evaluate.extract(network.encoder, training.subset(chosen), 10, CPU), expected[chosen]
    )


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_weights_statistics_and_mode_alone(training):
    network = model().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate.predict(network, part(20), 10, CPU)
    evaluate.extract(network.encoder, part(20), 10, CPU)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(module.training == training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_inside_frozen_a_model_evaluates_without_gradients():
    network = model().train()
    with evaluate.frozen(network):
        assert not any(module.training for module in network.modules())
        assert not network(torch.rand(2, 3, 10, 10)).requires_grad
    assert network(torch.rand(2, 3, 10, 10)).requires_grad


def test_the_mode_comes_back_after_an_error():
    network = model().train()
    with pytest.raises(KeyError), evaluate.frozen(network):
        raise KeyError
    assert network.training


@pytest.mark.parametrize("batch", [1, 7, 23, 500])
def test_features_do_not_depend_on_how_the_images_are_batched(monkeypatch, batch):
    network, images = model(), part(23)
    expected = evaluate.extract(network.encoder, images, 10, CPU)
    monkeypatch.setattr(evaluate, "BATCH", batch)
    torch.testing.assert_close(evaluate.extract(network.encoder, images, 10, CPU), expected)


@pytest.mark.parametrize(
    ("size", "cpu", "gpu"), [(8, 500, 500), (28, 500, 500), (32, 500, 500), (64, 125, 500)]
)
def test_small_images_are_measured_by_the_500_whatever_the_device(size, cpu, gpu):
    assert evaluate.at_once(size, CPU) == cpu
    assert evaluate.at_once(size, torch.device("cuda")) == gpu


@pytest.mark.parametrize("size", [33, 64, 110, 224, 480, 5000])
def test_a_batch_of_larger_images_has_no_more_pixels_than_one_of_small_images_and_eight_times_that_on_a_gpu(
    size,
):
    for device, times in (("cpu", 1), ("cuda", 8)):
        count = evaluate.at_once(size, torch.device(device))
        room = times * 500 * 32**2
        assert count * size**2 <= room or count == 1
        assert (count + 1) * size**2 > room or count == 500


def test_predictions_come_in_the_order_of_the_images():
    network, images = model().eval(), part(12)
    logits = evaluate.predict(network, images, 10, CPU)
    pixels = torch.from_numpy(images.pixels.array)
    for index in range(12):
        alone = network(evaluate.evaluation_view(pixels[index : index + 1], 10))
        torch.testing.assert_close(logits[index : index + 1], alone.detach(), rtol=1e-4, atol=1e-5)


def test_features_are_those_of_the_encoder():
    network, images = model(), part(5)
    assert evaluate.extract(network.encoder, images, 10, CPU).shape == (5, network.encoder.features)


def test_different_images_have_different_features():
    features = evaluate.extract(model().encoder, part(6), 10, CPU)
    assert all(not features[i].equal(features[j]) for i, j in itertools.combinations(range(6), 2))

"""Active learning proposes typical images of every cluster, none twice, better than random ones."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from clrkit.own_images.active_learning import compare, probe, propose_labels, typical

CLASSES, EACH = 5, 40


def clouds(seed: int = 0, spread: float = 0.15) -> tuple[torch.Tensor, np.ndarray]:
    """Features in five directions, 40 images each, and their classes."""
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(CLASSES), EACH)
    points = np.eye(CLASSES + 3)[labels] + spread * random.randn(len(labels), CLASSES + 3)
    return torch.from_numpy(points).float(), labels


def test_each_cluster_gives_its_most_typical_image():
    features, labels = clouds()
    chosen = typical(features, CLASSES)
    assert sorted(labels[chosen]) == list(range(CLASSES))
    unit = torch.nn.functional.normalize(features).numpy()
    for index in chosen:
        mine = np.flatnonzero(labels == labels[index])
        distances, _ = NearestNeighbors(n_neighbors=20).fit(unit[mine]).kneighbors()
        assert mine[distances.mean(1).argmin()] == index


def test_labelled_images_are_not_proposed_and_their_clusters_come_last():
    features, labels = clouds()
    labelled = [int(np.flatnonzero(labels == number)[7]) for number in (0, 1, 2)]
    chosen = typical(features, 2, labelled)
    assert sorted(labels[chosen]) == [3, 4]
    everything = typical(features, 1000, labelled)
    assert sorted([*everything, *labelled]) == list(range(len(labels)))


def test_images_to_measure_on_are_not_chosen_and_change_nothing_else():
    features, labels = clouds()
    before = typical(features, CLASSES)
    spared = [index for index in range(len(labels)) if index not in before][:100]
    assert typical(features, CLASSES, excluded=spared).tolist() == before.tolist()
    assert not {*typical(features, 1000, excluded=spared)} & {*spared}


def test_accuracy_on_the_drawn_images_is_unbiased():
    """With a class a cluster: were those of the drawn images taken for served, these would all be wrong."""
    queries, truth = clouds(seed=999)
    measured, true = [], []
    for seed in range(20):
        features, labels = clouds(seed)
        chosen, drawn = propose_labels(features, CLASSES + 2, seed=seed)
        assert (len({*chosen, *drawn}), len(drawn)) == (CLASSES + 2, 1)
        for pool, classes, into in ((features[drawn], labels[drawn], measured), (queries, truth, true)):
            into.append((probe(features[chosen], labels[chosen], pool) == classes).mean())
    assert np.mean(true) > 0.95
    assert abs(np.mean(measured) - np.mean(true)) < 0.1


def test_proposals_continue_until_one_label_in_five_is_for_measuring():
    features, _ = clouds()
    learnt, measured = (each.tolist() for each in propose_labels(features, 20))
    assert (len(learnt), len(measured)) == (16, 4)
    more, drawn = propose_labels(features, 30, learnt, measured)
    assert (len(more), len(drawn)) == (8, 2)
    assert len({*learnt, *measured, *more, *drawn}) == 30
    assert [len(each) for each in propose_labels(features, 10, learnt, measured)] == [0, 0]


def test_images_to_measure_on_stay_a_fair_draw_when_the_budget_is_raised():
    """They are the first of one order of all images, into which no feature enters, whatever was proposed."""
    features, labels = clouds(spread=0.4)
    order = np.random.RandomState(7).permutation(len(labels))
    learnt, measured = list[int](), list[int]()
    for budget in (20, 60, 150, 200):
        chosen, drawn = propose_labels(features, budget, learnt, measured, seed=7)
        learnt, measured = [*learnt, *chosen.tolist()], [*measured, *drawn.tolist()]
        assert measured == order[: budget // 5].tolist()
        assert len({*learnt, *measured}) == len(learnt) + len(measured) == budget


@pytest.mark.parametrize(("learnt", "measured"), [(0, 8), (20, 8), (32, 4)])
def test_a_budget_beyond_the_images_still_proposes_labels_to_train_on(learnt, measured):
    features = clouds()[0][:40]
    chosen, drawn = propose_labels(features, 200, range(learnt))
    assert (len(chosen), len(drawn)) == (40 - learnt - measured, measured)


@pytest.mark.parametrize("copies", [1, 4])
def test_identical_and_single_images_can_be_chosen_from(copies):
    features = torch.ones(6, 3) if copies > 1 else torch.eye(6)
    assert sorted(typical(features, 6)) == list(range(6))
    assert len(typical(features, 0)) == 0


def test_the_choice_is_the_same_each_time():
    features, _ = clouds(spread=0.5)
    assert (typical(features, 20, seed=3) == typical(features, 20, seed=3)).all()


def test_proposed_labels_beat_random_ones_if_clusters_are_classes():
    features, labels = clouds()
    queries, truth = clouds(seed=1)
    found = compare(features, labels, queries, truth, CLASSES, seeds=range(6))
    assert min(found.proposed) > 95
    assert np.mean(found.random) < 90
    assert "5 labels, 6 seeds: proposed" in found.sentence()

"""Choose the images to label first: typical images of every region of the learned space.

TypiClust (Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets", ICML 2022): with few labels, typical images of diverse clusters teach most; uncertain ones, and the
corners that k-centre finds, only pay with many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clrkit.results.statistics import mean_and_half_width

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

NEIGHBOURS = 20  # typicality is the mean distance to so many neighbours (section 3.2 of the paper)
MOST_CLUSTERS = 500  # as in the paper; beyond it, clusters give several images
MEASURED_SHARE = 5  # one in so many labels is for measuring if there is no test folder
FULL_KMEANS = 50  # clusters up to which the paper uses plain k-means; beyond it, mini-batches

Features = Float[Tensor, "count dim"]
Indices = Int64[np.ndarray, " chosen"]
Drawn = Int64[np.ndarray, " drawn"]
Classes = Int64[np.ndarray, " count"]


def typical(
    features: Features,
    budget: int,
    labelled: Sequence[int] = (),
    excluded: Sequence[int] = (),
    seed: int = 0,
) -> Indices:
    """Choose `budget` images to label, the most useful first.

    The images are clustered into as many clusters as there will be labels. Each choice is the most typical
    image of the largest cluster among those with the fewest labels.

    Args:
        features: of every image, by the pretrained encoder.
        budget: images to choose; fewer are returned if fewer are left.
        labelled: indices of images to train on, labelled or proposed.
        excluded: indices of images for measuring. They are not chosen and do not count as labels: otherwise
            the chosen images would avoid the regions that are measured.
        seed: of k-means.
    """
    unit = F.normalize(features).numpy()
    free = np.ones(len(unit), dtype=bool)
    free[[*labelled, *excluded]] = False
    budget = min(budget, int(free.sum()))
    if budget <= 0:
        return np.empty(0, dtype=np.int64)
    cluster = clusters(unit, min(budget + len(labelled), MOST_CLUSTERS), seed)
    sizes, taken = np.bincount(cluster), np.bincount(cluster[list(labelled)], minlength=cluster.max() + 1)
    # The free images of each cluster, the most typical first.
    queues = {number: by_typicality(unit, np.flatnonzero(cluster == number)) for number in range(len(sizes))}
    waiting = {number: [i for i in queue if free[i]] for number, queue in queues.items()}
    chosen: list[int] = []
    while len(chosen) < budget:
        number = min((n for n in waiting if waiting[n]), key=lambda n: (taken[n], -sizes[n], n))
        chosen.append(waiting[number].pop(0))
        taken[number] += 1
    return np.array(chosen, dtype=np.int64)


def propose_labels(
    features: Features, budget: int, learnt: Sequence[int] = (), measured: Sequence[int] = (), seed: int = 0
) -> tuple[Indices, Drawn]:
    """Choose images to label until `budget` images have labels: some to train on, some to measure on.

    Images to train on are `typical`. One in 5 of all labels is for measuring, on images drawn at random,
    since accuracy on typical images would look too good. At most half of the new proposals are for measuring.

    The draw takes the first fifth of one random order of all images, and no image of this fifth is proposed
    for training unless too few others are left. So the draw stays fair when the budget is raised.

    Args:
        features: of every image, by the pretrained encoder.
        budget: images with labels in the end; all images if there are fewer.
        learnt: indices of images to train on, labelled or proposed.
        measured: indices of images to measure on, labelled or proposed.
        seed: of k-means and of the draw.
    """
    budget = min(budget, len(features))
    missing = max(0, budget - len(learnt) - len(measured))
    count = min(max(0, round(budget / MEASURED_SHARE) - len(measured)), missing // 2)
    order = np.random.RandomState(seed).permutation(len(features))
    free = order[~np.isin(order, [*learnt, *measured])]
    drawn, kept = free[:count], order[: len(order) // MEASURED_SHARE]
    if len(np.setdiff1d(free, [*drawn, *kept])) < missing - count:
        kept = drawn
    excluded = np.setdiff1d([*measured, *drawn, *kept], learnt).astype(int).tolist()
    return typical(features, missing - count, learnt, excluded, seed), drawn


def clusters(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Run k-means and return the cluster of each row; no cluster is empty."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    count = min(count, len(np.unique(unit, axis=0)))
    if count <= FULL_KMEANS:
        found = KMeans(count, n_init=1, random_state=seed).fit_predict(unit)
    else:
        found = MiniBatchKMeans(count, n_init=1, batch_size=5000, random_state=seed).fit_predict(unit)
    numbers: np.ndarray = np.unique(found, return_inverse=True)[1]
    return numbers


def by_typicality(unit: np.ndarray, members: np.ndarray) -> list[int]:
    """Sort the images of a cluster by the mean distance to their nearest neighbours in it."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(NEIGHBOURS, len(members) - 1)
    if neighbours < 1:
        return list(map(int, members))
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(unit[members]).kneighbors()
    order: list[int] = members[np.argsort(distances.mean(1), kind="stable")].tolist()
    return order


@dataclass(frozen=True)
class Comparison:
    """Accuracy (%) of a linear probe on proposed and on random labels, one entry per seed."""

    budget: int
    proposed: list[float]
    random: list[float]

    def sentence(self) -> str:
        """Both means and their difference, with 95% intervals by Student's t."""
        gains = [ours - theirs for ours, theirs in zip(self.proposed, self.random, strict=True)]
        (ours, width), (theirs, other), (gain, half) = map(
            mean_and_half_width, (self.proposed, self.random, gains)
        )
        return (
            f"{self.budget} labels, {len(gains)} seeds: proposed {ours:.1f} ± {width:.1f}%, random "
            f"{theirs:.1f} ± {other:.1f}%, difference {gain:+.1f} ± {half:.1f} points (95%)"
        )


def compare(
    features: Features,
    labels: Classes,
    queries: Float[Tensor, "queries dim"],
    truth: Int64[np.ndarray, " queries"],
    budget: int,
    seeds: Sequence[int],
) -> Comparison:
    """Compare proposed with random labels by a linear probe on frozen features.

    Args:
        features: of the images to choose from.
        labels: their classes, as indices.
        queries: features of the test images.
        truth: their classes.
        budget: labels to choose.
        seeds: of k-means and of the random choice; two or more.
    """
    proposed, drawn = list[float](), list[float]()
    for seed in seeds:
        random = np.random.RandomState(seed).permutation(len(features))[:budget]
        for chosen, scores in ((typical(features, budget, seed=seed), proposed), (random, drawn)):
            votes = probe(features[chosen], labels[chosen], queries)
            scores.append(100 * float((votes == truth).mean()))
    return Comparison(budget, proposed, drawn)


def compare_within(
    features: Features, classes: Sequence[str], budget: int, seeds: Sequence[int]
) -> Comparison:
    """`compare` on images of known classes: choose from one fixed half and test on the other."""
    labels = np.unique(np.array(classes), return_inverse=True)[1].astype(np.int64)
    order = np.random.RandomState(0).permutation(len(labels))
    pool, rest = order[: len(order) // 2], order[len(order) // 2 :]
    return compare(features[pool], labels[pool], features[rest], labels[rest], budget, seeds)


def probe(
    bank: Features, labels: Classes, queries: Float[Tensor, "queries dim"]
) -> Int64[np.ndarray, " queries"]:
    """Classify the queries by logistic regression on normalised features."""
    if len(np.unique(labels)) == 1:
        return np.full(len(queries), labels[0])
    votes: np.ndarray = logistic(bank, labels).predict(F.normalize(queries).numpy())
    return votes


def logistic(bank: Features, labels: Classes) -> LogisticRegression:
    """Fit a logistic regression to normalised features of two classes or more."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=1000).fit(F.normalize(bank).numpy(), labels)

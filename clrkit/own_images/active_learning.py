"""Which images to label first: typical ones of every region of the learned space, against random choice.

TypiClust (Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets", ICML 2022): with few labels, typical images of diverse clusters teach most; uncertain ones, and the
corners that k-centre finds, only pay with many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

NEIGHBOURS = 20  # over whose distances typicality is the mean (their section 3.2)
MOST_CLUSTERS = 500  # theirs; beyond it, clusters give more than one image
MEASURED_SHARE = 5  # one in so many labels is measured on where there is no test folder
FULL_KMEANS = 50  # clusters up to which theirs is plain k-means, beyond it by mini-batches

Features = Float[Tensor, "count dim"]
Indices = Int64[np.ndarray, " chosen"]
Proposal = Int64[np.ndarray, " drawn"]


def typical(
    features: Features,
    budget: int,
    labelled: Sequence[int] = (),
    excluded: Sequence[int] = (),
    seed: int = 0,
) -> Indices:
    """Indices of `budget` images to label, the most useful first.

    There are as many clusters as labels there will be. Each choice is the most typical image of the largest
    cluster among those with the fewest labels.

    Args:
        features: of every image, by the pretrained encoder.
        budget: how many to choose; fewer come where fewer are left.
        labelled: indices of those that have labels to train on already, or are proposed.
        excluded: indices of those that are measured on. They are never chosen and change nothing else: if
            their clusters counted as served, the labels would be where the measured images are not.
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
    # Of every cluster the images in the order of their typicality, without those that are taken.
    queues = {number: by_typicality(unit, np.flatnonzero(cluster == number)) for number in range(len(sizes))}
    waiting = {number: [i for i in queue if free[i]] for number, queue in queues.items()}
    chosen: list[int] = []
    while len(chosen) < budget:
        number = min((n for n in waiting if waiting[n]), key=lambda n: (taken[n], -sizes[n], n))
        chosen.append(waiting[number].pop(0))
        taken[number] += 1
    return np.array(chosen, dtype=np.int64)


def ask(
    features: Features, budget: int, learnt: Sequence[int] = (), measured: Sequence[int] = (), seed: int = 0
) -> tuple[Indices, Proposal]:
    """Indices of images to label until `budget` have labels: to learn from, and to measure on.

    Those to learn from are `typical`. One in 5 of all is drawn at random, from those without a label, to
    measure on: on typical images accuracy would look too good. It is at most half of what is chosen now, so
    that labels to learn from are always asked for, too.

    What may ever be drawn, the first fifth of one order of all images, is not proposed to learn from: else a
    larger budget would draw from what earlier ones left, the less typical images. It is only where too few
    others are left.

    Args:
        features: of every image, by the pretrained encoder.
        budget: images that shall have labels in the end; all of them where there are fewer.
        learnt: indices of those that are trained on, or proposed for it.
        measured: indices of those that are measured on, or drawn for it.
        seed: of k-means and of the draw.
    """
    budget = min(budget, len(features))
    missing = max(0, budget - len(learnt) - len(measured))
    apart = min(max(0, round(budget / MEASURED_SHARE) - len(measured)), missing // 2)
    order = np.random.RandomState(seed).permutation(len(features))
    free = order[~np.isin(order, [*learnt, *measured])]
    drawn, kept = free[:apart], order[: len(order) // MEASURED_SHARE]
    if len(np.setdiff1d(free, [*drawn, *kept])) < missing - apart:
        kept = drawn
    excluded = np.setdiff1d([*measured, *drawn, *kept], learnt).astype(int).tolist()
    return typical(features, missing - apart, learnt, excluded, seed), drawn


def clusters(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """K-means: the number of each row's cluster."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    count = min(count, len(np.unique(unit, axis=0)))
    if count <= FULL_KMEANS:
        made = KMeans(count, n_init=1, random_state=seed).fit_predict(unit)
    else:
        made = MiniBatchKMeans(count, n_init=1, batch_size=5000, random_state=seed).fit_predict(unit)
    numbers: np.ndarray = np.unique(made, return_inverse=True)[1]  # none is empty
    return numbers


def by_typicality(unit: np.ndarray, members: np.ndarray) -> list[int]:
    """A cluster's images, that with the nearest neighbours first; theirs looks for neighbours within it."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(NEIGHBOURS, len(members) - 1)
    if neighbours < 1:
        return list(map(int, members))
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(unit[members]).kneighbors()
    order: list[int] = members[np.argsort(distances.mean(1), kind="stable")].tolist()
    return order


@dataclass(frozen=True)
class Comparison:
    """Accuracy (%) of a cheap classifier on labels chosen in two ways, an entry a seed.

    `proposed` and `random` are of the same seed at the same place.
    """

    budget: int
    proposed: list[float]
    random: list[float]

    def sentence(self) -> str:
        gains = [ours - theirs for ours, theirs in zip(self.proposed, self.random, strict=True)]
        (mean, half), (other, width), (gain, apart) = map(mean_interval, (self.proposed, self.random, gains))
        return (
            f"{self.budget} labels, {len(gains)} seeds: proposed {mean:.1f} ± {half:.1f}%, random "
            f"{other:.1f} ± {width:.1f}%, difference {gain:+.1f} ± {apart:.1f} points (95%)"
        )


def compare(
    features: Features,
    labels: Int64[np.ndarray, " count"],
    queries: Float[Tensor, "queries dim"],
    truth: Int64[np.ndarray, " queries"],
    budget: int,
    seeds: Sequence[int],
) -> Comparison:
    """How well proposed and random labels serve a linear probe on frozen features, over seeds.

    Args:
        features: of the images to choose from.
        labels: their classes, as indices; all known here, which is what makes the comparison possible.
        queries: features of the test images.
        truth: their classes.
        budget: labels that are given.
        seeds: of k-means, and of the random choice.
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
    """`compare` within images of known classes: half of them, a fixed one, is there to be chosen from."""
    labels = np.unique(np.array(classes), return_inverse=True)[1].astype(np.int64)
    order = np.random.RandomState(0).permutation(len(labels))
    pool, rest = order[: len(order) // 2], order[len(order) // 2 :]
    return compare(features[pool], labels[pool], features[rest], labels[rest], budget, seeds)


def probe(
    bank: Features, labels: Int64[np.ndarray, " count"], queries: Float[Tensor, "queries dim"]
) -> Int64[np.ndarray, " queries"]:
    """Classes of the queries by logistic regression on normalised features."""
    if len(np.unique(labels)) == 1:
        return np.full(len(queries), labels[0])
    votes: np.ndarray = logistic(bank, labels).predict(F.normalize(queries).numpy())
    return votes


def logistic(bank: Features, labels: Int64[np.ndarray, " count"]) -> LogisticRegression:
    """Logistic regression fitted to normalised features, of two classes or more."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=1000).fit(F.normalize(bank).numpy(), labels)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval by Student's t."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return float(np.mean(values)), math.nan
    half = float(t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(np.mean(values)), half

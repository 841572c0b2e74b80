"""Pictures of the two losses at a temperature, which a playground draws anew with every move of a control.

NT-Xent over a small batch, and distillation for one image, with what they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from clrkit.losses import candidates, distillation, partners
from clrkit.notebook.illustrations import GREY, Picture, bare
from clrkit.notebook.illustrations_images import Images, tiled, tiles
from clrkit.results import style
from clrkit.results.style import BLUE, ORANGE, RED, styled, tint

LIKELIEST = 10  # classes that are shown

Rows = Float[Tensor, "count dim"]
Square = Float[Tensor, "rows rows"]


# NT-Xent


def log_candidates(projections: Rows, temperature: float) -> Square:
    """Log-probability of each candidate (column) as the partner of each anchor (row), in NT-Xent."""
    return candidates(F.normalize(projections), temperature).log_softmax(1)


def negative_weights(log_probabilities: Square) -> Square:
    """The share of each negative in the push of all negatives on an anchor (0: itself and its partner)."""
    rows = torch.arange(len(log_probabilities))
    negatives = log_probabilities.clone()
    negatives[rows, partners(len(rows))] = float("-inf")
    return negatives.softmax(1)


def spread(weights: Square) -> float:
    """How many equal weights are as spread as these: exponential of their entropy, mean over the rows."""
    return float(torch.special.entr(weights).sum(1).exp().mean())


def contrast(projections: Rows, views: Images, temperature: float, anchor: int) -> Picture:
    """What NT-Xent sees of a batch at a temperature, and how one anchor's negatives are weighted.

    Args:
        projections: of 2N views, first views first.
        views: the same, in [0, 1].
        temperature: of the loss.
        anchor: the view whose negatives are shown.
    """
    z = F.normalize(projections)
    log_probabilities, partner = log_candidates(z, temperature), partners(len(z))
    weights, positive = negative_weights(log_probabilities), log_probabilities[torch.arange(len(z)), partner]
    partnered = positive.exp().tolist()
    with styled():
        figure = Figure(figsize=(8.4, 6.6))
        matrix(figure, 0.0, z @ z.T, views, anchor, "cosine similarity", cmap="RdBu_r", vmin=-1, vmax=1)
        told = f"probability at temperature {temperature:g}"
        matrix(figure, 0.5, log_probabilities.exp(), views, anchor, told, cmap="Blues", vmin=0, vmax=1)
        negatives(figure, weights[anchor], partnered[anchor], views, anchor)
    alt = (
        f"Temperature {temperature:g}: loss {-positive.mean():.3f}; guessing costs {np.log(len(z) - 1):.3f}. "
        f"The {len(z) - 2} negatives weigh as much as {spread(weights):.1f} equal ones; "
        f"the hardest has {weights.amax(1).mean():.0%} of their weight. "
        f"View {anchor + 1} finds its partner with probability {partnered[anchor]:.2f}."
    )
    return Picture(figure, alt)


def matrix(
    figure: Figure, left: float, values: Square, views: Images, anchor: int, title: str, **colors: Any
) -> None:
    """All views against all, with the views along the sides; partners and the anchor's row are framed."""
    count = len(values)
    axes = figure.add_axes((left, 0.40, 0.44, 0.56))
    bare(axes)
    shown = values.clone().fill_diagonal_(float("nan"))  # a view is no candidate of its own
    axes.add_patch(Rectangle((-0.5, -0.5), count, count, fc="#bbbbbb", zorder=-1))
    image = axes.imshow(shown.numpy(), **colors)
    frames = [
        Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in enumerate(partners(count).tolist())
    ]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor="black", lw=0.9))
    axes.add_patch(Rectangle((-0.5, anchor - 0.5), count, 1, fill=False, ec=ORANGE, lw=1.8))
    above, beside = (-0.5, count - 0.5, -0.65, -1.65), (-1.65, -0.65, count - 0.5, -0.5)
    for columns, place in ((count, above), (1, beside)):
        axes.imshow(tiles(views, columns), extent=place, interpolation="nearest")
    axes.set(xlim=(-1.7, count - 0.4), ylim=(count - 0.4, -1.7), aspect="auto")
    axes.set_title(title, x=0.07)
    side = figure.add_axes((left + 0.443, 0.402, 0.010, 0.505))
    bar = figure.colorbar(image, cax=side, ticks=sorted({colors["vmin"], 0, 1}))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, length=2)


def negatives(
    figure: Figure, weights: Float[Tensor, " rows"], probability: float, views: Images, anchor: int
) -> None:
    """An anchor, its partner and the partner's probability; the negatives' weights, the heaviest first."""
    partner = int(partners(len(views))[anchor])
    order = weights.argsort(descending=True)
    order = order[(order != anchor) & (order != partner)]
    count = len(order)
    tiled(pair := figure.add_axes((0.0, 0.08, 0.21, 0.19)), views[[anchor, partner]], 2)
    pair.set_title(f"view {anchor + 1} and its partner:\nprobability {probability:.2f}", size=9)
    axes = figure.add_axes((0.27, 0.09, 0.72, 0.23))
    axes.bar(range(count), weights[order].numpy(), color=tint(BLUE), edgecolor=BLUE)
    axes.axhline(1 / count, color=GREY, ls="--", lw=1.0)
    axes.set_title("weight of each negative, the hardest first (dashed: all alike)", size=9.5)
    unit = 0.72 * 8.4 / count / (0.23 * 6.6)  # height of a square one bar wide
    beneath = (-0.5, count - 0.5, -0.03 - unit, -0.03)
    axes.imshow(tiles(views[order], count), extent=beneath, interpolation="nearest", clip_on=False)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(0, 1), yticks=[0, 0.5, 1], xticks=[], aspect="auto")


# Teacher and student


def by_disagreement(teacher: Rows, student: Rows, count: int) -> Int64[np.ndarray, " chosen"]:
    """Up to `count` images, evenly chosen, from the least to the largest divergence of two networks.

    Args:
        teacher, student: logits, (images, classes).
        count: of images, at most.
    """
    order = divergence(teacher, student).argsort().numpy()
    chosen: Int64[np.ndarray, " chosen"] = order[
        np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)
    ]
    return chosen


def divergence(teacher: Rows, student: Rows, temperature: float = 1.0) -> Float[Tensor, " count"]:
    """Kullback-Leibler divergence of the student's softened outputs from the teacher's, of each image."""
    log_teacher, log_student = ((logits / temperature).log_softmax(1) for logits in (teacher, student))
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1)


def softened(
    image: Float[Tensor, "3 height width"],
    teacher: Float[Tensor, " classes"],
    student: Float[Tensor, " classes"],
    label: int,
    classes: Sequence[str],
    temperature: float,
) -> Picture:
    """Teacher's and student's probabilities of the likeliest classes, and the loss of Eq. 2 for this image.

    The loss is the teacher's entropy, which no student can change, plus the divergence of the student.

    Args:
        image: in [0, 1].
        teacher, student: logits.
        label: the class it has.
        classes: names.
        temperature: of both softmaxes.
    """
    p, q = ((logits / temperature).softmax(0) for logits in (teacher, student))
    shown = (teacher.softmax(0) + student.softmax(0)).topk(min(LIKELIEST, len(classes))).indices.sort().values
    loss = float(distillation(student[None], teacher[None], temperature))
    entropy, own = (float(torch.special.entr(each).sum()) for each in (p, q))
    names = [classes[index] for index in shown.tolist()]
    with styled():
        figure = Figure(figsize=(8.4, 2.5))
        tiled(picture := figure.add_axes((0.0, 0.2, 0.19, 0.64)), image[None], 1)
        picture.set_title(f"class {classes[label]}", parse_math=False)
        compare(figure.add_axes((0.25, 0.2, 0.49, 0.64)), p[shown], q[shown], names)
        parts(figure.add_axes((0.81, 0.2, 0.18, 0.64)), entropy, loss, float(np.log(len(classes))))
    first, second = (classes[int(each.argmax())] for each in (p, q))
    alt = (
        f"Temperature {temperature:g}, an image of class {classes[label]}: loss {loss:.3f}, of which the "
        f"teacher's entropy {entropy:.3f} and the divergence {loss - entropy:.3f}; "
        f"the student's entropy {own:.3f}. "
        f"Likeliest to the teacher: {first} ({p.max():.0%}), to the student: {second} ({q.max():.0%})."
    )
    return Picture(figure, alt)


def compare(
    axes: Axes, teacher: Float[Tensor, " shown"], student: Float[Tensor, " shown"], names: Sequence[str]
) -> None:
    """Two bars a class."""
    for probabilities, move, color, hatch, name in (
        (teacher, -0.2, BLUE, "///", "teacher"),
        (student, 0.2, ORANGE, "", "student"),
    ):
        places = np.arange(len(names)) + move
        look: Any = {"color": tint(color), "edgecolor": color, "hatch": hatch, "label": name}
        axes.bar(places, probabilities.numpy(), 0.4, **look)
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], xlim=(-0.6, len(names) - 0.4))
    turned = 30 if max(map(len, names)) > 3 else 0
    axes.set_xticks(range(len(names)), names, size=8, rotation=turned, parse_math=False)
    axes.tick_params(length=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2)
    axes.set_title("probability")


def parts(axes: Axes, entropy: float, loss: float, uniform: float) -> None:
    """The loss as a bar of two parts; the axis reaches at least to the entropy of equal probabilities."""
    axes.bar([0], [entropy], color=tint(BLUE), edgecolor=BLUE, hatch="///")
    axes.bar([0], [loss - entropy], bottom=[entropy], color=tint(RED), edgecolor=RED)
    axes.set(xlim=(-0.7, 2.2), xticks=[], ylim=(0, max(1.1 * loss, uniform)))
    top = axes.get_ylim()[1]
    places = style.spread([entropy / 2, (entropy + loss) / 2], top / 5)
    for place, text, color in zip(places, ("teacher's\nentropy", "divergence"), (BLUE, RED), strict=True):
        axes.text(0.55, place, text, va="center", size=8.5, color=color)
    axes.set_title("loss (Eq. 2)")

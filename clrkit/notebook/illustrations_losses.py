"""Illustrations of the two losses: NT-Xent over a small batch, and distillation for one image."""

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
from clrkit.notebook.illustrations import GREY, Images, Picture, bare, draw_tiles, tiles
from clrkit.results.style import BLUE, ORANGE, RED, spread, styled, tint

MOST_CLASSES = 10  # in the illustration of distillation

Rows = Float[Tensor, "count dim"]
Square = Float[Tensor, "rows rows"]


# NT-Xent


def log_candidates(projections: Rows, temperature: float) -> Square:
    """NT-Xent's log-probability that a candidate (column) is the partner of an anchor (row)."""
    return candidates(F.normalize(projections), temperature).log_softmax(1)


def negative_weights(log_probabilities: Square) -> Square:
    """Share of each negative in the total push on an anchor; 0 for the anchor and its partner."""
    rows = torch.arange(len(log_probabilities))
    negatives = log_probabilities.clone()
    negatives[rows, partners(len(rows))] = float("-inf")
    return negatives.softmax(1)


def effective_number(weights: Square) -> float:
    """How many equal weights are as spread out as these: exp(entropy), averaged over anchors."""
    return float(torch.special.entr(weights).sum(1).exp().mean())


def contrast(projections: Rows, views: Images, temperature: float, anchor: int) -> Picture:
    """NT-Xent of a batch at a temperature, and the weight of every negative of one anchor.

    Args:
        projections: of 2N views, first views first.
        views: the same views, in [0, 1].
        temperature: of the loss.
        anchor: index of the view whose negatives are shown.
    """
    z, anchors = F.normalize(projections), torch.arange(len(projections))
    log_probabilities = log_candidates(z, temperature)
    positive = log_probabilities[anchors, partners(len(z))]
    weights, found = negative_weights(log_probabilities), float(positive[anchor].exp())
    with styled():
        figure = Figure(figsize=(8.4, 6.6))
        similar: Any = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
        likely: Any = {"cmap": "Blues", "vmin": 0, "vmax": 1}
        draw_matrix(figure, 0.0, z @ z.T, views, anchor, "cosine similarity", **similar)
        title = f"probability at temperature {temperature:g}"
        draw_matrix(figure, 0.5, log_probabilities.exp(), views, anchor, title, **likely)
        draw_negatives(figure, weights[anchor], found, views, anchor)
    alt = (
        f"Temperature {temperature:g}: loss {-positive.mean():.3f}; guessing costs {np.log(len(z) - 1):.3f}. "
        f"Effective number of negatives: {effective_number(weights):.1f} of {len(z) - 2}; "
        f"the hardest has {weights.amax(1).mean():.0%} of the weight. "
        f"View {anchor + 1} finds its partner with probability {found:.2f}."
    )
    return Picture(figure, alt)


def draw_matrix(
    figure: Figure, left: float, values: Square, views: Images, anchor: int, title: str, **colors: Any
) -> None:
    """Draw a value for every pair of views; positive pairs and the anchor's row are framed."""
    count = len(values)
    axes = figure.add_axes((left, 0.40, 0.44, 0.56))
    bare(axes)
    axes.add_patch(Rectangle((-0.5, -0.5), count, count, fc="#bbbbbb", zorder=-1))
    image = axes.imshow(values.clone().fill_diagonal_(float("nan")).numpy(), **colors)
    pairs = enumerate(partners(count).tolist())
    frames = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in pairs]
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


def draw_negatives(
    figure: Figure, weights: Float[Tensor, " rows"], probability: float, views: Images, anchor: int
) -> None:
    """Draw an anchor with its partner, and the weights of its negatives, hardest first."""
    partner = int(partners(len(views))[anchor])
    order = weights.argsort(descending=True)
    order = order[(order != anchor) & (order != partner)]
    count = len(order)
    pair = figure.add_axes((0.0, 0.08, 0.21, 0.19))
    draw_tiles(pair, views[[anchor, partner]], 2)
    pair.set_title(f"view {anchor + 1} and its partner:\nprobability {probability:.2f}", size=9)
    axes = figure.add_axes((0.27, 0.09, 0.72, 0.23))
    axes.bar(range(count), weights[order].numpy(), color=tint(BLUE), edgecolor=BLUE)
    axes.axhline(1 / count, color=GREY, ls="--", lw=1.0)
    axes.set_title("weight of each negative, hardest first (dashed: equal weights)", size=9.5)
    unit = 0.72 * 8.4 / count / (0.23 * 6.6)  # height of a square that is one bar wide
    beneath = (-0.5, count - 0.5, -0.03 - unit, -0.03)
    axes.imshow(tiles(views[order], count), extent=beneath, interpolation="nearest", clip_on=False)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(0, 1), yticks=[0, 0.5, 1], xticks=[], aspect="auto")


# Teacher and student


def by_disagreement(teacher: Rows, student: Rows, count: int) -> Int64[np.ndarray, " chosen"]:
    """Indices of up to `count` images, evenly spaced from the smallest to the largest divergence.

    Args:
        teacher, student: logits, (images, classes).
        count: of images, at most.
    """
    log_student, log_teacher = student.log_softmax(1), teacher.log_softmax(1)
    divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(1)
    places = np.linspace(0, len(teacher) - 1, min(count, len(teacher))).astype(int)
    chosen: Int64[np.ndarray, " chosen"] = divergence.argsort().numpy()[places]
    return chosen


def teacher_and_student(
    image: Float[Tensor, "3 height width"],
    teacher: Float[Tensor, " classes"],
    student: Float[Tensor, " classes"],
    label: int,
    classes: Sequence[str],
    temperature: float,
) -> Picture:
    """Probabilities of the likeliest classes by teacher and student, and the loss of Eq. 2 for this image.

    The loss is the teacher's entropy, which the student cannot change, plus the student's divergence.

    Args:
        image: in [0, 1].
        teacher, student: logits.
        label: true class.
        classes: class names.
        temperature: of both softmaxes.
    """
    p, q = ((logits / temperature).softmax(0) for logits in (teacher, student))
    likeliest = (teacher.softmax(0) + student.softmax(0)).topk(min(MOST_CLASSES, len(classes))).indices
    shown = likeliest.sort().values
    loss = float(distillation(student[None], teacher[None], temperature))
    entropy, own = (float(torch.special.entr(each).sum()) for each in (p, q))
    with styled():
        figure = Figure(figsize=(8.4, 2.5))
        picture = figure.add_axes((0.0, 0.2, 0.19, 0.64))
        draw_tiles(picture, image[None], 1)
        picture.set_title(f"class {classes[label]}", parse_math=False)
        names = [classes[index] for index in shown.tolist()]
        bars = figure.add_axes((0.25, 0.2, 0.49, 0.64))
        bars.set_title(f"probability, τ = {temperature:g}")
        draw_probabilities(bars, p[shown], q[shown], names)
        draw_loss(figure.add_axes((0.81, 0.2, 0.18, 0.64)), entropy, loss, float(np.log(len(classes))))
    first, second = (classes[int(each.argmax())] for each in (p, q))
    alt = (
        f"Temperature {temperature:g}, an image of class {classes[label]}: loss {loss:.3f} = "
        f"teacher's entropy {entropy:.3f} + divergence {loss - entropy:.3f}; student's entropy {own:.3f}. "
        f"Likeliest class: {first} ({p.max():.0%}) for the teacher, {second} ({q.max():.0%}) for the student."
    )
    return Picture(figure, alt)


def draw_probabilities(
    axes: Axes, teacher: Float[Tensor, " shown"], student: Float[Tensor, " shown"], names: Sequence[str]
) -> None:
    """Draw two bars for each class."""
    places = np.arange(len(names))
    for probabilities, offset, color, hatch, name in (
        (teacher, -0.2, BLUE, "///", "teacher"),
        (student, 0.2, ORANGE, "", "student"),
    ):
        look: Any = {"color": tint(color), "edgecolor": color, "hatch": hatch, "label": name}
        axes.bar(places + offset, probabilities.numpy(), 0.4, **look)
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], xlim=(-0.6, len(names) - 0.4))
    rotation = 30 if max(map(len, names)) > 3 else 0
    axes.set_xticks(places, names, size=8, rotation=rotation, parse_math=False)
    axes.tick_params(length=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2)


def draw_loss(axes: Axes, entropy: float, loss: float, uniform: float) -> None:
    """Draw the loss as a bar with two parts, on a scale up to the entropy of equal probabilities or more."""
    axes.bar([0], [entropy], color=tint(BLUE), edgecolor=BLUE, hatch="///")
    axes.bar([0], [loss - entropy], bottom=[entropy], color=tint(RED), edgecolor=RED)
    top = max(1.1 * loss, uniform)
    axes.set(xlim=(-0.7, 2.2), xticks=[], ylim=(0, top))
    places = spread([entropy / 2, (entropy + loss) / 2], top / 5)
    for place, text, color in zip(places, ("teacher's\nentropy", "divergence"), (BLUE, RED), strict=True):
        axes.text(0.55, place, text, va="center", size=8.5, color=color)
    axes.set_title("loss (Eq. 2)")

"""NT-Xent and distillation losses, with the official code's conventions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clrkit.fast import quick_version

MAX_DENSE_SIMILARITIES = 2**18  # of more, a block at a time is in memory

Projections = Float[Tensor, "batch dim"]
Logits = Float[Tensor, "batch classes"]
Scalar = Float[Tensor, ""]


def nt_xent(
    z1: Projections,
    z2: Projections,
    temperature: float,
    negatives: Float[Tensor, "further dim"] | None = None,
    summed_views: bool = False,
    keys: tuple[Projections, Projections] | None = None,
) -> Scalar:
    """Normalised temperature-scaled cross-entropy, the mean over all 2N anchors (v1 Eq. 1, v2 section 2).

    Row i of `z1` and row i of `z2` are two views of one image; the other 2N - 2 projections of the batch are
    their negatives. Projections are normalised here.

    Args:
        z1, z2: projections of the two views, (batch, dim).
        temperature: divides the cosine similarities.
        negatives: more negatives for every anchor, (further, dim), normalised: a queue's, or the projections
            of other processes. (With K processes of equal share, each passes the others' projections; the
            mean of the K losses is the batch's loss.)
        summed_views: return the sum of the two views' means: twice the value (official `objective.py`).
        keys: a momentum network's projections of the same views. An anchor's positive is then the key of its
            other view. Keys get no gradient.

    Raises:
        ValueError: if the views differ in shape.

    Example:
        >>> z = torch.eye(2)
        >>> nt_xent(z, z, temperature=1.0)  # log(e + 1 + 1) - 1
        tensor(0.5514)
    """
    if z1.shape != z2.shape:
        raise ValueError(f"Both views need the same shape, not {tuple(z1.shape)} and {tuple(z2.shape)}.")
    # Autocast would round similarities to half precision.
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(in_float(torch.cat((z1, z2))))
        positives = None
        if keys is not None:
            positives = F.normalize(torch.cat(keys).detach().to(z.dtype)).roll(len(z1), 0)
        further = z.new_empty(0, z.shape[1]) if negatives is None else negatives.to(z.dtype)
        large = len(z) * (len(z) + len(further)) > MAX_DENSE_SIMILARITIES
        blockwise = quick_version("nt_xent") if large else None
        loss = (blockwise or dense_nt_xent)(z, positives, further, temperature)
    return loss * (2 if summed_views else 1)


def dense_nt_xent(
    z: Projections, keys: Projections | None, negatives: Float[Tensor, "further dim"], temperature: float
) -> Scalar:
    """NT-Xent with the whole matrix of similarities in memory.

    Args:
        z: normalised projections of both views, one after the other, (2N, dim).
        keys: the positive of each anchor, (2N, dim); None: the other view in `z`.
        negatives: normalised, (further, dim), perhaps none.
        temperature: divides the similarities.
    """
    similarity, positive = candidates(z, temperature), partners(len(z), z.device)
    if keys is not None:
        similarity[torch.arange(len(z), device=z.device), positive] = (z * keys).sum(1) / temperature
    if len(negatives):
        similarity = torch.cat((similarity, z @ negatives.T / temperature), 1)
    return F.cross_entropy(similarity, positive)


def candidates(z: Projections, temperature: float) -> Float[Tensor, "batch batch"]:
    """Logit of each candidate (column) as the partner of each anchor (row), of normalised projections.

    The diagonal is -inf: an anchor is not its own candidate, in any precision.
    """
    return (z @ z.T / temperature).fill_diagonal_(float("-inf"))


def partners(count: int, device: torch.device | None = None) -> Int[Tensor, " count"]:
    """Index of the other view of each of `count` views; first views come first."""
    return torch.arange(count, device=device).roll(count // 2)


def in_float(z: Logits) -> Logits:
    """Half precision widened to float32: at a low temperature its rounding is not small."""
    return z.float() if z.dtype in (torch.half, torch.bfloat16) else z


def distillation(student: Logits, teacher: Logits, temperature: float) -> Scalar:
    """Cross-entropy of the student under the teacher's softened outputs, mean over the batch (v2 Eq. 2).

    Both logits are divided by `temperature`. As in the paper there is no factor of temperature squared (the
    official notebook has one).

    Example:
        >>> distillation(torch.zeros(1, 2), torch.zeros(1, 2), temperature=1.0)  # log 2
        tensor(0.6931)
    """
    soft = (teacher / temperature).softmax(1)
    return -(soft * (student / temperature).log_softmax(1)).sum(1).mean()


def mixed_distillation(
    student: Logits,
    teacher: Logits,
    labels: Int[Tensor, " batch"],
    labelled: Float[Tensor, " batch"],
    temperature: float,
    label_weight: float,
) -> Scalar:
    """Eq. 3: label_weight * cross-entropy of the labelled images + (1 - label_weight) * distillation.

    Both sums of the equation are divided by the batch size, so every image weighs the same in its term and
    a rare label does not outweigh a batch of soft targets.

    Args:
        student, teacher: logits (batch, classes).
        labels: classes; any value for an image without a label.
        labelled: 1 where the label may be used, else 0.
        temperature: of the distillation term; the label term has temperature 1.
        label_weight: 1 - alpha in the paper.
    """
    per_image = F.cross_entropy(student, labels.clamp(min=0), reduction="none")
    label_term = (per_image * labelled).mean()
    return label_weight * label_term + (1 - label_weight) * distillation(student, teacher, temperature)

"""Measuring: predictions, accuracy, confusion, frozen features and kNN. Nothing here changes a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor, nn

from clrkit import processes
from clrkit.data.images import WHOLE
from clrkit.data.resize import to_float
from clrkit.data.splits import Split

BATCH = 500  # images of up to 32 pixels; of larger ones fewer, so that memory stays the same
ON_GPU = 8  # times as many pixels, which a GPU needs to be busy and has the memory for
KNN_TEMPERATURE = 0.07  # of the votes' weights (Wu et al., 2018)

Rows = Float[Tensor, "count dim"]
Labels = Int[Tensor, " count"]


def evaluation_view(
    pixels: UInt8[Tensor, "batch 3 side side"] | Float[Tensor, "batch 3 side side"], size: int
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Return evaluation views as floats in [0, 1]; `Split.views` are already cropped and resized.

    Raises:
        ValueError: for images that are not of the view's size, such as the squares to train on.
    """
    if pixels.shape[-1] != size:
        raise ValueError(f"an image stored at {pixels.shape[-1]} pixels is not an evaluation view of {size}")
    return to_float(pixels) if pixels.dtype == torch.uint8 else pixels


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, batch-norm statistics included, without gradients; the former mode after."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def outputs(
    function: Callable[[Tensor], Tensor],
    part: Split,
    size: int,
    device: torch.device,
    chosen: Int64[np.ndarray, " chosen"],
) -> Iterator[Float[Tensor, "chunk dim"]]:
    """`function` of the chosen images' evaluation views of side `size`, on the CPU, some at a time."""
    count = at_once(size, device)
    order = (chosen[start : start + count] for start in range(0, len(chosen), count))
    for pixels in part.views.batches(order):
        view = evaluation_view(pixels.to(device), size)
        yield function(view.contiguous(memory_format=torch.channels_last)).cpu()


def at_once(size: int, device: torch.device) -> int:
    """Images computed at once: 10 of 224 pixels on a CPU; more are not faster."""
    pixels = BATCH * WHOLE**2 * (1 if device.type == "cpu" else ON_GPU)
    return max(1, min(BATCH, pixels // size**2))


def predict(model: nn.Module, part: Split, size: int, device: torch.device) -> Rows:
    """Logits of every image, (count, classes); several processes each compute a share, and all have all."""
    group = processes.current()
    each = -(-len(part) // group.size)
    places = np.arange(group.rank * each, (group.rank + 1) * each)
    # The last process repeats one image to fill its share; the repeats are cut off.
    chosen = np.minimum(places, len(part) - 1)
    with frozen(model):
        mine = torch.cat(list(outputs(model, part, size, device, chosen)))
        return group.gather(mine, [each] * group.size)[: len(part)]


def extract(encoder: nn.Module, part: Split, size: int, device: torch.device) -> Rows:
    """Frozen features of every image, (count, features)."""
    return predict(encoder, part, size, device)


def accuracy(logits: Rows, labels: Labels, k: int = 1) -> float:
    """Share of images whose class is among the `k` largest logits."""
    return (logits.topk(k, 1).indices == labels[:, None]).any(1).double().mean().item()


def confusion(rows: Labels, columns: Labels, classes: int) -> list[list[int]]:
    """Counts of (row class, column class), for example true against predicted."""
    return torch.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes).tolist()


def knn_predict(
    bank: Float[Tensor, "bank dim"],
    labels: Int[Tensor, " bank"],
    queries: Float[Tensor, "queries dim"],
    classes: int,
    neighbours: int,
) -> Int[Tensor, " queries"]:
    """Class of each query by a weighted vote of its nearest neighbours in the bank, by cosine similarity."""
    bank, queries = F.normalize(bank), F.normalize(queries)
    votes = []
    for chunk in torch.split(queries, BATCH):
        near = (chunk @ bank.T).topk(min(neighbours, len(bank)), 1)
        weights = (near.values / KNN_TEMPERATURE).exp()
        ballot = torch.zeros(len(chunk), classes).scatter_add_(1, labels[near.indices], weights)
        votes.append(ballot.argmax(1))
    return torch.cat(votes)


def classification_metrics(logits: Rows, labels: Labels) -> dict[str, float]:
    """Loss, top-1 and, for more than ten classes, top-5."""
    metrics = {"top1": accuracy(logits, labels), "loss": F.cross_entropy(logits, labels).item()}
    return metrics | ({"top5": accuracy(logits, labels, 5)} if logits.shape[1] > 10 else {})

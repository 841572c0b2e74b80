"""The exported preprocessing equals clrkit's evaluation view for photographs of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from clrkit.config import Network
from clrkit.data.images import photo_of, to_view
from clrkit.export.exported_module import ExportedModule, evaluation_view
from clrkit.model import Model, ModelConfig

SHAPES = [(2, 2), (28, 28), (32, 32), (40, 52), (7, 300), (333, 64), (64, 333), (500, 375), (2, 5000)]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed + 1000 * height + width)
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if seed % 2 else np.where(noise > 127, 255, 0).astype(np.uint8)  # overshoot is cut off, too


@pytest.mark.parametrize("size", [8, 28, 32])
def test_a_small_view_is_the_measured_one_bit_by_bit(size: int) -> None:
    for shape in SHAPES:
        for seed in range(2):
            pixels = photo(*shape, seed)
            view = to_view(photo_of(pixels), size)
            ours = evaluation_view(torch.from_numpy(pixels).permute(2, 0, 1)[None], size)[0]
            np.testing.assert_array_equal((255 * ours).round().byte().numpy(), view)


@pytest.mark.parametrize("size", [33, 96])
def test_a_large_view_is_the_official_central_crop(size: int) -> None:
    for shape in SHAPES:
        pixels = photo(*shape)
        view = to_view(photo_of(pixels), size, exact=True)
        ours = evaluation_view(torch.from_numpy(pixels).permute(2, 0, 1)[None], size)[0]
        np.testing.assert_allclose(ours.numpy(), view, rtol=0, atol=2e-6)


def test_the_outputs_are_those_of_the_model_on_the_view() -> None:
    network = Network(depth=8, width=0.25, stem="stride2")
    pixels = torch.from_numpy(np.stack([photo(40, 52, seed) for seed in range(3)]))
    view = evaluation_view(pixels.permute(0, 3, 1, 2), 28)
    tuned = Model(ModelConfig(network=network, classes=5)).eval()
    nn.init.normal_(tuned.classifier.weight)
    whole = ExportedModule(tuned, 28)
    probabilities, logits = whole(pixels)
    assert whole.outputs == ("probabilities", "logits")
    torch.testing.assert_close(logits, tuned(view))
    torch.testing.assert_close(probabilities, tuned(view).softmax(1))
    bare = ExportedModule(Model(ModelConfig(network=network, head_layers=2)).eval(), 28)
    assert bare.outputs == ("features",)
    torch.testing.assert_close(bare(pixels), (bare.model.encoder(view),))

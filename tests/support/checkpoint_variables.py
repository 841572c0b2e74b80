"""A checkpoint's variables, listed independently of the library."""

import numpy as np
from official import encoder_tensors, weight

from clrkit.config import Network
from clrkit.model import Model, ModelConfig

NORM_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
CLASSIFIER = "head_supervised/linear_layer/dense"


TINY = Network(depth=18, width=0.0625, stem="cifar")


def official_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The golden weight of a name, in TensorFlow's layout; `shape` is PyTorch's."""
    values = weight(name, shape).numpy()
    return values.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(values.ndim, range(values.ndim)))


def variables(
    network: Network, layers: int = 3, dim: int = 16, classes: int = 10, inputs: int | None = None
) -> dict[str, np.ndarray]:
    """A checkpoint's variables, listed independently of the library."""
    model = Model(ModelConfig(network=network))
    features = model.encoder.features
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder_tensors(model.encoder).items()}
    for layer in range(layers):
        last, scope = layer == layers - 1, f"head_contrastive/nl_{layer}"
        width = dim if last else features
        shapes[f"{scope}/dense/kernel"] = (width, features)
        for leaf in ("gamma", "moving_mean", "moving_variance") if last else NORM_LEAVES:
            shapes[f"{scope}/batch_normalization/{leaf}"] = (width,)
    if classes:
        shapes[f"{CLASSIFIER}/kernel"] = (classes, inputs or features)
        shapes[f"{CLASSIFIER}/bias"] = (classes,)
    return {name: official_array(name, shape) for name, shape in shapes.items()}


CHECKPOINT = variables(TINY)

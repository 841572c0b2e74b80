"""Encoder, projection head with a tap layer, and classifier (official `tf2/model.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clrkit.config import Config, Network, check_tap, setting
from clrkit.resnet import BatchNorm, Pooled, ResNet

Images = Float[Tensor, "batch 3 height width"]
Logits = Float[Tensor, "batch classes"]


class HeadLayer(nn.Module):
    """Linear without bias, batch norm, and ReLU unless it is the last; the last batch norm has no beta."""

    def __init__(self, inputs: int, outputs: int, last: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(self.linear.weight, std=0.01)
        self.bn = BatchNorm(outputs)
        self.last = last
        if last:
            self.bn.register_parameter("bias", None)

    def forward(self, x: Pooled) -> Float[Tensor, "batch outputs"]:
        y = self.bn(self.linear(x)[:, :, None, None])[:, :, 0, 0]
        return y if self.last else F.relu(y)


class ProjectionHead(nn.Sequential):
    """`layers` head layers from `features` to `dim` channels; the hidden ones keep the encoder's width."""

    def __init__(self, features: int, layers: int, dim: int) -> None:
        widths = [features] * layers + [dim]
        super().__init__(*(HeadLayer(widths[i], widths[i + 1], i == layers - 1) for i in range(layers)))

    def tap(self, features: Pooled, layer: int) -> Float[Tensor, "batch tapped"]:
        """Output of head layer `layer`, after its ReLU; layer 0 is `features` itself."""
        for index in range(layer):
            features = self[index](features)
        return features


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What a `Model` is made of."""

    network: Network
    head_layers: int = setting(0, "layers of the projection head; 0 for none", low=0)
    head_dim: int = setting(128, "channels of the head's last layer", low=1)
    classes: int = setting(0, "classes of the classifier; 0 for none", low=0)
    tap_layer: int = setting(0, "head layer the classifier sits on; 0 is the encoder's output", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tap(self.tap_layer, self.head_layers)


class Model(nn.Module):
    """`encoder` (images to features), `head` (to projections) and `classifier` (tapped features to logits).

    The classifier starts at zero (official `zero_init_logits_layer`) and reads the tapped head layer; the
    layers behind the tap are kept, unused, as in the official fine-tuned checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResNet(config.network)
        width = self.encoder.features
        self.head = ProjectionHead(width, config.head_layers, config.head_dim)
        self.classifier: nn.Linear | None = None
        if config.classes:
            last = config.tap_layer > 0 and config.tap_layer == config.head_layers
            self.classifier = nn.Linear(config.head_dim if last else width, config.classes)
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)

    def project(self, images: Images) -> Float[Tensor, "batch dim"]:
        """Projections for the contrastive loss, not normalised."""
        return cast(Tensor, self.head(self.encoder(images)))

    def forward(self, images: Images) -> Logits:
        """Class logits from the tapped layer."""
        if self.classifier is None:
            raise ValueError("This model has no classifier; ModelConfig.classes is 0.")
        return cast(Tensor, self.classifier(self.head.tap(self.encoder(images), self.config.tap_layer)))


class UseGenerator(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draw random numbers from a generator, in this thread; the process's own is neither used nor changed.

    Layers draw their first weights from the process's generator, which other threads may use meanwhile.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if any(argument.name == "generator" for argument in func._schema.arguments):
            given["generator"] = self.generator
        return func(*args, **given)


def seeded_model(config: ModelConfig, seed: int) -> Model:
    """Return a model whose first weights depend on the seed alone."""
    with UseGenerator(Generator().manual_seed(seed)):
        return Model(config)


def zero_linear(features: int, classes: int) -> nn.Linear:
    """Return a linear classifier whose weights are 0 (official `zero_init_logits_layer`)."""
    with UseGenerator(Generator()):  # nn.Linear draws weights before they are set to 0
        linear = nn.Linear(features, classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear

"""Projection head, tap layer and classifier, against the official head."""

import official
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clrkit.config import Network
from clrkit.model import HeadLayer, Model, ModelConfig, ProjectionHead

SMALL = Network(width=0.25)  # 16 features
IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def model(**settings: int) -> Model:
    return Model(ModelConfig(network=SMALL, **settings))


def head_tensors(head: ProjectionHead) -> dict[str, Tensor]:
    """Parameters and statistics by canonical TensorFlow name."""
    tensors: dict[str, Tensor] = {}
    for index, layer in enumerate(head):
        name = f"head_contrastive/nl_{index}"
        tensors[f"{name}/dense/kernel"] = layer.linear.weight
        tensors |= official.batch_norm_tensors(f"{name}/batch_normalization", layer.bn)
    return tensors


def official_head() -> ProjectionHead:
    head = ProjectionHead(64, 3, 32)
    official.fill(head_tensors(head))
    return head.double()


def close(ours: Tensor, theirs: Tensor) -> None:
    # The official numbers are those of a float32 run.
    atol = 1e-5 * theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol, check_dtype=False)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("selector", [0, 1, 2, 3, -1])
def test_the_head_and_all_its_taps_give_the_official_outputs(golden, mode, selector):
    case = f"in64_out32_L3_sel{selector}"
    read = {
        name.removeprefix(f"{case}/"): torch.from_numpy(value)
        for name, value in golden("head").items()
        if name.startswith(f"{case}/") and value.dtype.kind == "f"
    }
    head, features = official_head().train(mode == "train"), read["input"].double()
    close(head(features), read[f"{mode}/proj_head_output"])
    close(head.tap(features, 3 if selector == -1 else selector), read[f"{mode}/selected"])


def test_training_the_head_has_the_official_gradients_and_statistics(golden):
    case = "in64_out32_L3_sel0"
    read = {
        name.removeprefix(f"{case}/train/"): value
        for name, value in golden("head").items()
        if name.startswith(f"{case}/train/")
    }
    head, features = official_head(), torch.from_numpy(golden("head")[f"{case}/input"]).double()
    features.requires_grad_()
    (head(features) * torch.from_numpy(golden("head")[f"{case}/loss_weights"])).sum().backward()
    close(features.grad, torch.from_numpy(read["grad_input"]))
    tensors = head_tensors(head)
    trained = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    assert {f"grad/{name}" for name in trained} == {name for name in read if name.startswith("grad/")}
    for name, tensor in tensors.items():
        kind, ours = ("grad", tensor.grad) if name in trained else ("moving_after", tensor)
        theirs = torch.from_numpy(read[f"{kind}/{name}"])
        close(ours, theirs if theirs.ndim == 1 else theirs.T)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_hidden_layers_keep_the_encoder_s_width_and_the_last_has_its_own(layers):
    head = ProjectionHead(24, layers, 7)
    assert [layer.linear.out_features for layer in head] == [24] * (layers - 1) + [7]
    assert [layer.linear.bias for layer in head] == [None] * layers


def test_only_the_last_layer_has_no_relu_and_no_beta():
    head = ProjectionHead(24, 3, 7)
    assert [layer.bn.bias is None for layer in head] == [False, False, True]
    assert [layer.last for layer in head] == [False, False, True]
    x = torch.randn(16, 24)
    assert head.tap(x, 2).min() == 0
    assert head(x).min() < 0


def test_a_head_layer_is_linear_batch_norm_relu():
    layer, x = HeadLayer(6, 4, last=False).double(), torch.randn(9, 6).double()
    y = x @ layer.linear.weight.T
    expected = F.relu((y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(layer(x), expected)


def test_the_weights_of_the_head_start_normal_with_deviation_one_hundredth():
    for layer in ProjectionHead(256, 2, 256):
        assert layer.linear.weight.std().item() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("tap_layer", [0, 1, 2, 3])
def test_the_classifier_reads_the_tapped_layer(tap_layer):
    network = model(head_layers=3, head_dim=5, classes=10, tap_layer=tap_layer).eval()
    width = 5 if tap_layer == 3 else 16
    assert network.classifier.weight.shape == (10, width)
    nn.init.normal_(network.classifier.weight)
    tapped = network.encoder(IMAGES)
    for layer in list(network.head)[:tap_layer]:
        tapped = layer(tapped)
    torch.testing.assert_close(network(IMAGES), tapped @ network.classifier.weight.T)


@pytest.mark.parametrize("head_layers", [0, 2])
def test_a_new_classifier_finds_every_class_equally_likely(head_layers):
    logits = model(head_layers=head_layers, classes=10)(IMAGES)
    assert logits.shape == (4, 10)
    assert logits.eq(0).all()


def test_projections_are_the_head_s_output_of_the_features():
    network = model(head_layers=2, head_dim=6).eval()
    torch.testing.assert_close(network.project(IMAGES), network.head(network.encoder(IMAGES)))
    assert network.project(IMAGES).shape == (4, 6)


def test_a_model_without_classifier_says_so():
    with pytest.raises(ValueError, match="no classifier"):
        model(head_layers=2)(IMAGES)


def test_layers_behind_the_tap_are_kept_and_have_no_gradient():
    network = model(head_layers=3, classes=2, tap_layer=1)
    nn.init.normal_(network.classifier.weight)
    network(IMAGES).square().sum().backward()
    used = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    unused = {name for name, _ in network.named_parameters()} - used
    assert unused == {name for name, _ in network.named_parameters() if name.startswith(("head.1", "head.2"))}
    assert len(unused) == 5

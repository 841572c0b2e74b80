"""Projection head, tap layer and classifier, against the official head."""

import numpy as np
import official
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clrkit.config import Network
from clrkit.model import HeadLayer, Model, ModelConfig, ProjectionHead

MODES = {"eval": "evaluation mode", "train": "training mode"}
SMALL = Network(width=0.25)  # 16 features
IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def model(**settings: int) -> Model:
    return Model(ModelConfig(network=SMALL, **settings))


# The official head

HEAD = "in64_out32_L3_sel0"


def official_head(dtype: torch.dtype) -> ProjectionHead:
    head = ProjectionHead(64, 3, 32)
    official.fill(official.head_tensors(head))
    return head.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mode", "bound"), [("eval", 1e-5), ("train", 1e-4)])
@pytest.mark.parametrize("selector", [0, 1, 2, 3, -1])
def test_the_head_and_all_its_taps_give_the_official_outputs(golden, exact, mode, bound, selector, dtype):
    read = golden("head")
    head, features = (
        official_head(dtype).train(mode == "train"),
        torch.from_numpy(read[f"{HEAD}/input"]).to(dtype),
    )
    part = f"head: three layers and every tap, {MODES[mode]}"
    tapped = read[f"in64_out32_L3_sel{selector}/{mode}/selected"]
    exact(part, head.tap(features, 3 if selector == -1 else selector), tapped, bound)
    if selector == 0:
        exact(part, head(features), read[f"{HEAD}/{mode}/proj_head_output"], bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_the_head_has_the_official_gradients_and_statistics(golden, exact, dtype):
    read = golden("head")
    head, features = official_head(dtype), torch.from_numpy(read[f"{HEAD}/input"]).to(dtype).requires_grad_()
    (head(features) * torch.from_numpy(read[f"{HEAD}/loss_weights"])).sum().backward()
    exact("head: gradients", features.grad, read[f"{HEAD}/train/grad_input"], 1e-3)
    tensors = official.head_tensors(head)
    trained = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    stored = {name.partition("/grad/")[2] for name in read if "/grad/" in name}
    assert trained == stored
    for name, tensor in tensors.items():
        if name in trained:
            ours = official.in_tensorflow(tensor.grad)
            exact("head: gradients", ours, read[f"{HEAD}/train/grad/{name}"], 1e-3)
        else:
            exact("head: moving statistics", tensor, read[f"{HEAD}/train/moving_after/{name}"], 1e-5)


def slow_head(head: ProjectionHead, features: np.ndarray, training: bool) -> list[np.ndarray]:
    """Every tap of a head, one number at a time: the input, then the output of each layer."""
    taps = [features]
    for index, layer in enumerate(head):
        weight, gamma = layer.linear.weight.detach().numpy(), layer.bn.weight.detach().numpy()
        out = np.empty((len(features), len(weight)))
        for channel in range(len(weight)):
            values = np.array([sum(weight[channel] * row) for row in taps[-1]])
            mean, variance = layer.bn.running_mean[channel].item(), layer.bn.running_var[channel].item()
            if training:
                mean = sum(values) / len(values)
                variance = sum((values - mean) ** 2) / len(values)
            out[:, channel] = (values - mean) / np.sqrt(variance + 1e-5) * gamma[channel]
            if index < len(head) - 1:
                out[:, channel] = np.maximum(out[:, channel] + layer.bn.bias[channel].item(), 0)
        taps.append(out)
    return taps


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("training", [False, True])
def test_heads_of_any_depth_and_their_taps_are_what_the_layers_say(layers, training):
    head = ProjectionHead(6, layers, 4)
    official.fill(official.head_tensors(head))
    head = head.double().train(training)
    features = np.random.RandomState(0).standard_normal((5, 6))
    expected = slow_head(head, features, training)
    for layer in range(layers + 1):
        tapped = head.tap(torch.from_numpy(features), layer).detach().numpy()
        np.testing.assert_allclose(tapped, expected[layer], rtol=1e-9, atol=1e-12)


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

"""Released checkpoints: names, shapes and values go where they belong; what does not fit is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_variables import CHECKPOINT, CLASSIFIER, TINY, variables
from hypothesis import given
from hypothesis import strategies as st
from official import encoder_tensors, weight

import clrkit.official
from clrkit.config import Network
from clrkit.model import Model, ModelConfig
from clrkit.weights.official import canonical_names, convert, is_bookkeeping, read_checkpoint
from clrkit.weights.tensor_bundle import CheckpointError

NETWORKS = [
    pytest.param(
        Network(depth=depth, width=0.125, sk_ratio=sk_ratio, stem=stem),
        marks=pytest.mark.slow if depth > 100 else (),
    )
    for depth in (18, 34, 50, 101, 152, 200)
    for sk_ratio in (0.0, 0.0625)
    for stem in ("imagenet", "cifar")
    # The first blocks of a selective-kernel network without bottlenecks look as those of a plain one.
    if not (stem == "cifar" and sk_ratio and depth < 50)
]


def refused(changed: dict[str, np.ndarray], match: str, **options: object) -> None:
    with pytest.raises(CheckpointError, match=match) as error:
        convert(changed, **options)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_network_is_read_off_names_and_shapes_and_every_weight_arrives(network):
    config, state = convert(variables(network))
    assert config == ModelConfig(network=network, head_layers=3, head_dim=16, classes=10)
    model = Model(config)
    model.load_state_dict(state)
    for name, tensor in encoder_tensors(model.encoder).items():
        torch.testing.assert_close(tensor, weight(name, tuple(tensor.shape)), rtol=0, atol=0)


@pytest.mark.parametrize("width", [0.0625, 0.5, 0.75, 1, 3])
@pytest.mark.parametrize(("stem", "sk_ratio"), [("cifar", 0.0), ("imagenet", 0.0), ("imagenet", 0.0625)])
def test_the_width_is_read_off_the_stem(width, stem, sk_ratio):
    network = Network(depth=18, width=width, sk_ratio=sk_ratio, stem=stem)
    with torch.device("meta"):
        shapes = encoder_tensors(Model(ModelConfig(network=network)).encoder)
    zeros = {
        name: np.broadcast_to(np.float32(0), official_array_shape(tuple(tensor.shape)))
        for name, tensor in shapes.items()
    }
    assert convert(zeros)[0].network == network


def official_array_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return {4: lambda s: (s[2], s[3], s[1], s[0]), 2: lambda s: s[::-1]}.get(len(shape), lambda s: s)(shape)


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("classes", [0, 7])
def test_head_and_classifier_may_be_missing_and_of_any_size(layers, classes):
    config, state = convert(variables(TINY, layers=layers, dim=24, classes=classes))
    assert (config.head_layers, config.classes) == (layers, classes)
    assert config.head_dim == (24 if layers else 128)
    model = Model(config)
    model.load_state_dict(state)
    for layer in range(layers):
        name = f"head_contrastive/nl_{layer}/dense/kernel"
        kernel = model.head[layer].linear.weight
        torch.testing.assert_close(kernel, weight(name, tuple(kernel.shape)), rtol=0, atol=0)
    if classes:
        torch.testing.assert_close(model.classifier.bias, weight(f"{CLASSIFIER}/bias", (classes,)))


def test_the_classifier_sits_on_the_encoder_unless_given_or_impossible():
    assert convert(CHECKPOINT)[0].tap_layer == 0
    assert convert(CHECKPOINT, tap_layer=2)[0].tap_layer == 2
    assert convert(variables(TINY, dim=8, inputs=8))[0].tap_layer == 3
    refused(CHECKPOINT, r"tap_layer must be from 0 to 3, the layers of the head, not 4", tap_layer=4)
    refused(
        CHECKPOINT, r"has shapes that do not fit together: head_supervised\S+ \(32, 10\) for", tap_layer=3
    )


def test_steps_and_slots_of_the_optimiser_are_ignored():
    extra = {"global_step": np.int64(250228), "save_counter": np.int64(3)}
    extra |= {f"{name}/Momentum": array for name, array in CHECKPOINT.items()}
    config, state = convert({**CHECKPOINT, **extra})
    expected_config, expected = convert(CHECKPOINT)
    assert config == expected_config
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


@pytest.mark.parametrize("rename", ["ema_model/{}", "{}/ExponentialMovingAverage"])
def test_the_momentum_encoder_s_copies_are_taken_on_request(rename):
    copies = {rename.format(name): array + 1 for name, array in CHECKPOINT.items() if CLASSIFIER not in name}
    both = {**CHECKPOINT, **copies}
    torch.testing.assert_close(convert(both)[1], convert(CHECKPOINT)[1])
    averaged = convert(both, ema=True)[1]
    for name, tensor in convert(CHECKPOINT)[1].items():
        if "num_batches" not in name:
            added = 0 if name.startswith("classifier") else 1
            torch.testing.assert_close(averaged[name], tensor + added, msg=name)
    refused(CHECKPOINT, r"no momentum encoder", ema=True)


def test_both_functions_can_be_imported_from_clrkit_official():
    assert (clrkit.official.convert, clrkit.official.read_checkpoint) == (convert, read_checkpoint)


def test_whatever_is_missing_unknown_or_of_another_shape_is_named():
    first = {name: array for name, array in CHECKPOINT.items() if name != "base_model/conv2d/kernel"}
    refused(first, r"no first convolution")
    missing = {name: array for name, array in CHECKPOINT.items() if name != "base_model/conv2d_4/kernel"}
    refused(missing, r"^The checkpoint has no base_model/conv2d_4/kernel\.$")
    extra = {"base_model/se/kernel": np.zeros(3), "head_contrastive/extra": np.zeros(2)}
    unknown = r"has variables that no SimCLR model has: base_model/se/kernel, head_contrastive/extra\.$"
    refused({**CHECKPOINT, **extra}, unknown)
    shape = {"base_model/batch_normalization_3/beta": np.zeros(5, dtype=np.float32)}
    told = r"has shapes that do not fit together: base_model/batch_normalization_3/beta \(5,\) for \(4,\)\.$"
    refused({**CHECKPOINT, **shape}, told)
    many = {name: array for name, array in CHECKPOINT.items() if not name.endswith("gamma")}
    refused(many, r"and \d+ more\.$")


def test_other_checkpoints_are_refused():
    refused({}, r"no first convolution, base_model/conv2d/kernel")
    refused({"fc/weights": np.zeros((3, 3))}, r"no first convolution")
    refused({**CHECKPOINT, "base_model/conv2d/kernel": np.zeros(3)}, r"no first convolution")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    broken = CHECKPOINT[f"{CLASSIFIER}/bias"].copy()
    broken[3] = value
    refused({**CHECKPOINT, f"{CLASSIFIER}/bias": broken}, rf"not finite in float32: {CLASSIFIER}/bias\.$")


def test_numbers_too_large_for_float32_are_refused():
    large = {f"{CLASSIFIER}/bias": np.full(10, 1e300)}
    refused({**CHECKPOINT, **large}, rf"not finite in float32: {CLASSIFIER}/bias\.$")


def test_the_state_is_a_copy():
    before = {name: array.copy() for name, array in CHECKPOINT.items()}
    for tensor in convert(CHECKPOINT)[1].values():
        tensor.zero_()
    for name, array in before.items():
        np.testing.assert_array_equal(CHECKPOINT[name], array)


@pytest.mark.slow
def test_selective_kernels_without_variables_can_be_given():
    assert convert(CHECKPOINT)[0].network.sk_ratio == 0
    config, state = convert(CHECKPOINT, sk_ratio=0.0625)
    assert config.network == replace(TINY, sk_ratio=0.0625)
    Model(config).load_state_dict(state)
    network = Network(depth=50, width=0.5, sk_ratio=0.25, stem="imagenet")
    assert convert(variables(network), sk_ratio=0.25)[0].network == network
    refused(variables(network), r"do not fit together")


def test_texts_are_refused_and_other_precisions_become_float32():
    refused({**CHECKPOINT, f"{CLASSIFIER}/bias": np.array(["a"] * 10)}, r"not numbers: ")
    doubles = {name: array.astype(np.float64) for name, array in CHECKPOINT.items()}
    torch.testing.assert_close(convert(doubles)[1], convert(CHECKPOINT)[1], rtol=0, atol=0)


def test_what_is_missing_in_the_head_or_classifier_is_named():
    for name in (
        "head_contrastive/nl_2/dense/kernel",
        "head_contrastive/nl_1/dense/kernel",
        "head_contrastive/nl_2/batch_normalization/gamma",
        f"{CLASSIFIER}/kernel",
        f"{CLASSIFIER}/bias",
    ):
        left = {key: array for key, array in CHECKPOINT.items() if key != name}
        refused(left, rf"^The checkpoint has no {name}\.$")
    left = {key: array for key, array in CHECKPOINT.items() if "/nl_1/" not in key}
    refused(
        left, r"^The checkpoint has no head_contrastive/nl_1/\S+, [^:]*head_contrastive/nl_1/dense/kernel\.$"
    )


def test_the_variables_of_another_network_are_named():
    refused({"conv1/kernel": np.zeros((7, 7, 3, 64))}, r"it holds conv1/kernel\.$")


def test_two_variables_for_one_place_are_refused():
    twice = {"resnet/conv2d_fixed_padding/conv2d/kernel:0": CHECKPOINT["base_model/conv2d/kernel"]}
    refused({**CHECKPOINT, **twice}, r"two variables for each of base_model/conv2d/kernel")


def test_the_names_of_the_official_tf2_models_become_canonical(golden):
    for tag in ("r18_eighth_sk0_cifar32", "r50_eighth_sk1_64"):
        read = golden(f"tf2_{tag}")
        names = dict(zip(read["names_tf2"].tolist(), read["names"].tolist(), strict=True))
        assert canonical_names(names) == names


def test_layers_numbered_through_a_whole_keras_program_are_renumbered():
    tensorflow = "resnet/block/conv2d_fixed_padding_{0}/conv2d_{0}/kernel:0"
    assert canonical_names([tensorflow.format(number) for number in (53, 54, 60)]) == {
        tensorflow.format(53): "base_model/conv2d/kernel",
        tensorflow.format(54): "base_model/conv2d_1/kernel",
        tensorflow.format(60): "base_model/conv2d_7/kernel",
    }


@given(st.text(max_size=40))
def test_an_unknown_name_stays_as_it_is(name):
    if not re.match("base_model|resnet|head|projection|ema_model", name):
        assert canonical_names([name]) == {name: name}
    assert isinstance(is_bookkeeping(name), bool)

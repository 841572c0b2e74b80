"""LARS and the schedule, step by step against NumPy and the official numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clrkit.config import Network, Optimizer
from clrkit.model import Model, ModelConfig
from clrkit.optim import LARS, learning_rate, make_optimizer, parameter_groups, peak_rate

NOT_ADAPTED = ("batch_norm", "bias", "head_supervised")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


LARS_CASES = {
    "wd1e-4": "weight decay 1e-4",
    "wd1e-6": "weight decay 1e-6",
    "wd1e-4_lrsched": "a changing rate",
    "nesterov": "Nesterov",
    "wd0": "no weight decay",
}


@pytest.mark.parametrize("case", LARS_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_of_lars_gives_the_official_weights_and_momenta(golden, exact, case, dtype):
    official = golden("lars")
    read = {name.removeprefix(f"{case}/"): value for name, value in official.items()}
    names = official["names"].tolist()
    weights = {name: nn.Parameter(torch.from_numpy(read[f"init/{name}"]).to(dtype)) for name in names}
    plain = [weight for name, weight in weights.items() if any(word in name for word in NOT_ADAPTED)]
    adapted = [weight for name, weight in weights.items() if not any(word in name for word in NOT_ADAPTED)]
    optimizer = LARS(
        [{"params": adapted}, {"params": plain, "adapt": False}],
        lr=0.0,
        momentum=float(read["momentum"]),
        weight_decay=float(read["weight_decay"]),
        nesterov="nesterov" in case,
    )
    for step, rate in enumerate(read["lr"].tolist()):
        set_rate(optimizer, rate)
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(read[f"grad{step}/{name}"]).to(dtype)
        optimizer.step()
        for name, weight in weights.items():
            momentum = optimizer.state[weight]["momentum_buffer"]
            exact(
                f"optimiser: LARS, {LARS_CASES[case]}: weights", weight, read[f"var{step + 1}/{name}"], 1e-5
            )
            exact(
                f"optimiser: LARS, {LARS_CASES[case]}: momenta", momentum, read[f"mom{step + 1}/{name}"], 1e-5
            )


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("adapt", [False, True])
def test_lars_is_what_its_equations_say(weight_decay, momentum, nesterov, adapt):
    random = np.random.RandomState(0)
    weight = random.standard_normal((3, 4))
    parameter, velocity = nn.Parameter(torch.from_numpy(weight.copy())), np.zeros((3, 4))
    optimizer = LARS(
        [{"params": [parameter], "adapt": adapt}], 0.1, momentum, weight_decay, nesterov=nesterov
    )
    for rate in (0.5, 0.1, 2.0, 0.0, 1.0):
        gradient = random.standard_normal((3, 4))
        parameter.grad = torch.from_numpy(gradient.copy())
        set_rate(optimizer, rate)
        optimizer.step()
        if adapt:
            gradient = gradient + weight_decay * weight
            gradient = gradient * 0.001 * np.linalg.norm(weight) / np.linalg.norm(gradient)
        velocity = momentum * velocity + rate * gradient
        weight = weight - (momentum * velocity + rate * gradient if nesterov else velocity)
        np.testing.assert_allclose(parameter.detach(), weight, rtol=1e-12)


def first_step(weight: float, gradient: float, **options: Any) -> float:
    """How far one step at rate 1 moves a weight of four equal entries."""
    parameter = nn.Parameter(torch.full((2, 2), weight, dtype=torch.float64))
    parameter.grad = torch.full((2, 2), gradient, dtype=torch.float64)
    LARS([parameter], lr=1.0, **options).step()
    return (weight - parameter.detach()).mean().item()


@pytest.mark.parametrize("gradient", [1e-3, 1.0, 1e3])
def test_lars_adapts_without_weight_decay_too(gradient):
    # A thousandth of the weight, however large the gradient is.
    assert first_step(2.0, gradient, weight_decay=0.0) == pytest.approx(0.002)


def test_a_weight_of_zero_takes_a_plain_step():
    assert first_step(0.0, 0.5) == pytest.approx(0.5)


def test_a_gradient_of_zero_moves_nothing_without_decay():
    assert first_step(2.0, 0.0) == 0


def test_a_rate_is_remembered_by_the_momentum():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = LARS([{"params": [parameter], "adapt": False}], lr=1.0)
    parameter.grad = torch.ones(2)
    optimizer.step()
    parameter.grad = torch.zeros(2)
    set_rate(optimizer, 0.0)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((2,), -1.9))


def test_a_parameter_without_gradient_is_left_alone():
    parameter = nn.Parameter(torch.ones(2))
    LARS([parameter], lr=1.0).step()
    assert parameter.tolist() == [1, 1]


def test_a_closure_is_evaluated_with_gradients():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = LARS([parameter], lr=1.0)

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2
    torch.testing.assert_close(parameter.detach(), torch.full((2,), 0.999))


def tiny_model() -> Model:
    return Model(ModelConfig(network=Network(width=0.25), head_layers=2, head_dim=8, classes=3))


def test_batch_norm_biases_and_the_classifier_are_neither_decayed_nor_adapted():
    model = tiny_model()
    weights, rest = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert rest["weight_decay"] == 0
    assert (weights["adapt"], rest["adapt"]) == (True, False)
    weighted = {names[id(parameter)] for parameter in weights["params"]}
    convolutions = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and name != "classifier")
    }
    assert weighted == convolutions
    assert weighted | {names[id(parameter)] for parameter in rest["params"]} == set(names.values())


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_lars_neither_decays_nor_adapts_a_probe(weight_decay):
    probe = nn.Linear(3, 2)
    nn.init.ones_(probe.weight)
    config = Optimizer(optimizer="lars", momentum=0.0, weight_decay=weight_decay)
    optimizer = make_optimizer(config, probe)
    set_rate(optimizer, 0.5)
    probe.weight.grad, probe.bias.grad = torch.full((2, 3), 0.2), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(probe.weight.detach(), torch.full((2, 3), 0.9))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_other_optimisers_decay_the_weight_of_a_probe_and_not_its_bias(name):
    probe = nn.Linear(3, 2)
    for parameter in probe.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(Optimizer(optimizer=name, momentum=0.0, weight_decay=0.5), probe)
    set_rate(optimizer, 0.1)
    optimizer.step()
    torch.testing.assert_close(probe.weight.detach(), torch.full((2, 3), 0.95))
    assert probe.bias.eq(1).all()


@pytest.mark.parametrize(
    ("name", "kind"), [("lars", LARS), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
def test_the_optimiser_has_the_settings_of_its_config(name, kind):
    config = Optimizer(optimizer=name, learning_rate=0.3, momentum=0.8, weight_decay=0.01)
    optimizer = make_optimizer(config, tiny_model())
    assert type(optimizer) is kind
    decayed, rest = optimizer.param_groups
    assert (decayed["lr"], decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.01, 0.0)
    assert (decayed["betas"][0] if name == "adamw" else decayed["momentum"]) == 0.8


def test_sgd_is_nesterov_s_unless_it_has_no_momentum():
    for momentum in (0.0, 0.9):
        optimizer = make_optimizer(Optimizer(optimizer="sgd", momentum=momentum), tiny_model())
        assert optimizer.param_groups[0]["nesterov"] == (momentum > 0)


@pytest.mark.parametrize("scaling", ["none", "linear", "sqrt"])
@pytest.mark.parametrize("batch_size", [1, 64, 256, 4096])
def test_the_rate_grows_with_the_batch_as_the_scaling_says(scaling, batch_size):
    factor = {"none": 1, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}[scaling]
    assert peak_rate(Optimizer(learning_rate=0.2, scaling=scaling), batch_size) == pytest.approx(0.2 * factor)


def test_the_paper_s_rates_come_out():
    assert peak_rate(Optimizer(learning_rate=0.1, scaling="sqrt"), 4096) == pytest.approx(6.4)
    assert peak_rate(Optimizer(learning_rate=0.005, scaling="sqrt"), 1024) == pytest.approx(0.16)


def test_the_schedule_is_the_official_one(golden, exact):
    official = golden("schedule")
    for case in official["cases"].tolist():
        base, batch, _, warmup_epochs, images, _ = official[f"{case}/config"].tolist()
        scaling = case.split("_")[0]
        config = Optimizer(learning_rate=base, scaling=scaling, warmup_epochs=warmup_epochs)
        total = int(official[f"{case}/total_steps"])
        rates = [
            learning_rate(config, step, int(batch), int(images), total)
            for step in official[f"{case}/steps"].tolist()
        ]
        remark = "the official cosine is evaluated in float32"
        exact(f"schedule: warmup and cosine, {scaling} scaling", rates, official[f"{case}/lr"], 1e-5, remark)


WARMED = Optimizer(learning_rate=2.0, warmup_epochs=3.0)  # of 10 steps an epoch: 30 steps of warmup in 130


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (15, 1.0), (30, 2.0), (80, 1.0), (130, 0.0), (1000, 0.0)]
)
def test_warmup_rises_linearly_to_the_peak_and_a_half_cosine_falls_to_zero(step, rate):
    assert learning_rate(WARMED, step, 10, 100, 130) == pytest.approx(rate, abs=1e-12)


def test_without_warmup_the_first_step_has_the_full_rate():
    assert learning_rate(Optimizer(learning_rate=2.0), 0, 10, 100, 50) == 2


def test_warmup_is_counted_in_whole_steps():
    config = Optimizer(learning_rate=1.0, warmup_epochs=0.5)
    # Half an epoch of 105 images is 5.25 batches of 10.
    assert learning_rate(config, 5, 10, 105, 100) == 1
    assert learning_rate(config, 4, 10, 105, 100) == pytest.approx(0.8)


def test_a_warmup_as_long_as_the_run_never_falls():
    rates = [learning_rate(WARMED, step, 10, 100, 30) for step in range(30)]
    assert rates == sorted(rates)
    assert learning_rate(WARMED, 30, 10, 100, 30) == 2

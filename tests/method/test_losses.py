"""NT-Xent and the distillation losses against slow loops, closed forms and the official numbers."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from clrkit import losses
from clrkit.losses import distillation, mixed_distillation, nt_xent

PRECISIONS = [torch.float32, torch.float64]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).to(dtype)


def views(images: int, dim: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    z1 = normal(images, dim, seed=1)
    return z1.to(dtype), (z1 + normal(images, dim, seed=2)).to(dtype)


def slow_nt_xent(z1: Tensor, z2: Tensor, temperature: float, negatives: Sequence[Tensor] = ()) -> float:
    """Eq. 1 of v1, one anchor at a time; every anchor's softmax has the further negatives too."""
    z = [row / math.sqrt(float(row @ row)) for row in (*z1, *z2, *negatives)]
    count, total = len(z1), 0.0
    for i in range(2 * count):
        likeness = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(len(z))]
        positive = likeness[(i + count) % (2 * count)]
        total -= math.log(positive / (sum(likeness) - likeness[i]))
    return total / (2 * count)


@pytest.mark.parametrize("images", [1, 2, 3, 8])
@pytest.mark.parametrize("dim", [2, 5, 128])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 4.0])
def test_nt_xent_is_the_mean_of_equation_1_over_all_anchors(images, dim, temperature):
    z1, z2 = views(images, dim)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(slow_nt_xent(z1, z2, temperature), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_identical_views_of_orthogonal_images_have_a_closed_form(temperature):
    z = torch.eye(6, dtype=torch.float64)
    # The positive has similarity 1, the ten negatives 0.
    expected = math.log1p(10 * math.exp(-1 / temperature))
    assert nt_xent(z, z, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_identical_images_cannot_be_told_apart():
    z = torch.ones(5, 3, dtype=torch.float64)
    assert nt_xent(z, z, 0.1).item() == pytest.approx(math.log(9))


def test_a_single_image_has_no_negatives_and_no_loss():
    assert nt_xent(*views(1, 4), 0.1).item() == 0


def test_a_high_temperature_makes_all_candidates_alike():
    assert nt_xent(*views(8, 4), 1e9).item() == pytest.approx(math.log(15))


def test_a_low_temperature_counts_the_gap_to_the_nearest_negative():
    z1, z2 = views(4, 3)
    z = F.normalize(torch.cat((z1, z2)))
    likeness = (z @ z.T).fill_diagonal_(-torch.inf)
    positive = likeness[torch.arange(8), torch.arange(8).roll(4)]
    gap = (likeness.amax(1) - positive).mean()
    assert 1e-4 * nt_xent(z1, z2, 1e-4).item() == pytest.approx(gap.item(), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_gradient_of_nt_xent_is_that_of_its_value(temperature):
    z1, z2 = (z.requires_grad_() for z in views(4, 3))
    assert gradcheck(lambda a, b: nt_xent(a, b, temperature), (z1, z2))


def test_nt_xent_does_not_mind_which_view_comes_first():
    z1, z2 = views(6, 5)
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent(z2, z1, 0.3))


def test_nt_xent_does_not_mind_the_order_of_the_images():
    (z1, z2), order = views(6, 5), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent(z1[order], z2[order], 0.3))


def test_nt_xent_does_not_mind_the_lengths_of_the_projections():
    z1, z2 = views(6, 5)
    lengths = normal(6, 1, seed=3).exp()
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), nt_xent(z1 * lengths, 7 * z2, 0.3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close_at_a_low_temperature(dtype):
    z1, z2 = (z.requires_grad_() for z in views(32, 16, dtype))
    loss = nt_xent(z1, z2, 0.05)
    loss.backward()
    assert torch.isfinite(z1.grad).all()
    assert torch.isfinite(z2.grad).all()
    expected = slow_nt_xent(z1.detach().double(), z2.detach().double(), 0.05)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_views_of_different_numbers_are_refused():
    unchecked = nt_xent.__wrapped__  # past the shape checks that only the tests have
    with pytest.raises(ValueError, match=r"same shape, not \(4, 3\) and \(5, 3\)"):
        unchecked(torch.ones(4, 3), torch.ones(5, 3), 0.1)


# Further negatives, and the sum of the views


def queue(count: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(normal(count, dim, seed=9)).to(dtype)


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 4.0])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_further_negatives_are_in_every_anchor_s_sum(images, dim, temperature, count):
    z1, z2 = views(images, dim)
    negatives = queue(count, dim)
    expected = slow_nt_xent(z1, z2, temperature, negatives)
    assert nt_xent(z1, z2, temperature, negatives).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_further_negatives_are_plain_nt_xent(dtype):
    z1, z2 = views(6, 5, dtype)
    assert nt_xent(z1, z2, 0.1, torch.empty(0, 5, dtype=dtype)).equal(nt_xent(z1, z2, 0.1))


@pytest.mark.parametrize("count", [1, 7, 100])
def test_negatives_at_right_angles_to_all_images_have_a_closed_form(count):
    axes = torch.eye(7, dtype=torch.float64)
    negatives = axes[6:].expand(count, 7)
    # The positive has similarity 1; the ten negatives of the batch and all of the queue have 0.
    expected = math.log1p((10 + count) * math.exp(-1 / 0.2))
    assert nt_xent(axes[:6], axes[:6], 0.2, negatives).item() == pytest.approx(expected, rel=1e-12)


def test_a_single_image_has_the_further_negatives_alone():
    z = torch.eye(1, 4, dtype=torch.float64)
    assert nt_xent(z, z, 1.0, z.expand(3, 4)).item() == pytest.approx(math.log(4))


def test_a_negative_opposite_to_all_images_is_no_rival_at_a_low_temperature():
    z = torch.ones(1, 4, dtype=torch.float64)
    assert nt_xent(z, z, 0.01, -F.normalize(z)).item() == pytest.approx(0, abs=1e-80)


@pytest.mark.parametrize("summed_views", [False, True])
def test_the_gradient_with_further_negatives_is_that_of_the_value(summed_views):
    z1, z2 = (z.requires_grad_() for z in views(3, 3))
    assert gradcheck(lambda a, b: nt_xent(a, b, 0.5, queue(5, 3), summed_views), (z1, z2))


@pytest.mark.parametrize("dense", [True, False])
def test_negatives_gathered_from_other_processes_make_the_losses_of_parts_that_of_the_whole(
    dense, monkeypatch
):
    """Each process sees the others' projections as negatives; gradients are added as reduced ones are."""
    whole = [z.requires_grad_() for z in views(9, 4)]
    nt_xent(*whole, 0.3).backward()
    expected = torch.cat([z.grad for z in whole])
    monkeypatch.setattr(losses, "MAX_DENSE_SIMILARITIES", 10**9 if dense else 0)
    z1, z2 = (z.detach().requires_grad_() for z in whole)
    parts = list(zip(z1.split(3), z2.split(3), strict=True))
    for own in parts:
        others = [z for part in parts if part is not own for z in part]
        (nt_xent(*own, 0.3, F.normalize(torch.cat(others))) / 3).backward()
    torch.testing.assert_close(torch.cat((z1.grad, z2.grad)), expected, rtol=1e-9, atol=1e-12)


def test_the_order_of_further_negatives_does_not_matter():
    z1, z2 = views(4, 3)
    negatives = queue(5, 3)
    torch.testing.assert_close(nt_xent(z1, z2, 0.3, negatives), nt_xent(z1, z2, 0.3, negatives.flip(0)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_with_further_negatives_is_finite_and_close(dtype, kept):
    z1, z2 = (z.requires_grad_() for z in views(16, 8, dtype))
    # A negative like an image, and one opposite to it: the ends of the exponential.
    negatives = torch.cat((queue(30, 8), F.normalize(z1[:1].detach().double()))).to(kept)
    negatives = torch.cat((negatives, -negatives[-1:]))
    loss = nt_xent(z1, z2, 0.05, negatives)
    loss.backward()
    assert torch.isfinite(z1.grad).all()
    rows = negatives.double()
    expected = slow_nt_xent(z1.detach().double(), z2.detach().double(), 0.05, rows)
    # The slow loss normalises what half precision has rounded.
    assert loss.item() == pytest.approx(expected, rel=1e-5 if kept == torch.float32 else 1e-2)


@pytest.mark.parametrize(("images", "count"), [(1, 3), (2, 0), (5, 4)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_with_keys_the_positive_is_the_memory_s_and_the_negatives_stay(images, count, temperature):
    (z1, z2), (k1, k2) = views(images, 6), (normal(images, 6, seed=seed) for seed in (5, 6))
    negatives = queue(count, 6)
    z, keys = F.normalize(torch.cat((z1, z2))), F.normalize(torch.cat((k2, k1)))
    losses = []
    for i in range(2 * images):
        others = [z[k] @ z[i] for k in range(2 * images) if k % images != i % images]
        logits = torch.stack([keys[i] @ z[i], *others, *(negatives @ z[i])]) / temperature
        losses.append(logits.logsumexp(0) - logits[0])
    loss = nt_xent(z1, z2, temperature, negatives, keys=(k1, k2))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)


def test_keys_of_the_same_network_change_nothing_but_the_gradient():
    z1, z2 = (z.requires_grad_() for z in views(4, 3))
    plain, keyed = nt_xent(z1, z2, 0.5), nt_xent(z1, z2, 0.5, keys=(z1, z2))
    torch.testing.assert_close(keyed, plain)
    k1, k2 = (z.detach().clone().requires_grad_() for z in (z1, z2))
    assert gradcheck(lambda a, b: nt_xent(a, b, 0.5, keys=(k1, k2)), (z1, z2))
    nt_xent(z1, z2, 0.5, keys=(k1, k2)).backward()
    assert k1.grad is None
    assert k2.grad is None


@pytest.mark.parametrize("count", [0, 5])
def test_the_sum_of_the_views_is_twice_their_mean_in_value_and_gradient(count):
    losses, gradients = [], []
    for summed_views in (False, True):
        z1, z2 = (z.requires_grad_() for z in views(4, 3))
        loss = nt_xent(z1, z2, 0.5, queue(count, 3), summed_views)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat((z1.grad, z2.grad)))
    assert losses[1] == 2 * losses[0]
    assert gradients[1].equal(2 * gradients[0])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_sum_of_the_views_is_the_official_loss_and_gradient(golden, exact, dtype):
    official = golden("ntxent")
    cases = [case for case in official["cases"] if official[f"{case}/hidden_norm"]]
    assert len(cases) >= 3
    for case in cases:
        hidden = torch.from_numpy(official[f"{case}/hidden"]).to(dtype).requires_grad_()
        temperature = float(official[f"{case}/temperature"])
        loss = nt_xent(*hidden.chunk(2), temperature, summed_views=True)
        loss.backward()
        exact("loss: NT-Xent", loss, official[f"{case}/loss_float64"], 1e-5)
        exact("loss: NT-Xent, gradient", hidden.grad, official[f"{case}/grad_hidden"], 1e-4)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_cross_entropy_is_the_official_supervised_loss(golden, exact, dtype):
    official = golden("losses")
    cases = sorted({name.split("/")[0] for name in official if name.startswith("sup")})
    assert len(cases) >= 2
    for case in cases:
        logits = torch.from_numpy(official[f"{case}/logits"]).to(dtype).requires_grad_()
        loss = F.cross_entropy(logits, torch.from_numpy(official[f"{case}/labels"]).argmax(1))
        loss.backward()
        exact("loss: supervised", loss, official[f"{case}/loss"], 1e-5)
        exact("loss: supervised, gradient", logits.grad, official[f"{case}/grad_logits"], 1e-5)


def slow_distillation(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Eq. 2 of v2, one image and one class at a time."""
    total = 0.0
    for s, t in zip((student / temperature).tolist(), (teacher / temperature).tolist(), strict=True):
        s_sum, t_sum = sum(map(math.exp, s)), sum(map(math.exp, t))
        total -= sum(math.exp(y) / t_sum * math.log(math.exp(x) / s_sum) for x, y in zip(s, t, strict=True))
    return total / len(student)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (4, 10), (7, 3)])
def test_distillation_is_the_cross_entropy_of_equation_2(images, classes, temperature):
    student, teacher = normal(images, classes, seed=4), normal(images, classes, seed=5)
    expected = slow_distillation(student, teacher, temperature)
    assert distillation(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-10)


def test_a_student_like_its_teacher_pays_the_entropy_alone_and_has_no_gradient():
    teacher = normal(5, 4)
    student = (teacher + 3).requires_grad_()  # softmax does not see a constant
    loss = distillation(student, teacher, 0.5)
    loss.backward()
    entropy = torch.distributions.Categorical(logits=teacher / 0.5).entropy().mean()
    torch.testing.assert_close(loss.detach(), entropy)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-15, rtol=0)


def test_a_sure_teacher_is_a_label():
    student, labels = normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    teacher = 1e4 * F.one_hot(labels, 4).double()
    torch.testing.assert_close(distillation(student, teacher, 1.0), F.cross_entropy(student, labels))


def test_the_gradient_of_distillation_is_that_of_its_value():
    student, teacher = normal(3, 4, seed=6).requires_grad_(), normal(3, 4, seed=7)
    assert gradcheck(lambda logits: distillation(logits, teacher, 0.7), (student,))


def test_the_mixed_loss_is_both_sums_of_the_paper_over_the_batch_size():
    student, teacher = normal(6, 4, seed=8), normal(6, 4, seed=9)
    labels, labelled = torch.tensor([1, 0, -1, 2, 3, -1]), torch.tensor([1.0, 0, 0, 1, 0, 0]).double()
    label_term = F.cross_entropy(student[[0, 3]], labels[[0, 3]], reduction="sum").item() / 6
    expected = 0.3 * label_term + 0.7 * slow_distillation(student, teacher, 2.0)
    mixed = mixed_distillation(student, teacher, labels, labelled, 2.0, 0.3)
    assert mixed.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("label_weight", [0.0, 0.4])
def test_a_batch_without_labels_has_no_label_term(label_weight):
    student, teacher = normal(3, 4, seed=8), normal(3, 4, seed=9)
    mixed = mixed_distillation(
        student, teacher, torch.full((3,), -1), torch.zeros(3).double(), 1.0, label_weight
    )
    torch.testing.assert_close(mixed, (1 - label_weight) * distillation(student, teacher, 1.0))


def test_labels_that_may_not_be_used_change_nothing():
    student, teacher, labelled = normal(4, 3), normal(4, 3, seed=1), torch.tensor([1.0, 1, 0, 0]).double()
    losses = [
        mixed_distillation(student, teacher, torch.tensor([0, 1, *hidden]), labelled, 1.0, 0.5)
        for hidden in ([0, 0], [2, 1], [-1, -1])
    ]
    assert losses[0] == losses[1] == losses[2]


def distillation_cases(official: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    cases = sorted({name.split("/")[0] for name in official if name.startswith("kd")})
    assert len(cases) >= 2
    return [
        {name.split("/")[1]: value for name, value in official.items() if name.startswith(f"{case}/")}
        for case in cases
    ]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_official_distillation_has_another_factor_of_temperature_squared(golden, exact, dtype):
    for read in distillation_cases(golden("losses")):
        student = torch.from_numpy(read["student_logits"]).to(dtype).requires_grad_()
        teacher, temperature = torch.from_numpy(read["teacher_logits"]).to(dtype), float(read["temperature"])
        loss = distillation(student, teacher, temperature)
        loss.backward()
        squared = temperature**2
        exact("distillation: unlabelled, Eq. 2", loss, read["loss_eq3"], 1e-5)
        exact("distillation: unlabelled, Eq. 2, gradient", student.grad, read["grad_student_eq3"], 1e-4)
        part = "distillation: official notebook (our loss times the square of the temperature)"
        exact(part, squared * loss, read["loss_colab"], 1e-5)
        exact(f"{part}, gradient", squared * student.grad, read["grad_student_colab"], 1e-4)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_mixed_loss_has_the_value_of_the_paper_s_equation_in_tensorflow(golden, exact, dtype):
    for read in distillation_cases(golden("losses")):
        student = torch.from_numpy(read["student_logits"]).to(dtype).requires_grad_()
        teacher, labels = torch.from_numpy(read["teacher_logits"]).to(dtype), read["labels"].argmax(1)
        labelled, label_weight = torch.ones(len(labels)).to(dtype), 1 - float(read["alpha"])
        temperature = float(read["temperature"])
        loss = mixed_distillation(
            student, teacher, torch.from_numpy(labels), labelled, temperature, label_weight
        )
        loss.backward()
        exact("distillation: with labels, Eq. 3", loss, read["loss_eq4"], 1e-5)
        exact("distillation: with labels, Eq. 3, gradient", student.grad, read["grad_student_eq4"], 1e-4)

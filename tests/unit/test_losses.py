import math
from collections.abc import Callable

import pytest
import torch

from asyndgan.models import build_adversarial_loss
from asyndgan.models.losses import (
    balanced_cross_entropy,
    balanced_l1,
    class_moments,
    features_distance,
    moments_distance,
)
from asyndgan.recipe import Recipe

REAL = torch.tensor([2.0, 0.5])
SYNTHETIC = torch.tensor([-1.0, 3.0])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        (
            "bce",
            0.5
            * (
                (softplus(-2) + softplus(-0.5)) / 2  # -log sigmoid(real)
                + (softplus(-1) + softplus(3)) / 2  # -log(1 - sigmoid(synthetic))
            ),
            (softplus(1) + softplus(-3)) / 2,
        ),
        ("least_squares", 0.5 * ((1 + 0.25) / 2 + (1 + 9) / 2), (4 + 4) / 2),
        ("hinge", 0.5 * ((0 + 0.5) / 2 + (0 + 4) / 2), -(-1 + 3) / 2),
    ],
)
def test_an_adversarial_loss_has_the_papers_value(
    tiny: Callable[..., Recipe], kind: str, discriminator: float, generator: float
) -> None:
    loss = build_adversarial_loss(tiny(f"loss.adversarial={kind}"))
    both = 0.5 * (loss.real(REAL) + loss.synthetic(SYNTHETIC)).item()
    assert both == pytest.approx(discriminator, rel=1e-5)
    assert loss.generator(SYNTHETIC).item() == pytest.approx(generator, rel=1e-5)


@pytest.mark.parametrize("kind", ["bce", "least_squares", "hinge"])
def test_a_discriminator_that_is_right_has_less_loss(
    tiny: Callable[..., Recipe], kind: str
) -> None:
    loss = build_adversarial_loss(tiny(f"loss.adversarial={kind}"))
    right, wrong = torch.ones(4), torch.zeros(4)
    assert loss.real(right) < loss.real(wrong)
    assert loss.synthetic(wrong) < loss.synthetic(right)
    assert loss.generator(right) < loss.generator(wrong)


def test_binary_cross_entropy_stays_finite_for_sure_discriminators(
    tiny: Callable[..., Recipe],
) -> None:
    loss = build_adversarial_loss(tiny())
    assert loss.generator(torch.tensor([-1e4])).item() == pytest.approx(1e4)


def test_a_rare_label_counts_as_much_as_a_frequent_one() -> None:
    # Three pixels of label 0 with loss a, one pixel of label 1 with loss b: (a + b) / 2.
    target = torch.tensor([[[0, 0], [0, 1]]])
    logits = torch.tensor([[[[2.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    common, rare = softplus(-2), softplus(1)
    value = balanced_cross_entropy(logits, target, target)
    assert value.item() == pytest.approx((common + rare) / 2, rel=1e-5)


def test_labels_that_do_not_occur_take_no_weight() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    logits = torch.zeros(1, 5, 2, 2)
    value = balanced_cross_entropy(logits, target, target)
    assert value.item() == pytest.approx(math.log(5), rel=1e-5)


def test_synthetic_pixels_are_weighed_by_the_labels_they_were_painted_from() -> None:
    # The target is one class, "synthetic"; the weights still come from the masks.
    masks = torch.tensor([[[0, 0], [0, 1]]])
    synthetic = torch.full_like(masks, 2)
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 2, 1, 1] = 4.0
    at_zero, at_one = math.log(3), math.log(math.exp(4) + 2) - 4
    value = balanced_cross_entropy(logits, synthetic, masks)
    assert value.item() == pytest.approx((at_zero + at_one) / 2, rel=1e-5)


def test_moments_are_means_and_deviations_of_each_label() -> None:
    images = torch.tensor([[[[1.0, 3.0], [5.0, -1.0]]]])
    masks = torch.tensor([[[0, 0], [2, 2]]])
    moments, occurs = class_moments(images, masks, labels=4)
    assert occurs.tolist() == [True, False, True, False]
    assert moments.shape == (4, 1, 2)
    torch.testing.assert_close(moments[0, 0], torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(moments[2, 0], torch.tensor([2.0, 3.0]))
    assert not moments[1].any()


def test_moments_of_several_channels_and_of_volumes_are_apart() -> None:
    masks = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    images = torch.stack([torch.full((2, 2, 2, 2), 0.5), torch.full((2, 2, 2, 2), -1.0)], dim=1)
    moments, _ = class_moments(images, masks, labels=1)
    assert moments[0, :, 0].tolist() == [0.5, -1.0]


def test_moments_are_compared_over_the_labels_that_both_batches_have() -> None:
    ours, our_masks = torch.tensor([[[[1.0, 1.0, 9.0]]]]), torch.tensor([[[0, 0, 1]]])
    theirs, their_masks = torch.tensor([[[[0.0, 0.0, 5.0]]]]), torch.tensor([[[0, 0, 2]]])
    value = moments_distance(ours, our_masks, theirs, their_masks)
    assert value.item() == pytest.approx(0.5)  # means differ by 1, deviations by 0


def test_batches_without_a_common_label_ask_for_nothing_and_keep_the_graph() -> None:
    images = torch.ones(1, 1, 2, 2, requires_grad=True)
    zeros = torch.zeros(1, 2, 2, dtype=torch.int64)
    value = moments_distance(images, zeros, torch.ones(1, 1, 2, 2), zeros + 1)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, images)
    assert not gradient.any()


def test_the_gradient_of_moments_is_finite_where_a_label_is_flat() -> None:
    images = torch.ones(1, 1, 2, 2, requires_grad=True)
    zeros = torch.zeros(1, 2, 2, dtype=torch.int64)
    value = moments_distance(images, zeros, torch.rand(1, 1, 2, 2), zeros)
    (gradient,) = torch.autograd.grad(value, images)
    assert gradient.isfinite().all()


def test_features_are_compared_by_their_batch_means() -> None:
    synthetic = [torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0, 4.0]])]
    real = [torch.tensor([[2.0], [4.0]]), torch.tensor([[0.0, 0.0]])]
    assert features_distance(synthetic, real).item() == pytest.approx((1 + 2) / 2)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [(0.0, (3 * 1 + 5) / 4), (1.0, (1 + 5) / 2), (0.5, (2 + 3) / 2)],
)
def test_an_l1_term_may_count_every_label_alike(balance: float, expected: float) -> None:
    # Three pixels of label 0 are off by 1, one pixel of label 2 by 5; label 1 does not occur.
    masks = torch.tensor([[[0, 0], [0, 2]]])
    images = torch.tensor([[[[1.0, -1.0], [1.0, 5.0]]]]).expand(1, 2, 2, 2)
    value = balanced_l1(images, torch.zeros(1, 2, 2, 2), masks, balance)
    assert value.item() == pytest.approx(expected)

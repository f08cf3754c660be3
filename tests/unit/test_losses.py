import math

import pytest
import torch

from asyndgan.models.losses import balanced_cross_entropy
from asyndgan.models.parts import build_adversarial_loss

REAL = torch.tensor([2.0, 0.5])
SYNTHETIC = torch.tensor([-1.0, 3.0])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        (
            "bce",
            # -log sigmoid(real) and -log(1 - sigmoid(synthetic))
            0.25 * (softplus(-2) + softplus(-0.5) + softplus(-1) + softplus(3)),
            (softplus(1) + softplus(-3)) / 2,
        ),
        ("least_squares", 0.5 * ((1 + 0.25) / 2 + (1 + 9) / 2), (4 + 4) / 2),
    ],
)
def test_an_adversarial_loss_has_the_papers_value(tiny, kind, discriminator, generator):
    loss = build_adversarial_loss(tiny(f"loss.adversarial={kind}"))
    both = 0.5 * (loss.real(REAL) + loss.synthetic(SYNTHETIC)).item()
    assert both == pytest.approx(discriminator, rel=1e-5)
    assert loss.generator(SYNTHETIC).item() == pytest.approx(generator, rel=1e-5)
    sure = loss.generator(torch.tensor([-1e4])).item()
    assert sure == pytest.approx(1e4 if kind == "bce" else 1e8, rel=1e-3)


def test_a_rare_label_counts_as_much_as_a_frequent_one():
    # Three pixels of label 0 with loss a, one pixel of label 1 with loss b: (a + b) / 2.
    target = torch.tensor([[[0, 0], [0, 1]]])
    logits = torch.tensor([[[[2.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    logits = torch.cat([logits, torch.full((1, 1, 2, 2), -99.0)], 1)  # and a label that is nowhere
    common, rare = softplus(-2), softplus(1)
    value = balanced_cross_entropy(logits, target)
    assert value.item() == pytest.approx((common + rare) / 2, rel=1e-5)

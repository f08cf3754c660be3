"""Patients who are put in on purpose: what they show to have been lost stays below the promise.

The attacker is stronger than any coordinator: he sees the discriminator's weights, and knows every
other patient.
"""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from asyndgan.auditing.membership import ERROR, epsilon_of_guesses
from asyndgan.models import Sizes
from asyndgan.models.parts import build_adversarial_loss, build_discriminator, condition_maps
from asyndgan.privacy.accounting import Mechanism, epsilon_of
from asyndgan.recipe import Recipe
from asyndgan.store import Batch
from asyndgan.training.private import PrivateDiscriminator

MakeRecipe = Callable[..., Recipe]
DELTA = 1e-5
CLAIM = 1.0
TRIALS = 150
NOISE = 3.74
"""Of which one look at all patients costs an epsilon of 1."""


def epsilon_of_rates(
    hits: int, members: int, false_alarms: int, others: int, *, delta: float
) -> float:
    """Lower bound of epsilon from many trainings with a patient and many without.

    (epsilon, delta)-differential privacy implies: hit rate <= exp(epsilon) * false alarm rate +
    delta (Kairouz et al. 2015). Each rate is taken from the less favourable end of its
    Clopper-Pearson interval.

    Args:
        hits: number of trainings with the patient that were recognised as such.
        members: number of trainings with the patient.
        false_alarms: number of trainings without the patient that were taken for ones with.
        others: number of trainings without the patient.
        delta: delta of the guarantee.

    Returns:
        A lower bound of epsilon that holds with 95 % confidence; 0 if nothing can be shown.
    """
    least = float(beta.ppf(ERROR / 2, hits, members - hits + 1)) if hits else 0.0
    most = 1.0
    if false_alarms < others:
        most = float(beta.ppf(1 - ERROR / 2, false_alarms + 1, others - false_alarms))
    return max(0.0, math.log((least - delta) / most)) if least > delta else 0.0


class NoNoise(PrivateDiscriminator):
    """A bug: somebody switched it off to debug, and forgot."""

    def noised(self, sums: list[Tensor]) -> list[Tensor]:
        return sums


class WeighsClasses(PrivateDiscriminator):
    """A bug: rare classes count for more, by how often they are in the batch."""

    def clipped_sum(self, real: Batch) -> list[Tensor]:
        parts = []
        for own in real.conditions.unique():
            chosen = real.conditions == own
            weight = len(chosen) / (len(real.conditions.unique()) * int(chosen.sum()))
            one = super().clipped_sum(Batch(real.images[chosen], real.conditions[chosen]))
            parts.append([weight * part for part in one])
        return [torch.stack(each).sum(0) for each in zip(*parts, strict=True)]


def learner(tiny: MakeRecipe, kind: type[PrivateDiscriminator]) -> PrivateDiscriminator:
    recipe = tiny(
        "condition.kind=class", "generator.kind=topdown", "masks.release=false",
        "privacy.kind=discriminator", f"privacy.noise={NOISE}", "privacy.clip=0.02",
        "privacy.patients=16",
    )  # fmt: skip
    torch.manual_seed(0)
    network = build_discriminator(recipe, Sizes(3, 1))
    return kind(
        network,
        build_adversarial_loss(recipe),
        recipe,
        lambda classes: condition_maps(classes, kind="class", labels=3, space=(16, 16)),
    )


def patients(tiny: MakeRecipe) -> tuple[Batch, Batch]:
    """Forty patients of one class who are much alike; and with them one of another."""
    random = torch.Generator().manual_seed(0)
    images = 0.1 * torch.rand(41, 1, 16, 16, generator=random)
    images[-1] = torch.rand(1, 16, 16, generator=random).round() * 2 - 1
    classes = torch.tensor([0] * 40 + [1])
    return Batch(images[:-1], classes[:-1]), Batch(images, classes)


def shown_epsilon(tiny: MakeRecipe, kind: type[PrivateDiscriminator]) -> float:
    """At the least, by trainings of one update with and without the canary.

    The best test between two normal distributions is along the line from one mean to the other;
    its threshold is set on other trainings than those that are counted.
    """
    private = learner(tiny, kind)
    groups = patients(tiny)
    # Each training begins with the same weights, so its clipped sum is computed once.
    known = {len(real.images): private.clipped_sum(real) for real in groups}
    one, other = (torch.cat([part.flatten() for part in sums]) for sums in known.values())
    line = other - one
    private.clipped_sum = lambda real: known[len(real.images)]
    before = torch.cat([p.detach().flatten() for p in private.parameters])
    nothing = Batch(torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64))
    scores = torch.zeros(2, 2 * TRIALS)
    for row, real in zip(scores, groups, strict=True):
        for trial in range(2 * TRIALS):
            torch.nn.utils.vector_to_parameters(before.clone(), private.parameters)
            private.learn(torch.optim.SGD(private.parameters, lr=1.0), real, nothing)
            after = torch.cat([p.detach().flatten() for p in private.parameters])
            row[trial] = (before - after) @ line

    def shown(level: float, trials: slice) -> float:
        without, with_canary = (int((row[trials] >= level).sum()) for row in scores)
        return epsilon_of_rates(with_canary, TRIALS, without, TRIALS, delta=DELTA)

    first, second = slice(TRIALS), slice(TRIALS, None)
    best = max(scores[:, first].flatten().tolist(), key=lambda level: shown(level, first))
    return shown(best, second)


@pytest.mark.parametrize("kind", [PrivateDiscriminator, NoNoise, WeighsClasses])
def test_a_canary_shows_no_more_than_was_claimed_unless_a_bug_is_planted(tiny, kind):
    """Finds faults as coarse as these: a quarter of the noise is found every second time.

    Noise that is merely too little is found by its deviation, in `test_private.py`.
    """
    assert epsilon_of({Mechanism(NOISE, 1.0): 1}, DELTA) == pytest.approx(CLAIM, abs=0.02)
    assert (shown_epsilon(tiny, kind) <= CLAIM) is (kind is PrivateDiscriminator)


def test_the_bound_of_guesses_is_where_luck_becomes_unlikely():
    """All of n right: (1 / (1 + exp(-epsilon))) ** n = 0.05."""
    shown = epsilon_of_guesses(100, 100, 100, delta=0.0)
    assert (1 / (1 + math.exp(-shown))) ** 100 == pytest.approx(0.05, rel=0.01)
    assert epsilon_of_guesses(100, 100, 100, delta=1e-3) < shown

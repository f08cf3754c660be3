"""The attacks work where they should, and find nothing where nothing is to be found."""

from collections.abc import Callable

import pytest
import torch

from asyndgan.data import Cohort
from asyndgan.evaluation.attacks import RolledBack, bisected, psnr
from asyndgan.privacy import SIMULATION, Policy
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.training import Site

MakeRecipe = Callable[..., Recipe]
MakeCohort = Callable[..., Cohort]


def attacked(recipe: Recipe, cohort: Cohort) -> tuple[torch.Tensor, torch.Tensor]:
    """What a malicious coordinator reads of the first batch, and the real images of it."""
    site = Site("north", cohort, recipe, policy=SIMULATION)
    ask = RolledBack(
        Endpoint(site, limit=message_limit(recipe)),
        run="1f",
        recipe=recipe.digest(),
        step=0,
        images=recipe.wire.images,
        limit=message_limit(recipe),
    )
    real = cohort.batch(0, recipe.training.batch)
    assert torch.equal(ask.card.conditions, real.conditions)
    return bisected(ask, tuple(real.images.shape)), real.images


@pytest.mark.parametrize("feedback", ["float16", "int8", "int4"])
def test_bisection_reads_real_pixels_through_a_paired_term_in_ten_questions(
    tiny: MakeRecipe, make_cohort: MakeCohort, feedback: str
) -> None:
    recipe = tiny("loss.paired_l1=100", f"wire.feedback={feedback}")
    read, real = attacked(recipe, make_cohort(recipe))
    assert psnr(read, real) > 50


def test_without_a_paired_term_bisection_reads_no_real_pixel(
    tiny: MakeRecipe, make_cohort: MakeCohort
) -> None:
    recipe = tiny("loss.stand_in_l1=10", "stand_in.width=4", "stand_in.blocks=1")
    cohort = make_cohort(recipe)
    read, real = attacked(recipe, cohort)
    # No nearer to the real image than what anybody would guess: a flat one.
    flat = real.mean(dim=(2, 3), keepdim=True).expand_as(real)
    assert psnr(read, real) < psnr(flat, real) + 1
    # What it reads is the stand-in's painting: of another site with other images, another one.
    again, _ = attacked(recipe, cohort)
    assert torch.equal(read, again)


def test_the_default_policy_keeps_a_site_out_of_what_the_attack_needs(
    tiny: MakeRecipe, make_cohort: MakeCohort
) -> None:
    recipe = tiny("loss.paired_l1=100", "masks.release=false")
    assert "real pixels" in Policy().refusals(recipe)[0]


def test_decibels_of_known_gaps() -> None:
    zeros = torch.zeros(2, 1, 4, 4)
    assert psnr(zeros, zeros + 0.2) == pytest.approx(20.0, abs=1e-4)
    assert psnr(zeros, zeros) > 100

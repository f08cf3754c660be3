"""A site that sends feedback to spoil the generator, among honest ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asyndgan.recipe import IntegritySection, Recipe
from asyndgan.store import Cohort
from asyndgan.training.aggregation import bounded
from asyndgan.wire.messages import ANSWERS, Judgement, pack, unpack

MakeRecipe = Callable[..., Recipe]
MakeCohort = Callable[..., Cohort]
SITES = ("east", "north", "south", "west")


@pytest.mark.parametrize(
    ("lengths", "bound", "then", "loud"),
    [
        ([1.0, 1.1, 0.9, 50.0], {"bound": 2.0}, 2.1, {"s3": 50 / 1.05}),  # twice the median
        ([1.0, 50.0], {"bound": 2.0}, 50.0, {}),  # no majority
        ([1.0, 1.0, 50.0], {}, 50.0, {"s2": 50.0}),  # no bound
        ([0.0, 0.0, 1e8], {"bound": 2.0}, 0.0, None),  # one loud site among silent ones
    ],
)
def test_feedback_that_is_too_long_is_reported_and_shortened_to_the_bound(
    lengths, bound, then, loud
):
    own = {f"s{n}": torch.full((1, 1, 2, 2), length / 2) for n, length in enumerate(lengths)}
    shortened, found = bounded(own, IntegritySection(**bound))
    *quiet, last = (float(each.norm()) for each in shortened.values())
    assert quiet == pytest.approx(lengths[:-1]) and last == pytest.approx(then, abs=1e-6)
    assert found == pytest.approx(loud) if loud is not None else set(found) == {"s2"}


def gradient(
    tiny: MakeRecipe, make_sites: Any, make_cohort: MakeCohort, *overrides: str, liar: bool
) -> tuple[torch.Tensor, list[str]]:
    """The generator's gradient of the first step, and what a person would read."""
    # A network whose gain is alike for all feedback, so that as long is as strong.
    network = ("generator.kind=resnet", "generator.noise=0")
    recipe = tiny("wire.feedback=float32", *network, *overrides)
    cohorts = {name: make_cohort(recipe, seed=seed) for seed, name in enumerate(SITES)}
    federation = make_sites(recipe, cohorts)

    def lie(site: str, payload: bytes) -> bytes:
        answer = unpack(payload, ANSWERS, limit=federation.exchange.limit)
        if not (liar and site == "west" and isinstance(answer, Judgement)):
            return payload
        spoiled = answer.model_copy(update={"feedback": -100 * answer.feedback})
        return pack(spoiled, {"feedback": "float32", "conditions": "label8"})

    federation.line.tap = lie
    coordinator = federation.begin()
    taken: list[torch.Tensor] = []
    parameters = list(coordinator.generator.parameters())

    def watch(*_: object) -> None:
        taken.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))

    coordinator.optimiser.register_step_pre_hook(watch)
    report = coordinator.step()
    return taken[0], list(report.events)


def test_with_a_bound_one_liar_of_four_does_not_turn_the_generators_gradient_round(
    tiny, make_sites, make_cohort
):
    parts = tiny, make_sites, make_cohort
    honest, quiet = gradient(*parts, liar=False)
    undefended, notes = gradient(*parts, liar=True)
    defended, shortened = gradient(*parts, "integrity.bound=1", liar=True)
    assert quiet == []
    assert "west: the feedback of step 0" in notes[0] and "was used as it is" in notes[0]
    assert "and was shortened to 1 times it" in shortened[0]
    assert torch.cosine_similarity(honest, undefended, dim=0) < 0
    assert torch.cosine_similarity(honest, defended, dim=0) > 0.3
    assert defended.norm() < 2 * honest.norm()

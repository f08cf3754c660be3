"""A site that sends feedback to spoil the generator, among honest ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asyndgan.recipe import IntegritySection, Recipe
from asyndgan.store import Cohort
from asyndgan.training.aggregation import bounded
from asyndgan.wire import ANSWERS, Judgement, pack, unpack

MakeRecipe = Callable[..., Recipe]
MakeCohort = Callable[..., Cohort]
SITES = ("east", "north", "south", "west")


def of_lengths(*lengths: float) -> dict[str, torch.Tensor]:
    return {f"s{number}": torch.full((1, 1, 2, 2), own / 2) for number, own in enumerate(lengths)}


def test_feedback_that_is_too_long_is_shortened_to_the_bound_and_reported():
    shortened, loud = bounded(of_lengths(1.0, 1.1, 0.9, 50.0), IntegritySection(bound=2.0))
    lengths = [round(float(own.norm()), 3) for own in shortened.values()]
    assert lengths == [1.0, 1.1, 0.9, 2.1]  # twice the median of 1.05
    assert set(loud) == {"s3"}
    assert loud["s3"] == pytest.approx(50 / 1.05)


def test_without_a_majority_or_a_bound_nothing_is_shortened():
    two, _ = bounded(of_lengths(1.0, 50.0), IntegritySection(bound=2.0))
    assert float(two["s1"].norm()) == pytest.approx(50)
    free, loud = bounded(of_lengths(1.0, 1.0, 50.0), IntegritySection())
    assert float(free["s2"].norm()) == pytest.approx(50)
    assert set(loud) == {"s2"}


def test_one_loud_site_among_silent_ones_is_reported_and_silenced() -> None:
    shortened, loud = bounded(of_lengths(0.0, 0.0, 1e8), IntegritySection(bound=2.0))
    assert set(loud) == {"s2"} and float(shortened["s2"].norm()) < 1e-6


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

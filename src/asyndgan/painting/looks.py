"""The sites' looks, of which each image is painted in one."""

from collections.abc import Collection, Sequence

import torch

from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.store import derived_seed

Looks = dict[int, list[str]]
"""Looks that some channels of images are painted in, by channel; one for each image."""


def looks_of(
    patients: Sequence[str],
    run: RunFolder,
    *,
    look: str | None = None,
    seed: int = 0,
    among: Collection[str] | None = None,
) -> list[str]:
    """Site of each image's look, the same for all images of a patient.

    Args:
        patients: patient of each image.
        run: run whose sites' looks are available.
        look: site whose look all images get; None: one is drawn for each patient.
        seed: seed of the draws.
        among: sites whose looks are drawn; None: all that the run learned from.
    """
    random = torch.Generator().manual_seed(derived_seed(seed, "looks"))
    different = list(dict.fromkeys(patients))
    drawn = run.facts().drawn_sites(len(different), random, among)
    of = dict(zip(different, drawn, strict=True))
    return [look or of[patient] for patient in patients]


def check_look(recipe: Recipe, facts: RunFacts, look: str) -> None:
    """Refuses a look that a generator was not taught, which it would paint all the same."""
    if look not in facts.teachers:
        raise RunError(
            f"{look} is no site that this run learned from; those are {', '.join(facts.teachers)}."
        )
    if not recipe.generator.style:
        raise RunError(
            "this run's generator has no looks to choose from (generator.style is 0); leave the "
            "look out."
        )


def drawn_looks(facts: RunFacts, count: int, random: torch.Generator) -> list[str]:
    """Draws the look that each image gets, by the sites' shares."""
    return [facts.look_of(site) for site in facts.drawn_sites(count, random)]


def looks_of_holders(
    facts: RunFacts, looks: Sequence[str], draws: Sequence[torch.Generator]
) -> Looks:
    """Looks to paint channels in that no site of an image's own look holds, by channel.

    All that one look lacks comes from another one, if any has it all; `draws` draw it for each
    image.
    """
    held = facts.judged_in()
    others: Looks = {}
    for place, (look, random) in enumerate(zip(looks, draws, strict=True)):
        own = held.get(look, set(facts.scope.modalities))  # of a site that never came
        lacking = [name for name in facts.scope.modalities if name not in own]
        if not lacking:
            continue
        drawn = dict.fromkeys(drawn_looks(facts, 8 * len(facts.sites), random) + sorted(held))
        by_use = sorted(drawn, key=lambda other: -len(held[other] & set(lacking)))
        for name in lacking:
            holder = next((other for other in by_use if name in held[other]), look)
            channel = facts.scope.modalities.index(name)
            others.setdefault(channel, list(looks))[place] = holder
    return others

"""What a run asks of a site, in words for its steward."""

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from asyndgan.privacy import Policy
from asyndgan.privacy.measured_recipes import ALIKE
from asyndgan.privacy.policy import WITHIN
from asyndgan.recipe import Recipe
from asyndgan.recipe.recipe import dotted
from asyndgan.reports.words import amount, together
from asyndgan.runs import load_recipe, recipe_names

UNSET: Final = "not set"
DIFFER: Final = ", ".join(key.rstrip(".") for key in ALIKE)
"""In what recipes may differ that are approved for being like another."""


class Cost(NamedTuple):
    """What a run asks of something that a policy limits."""

    of: str
    asked: str
    before: str  # what earlier runs took
    allowed: str
    beyond: bool  # whether both together are more


def purpose(recipe: Recipe) -> str:
    """What a run trains."""
    steps, image = f"in {amount(recipe.training.steps)} steps", recipe.image
    if recipe.table:
        return f"Train a generator of records of {recipe.table.width} numbers, {steps}."
    size = f"{' x '.join(map(str, image.size))} {'voxels' if image.whole else 'pixels'}"
    if image.source == "masks":
        return (
            f"Train a generator of label maps of {size}, {steps}. It learns what patients' label "
            "maps look like. A later run paints images from them."
        )
    names = together(image.modalities) if image.modalities else "all modalities that sites hold"
    of = {"class": "classes", "none": "noise alone"}.get(
        recipe.condition.kind,
        "label maps of patients" if recipe.sends_own_masks else "label maps that are no patient's",
    )
    return f"Train a generator of images ({names}) of {size} from {of}, {steps}."


def costs(
    recipe: Recipe, policy: Policy, site: str, *, patients: int | None, answered: int
) -> Iterator[Cost]:
    """What a run asks, in answers: of all runs together, and for each patient who takes part.

    `patients` are those of the site, held-out ones included, if known; `answered` are its answers
    so far.
    """
    presence = recipe.presence_of(site)
    asked = sum(map(len, presence)) + len(presence) * recipe.sends_own_conditions
    learned = patients and max(1, patients - round(patients * recipe.training.hold_out))
    parts = {"answers in all": (1, policy.allows.most_answers)}
    if learned:
        of = f"answers a patient ({amount(learned)} take part)"
        parts[of] = learned, policy.allows.most_answers_per_patient
    for of, (among, most) in parts.items():
        yield Cost(
            of,
            f"{asked / among:,.4g}" if among > 1 else amount(asked),
            f"{answered / among:,.4g}" if among > 1 else amount(answered),
            "no limit" if most is None else amount(most),
            most is not None and (asked + answered) / among > most,
        )


def leaving(recipe: Recipe, policy: Policy) -> Iterator[str]:
    """What leaves the site in such a run under its policy."""
    leaves = policy.leaves
    noise = ", with noise (differential privacy)" if policy.covers(recipe) else ""
    yield f"In each step the gradient on synthetic images, as {recipe.wire.feedback}{noise}."
    if leaves.losses:
        whose = "generator and discriminators" if leaves.discriminator_losses else "generator"
        yield f"In each step the losses of the {whose}, as numbers."
    yield (
        "The number of cases, names of modalities and labels, and the size of images."
        if leaves.cases
        else "Names of modalities and labels, the size of images, and the share that you declare."
    )
    if recipe.sends_own_conditions and leaves.masks not in WITHIN:
        kept = recipe.keeps_masks and leaves.masks == "released"
        yield "In each step label maps or classes of patients" + (
            ", which the coordinator keeps." if kept else ", which it promises not to keep."
        )
    yield "No image, no name of a patient, no weights of a discriminator."


def differences(recipe: Recipe) -> tuple[str, list[tuple[str, str, str]]]:
    """The nearest recipe of this package, and each key: its value here, and there."""
    own = dict(dotted(recipe.to_tables()))
    return min(
        ((name, _differences(own, known)) for name, known in _shipped().items()),
        key=lambda found: len(found[1]),
    )


def _differences(own: dict[str, object], known: dict[str, object]) -> list[tuple[str, str, str]]:
    return [
        (key, str(own.get(key, UNSET)), str(known.get(key, UNSET)))
        for key in dict.fromkeys([*known, *own])
        if own.get(key) != known.get(key)
    ]


@cache
def _shipped() -> dict[str, dict[str, object]]:
    return {name: dict(dotted(load_recipe(name).to_tables())) for name in recipe_names()}

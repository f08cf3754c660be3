"""What a site takes: cases that fit a recipe, a state that fits them, and synthetic images."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Images
from asyndgan.errors import CohortError, NotFiniteError, PolicyError, ProtocolError
from asyndgan.privacy import Policy
from asyndgan.recipe import Recipe
from asyndgan.store import Cohort
from asyndgan.store.enrolment import Cases, refusals

CODING_ERROR: Final = 1e-3  # How far rounding on the wire may take an image beyond its range
KEPT_DIGESTS: Final = 2**18  # images that a site remembers, to note what is asked again
FEWEST_TEACHERS: Final = 4
"""Fewest patients of a network that teaches masks: one that knew two or three told theirs from all
others at once, and taught no heads (docs/experiments.md)."""


def check_cohort(name: str, cohort: Cohort, recipe: Recipe) -> None:
    """Checks that a recipe can be trained on a site's cases; raises `CohortError` if it cannot."""
    if cohort.space != recipe.space:
        raise CohortError(
            f"site {name}: images have size {cohort.space}, the recipe wants "
            f"{recipe.space}. Prepare them with this recipe."
        )
    if cohort.move != recipe.training.move:
        raise CohortError(
            f"site {name}: its cohort has move={cohort.move}, and training.move is "
            f"{recipe.training.move}. Build the cohort as the recipe says."
        )
    cases = Cases(cohort.patients, cohort.untaught, min(cohort.declared.parts) < 1)
    for reason, remedy in refusals(cases, recipe):
        raise CohortError(f"site {name}: {reason}. {remedy}")


def share_of(name: str, cohort: Cohort, policy: Policy, declared: float | None) -> float:
    """A site's weight: the declared one, or its number of cases if the policy lets that out.

    Raises `PolicyError` if it, or zeros in the feedback, would reveal what the policy keeps back.
    """
    if declared is None and not policy.leaves.cases:
        raise PolicyError(
            f"site {name}: policy '{policy.name}' keeps the number of cases back, which would "
            "be the share. Declare a share."
        )
    if cohort.present is not None and not policy.leaves.cases:
        raise PolicyError(
            f"site {name}: policy '{policy.name}' keeps the number of cases back, but some "
            "lack a modality, and zeros in the feedback would tell which. Leave these cases "
            "out, or let leaves.cases be true."
        )
    return float(cohort.declared.cases) if declared is None else declared


def too_few_to_teach(recipe: Recipe, people: int) -> bool:
    """Whether a network of this site would know too few people to teach masks.

    Of `people`, those that are held out count: else a recipe's hold-out would count them.
    """
    networks = 2 if recipe.discriminator.cross_fitted else 1
    return recipe.image.source == "masks" and people < FEWEST_TEACHERS * networks


def check_same(about: Mapping[str, Any], *, data: str, modalities: Sequence[str]) -> None:
    """Raises `ProtocolError` unless a site's stored state is of the cases that it has now.

    `data` is the digest of the cases and of whose they are.
    """
    names = list(modalities)  # one image may come under another name
    if about.get("data") != data or about.get("modalities") != names:
        raise ProtocolError(
            "this site's cases are not those that it began the run with, or its settings use them "
            "otherwise; give it back its data and its settings (of images: the pattern of "
            "patients and 'without'), or start a new run."
        )


def check_range(images: Images, what: str) -> None:
    """Refuses images that no generator paints: they spoil a discriminator, or probe it.

    Raises `NotFiniteError` or `ProtocolError`.
    """
    if not torch.isfinite(images).all():
        raise NotFiniteError(f"{what} are not finite.")
    beyond = float(images.abs().max()) - IMAGE_HIGH
    if beyond > CODING_ERROR:
        raise ProtocolError(
            f"{what} lie outside {IMAGE_LOW:g} to {IMAGE_HIGH:g}, which no generator paints."
        )


@final
class Arrivals:
    """Remembers which images came in which step, also of another run."""

    def __init__(self) -> None:
        self._came: dict[bytes, int] = {}

    def count(self, images: Images, step: int) -> int:
        """How many of these images came in another step before, such as one that was lost."""
        known = self._came
        flat = images.detach().flatten(2)
        drawn = images[(flat != flat[..., :1]).any(-1).any(-1)]  # all of one value: nobody's
        digests = [hashlib.sha256(each.detach().numpy().tobytes()).digest() for each in drawn]
        count = sum(known.get(digest, step) != step for digest in digests)
        for digest in digests:
            known.setdefault(digest, step)
        while len(known) > KEPT_DIGESTS:
            known.pop(next(iter(known)))
        return count

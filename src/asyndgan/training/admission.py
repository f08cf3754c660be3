"""What a site's cases and masks must be for a recipe, and for a run that goes on."""

from collections.abc import Mapping, Sequence
from typing import Any

from asyndgan.data import Cohort
from asyndgan.data.enrolment import Cases, refusals
from asyndgan.errors import CohortError, PolicyError, ProtocolError
from asyndgan.privacy import Policy
from asyndgan.recipe import Recipe
from asyndgan.wire import LEAST_SHARE


def check_cohort(name: str, cohort: Cohort, recipe: Recipe) -> None:
    """Checks that a recipe can be trained on a site's cases; raises `CohortError` if it cannot."""
    if cohort.space != recipe.space:
        raise CohortError(
            f"site {name}: images have size {cohort.space}, the recipe wants "
            f"{recipe.space}. Prepare them with this recipe."
        )
    own = name in recipe.site_discriminators
    section = f"site_discriminators.{name}" if own else "discriminator"
    if cohort.move != recipe.training.move:
        raise CohortError(
            f"site {name}: its cohort has move={cohort.move}, and training.move is "
            f"{recipe.training.move}. Build the cohort as the recipe says."
        )
    cases = Cases(cohort.patients, cohort.untaught, min(cohort.parts) < 1)
    for reason, remedy in refusals(cases, recipe.at_site(name), section):
        raise CohortError(f"site {name}: {reason}. {remedy}")


def share_of(name: str, cohort: Cohort, policy: Policy, declared: float | None) -> float:
    """A site's weight: the declared one, or its number of cases if the policy lets that out.

    Raises:
        CohortError: the share is too small.
        PolicyError: the share, or zeros in the feedback, would reveal what the policy keeps back.
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
    share = float(cohort.told) if declared is None else declared
    if not share >= LEAST_SHARE:
        raise CohortError(
            f"site {name}: a share of {share:g}; it must be {LEAST_SHARE:g} at least."
        )
    return share


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

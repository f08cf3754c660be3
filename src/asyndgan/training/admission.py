"""What a site's cases and masks must be for a recipe, and for a run that goes on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from asyndgan.arrays import Mask
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


def check_strangers(name: str, given: Iterable[Mask], own: Iterable[Mask]) -> None:
    """Checks that no patient's own mask is given, mirrored or not.

    Raises:
        CohortError: one is.
    """
    known = {mask.long().numpy().tobytes() for mask in own if mask.unique().numel() > 1}
    both = (each.long() for mask in given for each in (mask, mask.flip(-1)))
    if any(mask.numpy().tobytes() in known for mask in both):
        raise CohortError(
            f"site {name}: a mask of one of its own patients is among those that are given, and "
            "would leave with them. Give it masks that are public, or that a generator painted."
        )


def checked_masks(
    name: str, given: Sequence[Mask] | None, cohort: Cohort, recipe: Recipe
) -> torch.Tensor | None:
    """The masks that a site is given to have painted, (n, H, W), if the recipe asks for them.

    Raises:
        CohortError: there are some and should not be, or the other way round; or they do not fit
            the site's cases, or are some of them.
    """
    says = f"site {name}: the recipe has masks.source '{recipe.masks.source}', and"
    if not given:
        if recipe.masks.source == "given":
            raise CohortError(
                f"{says} no masks were given. Name a folder of them: --masks FOLDER, or 'masks' in "
                "site.toml."
            )
        return None
    if recipe.masks.source != "given":
        raise CohortError(f"{says} {len(given)} masks were given. Leave them out.")
    masks = torch.stack(list(given)).long()
    check_strangers(name, masks, cohort.conditions)
    unknown = set(masks.unique().tolist()) - set(cohort.labels)
    if tuple(masks.shape[1:]) != cohort.space or unknown:
        raise CohortError(
            f"site {name}: the given masks have size {tuple(masks.shape[1:])} and the unknown "
            f"labels {sorted(unknown)}; its cases have size {cohort.space} and the labels "
            f"{sorted(cohort.labels)}. Prepare both alike."
        )
    return masks


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
    """Checks that a stored state of a site is of the data that it has now.

    Args:
        about: facts of the state.
        data: digest of the cases, of whose they are, and of the given masks.
        modalities: of the cases.

    Raises:
        ProtocolError: it is of other data.
    """
    names = list(modalities)  # one image may come under another name
    if about.get("data") != data or about.get("modalities") != names:
        raise ProtocolError(
            "this site's cases are not those that it began the run with, or its settings use them "
            "otherwise; give it back its data and its settings (of images: the pattern of "
            "patients, 'without' and given masks), or start a new run."
        )

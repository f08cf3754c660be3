"""Plans a recipe from the sites' data, or from the fingerprints that they handed over."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from asyndgan.errors import DataError
from asyndgan.intake.fingerprint import loaded, measured
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.models import check_parts
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.recipe.planning import Plan, clashes, plan
from asyndgan.recipe.pooled import LARGER_SIDES, LARGEST_SIDE
from asyndgan.runs.recipes import recipe_text
from asyndgan.tables.planning import plan_tables
from asyndgan.tables.schema import check_own_data

Fits = Callable[[Recipe, int], bool]
"""Whether there is time for a recipe with so many sites."""


@final
@dataclass(frozen=True)
class Planned:
    """A plan, and the recipe that it gives.

    Attributes:
        sites: the fingerprint of each site.
        plan: what follows from them.
        recipe: the recipe, with all overrides.
    """

    sites: Mapping[str, Fingerprint]
    plan: Plan
    recipe: Recipe

    @property
    def notes(self) -> list[str]:
        """The notes of the plan that no override answers."""
        return self.plan.unanswered(self.recipe, recipe_text(self.plan.base))

    def to_toml(self) -> str:
        """The recipe as TOML, with the reason of each value that the plan chose."""
        return self.plan.toml(self.recipe, recipe_text(self.plan.base))


def within(hours: float, device: str = "cpu") -> Fits:
    """Whether so many hours suffice for a training, if this machine computes all sites.

    Each answer times a step here, which takes some seconds.
    """

    def fits(recipe: Recipe, sites: int) -> bool:
        from asyndgan.runs.expected import seconds  # needs torch, which takes a while

        return seconds(recipe, sites, device) <= hours * 3600

    return fits


def plan_for(
    sites: Mapping[str, Path],
    overrides: Sequence[str],
    pattern: str,
    *,
    masks: bool = False,
    fits: Fits | None = None,
) -> Planned | Recipe:
    """The plan of sites' images, or the recipe of their tables; raises as these functions."""
    tables = plan_tables(sites, overrides)
    return tables or planned(sites, overrides, pattern, masks=masks, fits=fits)


def planned(
    sites: Mapping[str, Path],
    overrides: Sequence[str] = (),
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    *,
    masks: bool = False,
    fits: Fits | None = None,
) -> Planned:
    """Plans a recipe.

    Args:
        sites: each site's folder, or its fingerprint: a file that `asyndgan fingerprint` wrote.
        overrides: keys of the recipe to override, each as `key=value`.
        patient_pattern: see `asyndgan.intake.nnunet.patient_of`.
        masks: whether the recipe learns masks, in place of images.
        fits: whether there is time for a recipe, as `within`: images get as many pixels as they
            have and there is time for. None, or if a site's is a fingerprint: as many as the
            default policy of a federation allows.

    Raises:
        DataError: a folder or a fingerprint cannot be read, or their names contradict.
        RecipeError: an override is not valid.
        RunError: two sites have one data set.
    """
    check_own_data(sites)
    found = {
        site: loaded(path) if path.is_file() else measured(path, patient_pattern)
        for site, path in sites.items()
    }
    told = {site: str(path) for site, path in sites.items()}
    if any(path.is_file() for path in sites.values()):
        fits = None  # data that is elsewhere is trained on in a federation
    return planned_from(found, overrides, told, masks=masks, fits=fits)


def planned_from(
    found: Mapping[str, Fingerprint],
    overrides: Sequence[str] = (),
    told: Mapping[str, str] | None = None,
    *,
    masks: bool = False,
    fits: Fits | None = None,
) -> Planned:
    """Plans a recipe from fingerprints.

    Args:
        found: the fingerprint of each site.
        overrides: keys of the recipe to override, each as `key=value`.
        told: what errors call each site; None: its name.
        masks: as in `planned`.
        fits: as in `planned`.

    Raises:
        DataError: their names contradict.
        RecipeError: an override is not valid.
    """
    if clashing := [*clashes({(told or {}).get(site, site): one for site, one in found.items()})]:
        raise DataError(
            f"Names contradict, so nothing can be planned: {'; '.join(clashing)}. Give each "
            "modality one name, and each label one name and one number, everywhere, and name "
            "different ones more clearly. Remap masks whose numbers change, and measure again."
        )
    taken = _of_size(found, overrides, masks, LARGEST_SIDE)
    if fits is None:
        return taken
    for largest in LARGER_SIDES:
        larger = _of_size(found, overrides, masks, largest)
        more = larger.recipe.image.size != taken.recipe.image.size  # they have more, and none given
        if not (more and fits(larger.recipe, len(found))):
            break
        taken = larger
    return taken


def _of_size(
    found: Mapping[str, Fingerprint], overrides: Sequence[str], masks: bool, largest: int
) -> Planned:
    """The plan of images of `largest` pixels along a side at most."""
    made = plan(found, masks=masks, largest=largest)
    recipe = made.recipe(recipe_text(made.base), overrides)
    check_parts(recipe)
    return Planned(found, made, recipe)

"""Plans a recipe from the sites' data, or from the fingerprints that they handed over."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

from asyndgan.errors import DataError, RunError
from asyndgan.intake.fingerprint import loaded, measured
from asyndgan.models import check_parts
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.recipe.planning import BASE, Plan, clashes, plan
from asyndgan.recipe.pooled import LARGER_SIDES, LARGEST_SIDE, VOLUME_SIDES
from asyndgan.runs.recipes import recipe_text
from asyndgan.tables.planning import plan_from, plan_tables
from asyndgan.tables.schema import check_own_data, refuse_for_images
from asyndgan.tables.summary import Summary

Fits = Callable[[Recipe, int], bool]
"""Whether there is time for a recipe with so many sites."""


@final
@dataclass(frozen=True)
class Planned:
    """A plan, and the recipe that it gives."""

    sites: Mapping[str, Fingerprint]  # of each site that has images
    plan: Plan | None  # what follows from them; None: of tables a recipe alone
    recipe: Recipe  # with all overrides

    @property
    def notes(self) -> list[str]:
        """The notes of the plan that no override answers."""
        plan = self.plan
        return plan.unanswered(self.recipe, recipe_text(BASE)) if plan else []

    def to_toml(self) -> str:
        """The recipe as TOML, with the reason of each value that the plan chose."""
        plan = self.plan
        return plan.toml(self.recipe, recipe_text(BASE)) if plan else self.recipe.to_toml()


def within(hours: float, device: str = "cpu") -> Fits:
    """Whether so many hours suffice for a training, if this machine computes all sites."""
    return lambda recipe, sites: seconds(recipe, sites, device) <= hours * 3600


def seconds(recipe: Recipe, sites: int, device: str = "cpu") -> float:
    """Of a training whose sites this machine computes; times a step once for each recipe."""
    return recipe.training.steps * _seconds_of_a_step(recipe.to_toml(), sites, device)


@cache
def _seconds_of_a_step(recipe: str, sites: int, device: str) -> float:
    from asyndgan.models.parts import usable_device  # needs torch, which takes a while
    from asyndgan.training.compute import expected_seconds

    return expected_seconds(Recipe.from_toml(recipe), sites, usable_device(device))


def traffic(recipe: Recipe, sites: Mapping[str, Fingerprint]) -> tuple[int, int]:
    """Bytes to each site in a whole training, and from it, before compression."""
    from asyndgan.wire.codec import raw_size

    steps, batch, space = recipe.training.steps, recipe.training.batch, recipe.space
    modalities = {each.name for one in sites.values() for each in one.modalities}
    shape = (batch, len(modalities), *space)
    feedback = raw_size(shape, recipe.wire.feedback) + raw_size((batch, *space), "label8")
    return steps * raw_size(shape, recipe.wire.images), steps * feedback


def planned(
    sites: Mapping[str, Path],
    overrides: Sequence[str] = (),
    *,
    volumes: bool = False,
    fits: Fits | None = None,
) -> Planned:
    """Plans a recipe.

    `sites` are folders, or fingerprints: files that `asyndgan fingerprint` wrote. `overrides` are
    written `key=value`. `volumes` are painted whole, as also with three sides in `image.size`. If
    there is time by `fits` (see `within`), images get as many pixels as they have; if it is None,
    or a fingerprint is given, as many as the default policy of a federation allows.

    Raises `DataError` if a folder or a fingerprint cannot be read, or their names contradict,
    `RecipeError` for an override, and `RunError` if two sites have one data set, or volumes are
    asked for and there are none.
    """
    if tables := plan_tables(sites, overrides):  # which have no masks
        refuse_for_images({"volumes": volumes})
        return Planned({}, None, tables)
    check_own_data(sites)
    found = {
        site: loaded(path) if path.is_file() else measured(path) for site, path in sites.items()
    }
    told = {site: str(path) for site, path in sites.items()}
    if any(path.is_file() for path in sites.values()):
        fits = None  # data that is elsewhere is trained on in a federation
    return planned_from(found, overrides, told, volumes=volumes, fits=fits)


def planned_from(
    given: Mapping[str, Fingerprint | Summary],
    overrides: Sequence[str] = (),
    told: Mapping[str, str] | None = None,
    *,
    volumes: bool = False,
    fits: Fits | None = None,
) -> Planned:
    """Plans a recipe from the fingerprint of each site; `told` is what errors call them.

    Raises:
        CohortError: their tables differ.
        RunError: only some are of tables, or what is asked for does not fit them.
        Others: as `planned`.
    """
    found = {site: one for site, one in given.items() if isinstance(one, Fingerprint)}
    if tables := {site: one for site, one in given.items() if isinstance(one, Summary)}:
        if found:
            raise RunError(f"{', '.join(tables)} has a table, and others have images. Name --site.")
        refuse_for_images({"volumes": volumes})
        return Planned({}, None, plan_from(tables, overrides))
    if clashing := [*clashes({(told or {}).get(site, site): one for site, one in found.items()})]:
        raise DataError(
            f"Names contradict, so nothing can be planned: {'; '.join(clashing)}. Give each "
            "modality one name, and each label one name and one number, everywhere, and name "
            "different ones more clearly. Remap masks whose numbers change, and measure again."
        )
    size = _size_in(overrides)
    volumes = volumes or len(size) > 2
    first, *more = VOLUME_SIDES if volumes else (LARGEST_SIDE, *LARGER_SIDES)
    if size and not volumes:  # rules follow the size that was given
        first = max(size)
    if volumes:
        _refuse_flat(found)
    taken = _of_size(found, overrides, first, volumes=volumes)
    if volumes and not taken.recipe.image.whole:
        raise RunError("--volumes, and image.size has two sides. Give it three, or leave one out.")
    check_parts(taken.recipe)
    if fits is None:
        return taken
    for largest in more:
        larger = _of_size(found, overrides, largest, volumes=volumes)
        grows = larger.recipe.image.size != taken.recipe.image.size  # they have more, none given
        if not (grows and fits(larger.recipe, len(found))):
            break
        taken = larger
    return taken


def _size_in(overrides: Sequence[str]) -> tuple[int, ...]:
    """The size that overrides give; empty: none."""
    sizes = [each for each in overrides if each.replace(" ", "").startswith("image.size=")]
    keys = [*sizes, "discriminator.kind=patch_segmentation"]  # which volumes take, too
    return Recipe.from_toml(recipe_text(BASE), keys).image.size if sizes else ()


def _refuse_flat(found: Mapping[str, Fingerprint]) -> None:
    for site, one in found.items():
        if not one.spaced:
            raise RunError(
                f"{site} has pictures, so no volumes can be painted. Plan without --volumes."
            )
        if one.thick:
            raise RunError(
                f"{site} has too few {one.thick} slices, or too thick ones, for whole volumes. "
                "Plan without --volumes: slices are painted one by one."
            )


def _of_size(
    found: Mapping[str, Fingerprint],
    overrides: Sequence[str],
    largest: int,
    *,
    volumes: bool = False,
) -> Planned:
    made = plan(found, largest=largest, volumes=volumes)
    return Planned(found, made, made.recipe(recipe_text(BASE), overrides))

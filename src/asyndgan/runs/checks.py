"""Checks of a run before anything is trained: its sites, their policies, and what it resumes."""

from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote

import torch

from asyndgan.errors import PolicyError, RunError
from asyndgan.intake.description import describe
from asyndgan.privacy import Policy
from asyndgan.recipe import Recipe
from asyndgan.runs.folder import RunFolder
from asyndgan.store.fitting import shared_modalities
from asyndgan.tables.schema import check_own_data
from asyndgan.training.compute import measured_precision
from asyndgan.training.given import Given


def check_sites(
    recipe: Recipe, sites: Mapping[str, Path], without: Mapping[str, Collection[str]]
) -> None:
    """Raises `RunError` if a run's sites do not fit its recipe; opens no data."""
    if not sites:
        raise RunError("there is no site to train with. Name each with its folder: NAME=FOLDER.")
    check_own_data(sites)
    if stray := set(without) - set(sites):
        raise RunError(
            f"{', '.join(sorted(stray))} is to go without a modality, and is no site of this run; "
            f"the sites are {', '.join(sites)}."
        )
    if unknown := {part.site for part in recipe.timeline} - set(sites):
        raise RunError(
            f"the timeline of recipe '{recipe.name}' names {', '.join(sorted(unknown))}, which is "
            f"no site of this run; the sites are {', '.join(sites)}."
        )
    check_attended(recipe, sites)


def given_masks(
    recipe: Recipe, masks: Path | None, folder: RunFolder | None = None
) -> Given | None:
    """The masks that a run paints from in place of its sites', if the recipe asks for them.

    `masks` is a data set of them; the run's `folder` keeps them from its beginning on. Raises
    `RunError` or `DataError` if they are given to a recipe that takes none, missing, or unreadable.
    """
    if not masks and folder and folder.was_given:
        masks = folder.masks
    says = f"recipe '{recipe.name}' has masks.source '{recipe.masks.source}', and"
    if masks is None and recipe.given_masks:
        raise RunError(f"{says} no folder of masks was given. Name one: --masks FOLDER.")
    if masks is not None and not recipe.given_masks:
        raise RunError(f"{says} {masks} was given. To paint from it, set masks.source to 'given'.")
    return Given.of(masks, recipe) if masks else None


def check_attended(recipe: Recipe, sites: Collection[str]) -> None:
    """Raises `RunError` if no site takes part in some step: the run could never finish."""
    if (empty := recipe.first_empty_step(sites)) is not None:
        raise RunError(
            f"by the timeline of recipe '{recipe.name}' no site takes part in step {empty}, where "
            "the run would stop for good. Let the parts of the timeline meet or overlap."
        )


def check_policies(
    recipe: Recipe, sites: Collection[str], policies: Mapping[str, Path], records: Path | None
) -> None:
    """Checks all policies against the recipe before anything starts; each site checks again.

    Raises `PolicyError` if a policy is of no site or does not allow the recipe, or its limit over
    all runs needs `records`.
    """
    if unknown := set(policies) - set(sites):
        raise PolicyError(f"there is a policy for {', '.join(sorted(unknown))}, which is no site.")
    for name, file in policies.items():
        policy = Policy.from_file(file)
        policy.check(recipe, name)
        limits = (policy.privacy.epsilon, policy.most_answers(1), policy.allows.most_recipes)
        if records is None and any(limits):
            raise PolicyError(
                f"the policy of {name} limits what leaves it in all runs, but its books would be "
                "of this run alone. Name a folder for them that stays, with --records FOLDER."
            )


def check_late_sites(
    recipe: Recipe, sites: Mapping[str, Path], without: Mapping[str, Collection[str]]
) -> None:
    """Raises `RunError` if sites that come later hold what the first sites lack.

    What a run paints is fixed when it begins, and all of it must be some site's.
    """
    if not recipe.timeline or recipe.table:  # which names all columns and classes
        return
    held: dict[str, set[str]] = {}
    for site, data in sites.items():
        info, own = describe(data), held.setdefault(site, set())
        if not recipe.image.labels:
            own |= {f"label {number} '{name}'" for name, number in info.labels.items()}
        if not recipe.image.modalities and recipe.image.source == "images":
            own |= set(shared_modalities(info, recipe.image)) - set(without.get(site, ()))
    first = {name for site in held if recipe.takes_part(site, 0) for name in held[site]}
    for site, own in sorted(held.items()):
        if own - first:
            raise RunError(
                f"{site} comes later and holds {', '.join(sorted(own - first))}, which none of "
                "the sites of the beginning has, so the run would not paint it. Name all in "
                "image.modalities and image.labels, or give all sites the same."
            )


def resumed(out: Path, recipe: Recipe, sites: Collection[str]) -> RunFolder:
    """The folder of a run to resume; raises `RunError` if it cannot go on with these."""
    folder = RunFolder(out)
    if folder.facts_file.exists() and folder.facts().state == "finished":
        raise RunError(
            f"the run in {out} has finished. To train longer, start a new run from it, in another "
            f"folder: 'asyndgan train --from {quote(str(out))} --out FOLDER'."
        )
    check_same_run(folder, recipe, sites)
    return folder


def check_same_run(folder: RunFolder, recipe: Recipe, sites: Collection[str]) -> None:
    """Raises `RunError` if a run is not of this recipe and of these sites."""
    out, begun = folder.path, folder.recipe()
    if begun.digest() != recipe.digest():
        raise RunError(
            f"the run in {out} was started with another recipe: "
            f"{'; '.join(begun.changes(recipe))}. Resume it with {folder.recipe_file}."
        )
    if folder.facts_file.exists():
        facts = folder.facts()
        later = {part.site for part in recipe.timeline} & set(sites)
        began = {**facts.sites, **facts.spared}
        if set(began) | later != set(sites):
            raise RunError(
                f"the run in {out} was started with {', '.join(began)}; resume it with the "
                f"same sites, not with {', '.join(sorted(sites))}, or start a new run."
            )


def precision_of(folder: RunFolder, recipe: Recipe, device: torch.device) -> str:
    """The precision that a run began with, or one that a new run begins with."""
    if folder.facts_file.exists():
        return folder.facts().precision
    return measured_precision(recipe, device)

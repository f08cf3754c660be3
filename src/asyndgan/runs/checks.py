"""Checks of a run before anything is trained: its sites, their policies, and what it resumes."""

from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote

import torch

from asyndgan.errors import PolicyError, RunError
from asyndgan.intake.description import describe
from asyndgan.privacy import Policy
from asyndgan.recipe import Recipe
from asyndgan.runs.facts import RunFacts
from asyndgan.runs.folder import RunFolder
from asyndgan.store.plan import shared_modalities
from asyndgan.tables.schema import check_own_data
from asyndgan.training import GENERATOR_VERSION
from asyndgan.training.compute import measured_precision
from asyndgan.training.given import Given


def check_sites(
    recipe: Recipe,
    sites: Mapping[str, Path],
    without: Mapping[str, Collection[str]],
) -> None:
    """Checks a run's sites against its recipe, without opening their data.

    Args:
        recipe: recipe of the run.
        sites: folder of each site's data, by the site's name.
        without: modalities of a site that are not used, by the site's name.

    Raises:
        RunError: sites and timeline do not fit together.
    """
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

    Args:
        recipe: of the run.
        masks: data set that holds them.
        folder: of the run, which keeps them from its beginning on.

    Raises:
        RunError: there are some and should not be, or the other way round.
        DataError: they cannot be read.
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
    """Checks that some site takes part in every step, or the run could never finish.

    Raises:
        RunError: no site takes part in a step.
    """
    empty = recipe.first_empty_step(sites)
    if empty is not None:
        raise RunError(
            f"by the timeline of recipe '{recipe.name}' no site takes part in step {empty}, where "
            "the run would stop for good. Let the parts of the timeline meet or overlap."
        )


def check_all_come(recipe: Recipe, sites: Collection[str]) -> None:
    """Checks of a run that is to begin that no site comes when it is over.

    Raises:
        RunError: a site does.
    """
    if never := [site for site in sorted(sites) if not recipe.presence_of(site)]:
        raise RunError(
            f"by the timeline of recipe '{recipe.name}' {', '.join(never)} would come after the "
            f"last of {recipe.training.steps} steps. Correct the timeline, or take them out of it "
            "and of the sites."
        )


def check_policies(
    recipe: Recipe, sites: Collection[str], policies: Mapping[str, Path], records: Path | None
) -> None:
    """Checks all policies against the recipe before anything starts; each site checks again.

    Raises:
        PolicyError: a policy is of no site or does not allow the recipe, or its limit over all runs
            needs `records`.
    """
    unknown = set(policies) - set(sites)
    if unknown:
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
    """Checks that sites joining later hold no modalities or labels that the first sites lack.

    What a run paints is fixed when it begins, and all of it must be some site's.

    Raises:
        RunError: a site does, or no site holds a modality of the recipe.
    """
    if not recipe.timeline or recipe.table:  # which names all columns and classes
        return
    about = {site: describe(data) for site, data in sites.items()}
    labels = {
        site: {f"label {number} '{name}'" for name, number in info.labels.items()}
        for site, info in about.items()
    }
    remedy = "Give all sites the same labels in dataset.json, or name all in image.labels."
    checks = [] if recipe.image.labels else [(labels, remedy)]
    if recipe.image.source == "images":
        held = {
            site: set(shared_modalities(info, recipe.image)) - set(without.get(site, ()))
            for site, info in about.items()
        }
        if not recipe.image.modalities:
            checks.append((held, "Name all modalities in image.modalities of the recipe."))
        elif nobodys := sorted({*recipe.image.modalities}.difference(*held.values())):
            raise RunError(
                f"recipe '{recipe.name}' paints {', '.join(nobodys)}, which no site holds, early "
                "or late. Correct image.modalities."
            )
    for found, remedy in checks:
        first = {name for site in found if recipe.takes_part(site, 0) for name in found[site]}
        for site, own in sorted(found.items()):
            if own - first:
                raise RunError(
                    f"{site} comes later and holds {', '.join(sorted(own - first))}, which none of "
                    f"the sites of the beginning has, so the run would not paint it. {remedy}"
                )


def resumed(out: Path, recipe: Recipe, sites: Collection[str], patients: str) -> RunFolder:
    """Opens the folder of a run to resume.

    Raises:
        RunError: there is none, it has finished, or its recipe, sites or pattern were others.
    """
    folder = RunFolder(out)
    if folder.facts_file.exists() and folder.facts().state == "finished":
        raise RunError(
            f"the run in {out} has finished. To train longer, start a new run from it, in another "
            f"folder: 'asyndgan train --from {quote(str(out))} --out FOLDER'."
        )
    check_same_run(folder, recipe, sites, patients)
    return folder


def check_same_run(
    folder: RunFolder, recipe: Recipe, sites: Collection[str], patients: str
) -> None:
    """Checks that a run is one of this recipe, of these sites and of this pattern.

    Raises:
        RunError: it is not, or there is none.
    """
    out, begun = folder.path, folder.recipe()
    if begun.digest() != recipe.digest():
        raise RunError(
            f"the run in {out} was started with another recipe: "
            f"{'; '.join(begun.changes(recipe))}. Resume it with {folder.recipe_file}."
        )
    if folder.facts_file.exists():
        facts = folder.facts()
        facts.check_pattern(patients)
        later = {part.site for part in folder.recipe().timeline} & set(sites)
        if set(facts.sites) | later != set(sites):
            raise RunError(
                f"the run in {out} was started with {', '.join(facts.sites)}; resume it with the "
                f"same sites, not with {', '.join(sorted(sites))}, or start a new run."
            )


def precision_of(folder: RunFolder, recipe: Recipe, device: torch.device) -> str:
    """The precision that a run began with, or one that a new run begins with."""
    if folder.facts_file.exists():
        return folder.facts().precision
    return measured_precision(recipe, device)


def check_version(folder: RunFolder, facts: RunFacts) -> None:
    """Checks that a run goes on as its generator was trained so far.

    Raises:
        RunError: another version of asyndgan began it.
    """
    if facts.generator_version != GENERATOR_VERSION:
        raise RunError(
            f"the run in {folder.path} was begun by another version of asyndgan, which trained "
            "otherwise; it cannot go on. Start a new run."
        )

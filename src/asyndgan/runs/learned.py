"""Masks that the sites teach a generator first, so that no patient's mask is ever sent."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from asyndgan.arrays import IMAGE_LOW
from asyndgan.errors import PolicyError, RunError
from asyndgan.export.writing import written_whole
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.recipe import Recipe
from asyndgan.runs.bank import MaskBank
from asyndgan.runs.checks import check_late_sites, check_policies, check_same_run, check_sites
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.recipes import load_recipe
from asyndgan.runs.train import train
from asyndgan.store import derived_seed
from asyndgan.training.scope import enlarged, generator_inputs

FEWEST: Final = 500
MOST: Final = 4000
"""Fewest and most masks that are painted; not measured."""

SUFFIX: Final = "-masks"  # of the run that learns masks, beside the run painted from them
PAINTED: Final = "painted"  # folder of the masks, in the run that learned to paint them
BATCH: Final = 50  # masks that are painted at a time

ALIKE: Final = {
    "image": ("size", "axis", "spacing", "fit", "slices", "labels"),
    "training": ("flip", "seed", "hold_out", "hold_out_seed", "precision"),
}
"""Keys in which the recipe of the masks is that of the images, by section."""

WHOLE: Final = ("shares", "quorum", "privacy", "integrity")  # sections in which it is, too


def beside(path: Path) -> Path:
    """Where what learns masks lies, beside what is painted from them."""
    whole = path.resolve()
    return whole.with_name(whole.name + SUFFIX)


def learns_masks(recipe: Recipe, masks: Path | None, out: Path, *, resume: bool) -> bool:
    """Whether masks have to be learned before a run: it wants some, and was given none."""
    kept = resume and RunFolder(out).was_given
    return recipe.given_masks and not masks and not kept


def recipe_of_masks(recipe: Recipe, steps: int | None = None) -> Recipe:
    """The recipe `masks` for what a recipe paints: the same sites, grid, labels and patients.

    It takes no more steps than the images or than `steps`, so that a short trial is short.
    """
    own, whole = load_recipe("masks").to_tables(), recipe.to_tables()
    most = recipe.training.steps if steps is None else min(steps, recipe.training.steps)
    own["training"]["steps"] = min(own["training"]["steps"], most)
    # Differential privacy allows one network alone; and who moves no image hides nobody.
    if recipe.privacy.kind != "none" or not recipe.training.move:
        own["discriminator"]["cross_fitted"] = False
    least = min(recipe.image.size) // 2  # of what networks see
    judge = own["discriminator"]
    judge["layers"] = min(judge["layers"], least.bit_length() - 1)
    for section, keys in ALIKE.items():
        here = whole.get(section, {})
        own.setdefault(section, {}).update({key: here[key] for key in keys if key in here})
    return Recipe.from_tables(own | {key: whole[key] for key in WHOLE if key in whole})


def learned_masks(
    recipe: Recipe,
    sites: dict[str, Path],
    out: Path,
    *,
    resume: bool = False,
    steps: int | None = None,
    policies: Mapping[str, Path] | None = None,
    records: Path | None = None,
    patients: str = DEFAULT_PATIENT_PATTERN,
    without: Mapping[str, Collection[str]] | None = None,
    **options: Any,
) -> Path:
    """Has sites teach a generator of masks, and paints the masks of a run from it.

    What exists already is used, so that the same call goes on after an interruption. Arguments are
    those of `runs.train.train`; `steps` is the most that the masks may take. The folder `out` of
    the run is created; the run that learns masks lies `beside` it.

    Returns:
        A data set of masks: as many as the sites have cases, from `FEWEST` to `MOST`.

    Raises:
        PolicyError: a site refuses one of the two recipes, or both trainings would hold out other
            patients, as only `records` can prevent.
        RunError: the masks beside `out` were learned with another recipe or of other sites.
        Others: as `runs.train.train`, and DataError if the masks cannot be written.
    """
    learns = recipe_of_masks(recipe, steps)
    check_sites(recipe, sites, without or {})
    check_late_sites(recipe, sites, without or {})
    check_policies(recipe, sites, policies or {}, records)
    if policies and recipe.training.hold_out and not records:
        raise PolicyError(
            "masks are learned in a training of its own, and with policies each training would "
            "hold out other patients. Name a folder for both trainings' books: --records FOLDER."
        )
    if not resume or not RunFolder(out).recipe_file.exists():
        RunFolder.create(out, recipe)
    place = beside(out)
    run = RunFolder(place)
    begun = run.facts_file.exists()
    if begun:
        try:
            check_same_run(run, learns, sites, patients)
        except RunError as error:
            differs, _, _ = str(error).partition(" Resume it with ")  # which no call here does
            raise RunError(
                f"masks were learned before, and not for this run: {differs} Remove {place}, or "
                "choose another folder for the run."
            ) from error
    if not begun or run.facts().state != "finished":
        try:
            run = train(
                learns, sites, place, resume=begun, policies=policies, records=records,
                patients=patients, without=without, **options,
            )  # fmt: skip
        except PolicyError as error:
            raise PolicyError(
                f"{error} The recipe 'masks' comes first, since no folder of masks was named; "
                "--masks FOLDER does without it."
            ) from error
    return painted_masks(run)


@torch.no_grad()
def painted_masks(run: RunFolder) -> Path:
    """The masks that a finished run of masks paints, as a data set; painted once.

    Each site gets masks in its look and of its labels, in proportion to its cases.

    Raises:
        RunError: the run has not finished, or its files were changed.
    """
    folder = run.path / PAINTED
    if folder.exists():
        return folder
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    scope = facts.scope
    cases = {site: about["cases"] for site, about in facts.teachers.items()}
    more = min(max(sum(cases.values()), FEWEST), MOST) / sum(cases.values())
    with written_whole(folder) as half:
        bank = MaskBank(half)
        bank.describe(scope)
        for site, count in cases.items():
            random = torch.Generator().manual_seed(
                derived_seed(recipe.training.seed, PAINTED, site)
            )
            held = facts.teachers[site].get("modalities", scope.modalities)
            absent = [place for place, name in enumerate(scope.modalities) if name not in held]
            left = math.ceil(more * count)
            while left > 0:
                looks = [facts.look_of(site)] * min(left, BATCH)
                nothing = torch.zeros(len(looks), *scope.space, dtype=torch.int64)
                likely = generator(*generator_inputs(recipe, scope, nothing, looks, random))
                likely[:, absent] = 2 * IMAGE_LOW  # less than none
                bank.keep(site, scope.label_maps(enlarged(likely)))
                left -= len(looks)
    return folder

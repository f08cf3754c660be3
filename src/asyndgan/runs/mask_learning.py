"""Masks that the sites teach a generator first, so that no patient's mask is ever sent."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from asyndgan.arrays import IMAGE_LOW
from asyndgan.engines.federation import MASKS_SUFFIX
from asyndgan.errors import PolicyError, RunError
from asyndgan.export.writing import written_whole
from asyndgan.models.sizes import at_once
from asyndgan.recipe import Recipe
from asyndgan.runs.checks import check_late_sites, check_policies, check_same_run, check_sites
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.runs.recipes import load_recipe
from asyndgan.runs.train import train
from asyndgan.store import derived_seed
from asyndgan.training.scope import enlarged, generator_inputs

FEWEST: Final = 500
MOST: Final = 4000
"""Fewest and most masks that are painted; not measured."""

SLICES: Final = 8
"""As many masks count as a volume of them does."""

PAINTED: Final = "painted"  # folder of the masks, in the run that learned to paint them
PENALTY: Final = 1.0  # on discriminators of masks that neither move nor shift
BATCH: Final = 50  # most masks that are painted at a time

ALIKE: Final = {
    "image": ("size", "axis", "spacing", "fit", "slices", "labels"),
    "training": ("flip", "move", "seed", "hold_out", "hold_out_seed", "precision"),
}
"""Keys in which the recipe of the masks is that of the images, by section."""

WHOLE: Final = ("shares", "quorum", "privacy", "integrity")  # sections in which it is, too


def beside(path: Path) -> Path:
    """Where what learns masks lies, beside what is painted from them."""
    whole = path.resolve()
    return whole.with_name(whole.name + MASKS_SUFFIX)


def learns_masks(recipe: Recipe, masks: Path | None, out: Path, *, resume: bool) -> bool:
    """Whether masks have to be learned before a run: it wants some, and was given none."""
    kept = resume and RunFolder(out).was_given
    return recipe.given_masks and not masks and not kept


def recipe_of_masks(recipe: Recipe, steps: int | None = None) -> Recipe:
    """The recipe `masks` for what a recipe paints: the same sites, grid, labels and patients.

    It takes at most `steps`, and twice as many as the images, so that a short trial is short.
    """
    own, whole = load_recipe("masks").to_tables(), recipe.to_tables()
    most = (own["training"]["steps"], 2 * recipe.training.steps)
    own["training"]["steps"] = min(most if steps is None else (*most, steps))
    # Differential privacy allows one network alone; and who moves no image hides nobody.
    if recipe.privacy.kind != "none" or not recipe.training.move:
        own["discriminator"]["cross_fitted"] = False
    if not recipe.training.move:  # shifts, too, only hide patients, and shapes take longer
        own["discriminator"]["augment"] = []
        own["loss"]["gradient_penalty"] = PENALTY if recipe.privacy.kind == "none" else 0.0
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
    without: Mapping[str, Collection[str]] | None = None,
    **options: Any,
) -> Path:
    """Has sites teach a generator of masks, and paints the masks of a run from it.

    What exists already is used, so that the same call goes on after an interruption. Arguments and
    errors are those of `runs.train.train`; `steps` is the most that the masks may take. The folder
    `out` of the run is created; the run that learns masks lies `beside` it. Returns a data set of
    masks, as many as the sites have cases, within `FEWEST` and `MOST`.
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
            check_same_run(run, learns, sites)
        except RunError as error:
            raise RunError(
                f"the masks in {place} were learned for another run. Remove that folder, or choose "
                "another one for this run."
            ) from error
    if not begun or run.facts().state != "finished":
        run = train(
            learns, sites, place, resume=begun, policies=policies, records=records,
            without=without, **options,
        )  # fmt: skip
    return painted_masks(run)


@torch.no_grad()
def painted_masks(run: RunFolder) -> Path:
    """The masks that a finished run of masks paints, as a data set; painted once.

    Each site gets masks in its look and of its labels, in proportion to its cases; a site that was
    spared, in the looks of those that taught. Raises `RunError` if the run has not finished, or its
    files were changed.
    """
    folder = run.path / PAINTED
    if folder.exists():
        return folder
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    scope = facts.scope
    sites = {**facts.spared, **facts.teachers}
    cases = {site: about["cases"] for site, about in sites.items()}
    of_one = SLICES if recipe.image.whole else 1
    more = min(max(sum(cases.values()), FEWEST / of_one), MOST / of_one) / sum(cases.values())
    batch = at_once(scope.space, BATCH)
    with written_whole(folder) as half:
        bank = MaskBank(half, whole=recipe.image.whole)
        bank.describe(scope)
        for site, count in cases.items():
            random = torch.Generator().manual_seed(
                derived_seed(recipe.training.seed, PAINTED, site)
            )
            held = sites[site].get("modalities", scope.modalities)
            absent = [place for place, name in enumerate(scope.modalities) if name not in held]
            left = math.ceil(more * count)
            while left > 0:
                looks = [facts.look_of(site)] * min(left, batch)
                if site not in facts.teachers:
                    drawn = facts.drawn_sites(len(looks), random)
                    looks = [facts.look_of(teacher) for teacher in drawn]
                nothing = torch.zeros(len(looks), *scope.space, dtype=torch.int64)
                likely = generator(*generator_inputs(recipe, scope, nothing, looks, random))
                likely[:, absent] = 2 * IMAGE_LOW  # less than none
                bank.keep(site, scope.label_maps(enlarged(likely)))
                left -= len(looks)
    return folder

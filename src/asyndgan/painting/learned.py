"""Masks that the sites teach a generator first, so that no patient's mask is ever sent."""

from pathlib import Path
from typing import Any, Final

from asyndgan.data.writing import written_whole
from asyndgan.painting.synthesise import chosen_masks, synthesise
from asyndgan.painting.writing import write_synthetic
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.train import train

FEWEST: Final = 500
MOST: Final = 4000
"""Most masks that are painted: beyond this, sets that are drawn from them hardly vary more."""

SUFFIX: Final = "-masks"
"""What the run that learns masks is called beside the run that is painted from them."""

ALIKE: Final = {
    "image": ("size", "axis", "spacing", "fit", "slices", "labels"),
    "training": ("flip", "seed", "hold_out", "hold_out_seed"),
}
"""Keys in which the recipe of the masks is that of the images, by section."""

WHOLE: Final = ("timeline", "shares", "quorum", "privacy", "integrity")
"""Sections in which it is, too."""

PAINTED: Final = "painted"
"""Folder of the masks, in the run that learned to paint them."""


def learns_masks(recipe: Recipe, masks: Path | None, out: Path, *, resume: bool) -> bool:
    """Whether masks have to be learned before a run: it wants some, and was given none."""
    kept = resume and RunFolder(out).has_masks
    return recipe.masks.source == "given" and not masks and not kept


def recipe_of_masks(recipe: Recipe) -> Recipe:
    """The recipe `masks` for what a recipe paints: the same sites, grid, labels and patients.

    It takes no more steps than the images, so that a short trial is short.
    """
    own, whole = load_recipe("masks").to_tables(), recipe.to_tables()
    own["training"]["steps"] = min(own["training"]["steps"], recipe.training.steps)
    for section, keys in ALIKE.items():
        here = whole.get(section, {})
        own.setdefault(section, {}).update({key: here[key] for key in keys if key in here})
    return Recipe.from_tables(own | {key: whole[key] for key in WHOLE if key in whole})


def learned_masks(
    recipe: Recipe,
    sites: dict[str, Path],
    out: Path,
    **options: Any,
) -> Path:
    """Has sites teach a generator of masks, and paints the masks of a run from it.

    What exists already is used, so that the same call goes on after an interruption.

    Args:
        recipe: of the run that is to be painted from the masks.
        sites: folder of each site's data, by the site's name.
        out: folder of that run; the one that learns masks lies beside it (`SUFFIX`).
        options: as `runs.train.train`.

    Returns:
        A data set of masks: as many as the sites have cases, from `FEWEST` to `MOST`.

    Raises:
        As `runs.train.train`, and DataError if the masks cannot be written.
    """
    place = out.with_name(out.name + SUFFIX)
    run, painted = RunFolder(place), place / PAINTED
    if not run.facts_file.exists() or run.facts().state != "finished":
        begun = run.facts_file.exists()
        run = train(recipe_of_masks(recipe), sites, place, resume=begun, **options)
    if not painted.exists():
        cases = sum(site["cases"] for site in run.facts().sites.values())
        count = min(max(cases, FEWEST), MOST)
        named, origin = chosen_masks(run, None)
        with written_whole(painted) as half:
            write_synthetic(
                half, run, synthesise(run, named, draws=count), masks=named, origin=origin,
                painting={"draws": count, "seed": 0},
            )  # fmt: skip
    return painted

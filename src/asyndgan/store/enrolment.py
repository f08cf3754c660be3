"""Whether a folder's cases suffice to train on: whose they are, and what they have."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

from asyndgan.recipe import ImageSection, Recipe
from asyndgan.store.splits import one_sided

UNNAMED_MODALITIES: Final = 16
UNNAMED_LABELS: Final = 64
"""Most modalities, and most label channels (the highest number and one), that a run paints of which
the recipe names none: a single card could ask for a generator of any size otherwise."""

Reason = tuple[str, str]


@final
@dataclass(frozen=True)
class Cases:
    """What of a site's cases decides whether a recipe can be trained on them."""

    patients: int
    untaught: Sequence[str]  # as `untaught` finds
    incomplete: bool  # whether some case, a held-out one too, lacks a modality that others have


def untaught(
    modalities: Sequence[str], present: Sequence[Sequence[bool]], halves: Sequence[int]
) -> list[str]:
    """Modalities of which one half of the patients has no case while the other has some."""
    if len(set(halves)) < 2:
        return []
    return [modalities[place] for place in one_sided(present, halves)]


def unheld(image: ImageSection, held: Collection[str]) -> dict[str, list[str]]:
    """Modalities that a recipe names and no site holds, by the key that names them."""
    return {
        "image.modalities": [name for name in image.painted if name not in held],
        "image.intensity": [name for name in image.intensity if name not in {*held, "default"}],
    }


def refusals(cases: Cases, recipe: Recipe) -> Iterator[Reason]:
    """Why a recipe cannot be trained on cases, those held out apart; `check` refuses alike."""
    cross_fitted = recipe.discriminator.cross_fitted
    if cross_fitted and cases.untaught:
        yield (
            f"of its patients one half alone has cases with {cases.untaught[0]}, and a network "
            "that learns from the other half would judge what it never saw",
            f"Leave {' and '.join(cases.untaught)} out at this site, or set "
            "discriminator.cross_fitted to false: --set discriminator.cross_fitted=false.",
        )
    if cross_fitted and cases.patients < 2:
        else_ = "train with one network: --set discriminator.cross_fitted=false."
        if recipe.image.source == "masks":  # which 'train' learns of itself
            else_ = "paint from masks of others: train with --masks FOLDER."
        yield (
            "has one patient to train on, so one of its two networks would have no patient to "
            "learn from",
            "If cases are one patient's by their names alone, correct patient_pattern in "
            f"dataset.json. Else add patients, or {else_}",
        )
    if (kind := recipe.privacy.kind) != "none" and cases.incomplete:
        yield (
            f"some cases lack a modality, and privacy.kind '{kind}' cannot tell what is absent "
            "from what is black",
            "Switch it off, or leave these cases out and lower numTraining.",
        )


def none_left(image: ImageSection, wanted: Sequence[str]) -> Reason:
    """The refusal of a set of which a recipe takes no case."""
    return (
        f"holds no case with a label ('image.slices' is '{image.slices}') and with any of "
        f"{', '.join(wanted)}",
        "Set image.slices to 'all', give the labels numbers above 0, or name what cases have.",
    )


def none_shared(modalities: Sequence[str], image: ImageSection) -> Reason | None:
    """The refusal of a set with none of the modalities that the recipe names."""
    if not image.modalities or set(modalities) & set(image.modalities):
        return None
    return (
        f"has the modalities {', '.join(modalities)}, none of which is in the recipe's "
        f"image.modalities ({', '.join(image.modalities)})",
        "Name them alike; modalities match by name.",
    )

"""The family of recipes for which membership inference by asking a site was measured.

The table below says which values a recipe of the family has, and what a coordinator could learn
through a recipe with another value. `lab/experiments/worst_recipe.py` attacked some recipes at its
edges; docs/evidence.md ("Membership inference") has the figures.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from asyndgan.recipe import Recipe
from asyndgan.recipe.recipe import dotted

Value = object


class Measured(NamedTuple):
    """The values of a key that were measured."""

    within: str  # in words
    holds: Callable[[Value], bool]  # whether a value is one of them


@final
@dataclass(frozen=True)
class Row:
    """What recipes of the family have under one key."""

    key: str  # of a recipe
    measured: Measured
    otherwise: str  # what could be learned through a recipe that has another value
    unless: tuple[str, ...] = ()  # kinds of discriminators that may have any value
    of_masks: Measured | None = None  # in place of `measured`, of a recipe that learns masks

    def of(self, recipe: Recipe) -> Measured:
        """What was measured of recipes like this one."""
        return (self.of_masks if recipe.image.source == "masks" else None) or self.measured


@final
@dataclass(frozen=True)
class Outside:
    """A key of a recipe that is outside the family."""

    key: str  # of the recipe
    value: str  # that it has
    within: str  # what was measured
    otherwise: str  # what could be learned through it


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_of(*values: Value) -> Measured:
    return Measured(" or ".join(map(_shown, values)), lambda value: value in values)


def _between(low: float, high: float) -> Measured:
    def holds(value: Value) -> bool:
        return isinstance(value, int | float) and low <= value <= high

    return Measured(f"{low:g} to {high:g}" if low else f"{high:g} at most", holds)


_MEMORISED = "A network can memorise patients, and its answers reveal who took part."

FAMILY: Final = (
    Row(
        "condition.kind", _one_of("mask"),
        "A coordinator can show pictures of other patients as synthetic. Without masks, a network "
        "tells them from the site's images only by memorising patients.",
        of_masks=_one_of("none"),
    ),
    Row(
        "image.size",
        Measured(
            "two sides of 32 to 64 pixels",
            lambda value: isinstance(value, tuple)
            and len(value) == 2
            and all(32 <= side <= 64 for side in value),
        ),
        "How well networks memorise patients at other sizes, or volumes, was not measured.",
    ),
    Row(
        "discriminator.kind",
        _one_of("patch", "patch_segmentation", "projected", "projected_segmentation"),
        "Other networks see an image as a whole, or come from another package. What they learn "
        "about single patients was not measured.",
        of_masks=_one_of("masks"),
    ),
    Row(
        "discriminator.cross_fitted",
        Measured("true; with pretrained discriminators either", lambda value: value is True),
        "The single network has learned from every patient. Its answer on a patient's image shows "
        "that it knows the image.",
        unless=("projected", "projected_segmentation"),
        of_masks=_one_of(True),
    ),
    Row(
        "discriminator.augment", _one_of(("shift",)),
        "Images are not augmented as in the measurements. " + _MEMORISED,
    ),
    Row(
        "discriminator.width", _between(16, 48),
        "Wider networks can memorise more patients. Narrower networks were not measured.",
    ),
    Row(
        "discriminator.layers", _one_of(3),
        "What networks of another depth learn about single patients was not measured.",
        of_masks=_one_of(4),
    ),
    Row(
        "loss.adversarial", _one_of("least_squares", "hinge"),
        "What other losses reveal about single images was not measured. A loss of another package "
        "can reveal more than how real an image looks.",
        of_masks=_one_of("bce"),
    ),
    Row(
        "loss.adversarial_weight", _one_of(1.0),
        "Other weights of the two parts of an answer were not measured.",
    ),
    Row(
        "loss.segmentation", _between(0, 1),
        "A network that learns more from masks can memorise patients' masks. Its answer reveals a "
        "mask that it finds in an image.",
    ),
    Row(
        "loss.mismatch", _between(0, 1),
        "What discriminators that compare images with other masks learn was not measured.",
    ),
    Row(
        "loss.gradient_penalty", _one_of(0.0),
        "A network that is kept from telling images apart learns otherwise than those that were "
        "measured.",
    ),
    Row(
        "optimiser.discriminator_rate", _between(0, 2e-4),
        "Networks that learn faster memorise patients after fewer answers.",
        of_masks=_between(0, 5e-4),
    ),
    Row(
        "training.batch", _between(1, 2),
        "With a larger batch the networks see each patient more often in the same number of "
        "answers.",
        of_masks=_between(1, 4),
    ),
    Row(
        "training.move", _one_of(True),
        "Networks see a patient's image unchanged, again and again. " + _MEMORISED,
    ),
)  # fmt: skip
"""What recipes of the family have. The paired term has a key of its own in a policy."""

TABLES: Final = Row(
    "table", Measured("no table", lambda value: value is None),
    "Attacks on a site were measured with images alone. A network can memorise records, and its "
    "answers reveal which took part.",
)  # fmt: skip
"""The only row that is of tables: they are outside the family, and the others are of images."""

ALIKE: Final = (
    "name", "generator.", "optimiser.generator_rate", "training.steps", "training.precision",
    "training.ema", "training.seed", "training.checkpoint_every", "training.sample_every",
    "quorum.", "shares.",
)  # fmt: skip
"""Keys and sections of a recipe, none of them of the family, that a site's networks and answers do
not depend on, but for the number of steps, for rounding (a party computes in a precision of its
own) and, where a policy allows a known start, for the seed."""


def kind_of(recipe: Recipe) -> str:
    """SHA-256, in hexadecimal, of all of a recipe but `ALIKE`."""
    own = {k: value for k, value in dotted(recipe.to_tables()) if not k.startswith(ALIKE)}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def outside(recipe: Recipe) -> list[Outside]:
    """The keys by which a recipe is outside the family; empty if it belongs to it."""
    if recipe.table:
        said = f"of {len(recipe.table.columns)} columns"
        return [Outside(TABLES.key, said, TABLES.measured.within, TABLES.otherwise)]
    rows: list[Outside] = []
    for row in FAMILY:
        section, name = row.key.split(".")
        value, measured = getattr(getattr(recipe, section), name), row.of(recipe)
        if recipe.discriminator.kind not in row.unless and not measured.holds(value):
            rows.append(Outside(row.key, _shown(value), measured.within, row.otherwise))
    return rows

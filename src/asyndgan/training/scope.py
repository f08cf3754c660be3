"""The modalities, labels and image size of a run, agreed among the sites that opened it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, final

import torch
import torch.nn.functional as F
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from asyndgan.arrays import CPU, Condition, Noise
from asyndgan.errors import CohortError
from asyndgan.models import Sizes
from asyndgan.models.generators import smooth
from asyndgan.models.parts import build_generator, condition_channels, condition_maps, site_noise
from asyndgan.recipe import LABELS_LIMIT, Recipe
from asyndgan.store.augmentation import deformed
from asyndgan.store.case import MODALITIES_LIMIT
from asyndgan.store.enrolment import UNNAMED_LABELS, UNNAMED_MODALITIES, unheld
from asyndgan.texts import named_alike
from asyndgan.wire.messages import Card

SIDE_LIMIT: Final = 4096  # Largest number of rows or columns of an image


@final
@dataclass(frozen=True)
class Scope:
    """What a run paints: modalities, in the order of channels, names of labels, and size."""

    modalities: Annotated[tuple[str, ...], Field(min_length=1, max_length=MODALITIES_LIMIT)]
    labels: Annotated[dict[Annotated[int, Field(ge=0, lt=LABELS_LIMIT)], str], Field(min_length=1)]
    space: Annotated[
        tuple[Annotated[int, Field(strict=True, gt=0, le=SIDE_LIMIT)], ...],
        Field(min_length=1, max_length=3),
    ]

    def to_plain(self) -> dict[str, Any]:
        """The scope as a value for JSON."""
        plain: dict[str, Any] = _SCOPE.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Scope":
        """Reads what `to_plain` returned, or a stranger wrote; raises `ValueError` as need be."""
        return _SCOPE.validate_python(plain)

    def sizes(self, recipe: Recipe) -> Sizes:
        """Those of networks that know all labels and modalities."""
        labels = condition_channels(recipe.condition.kind, max(self.labels) + 1)
        return Sizes(labels, len(self.modalities), len(self.space))

    def label_maps(self, images: Tensor) -> Tensor:
        """Of images whose modalities are labels (b, c, *space): the number of the largest share."""
        numbers = {name: number for number, name in self.labels.items()}
        return torch.tensor([numbers[name] for name in self.modalities])[images.argmax(1)]


def enlarged(shares: Tensor) -> Tensor:
    """Painted shares of labels (b, c, *space), smoothly brought to the size of masks."""
    return F.interpolate(shares, scale_factor=2.0, mode=smooth(shares.ndim - 2))


_SCOPE: Final = TypeAdapter(Scope)


def agree(recipe: Recipe, cards: Mapping[str, Card]) -> Scope:
    """The scope of a run of these sites: what the recipe names, else what any of their cards does.

    Modalities are matched by name; a site may lack some.

    Raises `CohortError` if labels contradict each other, sizes differ from the recipe's, the recipe
    names what no site has, or a card has a label that it does not name.
    """
    held = list(dict.fromkeys(name for card in cards.values() for name in card.modalities))
    _check_distinct(held, "modalities")
    missing, strange = unheld(recipe.image, held).values()
    coming = {part.site for part in recipe.timeline} - set(cards)  # a later site may hold it
    if missing and not coming:
        raise CohortError(
            f"recipe '{recipe.name}' paints {', '.join(missing)}, which no site holds; "
            f"they hold {', '.join(held)}. Correct image.modalities."
        )
    expected = recipe.image.painted if coming else ()
    if normalised := sorted(set(strange) - set(expected)):
        raise CohortError(
            f"recipe '{recipe.name}' normalises {', '.join(normalised)}, which no site "
            f"holds; they hold {', '.join(held)}. Correct image.intensity."
        )
    size = recipe.space
    if wrong := {site: card.space for site, card in cards.items() if tuple(card.space) != size}:
        raise CohortError(
            f"the sites prepared images of other sizes than {size}, as the recipe wants them: "
            f"{wrong}. Prepare them with this recipe."
        )
    labels = {number: name for name, number in recipe.image.labels.items()}
    scope = Scope(
        modalities=recipe.image.painted or tuple(held),
        labels=merge_labels(labels, cards, known_only=bool(labels)),
        space=size,
    )
    _check_distinct(scope.labels.values(), "labels")
    _check_unnamed(recipe, scope, cards)
    return scope


def _check_distinct(names: Iterable[str], what: str) -> None:
    if alike := named_alike(names):
        one, other = alike[0]
        raise CohortError(
            f"the sites have the {what} '{one}' and '{other}': names are matched to the letter, so "
            "these would be two. Name one thing alike in every dataset.json, and different ones "
            "more clearly."
        )


def brought_alone(cards: Mapping[str, Card]) -> dict[str, tuple[set[str], set[str]]]:
    """Modalities, and numbers of labels, that one of several sites alone has, by site."""
    alone = {}
    for site, card in cards.items() if len(cards) > 1 else ():
        others = [other for name, other in cards.items() if name != site]
        modalities = set(card.modalities).difference(*(other.modalities for other in others))
        labels = set(card.labels).difference(*(other.labels for other in others))
        if modalities or labels:
            alone[site] = modalities, labels
    return alone


def spared(cards: Mapping[str, Card]) -> set[str]:
    """Sites that teach no masks: they have too few patients, and others have their labels."""
    many = {name for card in cards.values() if not card.few for name in card.modalities}
    return {site for site, card in cards.items() if card.few and many.issuperset(card.modalities)}


def _check_unnamed(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> None:
    """Raises `CohortError`, which names sites, if cards bring more than a run paints unnamed."""
    highest, section = max(scope.labels), recipe.image
    if not section.labels and highest >= UNNAMED_LABELS:
        who = [site for site, card in cards.items() if str(highest) in card.labels]
        raise CohortError(
            f"{', '.join(who)} has label {highest} '{scope.labels[highest]}', and a recipe that "
            f"names no labels has none above {UNNAMED_LABELS - 1}. Name what the run is to paint "
            "in image.labels, or leave the site out."
        )
    most = UNNAMED_MODALITIES if section.source == "images" else UNNAMED_LABELS
    if not section.painted and len(scope.modalities) > most:
        site = max(cards, key=lambda site: len(cards[site].modalities))
        raise CohortError(
            f"the sites hold {len(scope.modalities)} modalities, {site} alone "
            f"{len(cards[site].modalities)}, and a recipe that names none paints {most} at most. "
            "Name what the run is to paint in image.modalities (of masks: image.labels), or leave "
            "the site out."
        )


def merge_labels(
    labels: Mapping[int, str], cards: Mapping[str, Card], *, known_only: bool = False
) -> dict[int, str]:
    """Merges the labels of all sites with those known so far, or refuses others (`known_only`).

    Raises `CohortError` if two sites mean different things by a number or by a name, or a label is
    out of range or refused.
    """
    merged = dict(labels)
    for site, card in cards.items():
        for key, name in card.labels.items():
            number = int(key) if key.isdecimal() else -1
            other = next((n for n, known in merged.items() if known == name), number)
            if not 0 <= number < LABELS_LIMIT:
                raise CohortError(
                    f"site {site} calls label {key} '{name}'; numbers go from 0 to "
                    f"{LABELS_LIMIT - 1}."
                )
            if merged.get(number, name) != name or other != number:
                raise CohortError(
                    f"{_contradiction({number, other}, name, labels, cards)}. Use the same numbers "
                    "and names in every dataset.json."
                )
            if known_only and number not in merged:
                raise CohortError(
                    f"site {site} has label {key} '{name}', which this run does not paint. Start "
                    "a new run with this site, or with its labels in image.labels."
                )
            merged[number] = name
    return dict(sorted(merged.items()))


def _contradiction(
    numbers: Collection[int], name: str, labels: Mapping[int, str], cards: Mapping[str, Card]
) -> str:
    """Sites by the names that they give these labels; the fewest first, as the likeliest to err."""
    every = {"the run": labels} | {
        f"site {site}": {int(key): known for key, known in card.labels.items()}
        for site, card in cards.items()
    }
    said: dict[tuple[int, str], list[str]] = {}
    for who, named in every.items():
        for number, known in named.items():
            if number in numbers or known == name:
                said.setdefault((number, known), []).append(who)
    rows = list(said.items())[::-1]  # of two that contradict each other, the later one is named
    rows.sort(key=lambda row: len(row[1]) + ("the run" in row[1]))
    return "; ".join(
        f"{', '.join(who)} call{'s' * (len(who) == 1)} label {number} '{known}'"
        for (number, known), who in rows
    )


def new_generator(recipe: Recipe, scope: Scope) -> nn.Module:
    """A generator for a scope, with weights from torch's current random state."""
    return build_generator(recipe, scope.sizes(recipe))


def scope_maps(recipe: Recipe, scope: Scope, conditions: Tensor) -> Tensor:
    """Turns conditions into the maps that the generator of a scope reads."""
    return condition_maps(
        conditions, kind=recipe.condition.kind, labels=max(scope.labels) + 1, space=scope.space
    )


SHARED_LOOK: Final = ""
"""The look of all sites that lack a modality: none judges what it lacks in a look of its own."""


def generator_inputs(
    recipe: Recipe,
    scope: Scope,
    conditions: Tensor,
    looks: Sequence[str],
    random: torch.Generator,
    device: torch.device = CPU,
) -> tuple[Condition, Noise]:
    """What a generator paints from: maps of the conditions, and noise, on its device.

    A look (of each image) is the name of a site, or `SHARED_LOOK`. `random` draws the noise and
    `generator.deform`, on the CPU.
    """
    noise = site_noise(recipe, looks, scope.space, random)
    if recipe.generator.deform:
        conditions = deformed(conditions, recipe.generator.deform, random)
    return scope_maps(recipe, scope, conditions).to(device), noise.to(device)

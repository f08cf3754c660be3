"""What a run paints and learns from, by its sites' cards, as a text for a person to judge."""

from collections.abc import Collection, Mapping

import torch

from asyndgan.recipe import Recipe
from asyndgan.training.quorum import normalised
from asyndgan.training.scope import Scope, brought_alone, new_generator
from asyndgan.wire import Card

COLUMNS = ("site", "cases", "share", "declares", "lacks")


def proposal(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> str:
    """What follows from the cards of the sites that a run begins with.

    Two runs that paint something else, or in which a site counts for more, have different texts.
    Names are quoted, as sites choose them.
    """
    labels = [f"{number} {_quoted([name])}" for number, name in scope.labels.items()]
    size = " x ".join(map(str, recipe.size))
    unit = "numbers" if recipe.table else "pixels"
    lines = [
        f"paints      {_quoted(scope.modalities)}, {size} {unit} ({_source(recipe.image.painted)})",
        f"labels      {', '.join(labels)} ({_source(recipe.image.labels)})",
        f"generator   {_weights(recipe, scope):,} weights",
        *_table(recipe, scope, cards),
        *_looks(recipe, scope, cards),
    ]
    return "\n".join([*lines, *_alone(recipe, scope, cards)])


def _source(named: Collection[str]) -> str:
    return "as the recipe says" if named else "as the sites say"


def _quoted(names: Collection[str]) -> str:
    """Names as they are to be read: none can pass for two, or for a line of this text."""
    return ", ".join(map(repr, names))


def _weights(recipe: Recipe, scope: Scope) -> int:
    with torch.device("meta"):  # takes no memory
        return sum(weights.numel() for weights in new_generator(recipe, scope).parameters())


def _table(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> list[str]:
    most = recipe.shares.most_of(len(cards))
    shares = normalised({site: card.share for site, card in cards.items()}, most)
    rows = [COLUMNS]
    for site, card in cards.items():
        part, declared = f"{shares[site]:.0%}", f"{card.share:g}"
        rows.append((site, f"{card.cases}", part, declared, _lacks(scope, card)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    bound = f", up to a share of {most:.0%}" if most < 1 else ""
    return [
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ),
        f"Cases are {'records' if recipe.table else 'pictures, or slices of volumes'}.",
        f"Each site counts for as much as it declares{bound}.",
    ]


def _lacks(scope: Scope, card: Card) -> str:
    modalities = [name for name in scope.modalities if name not in card.modalities]
    labels = [str(number) for number in scope.labels if str(number) not in card.labels]
    lacking = [_quoted(modalities)] if modalities else []
    if labels:
        lacking.append(
            f"labels {', '.join(labels)}" if len(labels) < 9 else f"{len(labels)} labels"
        )
    return ", ".join(lacking) or "nothing"


def _looks(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> list[str]:
    """A sentence on the sites without a look of their own."""
    shared = [s for s, card in cards.items() if set(scope.modalities) - set(card.modalities)]
    if not shared or not recipe.generator.style:
        return []
    return [f"No look of their own, for lack of a modality: {', '.join(shared)}."]


def _alone(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> list[str]:
    """Modalities and labels of one site alone, and the generator's size without them."""
    lines = []
    for site, (modalities, labels) in brought_alone(cards).items():
        known = cards[site].labels
        found = [f"label {key} {known[key]!r}" for key in sorted(labels, key=int)]
        line = f"{site} alone brings {', '.join([*map(repr, sorted(modalities)), *found])}"
        size = _weights(recipe, _less(recipe, scope, modalities, labels))
        if size < _weights(recipe, scope):
            line += f"; without it the generator would have {size:,} weights"
        lines.append(f"{line}.")
    return lines


def _less(
    recipe: Recipe, scope: Scope, modalities: Collection[str], labels: Collection[str]
) -> Scope:
    """The scope without these modalities and numbers of labels; what a recipe names stays."""
    image = recipe.image
    return Scope(
        tuple(name for name in scope.modalities if image.painted or name not in modalities),
        {n: name for n, name in scope.labels.items() if image.labels or str(n) not in labels},
        scope.space,
    )

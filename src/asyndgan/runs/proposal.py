"""What a run paints and learns from, by its sites' cards, as a text for a person to judge."""

from collections.abc import Collection, Mapping

import torch

from asyndgan.recipe import Recipe
from asyndgan.training.quorum import normalised
from asyndgan.training.scope import Scope, brought_alone, new_generator, spared
from asyndgan.wire.messages import Card

COLUMNS = ("site", "cases", "share", "declares", "lacks")


def proposal(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> str:
    """What follows from the cards of the sites that a run begins with.

    Two runs that paint something else, or in which a site counts for more, have different texts.
    Names are quoted, as sites choose them.
    """
    labels = [f"{number} {_quoted([name])}" for number, name in scope.labels.items()]
    size = f"{' x '.join(map(str, recipe.size))} {recipe.kind.unit}"
    lines = [
        f"paints      {_quoted(scope.modalities)}, {size} ({_source(recipe.image.painted)})",
        f"labels      {', '.join(labels)} ({_source(recipe.image.labels)})",
        f"generator   {_weights(recipe, scope):,} weights",
        *_table(recipe, scope, cards),
    ]
    return "\n".join([*lines, *_alone(cards)])


def _source(named: Collection[str]) -> str:
    return "as the recipe says" if named else "as the sites say"


def _quoted(names: Collection[str]) -> str:
    """Names as they are to be read: none can pass for two, or for a line of this text."""
    return ", ".join(map(repr, names))


def _weights(recipe: Recipe, scope: Scope) -> int:
    with torch.device("meta"):  # takes no memory
        return sum(weights.numel() for weights in new_generator(recipe, scope).parameters())


def _table(recipe: Recipe, scope: Scope, cards: Mapping[str, Card]) -> list[str]:
    few = sorted(spared(cards))
    most = recipe.shares.most_of(len(cards) - len(few))
    shares = normalised({site: card.share for site, card in cards.items() if site not in few}, most)
    rows = [COLUMNS]
    for site, card in cards.items():
        part, declared = f"{shares.get(site, 0):.0%}", f"{card.share:g}"
        rows.append((site, f"{card.cases}", part, declared, _lacks(scope, card)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    bound = f", up to a share of {most:.0%}" if most < 1 else ""
    return [
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ),
        f"Cases are {'whole volumes' if recipe.image.whole else recipe.kind.cases}.",
        f"Each site counts for as much as it declares{bound}.",
        *(
            f"{site} has too few patients to teach masks, and is sent those that others teach."
            for site in few
        ),
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


def _alone(cards: Mapping[str, Card]) -> list[str]:
    """Modalities and labels of one site alone, which make the generator larger."""
    lines = []
    for site, (modalities, labels) in brought_alone(cards).items():
        known = cards[site].labels
        found = [f"label {key} {known[key]!r}" for key in sorted(labels, key=int)]
        lines.append(f"{site} alone brings {', '.join([*map(repr, sorted(modalities)), *found])}.")
    return lines

"""How the sites' answers become one gradient: a seam, and one strategy a file.

A new strategy is a class in a file of its own, a row in `AGGREGATIONS`, and a value of the recipe's
`shares.by`; `tests/contract/test_aggregations.py` says what it has to keep.
"""

from typing import Any, Final

from asyndgan.recipe import Recipe
from asyndgan.training.aggregation.odds import Odds
from asyndgan.training.aggregation.seam import Aggregation
from asyndgan.training.aggregation.shares import Shares

AGGREGATIONS: Final[dict[str, type[Aggregation[Any, Any]]]] = {
    "site": Shares,
    "modality": Shares,
    "odds": Odds,
}
"""Strategy of each `shares.by`."""


def aggregation_of(recipe: Recipe) -> Aggregation[Any, Any]:
    """The strategy that a recipe asks for."""
    return AGGREGATIONS[recipe.shares.by](recipe)

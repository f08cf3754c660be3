"""The cohort of a site whose cases are records: what a folder of images is elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from torch import Tensor

from asyndgan.errors import CohortError
from asyndgan.recipe import Recipe
from asyndgan.recipe.table import TableSection
from asyndgan.store import Cohort, Declared, derived_seed
from asyndgan.store.splits import OPEN, Chooser, held_out_by
from asyndgan.store.survey import Enrolled
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.summary import check_declared, check_schema
from asyndgan.tables.table import Table

if TYPE_CHECKING:
    import pandas as pd

RAREST: Final = 4.0
"""Largest draw weight of a record, as a multiple of the median."""


def read_for(recipe: Recipe, data: Path, who: str) -> Table:
    """Reads a table of real records that must have the columns of a recipe.

    Raises:
        DataError, CohortError: it cannot be read, is synthetic, or its schema is another one.
    """
    table = Table.read(data)
    table.check_real(who)
    check_schema(table_of(recipe), table.schema, who)
    return table


def table_of(recipe: Recipe) -> TableSection:
    """The table of a recipe; raises `CohortError` if it has none."""
    if recipe.table is None:
        raise CohortError(
            f"recipe '{recipe.name}' is for images, and the data are a table. Plan a recipe with "
            "'asyndgan plan'."
        )
    return recipe.table


def split(
    recipe: Recipe, table: Table, chooser: Chooser = OPEN
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The records that a site trains on, and those that it holds out (`training.hold_out`)."""
    rows = [Enrolled(str(number), (True,)) for number in range(len(table.records))]
    parts = held_out_by(recipe, rows, chooser)
    kept, held = (table.records.iloc[[int(row.patient) for row in part]] for part in parts)
    return kept, held


def load_records(recipe: Recipe, data: Path, site: str, chooser: Chooser = OPEN) -> Cohort:
    """The cohort of a site's records; errors as of `read_for`."""
    return cohort_of(recipe, read_for(recipe, data, f"site {site}"), site, chooser)


def cohort_of(recipe: Recipe, table: Table, site: str, chooser: Chooser) -> Cohort:
    """A site's records, encoded by the recipe, without those that it holds out.

    Raises `CohortError` if the table declares other knots or shares than the recipe.
    """
    wanted = table_of(recipe)
    check_declared(wanted, table.schema, f"site {site}")
    encoder = Encoder(wanted)
    kept, _ = split(recipe, table, chooser)
    classes = encoder.encode_classes(kept)
    seed = derived_seed(recipe.training.seed, "cohort", site)
    return Cohort(
        encoder.encode(kept, np.random.default_rng(derived_seed(seed, "places"))),
        classes,
        modalities=("record",),
        labels={number: name for name, number in encoder.classes.items()},
        patients=[str(number) for number in kept.index],
        declared=Declared(len(table.records), [1.0], len(table.records)),
        chooser=chooser,
        seed=seed,
        weights=rarity(classes) if recipe.training.rare_first else None,
    )


def rarity(classes: Tensor) -> Tensor:
    """Draw weights (n,) of records of these classes: 1 over the number of records of the class.

    At most `RAREST` times the median.
    """
    _, own, counts = classes.unique(return_inverse=True, return_counts=True)
    weights = 1 / counts[own]
    return weights.clamp(max=RAREST * float(weights.median()))

"""A recipe for tables, from what sites declare, from their records or from their summaries."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from asyndgan.errors import CohortError
from asyndgan.intake import fingerprint as images
from asyndgan.recipe import Recipe
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.recipe.table import TableSection, base_text
from asyndgan.recipe.toml import tables_of
from asyndgan.tables.profile import oddities
from asyndgan.tables.schema import SCHEMA_FILE, check_positive, is_table, schema_of
from asyndgan.tables.summary import Summary, declared, gaps, is_summary, loaded, planned, summarised
from asyndgan.tables.table import Table

log = logging.getLogger(__name__)


def plan_tables(sites: Mapping[str, Path], overrides: Sequence[str] = ()) -> Recipe | None:
    """The recipe `tables/recipe.toml` with the columns of these sites; None if they have images.

    A site is a table, its `schema.json` if that declares knots and shares, or its summary.

    Raises:
        DataError: a table or a summary cannot be read.
        CohortError: the sites' tables differ, or some have images.
        RecipeError: an override is not valid.
    """
    told = {
        site: path
        for site, path in sites.items()
        if path.name == SCHEMA_FILE or is_table(path) or is_summary(path)
    }
    if not told:
        return None
    if others := sorted(set(sites) - set(told)):
        raise CohortError(f"{', '.join(others)} has no table, and others have. Name sites alike.")
    if seen := {s: schema_of(path) for s, path in told.items() if not is_summary(path)}:
        check_positive(seen)
    return plan_from({site: _told(path) for site, path in told.items()}, overrides)


def plan_from(told: Mapping[str, Summary | TableSection], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe for what sites tell of their tables; errors as of `plan_tables`."""
    table = agreed(told)
    for note in gaps(told):
        log.warning(note)
    return Recipe.from_tables(
        {**tables_of(base_text(), overrides), "table": table.model_dump(mode="json")}
    )


def fingerprint_in(path: Path) -> Fingerprint | Summary:
    """Reads a fingerprint of images or of a table; raises `DataError` if it is none."""
    return loaded(path) if is_summary(path) else images.loaded(path)


def _told(path: Path) -> Summary | TableSection:
    if is_summary(path):
        return loaded(path)
    schema = schema_of(path)
    if schema.declared or path.name == SCHEMA_FILE:
        return declared(schema)
    table = Table.read(path)
    for note in oddities(table.records, table.schema):
        log.warning("%s: %s", path, note)
    return told_of(table)


def told_of(table: Table) -> Summary | TableSection:
    """What a plan takes of a table: what its schema declares or, without that, its summary."""
    return declared(table.schema) if table.schema.declared else summarised(table)


def agreed(told: Mapping[str, Summary | TableSection]) -> TableSection:
    """The table that all sites have, by what they tell; raises `CohortError` if they differ."""
    summaries = {site: one for site, one in told.items() if isinstance(one, Summary)}
    if len(summaries) == len(told):
        return planned(summaries)
    first, *others = told
    for site in others:
        if told[site] != told[first]:
            raise CohortError(
                f"{site} and {first} declare other columns, knots or shares, or one of them "
                "declares none. Write the same schema.json at both."
            )
    table = told[first]
    assert isinstance(table, TableSection)  # not all are summaries, and all are equal
    return table

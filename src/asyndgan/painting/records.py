"""A synthetic table from a finished run's generator: its records, schema, provenance and card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from asyndgan.errors import RunError
from asyndgan.export.writing import written_whole
from asyndgan.painting.card import model_card
from asyndgan.painting.provenance import provenance_of
from asyndgan.recipe.table import TableSection
from asyndgan.runs import RunFolder
from asyndgan.store import derived_seed
from asyndgan.tables.cohort import table_of
from asyndgan.tables.encoding import Encoder, class_numbers
from asyndgan.tables.schema import SCHEMA_FILE
from asyndgan.tables.summary import check_schema
from asyndgan.tables.table import MOST_RECORDS, Table
from asyndgan.training import SHARED_LOOK, generator_inputs

if TYPE_CHECKING:
    import pandas as pd

BATCH: Final = 4096
DRAWS: Final = 2
"""Synthetic records for each record of the sites, by default."""
WITHHELD: Final = 2000
"""Synthetic records by default, at least, if a site declared no number of its records."""
RECORDS_FILE: Final = "records"


@torch.no_grad()
def make_records(run: RunFolder, draws: int | None = None, seed: int = 0) -> "pd.DataFrame":
    """Records of a run's generator, in random order, with classes in the shares of the recipe.

    Args:
        run: a finished run of a table.
        draws: records for each one that the sites declared; None: `DRAWS`, and `WITHHELD` in all
            at least if a site declared no number.
        seed: of latent codes, drawn categories and the order.

    Raises:
        RunError: the run has not finished, or no records or more than `MOST_RECORDS` are asked for.
    """
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    table = table_of(recipe)
    cases = [int(about["cases"]) for about in facts.teachers.values()]
    count = (draws or DRAWS) * sum(cases)
    if draws is None and 1 in cases:  # as a card says if its policy has leaves.cases = false
        count = max(count, WITHHELD)
    if not 1 <= count <= MOST_RECORDS:
        raise RunError(f"{count:,} records are asked for; 1 to {MOST_RECORDS:,} can be made.")
    random = torch.Generator().manual_seed(derived_seed(seed, "records"))
    classes = class_numbers(table.classes, count)
    classes = classes[torch.randperm(count, generator=random)]
    images = [
        generator(*generator_inputs(recipe, facts.scope, own, [SHARED_LOOK] * len(own), random))
        for own in classes.split(BATCH)
    ]
    return Encoder(table).decode(torch.cat(images), classes)


def read_synthetic(run: RunFolder, data: Path) -> "pd.DataFrame":
    """Reads a synthetic table that a run's generator made.

    Raises:
        DataError, CohortError: it cannot be read, or has other columns.
        RunError: its records are real, or another generator made them.
    """
    table = Table.read(data)
    maker = table.schema.provenance.get("generator_sha256")
    if not table.schema.synthetic or maker != run.facts().generator_sha256:
        raise RunError(
            f"{data} was not made by the generator of {run.path}. Generate it anew, or name "
            "another folder."
        )
    check_schema(table_of(run.recipe()), table.schema, f"{data}")
    return table.records


def generate_records(
    run: RunFolder,
    out: Path,
    *,
    draws: int | None = None,
    seed: int = 0,
    ending: str = ".csv",
    audited: str = "",
) -> int:
    """Writes a synthetic table into a new folder; arguments are those of `make_records`.

    Args:
        run: a finished run of a table.
        out: folder to write: records, `schema.json` with the provenance, and MODEL_CARD.md.
        draws: as in `make_records`.
        seed: as in `make_records`.
        ending: `.csv` or `.parquet`.
        audited: findings of audits that permit a release, for the card.

    Returns:
        The number of records.

    Raises:
        RunError, DataError: as `make_records`, or `out` cannot be written.
    """
    with written_whole(out) as half:
        records = make_records(run, draws, seed)
        half.mkdir(parents=True)
        write_records(half / f"{RECORDS_FILE}{ending}", records)
        about = {"draws": draws or DRAWS, "seed": seed, **provenance_of(run)}
        schema = _schema(run) | {"synthetic": True, "provenance": about}
        (half / SCHEMA_FILE).write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
        ends = _ends(table_of(run.recipe()))
        card = model_card(
            run.facts(), about, len(records), run.recipe(), audited=audited, ends=ends
        )
        (half / "MODEL_CARD.md").write_text(card, "utf-8")
    return len(records)


def write_records(path: Path, records: "pd.DataFrame") -> None:
    """Writes records as CSV (RFC 4180, UTF-8, empty field for missing) or Parquet."""
    if path.suffix == ".parquet":
        records.to_parquet(path, index=False)
    else:
        records.to_csv(path, index=False)


def _schema(run: RunFolder) -> dict[str, Any]:
    table = table_of(run.recipe())
    columns: dict[str, Any] = {
        column.name: {
            "kind": column.kind,
            **({"categories": list(column.categories)} if column.categories else {}),
            "missing": column.missing,
        }
        for column in table.columns
    }
    columns[table.target] = {"kind": "categorical", "categories": list(table.classes)}
    return {"name": f"synthetic ({run.recipe().name})", "target": table.target, "columns": columns}


def _ends(table: TableSection) -> str:
    if table.source == "declared":
        return "values end where the sites' schema.json declares it"
    return "the ends of each column are means over several records"

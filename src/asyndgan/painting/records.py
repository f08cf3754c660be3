"""A synthetic table from a finished run's generator: its records, schema, provenance and card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from asyndgan.errors import RunError
from asyndgan.export.writing import written_whole
from asyndgan.painting.card import model_card
from asyndgan.painting.provenance import provenance_of
from asyndgan.runs import RunFolder
from asyndgan.store import derived_seed
from asyndgan.tables.cohort import table_of
from asyndgan.tables.encoding import Encoder, class_numbers
from asyndgan.tables.schema import SCHEMA_FILE
from asyndgan.tables.summary import check_schema
from asyndgan.tables.table import MOST_RECORDS, Table
from asyndgan.training.scope import SHARED_LOOK, generator_inputs
from asyndgan.wire.messages import CASES_WITHHELD

if TYPE_CHECKING:
    import pandas as pd

BATCH: Final = 4096
DRAWS: Final = 2
"""Synthetic records for each record of the sites, by default."""
WITHHELD: Final = 2000
"""Synthetic records by default, at least, if a site declared no number of its records."""


@torch.no_grad()
def make_records(run: RunFolder, draws: int | None = None, seed: int = 0) -> "pd.DataFrame":
    """Records of a run's generator, in random order, with classes in the shares of the recipe.

    For each record that the sites declared there are `draws`; by default `DRAWS`, and `WITHHELD` in
    all at least if a site declared no number. Raises `RunError` if the run has not finished, no
    records or more than `MOST_RECORDS` are asked for, or `draws` are given and no site declared a
    number.
    """
    recipe, facts, generator = run.recipe(), run.facts(), run.generator()
    table = table_of(recipe)
    cases = [int(about["cases"]) for about in facts.teachers.values()]
    told = [number for number in cases if number != CASES_WITHHELD]
    if draws and not told:
        raise RunError(
            f"no site of {run.path} tells how many records it has. Leave --draws out: "
            f"{WITHHELD:,} records are made then."
        )
    count = (draws or DRAWS) * sum(told)
    if draws is None and len(told) < len(cases):
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
    """Reads a synthetic table; raises `RunError` unless this run's generator made it."""
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
    findings: Mapping[str, str] | None = None,
) -> int:
    """Writes a new folder: records, `schema.json` with the provenance, and MODEL_CARD.md.

    Args are those of `make_records`; `findings` of `model_card`. Returns the number of
    records.
    """
    with written_whole(out) as half:
        records = make_records(run, draws, seed)
        half.mkdir(parents=True)
        # CSV is written as RFC 4180 says, in UTF-8, with an empty field where a value is missing.
        records.to_csv(half / "records.csv", index=False)
        about = {"records": len(records), "seed": seed, **provenance_of(run)}
        schema = schema_of_run(run) | {"synthetic": True, "provenance": about}
        (half / SCHEMA_FILE).write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
        card = model_card(run.facts(), about, len(records), run.recipe(), findings)
        (half / "MODEL_CARD.md").write_text(card, "utf-8")
    return len(records)


def schema_of_run(run: RunFolder) -> dict[str, Any]:
    """What `schema.json` says of records of a run, in the columns' order of its recipe."""
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

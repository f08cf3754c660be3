"""What `asyndgan check` says of tables: their rows and their faults, each and together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from asyndgan.errors import AsyndganError, CohortError
from asyndgan.tables.summary import check_schema, planned, summarised
from asyndgan.tables.table import Table, rows_of


@final
@dataclass
class TableReport:
    """What was found of one table.

    Attributes:
        path: of the table.
        rows: heading and text of each fact.
        faults: why it cannot be trained on, with the remedy.
    """

    path: str
    rows: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def checked(paths: Sequence[Path], test: Path | None = None) -> list[TableReport]:
    """Reads all tables; `test` holds records that none of the others may hold."""
    reports: list[TableReport] = []
    tables: list[Table] = []
    for path in [*paths, *([test] if test else [])]:
        trained = len(reports) < len(paths)
        report = TableReport(str(path))
        reports.append(report)
        try:
            table = Table.read(path)
            tables.append(table)
            report.rows = _facts(table)
            if table.schema.synthetic and trained:
                report.faults.append("its records are synthetic. Name a table of real ones.")
            if trained:
                summarised(table)
        except AsyndganError as error:
            report.faults.append(str(error))
    if not any(report.faults for report in reports):
        reports[-1].faults += _between(tables[: len(paths)], tables[len(paths) :])
    return reports


def _facts(table: Table) -> dict[str, str]:
    records, schema = table.records, table.schema
    counts = records[schema.target].value_counts()
    missing = records.isna().mean().sort_values(ascending=False)
    told = [f"{name} {part:.0%}" for name, part in missing.items() if part]
    same = int(records.duplicated().sum())
    return {
        "records": f"{len(records)}" + (f", {same} of them again" if same else ""),
        schema.target: ", ".join(f"{name} {int(counts.get(name, 0))}" for name in schema.classes),
        "columns": f"{len(schema.columns)}",
        "missing": ", ".join(told) or "none",
    }


def _between(tables: Sequence[Table], test: Sequence[Table]) -> list[str]:
    """Faults between tables: schemas that differ, and test records that a site holds."""
    try:
        table = planned({str(one.path): summarised(one) for one in tables})
        for one in test:
            check_schema(table, one.schema, str(one.path))
    except CohortError as error:
        return [str(error)]
    order = sorted(tables[0].schema.columns)
    held = {row for one in tables for row in rows_of(one.records[order])}
    shared = sum(row in held for one in test for row in set(rows_of(one.records[order])))
    if not shared:
        return []
    return [f"{shared} test records are also at a site, in all columns. Take them out of the test."]

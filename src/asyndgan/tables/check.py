"""What `asyndgan check` says of tables: their rows and their faults, each and together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import final

from asyndgan.errors import AsyndganError, CohortError
from asyndgan.recipe.table import TableSection
from asyndgan.tables.planning import agreed, told_of
from asyndgan.tables.profile import oddities
from asyndgan.tables.schema import check_positive
from asyndgan.tables.summary import Summary, check_schema, gaps
from asyndgan.tables.table import MOST_SAME, Table, drafted, shared_records


@final
@dataclass
class TableReport:
    """What was found of one table: facts by heading, faults with the remedy, and notes."""

    path: str
    rows: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def checked(paths: Sequence[Path], test: Path | None = None) -> list[TableReport]:
    """Reads all tables; `test` holds records that none of the others may hold."""
    reports: list[TableReport] = []
    tables: list[Table] = []
    told: dict[str, Summary | TableSection] = {}
    for path in [*paths, *([test] if test else [])]:
        trained = len(reports) < len(paths)
        report = TableReport(str(path))
        reports.append(report)
        try:
            table = Table.read(path)
            tables.append(table)
            report.rows = _facts(table)
            report.notes += oddities(table.records, table.schema)
            table.check_real()
            if trained:
                told[str(path)] = told_of(table)
        except AsyndganError as error:
            report.faults.append(str(error) + drafted(path))
    if not any(report.faults for report in reports):
        _compare(told, tables[: len(paths)], tables[len(paths) :], reports)
    return reports


def check_own_records(sites: Mapping[str, Path]) -> None:
    """Raises `CohortError` where `checked` finds the records of a table in another one."""
    if fault := next(_same_at_two([Table.read(path) for path in sites.values()]), ""):
        raise CohortError(fault)


def _facts(table: Table) -> dict[str, str]:
    records, schema = table.records, table.schema
    counts = records[schema.target].value_counts()
    missing = records.isna().mean().sort_values(ascending=False)
    told = [f"{name} {part:.0%}" for name, part in missing.items() if part]
    same = int(records.duplicated().sum())
    return {
        "records": f"{len(records)}" + (f", {same} of which repeat another" if same else ""),
        schema.target: ", ".join(f"{name} {int(counts.get(name, 0))}" for name in schema.classes),
        "columns": f"{len(schema.columns)}",
        "missing": ", ".join(told) or "none",
    }


def _compare(
    told: Mapping[str, Summary | TableSection],
    tables: Sequence[Table],
    test: Sequence[Table],
    reports: Sequence[TableReport],
) -> None:
    """Reports what is wrong between tables: schemas that differ, and records of one in another.

    What is between sites is in the report of the last of them.
    """
    sites, last = reports[len(tables) - 1], reports[-1]
    try:
        check_positive({str(one.path): one.schema for one in (*tables, *test)})
        table = agreed(told)
        sites.notes += gaps(told)
        for one in test:
            check_schema(table, one.schema, str(one.path))
    except CohortError as error:
        last.faults.append(str(error))
        return
    sites.faults += _same_at_two(tables)
    for one in test:
        shared = shared_records(one.records, [own.records for own in tables])
        last.rows["also at a site"] = f"{shared} records, in all columns"
        if shared > MOST_SAME * len(one.records):
            last.faults.append(
                f"{shared} test records are also at a site, in all columns; at most "
                f"{MOST_SAME:.0%} may be so by chance. Take them out of the test."
            )


def _same_at_two(tables: Sequence[Table]) -> Iterator[str]:
    """Faults of sites whose records are those of another: each would count twice."""
    for pair in combinations(tables, 2):
        one, other = sorted(pair, key=lambda table: len(table.records))  # of the fewer, more are
        shared = shared_records(one.records, [other.records])
        if shared > MOST_SAME * len(one.records):
            yield (
                f"{shared} of the {len(one.records)} records of {one.path} are also in "
                f"{other.path}, in all columns; at most {MOST_SAME:.0%} may be so by chance. Take "
                "them out of one."
            )

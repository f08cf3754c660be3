"""What a site tells of its columns before a run, and the encoding that follows from all sites'.

A summary holds no value of a single record: each number is a mean over `LEAST` records or more
that are next to each other in the order of one column (univariate microaggregation, Domingo-Ferrer
and Mateo-Sanz 2002). The ends of each group are left out, so a record moves no mean by being more
extreme, but by its place in the order it moves the borders of groups.
Columns are summarised one by one, so it says nothing of how they go together. Where many records
share a value, the mean is that value. It is no differential privacy, so a schema can declare knots
and shares instead, and nothing is summarised.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self, final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asyndgan.errors import CohortError, DataError
from asyndgan.recipe import explained
from asyndgan.recipe.table import (
    MOST_CATEGORIES,
    MOST_COLUMNS,
    Cell,
    Kind,
    Knots,
    TableColumn,
    TableSection,
)
from asyndgan.tables.schema import Schema, SchemaColumn
from asyndgan.tables.table import Table
from asyndgan.texts import bounded_text, parsed_json

SUMMARY: Final = "asyndgan table summary 1"
LEAST: Final = 10
GROUP: Final = 14
"""Fewest neighbouring records of a group; without `TRIMMED` of them at each end `LEAST` remain."""
TRIMMED: Final = 0.15
KNOTS: Final = 100
SPREAD: Final = (0.1, 0.5, 0.9)
"""Parts of a column's values below those between which most lie, and below the middle one."""
MOST_SUMMARY: Final = 2**22


@final
class SummaryColumn(BaseModel):
    """A column of a summary; `means` rise, and each stands for equally many records."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind
    missing: bool
    categories: Annotated[tuple[Cell, ...], Field(max_length=MOST_CATEGORIES)] = ()
    means: Annotated[Knots, Field(max_length=KNOTS)] = ()
    values: Annotated[int, Field(ge=0, lt=2**40)] = 0
    """Records that hold a value, rounded to a multiple of `LEAST`; 0: not told."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        categorical = self.kind == "categorical"
        if bool(self.categories) != categorical:
            raise ValueError("categories are listed exactly if the kind is categorical")
        if bool(self.means) == categorical or len(self.means) == 1:
            raise ValueError("means are two or more, of a numeric or integer column")
        return self


@final
class Summary(BaseModel):
    """What one site tells of its table; counts are rounded to multiples of `LEAST`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["asyndgan table summary 1"] = SUMMARY
    target: Cell
    classes: Annotated[
        dict[Cell, Annotated[int, Field(ge=0, lt=2**40)]],
        Field(min_length=2, max_length=MOST_CATEGORIES),
    ]
    columns: Annotated[dict[Cell, SummaryColumn], Field(min_length=1, max_length=MOST_COLUMNS)]

    @model_validator(mode="after")
    def _some_record(self) -> "Summary":
        if not sum(self.classes.values()):
            raise ValueError("it summarises no record")
        return self

    def bounded(self, fewest: int) -> "Summary | None":
        """The summary, if no number of it is of fewer than `fewest` records."""
        return self if fewest <= LEAST else None


def summarised(table: Table) -> Summary:
    """Summarises a site's table.

    Raises:
        CohortError: its records are synthetic.
        DataError: it has too few records, or values of a column.
    """
    table.check_real()
    records, target = table.records, table.schema.target
    counts = {name: int((records[target] == name).sum()) for name in table.schema.classes}
    columns = {}
    for name, column in table.schema.columns.items():
        if name == target:
            continue
        means: tuple[float, ...] = ()
        told = 0
        if column.kind != "categorical":
            values = np.sort(records[name].dropna().to_numpy(np.float64))
            groups = min(KNOTS, len(values) // GROUP)
            if groups < 2:
                raise DataError(
                    f"{table.path}: column '{name}' has {len(values)} values, and a summary takes "
                    f"{2 * GROUP} at least. Add records, or leave the column out at all sites."
                )
            split = [_trimmed(group) for group in np.array_split(values, groups)]
            shared = np.array([group[0] == group[-1] for group in split])
            found = np.where(shared, [g[0] for g in split], [g.mean() for g in split])
            means, told = tuple(shortened(found, shared).tolist()), _rounded(len(values))
        columns[name] = SummaryColumn(
            kind=column.kind, missing=column.missing, categories=column.categories, means=means,
            values=told,
        )  # fmt: skip
    rounded = {name: _rounded(count) for name, count in counts.items()}
    if not any(rounded.values()):
        raise DataError(f"{table.path} has too few records for a summary; {LEAST} are wanted.")
    return Summary(target=target, classes=rounded, columns=columns)


def _rounded(count: int) -> int:
    return LEAST * round(count / LEAST)


def _trimmed(group: np.ndarray) -> np.ndarray:
    """Sorted values without those of both ends, of which at least `LEAST` remain."""
    cut = int(TRIMMED * len(group))
    return group[cut : len(group) - cut]


def shortened(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Values in seven digits, but whole numbers in all; where `exact`, as they are."""
    short = [float(f"{v:.7g}") if abs(v) < 1e7 else float(round(v)) for v in values]
    return np.where(exact, values, short)


def is_summary(path: Path) -> bool:
    """Whether a file is a summary, and not the fingerprint of a folder of images."""
    try:
        return path.suffix == ".json" and SUMMARY in bounded_text(path, MOST_SUMMARY, links=True)
    except (OSError, ValueError):
        return False


def loaded(path: Path) -> Summary:
    """Reads a summary, which may come from a stranger; raises `DataError` if it is none."""
    remedy = "Take a file that 'asyndgan fingerprint TABLE --out FILE' wrote."
    try:
        return Summary.model_validate(parsed_json(bounded_text(path, MOST_SUMMARY, links=True)))
    except ValidationError as error:
        raise DataError(
            f"{path} is no summary of a table:\n{explained(error, [])}\n{remedy}"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no summary of a table ({error}). {remedy}") from error


def planned(summaries: Mapping[str, Summary]) -> TableSection:
    """The table of a recipe for these sites: their columns, and knots of all their records.

    Raises `CohortError` if sites differ in a column, its kind or categories, or in the target.
    """
    first, *_ = summaries
    forms = {site: _form(one.target, one.classes, one.columns) for site, one in summaries.items()}
    for site, form in forms.items():
        if reason := _difference(form, forms[first], first):
            raise CohortError(f"{site} has {reason}.")
    records = {site: sum(summary.classes.values()) for site, summary in summaries.items()}
    total = sum(records.values())
    classes = {
        name: sum(summary.classes[name] for summary in summaries.values()) / total
        for name in summaries[first].classes
    }
    if empty := [name for name, part in classes.items() if not part]:
        raise CohortError(
            f"column '{summaries[first].target}': no site has more than {LEAST // 2} records of "
            f"'{empty[0]}', too few to learn from. Add a site that has more; or, if two other "
            "classes are left, leave this one and its records out at all sites."
        )
    columns = []
    for name, column in summaries[first].columns.items():
        knots: tuple[float, ...] = ()
        if column.kind != "categorical":
            own = {site: summary.columns[name] for site, summary in summaries.items()}
            counts = {site: one.values or records[site] for site, one in own.items()}
            told = {site: one.means for site, one in own.items()}
            knots = _pooled(told, counts, whole=column.kind == "integer")
        columns.append(
            TableColumn(
                name=name, kind=column.kind,
                missing=any(summary.columns[name].missing for summary in summaries.values()),
                categories=column.categories, knots=knots,
            )
        )  # fmt: skip
    return TableSection(target=summaries[first].target, classes=classes, columns=tuple(columns))


def gaps(told: Mapping[str, Summary | TableSection]) -> Iterator[str]:
    """Notes on columns whose usual values have nothing in common at two sites."""
    known = {site: one.columns for site, one in told.items() if isinstance(one, Summary)}
    for site, columns in known.items():
        first = next(iter(known))
        for name, own in columns.items():
            other = known[first][name].means
            usual = [np.quantile(means, SPREAD) for means in (own.means, other) if means]
            if usual and (usual[0][2] < usual[1][0] or usual[1][2] < usual[0][0]):
                (small, less), (large, more) = sorted(
                    (abs(each[1]), where) for each, where in zip(usual, (site, first), strict=True)
                )
                yield (
                    f"column '{name}' is about {float(f'{large / (small or 1):.2g}'):,g} times as "
                    f"large in {more} as in {less}. Store one unit at all sites."
                )


def declared(schema: Schema) -> TableSection:
    """The table of a recipe by what a schema declares; raises `CohortError` if it does not."""
    if not schema.declared:
        raise CohortError(
            "schema.json declares no knots and shares. Name the sites' fingerprints, or declare "
            "them."
        )
    columns = tuple(
        TableColumn(name=name, **column.model_dump())
        for name, column in schema.columns.items()
        if name != schema.target
    )
    shares = {name: schema.shares[name] for name in schema.classes}
    return TableSection(source="declared", target=schema.target, classes=shares, columns=columns)


def check_schema(table: TableSection, schema: Schema, who: str) -> None:
    """Checks that a site's schema is that of a recipe; raises `CohortError` if it is not."""
    own = _form(schema.target, schema.classes, schema.columns)
    wanted = {column.name: column for column in table.columns}
    reason = _difference(own, _form(table.target, table.classes, wanted), "the recipe")
    if not reason:
        lacking = [n for n, c in wanted.items() if schema.columns[n].missing and not c.missing]
        reason = f"another 'missing' of column '{lacking[0]}' than the recipe" if lacking else ""
    if reason:
        raise CohortError(
            f"{who}: its schema.json has {reason}. Or plan the recipe anew from all sites."
        )


def check_declared(table: TableSection, schema: Schema, who: str) -> None:
    """Raises `CohortError` if a recipe calls declared what a site's own schema does not declare.

    A recipe's word for it would let a coordinator pass fingerprints off as public knowledge.
    """
    if table.source != "declared":
        return
    own = declared(schema) if schema.declared else None
    knots = {column.name: column.knots for column in table.columns}
    if not own or (own.classes, {c.name: c.knots for c in own.columns}) != (table.classes, knots):
        raise CohortError(
            f"{who}: the recipe's knots and shares are called declared (table.source), and the "
            "site's schema.json does not declare the same ones. Plan the recipe from a schema.json "
            "that is the same at all sites."
        )


def _form(
    target: str,
    classes: Iterable[str],
    columns: Mapping[str, SummaryColumn] | Mapping[str, TableColumn] | Mapping[str, SchemaColumn],
) -> dict[str, object]:
    """What all sites' tables have alike, by what it is called."""
    others = {f"column '{n}'": (c.kind, c.categories) for n, c in columns.items() if n != target}
    return {"target": target, f"set of categories of '{target}'": {*classes}, **others}


def _difference(own: Mapping[str, object], other: Mapping[str, object], whose: str) -> str:
    """What a table has that `whose` has not, or not so, and what to do; empty: nothing."""
    for name in (name for name in {**own, **other} if own.get(name) != other.get(name)):
        remedy = "Add it to table and schema.json where it is missing, or leave it out everywhere"
        if name not in own:
            return f"no {name}, which {whose} has. {remedy}"
        if name not in other:
            return f"a {name}, which {whose} lacks. {remedy}"
        remedy = "Write the same in all tables and in each schema.json"
        unlike = f"here {_form_of(own[name])}; there {_form_of(other[name])}"
        return f"another {name} than {whose} ({unlike}). {remedy}"
    return ""


def _form_of(value: object) -> str:
    """A target, categories, or the kind of a column without them, in a few words."""
    if isinstance(value, tuple):  # a column's kind and categories
        value = value[1] or value[0]
    words = sorted(value) if isinstance(value, tuple | set) else [str(value)]
    return ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")


def _pooled(
    told: Mapping[str, tuple[float, ...]], records: Mapping[str, int], *, whole: bool
) -> tuple[float, ...]:
    """Knots at even levels of the sites' means, each weighted by the records that it stands for."""
    values = np.concatenate([np.array(means) for means in told.values()])
    weights = np.concatenate(
        [np.full(len(means), records[site] / len(means)) for site, means in told.items()]
    )
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    middles = np.cumsum(weights) - weights / 2
    found = np.interp(np.linspace(0, 1, KNOTS + 1), middles / weights.sum(), values)
    found = np.rint(found) if whole else shortened(found, np.isin(found, values))
    return tuple(np.maximum.accumulate(found).tolist())

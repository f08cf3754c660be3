"""A site's records, read from CSV as their schema says. Every file is hostile."""

import csv
import io
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, final

from asyndgan.errors import AsyndganError, CohortError, DataError, MissingPackageError, RunError
from asyndgan.received import contents
from asyndgan.tables.profile import DATE, IDENTIFIER, MANY, identifiers
from asyndgan.tables.schema import SCHEMA_FILE, Schema, file_of, schema_of
from asyndgan.texts import counted

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES: Final = 2**28
MOST_RECORDS: Final = 2_000_000
DRAFTED: Final = 2**16
PACKED: Final = (b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ", b"BZh", b"(\xb5/\xfd")
"""How gzip, zip (and so Excel), xz, bzip2 and zstd files begin."""
SEPARATORS: Final = (";", "\t", "|")
FOREIGN: Final = re.compile(r"[-+]?\d{1,3}(?:[.,' ]?\d{3})*(?:[.,]\d*)?|[-+]?\d+,\d*")
"""Numbers as some countries write them: a decimal comma, or signs between thousands."""
ABSENT: Final = re.compile(r"#?n/?a|nan|null|none|nil|missing|unknown|not done|[-.?]+", re.I)
"""Words that programs write for a missing value."""
LONGEST_LINE: Final = 2**19
"""Most characters of a line: 256 columns of fields that hold nothing but quotation marks."""
LARGEST: Final = 1e15
"""Largest number, of either sign: whole ones up to it are exact in float64."""
MOST_SAME: Final = 0.2
"""Greatest part of a table that may equal records of another, as records may by chance."""


@final
@dataclass(frozen=True)
class Table:
    """A site's schema and records: columns of Float64, Int64 or string; NA is missing."""

    path: Path
    schema: Schema
    records: "pd.DataFrame"

    @classmethod
    def read(cls, data: Path) -> Self:
        """Reads a CSV file with `schema.json` beside it, or a folder that holds both.

        Raises `DataError`, which names line and column but never a value, if it cannot be read or
        is not as its schema says.
        """
        path, schema = file_of(data), schema_of(data)
        _need_pandas()
        try:
            records = _csv(path, schema)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from error
        if records.empty:
            raise DataError(f"{path} holds no record. Name a file with records.")
        if not schema.synthetic and (found := next(identifiers(records, schema), "")):
            raise DataError(f"{path}: {found}")
        return cls(path, schema, records)

    def check_real(self, who: str = "") -> None:
        """Refuses synthetic records where real ones are wanted; raises `CohortError`."""
        if self.schema.synthetic:
            raise CohortError(
                f"{who or self.path}: its table is synthetic. Name a table of real records."
            )


def equal_records(records: "pd.DataFrame", others: Sequence["pd.DataFrame"]) -> int:
    """How many of these records equal one of the other tables in all columns."""
    columns = list(records.columns)
    held = {row for one in others for row in rows_of(one[columns])}
    return sum(row in held for row in rows_of(records))


def shared_records(records: "pd.DataFrame", others: Sequence["pd.DataFrame"]) -> int:
    """How many of these records are, it seems, those of another table.

    Each occurs once in both: what occurs more often, in columns of few values, is chance.
    """
    columns = list(records.columns)
    own, *held = (
        {row for row, count in Counter(rows_of(one[columns])).items() if count == 1}
        for one in (records, *others)
    )
    return len(own & set().union(*held))


def nearly_equal(records: "pd.DataFrame", others: "pd.DataFrame") -> int:
    """How many of these records equal one of `others` in all columns but one, or in all."""
    import numpy as np
    import pandas as pd

    both = pd.concat([others, records[list(others.columns)]]).astype("string").fillna("")
    marks = [  # of a value; sums of them, less one, tell records apart
        pd.util.hash_array(both[name].to_numpy(object), hash_key=f"{place:016d}")
        for place, name in enumerate(both)
    ]
    near, whole = np.zeros(len(records), bool), np.sum(marks, axis=0, dtype=np.uint64)
    for own in marks:
        rest = whole - own
        near |= np.isin(rest[len(others) :], rest[: len(others)])
    return int(near.sum())


def check_apart(records: "pd.DataFrame", others: Sequence["pd.DataFrame"], option: str) -> None:
    """Raises `RunError` if more than `MOST_SAME` of records of nobody's are those of sites."""
    same = shared_records(records, others)
    if same > MOST_SAME * len(records):
        raise RunError(
            f"{same} of the {len(records)} records to compare with are records of these sites, in "
            f"all columns; at most {MOST_SAME:.0%} may be so by chance. Give others with {option}."
        )


def rows_of(records: "pd.DataFrame") -> list[tuple[str, ...]]:
    """The records as texts, to find one in another table; empty where a value is missing."""
    return list(records.astype("string").fillna("").itertuples(index=False, name=None))


def _need_pandas() -> None:
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("tables", "pandas", "tables") from error


def drafted(data: Path) -> str:
    """A schema to correct and store, for a CSV file that has none; empty: none can be drafted."""
    import pandas as pd

    try:
        path = file_of(data)
        if (path.parent / SCHEMA_FILE).exists():
            return ""
        records = pd.read_csv(path, dtype=str, nrows=DRAFTED)
    except (AsyndganError, OSError, ValueError):
        return ""
    columns, target = {}, "?"
    for name, values in records.items():
        found = values.dropna().drop_duplicates()
        numbers = pd.to_numeric(found, errors="coerce")
        texts = len(found) < 3 or numbers.isna().any()
        if len(found) > MANY and (texts or IDENTIFIER.search(str(name))):
            continue  # texts or numbers of people
        about: dict[str, Any] = {"kind": "integer" if (numbers % 1 == 0).all() else "numeric"}
        if texts:
            about = {"kind": "categorical", "categories": sorted(found)}
            target = str(name) if not values.hasnans and len(found) > 1 else target
        columns[name] = about | ({"missing": True} if values.hasnans else {})
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(c)}" for n, c in columns.items())
    text = f'{{"target": {json.dumps(target)}, "columns": {{\n{lines}}}}}'
    return f"\nA draft; correct kinds and target, and leave out what names people:\n{text}"


def _csv(path: Path, schema: Schema) -> "pd.DataFrame":
    import pandas as pd

    whole = contents(path, MOST_BYTES, links=True)
    if whole.startswith(PACKED):
        raise ValueError("is compressed. Unpack it.")
    try:
        text = whole.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not in UTF-8. Save it as 'CSV UTF-8'.") from error
    if "\0" in text:
        raise ValueError("holds a zero byte. Save it as 'CSV UTF-8'.")
    # A line of a million fields is not split into them.
    if any(len(line) > LONGEST_LINE for line in io.StringIO(text, newline="")):
        raise ValueError(
            f"has a line of over {LONGEST_LINE} characters. Give each record a line of its own."
        )
    cells: list[list[str]] = [[] for _ in schema.columns]
    begins = array("L")
    lines = _rows(text)
    order = _order(next(lines, (1, []))[1], schema)
    for line, row in lines:
        if len(row) != len(cells):
            raise ValueError(
                f"line {line} has {len(row)} fields, and {len(cells)} are wanted. Separate fields "
                "by commas, and quote those that hold one."
            )
        if len(cells[0]) >= MOST_RECORDS:
            raise ValueError(f"has more than {MOST_RECORDS:,} records. Split it.")
        begins.append(line)
        for place, own in zip(order, cells, strict=True):
            own.append(row[place])
    return pd.DataFrame(
        {
            name: _typed(own, name, schema, begins)
            for name, own in zip(schema.columns, cells, strict=True)
        }
    )


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line in which each begins."""
    reader, first = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for row in reader:
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {first}: {error}. Quote fields as RFC 4180 says, and close each quotation mark."
        ) from error


def _order(header: Sequence[str], schema: Schema) -> list[int]:
    """Place in a file of each column of the schema."""
    found = Counter(header)
    lacking = [name for name in schema.columns if name not in found]
    strange = [name for name in found if name not in schema.columns]
    twice = [name for name in schema.columns if found[name] > 1]
    if lacking or strange or twice:
        remedy = "List the same columns in both."
        fit = (s for s in SEPARATORS if {*" ".join(header).split(s)} & {*schema.columns})
        if separator := next(fit, ""):
            called = "tabs" if separator == "\t" else repr(separator)
            remedy = f"Its fields are separated by {called}: save it with commas, and numbers "
            remedy += "with a point."
        elif lacking and {*map(str.casefold, lacking)} <= {h.strip().casefold() for h in header}:
            remedy = "Write them as schema.json does, in capitals too."
            folded = [*map(str.casefold, lacking)]
            spaced = [h for h in header if h != h.strip() and h.strip().casefold() in folded]
            if spaced:
                remedy = f"There are blanks beside commas, first at '{spaced[0].strip()}': remove "
                remedy += "them in the whole file"
                if all(h == h.rstrip() for h in spaced):
                    remedy += " (pandas: read_csv(FILE, skipinitialspace=True))"
                remedy += ", and write names as schema.json does."
        elif not lacking and header[0] in {"", "Unnamed: 0"}:
            remedy = "Its first column is an index without a name: to_csv(FILE, index=False)."
        elif not (lacking or header[-1]):
            remedy = "Its lines end in a comma: remove the last, empty column."
        parts = (
            f"{len(lacking)} missing{_some(lacking)}" if lacking else "",
            f"{len(strange)} not listed" if strange else "",
            f"{len(twice)} there twice{_some(twice)}" if twice else "",
        )
        raise ValueError(
            f"its columns are not those of {SCHEMA_FILE}: {', '.join(filter(None, parts))}. "
            f"{remedy}"
        )
    return [header.index(name) for name in schema.columns]


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})" if names else ""


def _typed(cells: Sequence[str], name: str, schema: Schema, lines: Sequence[int]) -> Any:
    """A column of texts as values; raises `ValueError` that names line and column of a fault."""
    import numpy as np
    import pandas as pd

    column = schema.columns[name]
    allow = 'allow it: "missing": true in schema.json'
    allow = "leave such records out" if name == schema.target else allow
    absent = np.array([not cell for cell in cells], bool)
    faults = [] if column.missing else [(absent, "is missing", allow)]
    if column.kind == "categorical":
        listed = {*column.categories, ""}
        strange = np.array([cell not in listed for cell in cells], bool)
        known = {category.casefold() for category in listed}
        remedy = _remedy([cells[row] for row in np.flatnonzero(strange).tolist()], known)
        faults.append((strange, "is not among the column's categories", remedy))
        values = pd.Series([cell or None for cell in cells], dtype="string")
    else:
        found = [_number(cell) for cell in cells]
        numbers = np.array(found, float)
        wrong = ~absent & ~(np.abs(numbers) <= LARGEST)
        remedy = _remedy([cells[row] for row in np.flatnonzero(wrong).tolist()])
        faults.append((wrong, f"is no number from -{LARGEST:g} to {LARGEST:g}", remedy))
        if column.kind == "integer":
            broken = ~absent & ~wrong & (numbers != np.rint(numbers))
            faults.append((broken, "is no whole number", "correct it, or call it numeric"))
        values = pd.Series(found, dtype="Float64")
    for where, reason, remedy in faults:
        if where.any():
            raise ValueError(
                f"column '{name}': the value in line {lines[int(where.argmax())]} {reason}, and so "
                f"in {counted(int(where.sum()), 'record')} in all; {remedy}."
            )
    return values.astype("Int64") if column.kind == "integer" else values


def _remedy(wrong: Sequence[str], known: Iterable[str] = ()) -> str:
    """What mends cells that cannot be read, by the first of them; tells words and no value."""
    first = wrong[0].strip() if wrong else ""
    if first and first.casefold() in known:
        return "it differs from one in capitals or blanks: write it as in schema.json"
    if ABSENT.fullmatch(first):
        return f'it is {first!r}: leave a missing value empty, with "missing": true in schema.json'
    if known:
        return "list it, or correct it"
    if DATE.fullmatch(first):
        return "it is a date: write an age or a number of days, or leave the column out"
    if signs := {s for cell in wrong if FOREIGN.fullmatch(cell) for s in cell if s in ",' "}:
        told = " or ".join(repr(sign) for sign in sorted(signs))
        return f"numbers have {told} in them: write 1234.5, with a point and nothing else"
    return "correct it"


def _number(cell: str) -> float | None:
    """A number; None for an empty cell, infinity for what is no number."""
    if not cell:
        return None
    try:
        number = float(cell) if "_" not in cell and cell.isascii() else math.inf
    except ValueError:
        return math.inf
    return math.inf if math.isnan(number) else number

"""A site's records, read from CSV or Parquet as their schema says. Every file is hostile."""

import csv
import io
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, final

from asyndgan.errors import CohortError, DataError, MissingPackageError, RunError
from asyndgan.received import contents, opened
from asyndgan.tables.schema import SCHEMA_FILE, Schema, SchemaColumn, file_of, format_of, schema_of

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES: Final = 2**28
"""Largest file of records, and most bytes of a Parquet file's records once decoded."""
MOST_RECORDS: Final = 2_000_000
BATCH: Final = 2**16
"""Records of a Parquet file that are decoded at once."""
STRANGE: Final = "\0"
"""Stands for a text that is no category; no name holds it."""
PACKED: Final = (b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ", b"BZh", b"(\xb5/\xfd")
"""How gzip, zip (and so Excel), xz, bzip2 and zstd files begin."""
SEPARATORS: Final = (";", "\t", "|")
FOREIGN: Final = re.compile(r"[-+]?\d{1,3}(?:[.,' ]?\d{3})*(?:[.,]\d*)?|[-+]?\d+,\d*")
"""Numbers as some countries write them: a decimal comma, or signs between thousands."""
LONGEST_CELL: Final = 1000
LONGEST_LINE: Final = 2**19
"""Most characters of a line: 256 columns of fields that hold nothing but quotation marks."""
LARGEST: Final = 1e15
"""Largest number, of either sign: whole ones up to it are exact in float64."""
MOST_SAME: Final = 0.2
"""Greatest part of a table that may equal records of another, as records may by chance."""


@final
@dataclass(frozen=True)
class Table:
    """A site's schema and records.

    Attributes:
        path: file of the records.
        schema: what the columns are.
        records: a column each: Float64, Int64 or string; NA where a value is missing.
    """

    path: Path
    schema: Schema
    records: "pd.DataFrame"

    @classmethod
    def read(cls, data: Path) -> Self:
        """Reads a table.

        Args:
            data: a CSV or Parquet file with `schema.json` beside it, or a folder that holds both.

        Raises:
            DataError: it cannot be read, or is not as its schema says; names the line and column,
                never a value.
        """
        path, schema = file_of(data), schema_of(data)
        _need_pandas()
        try:
            records = (_parquet if format_of(path) == ".parquet" else _csv)(path, schema)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from error
        if records.empty:
            raise DataError(f"{path} holds no record. Name a file with records.")
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
    """Refuses records of nobody's that are those of sites, beyond what may be chance.

    Raises:
        RunError: more than `MOST_SAME` of them equal a record of `others`.
    """
    same = equal_records(records, others)
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
    cells: list[list[str]] = [[] for _ in schema.columns]
    begins = array("L")
    lines = _rows(io.StringIO(text, newline=""))
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


def _rows(text: io.StringIO) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line in which each begins."""
    reader, first = csv.reader(_lines(text), strict=True), 1
    long = (
        f"has a field of over {LONGEST_CELL} characters. Shorten it, or look for a quotation mark "
        "that is not closed."
    )
    try:
        for row in reader:
            if any(len(cell) > LONGEST_CELL for cell in row):
                raise ValueError(f"line {first} {long}")
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            raise ValueError(f"line {first} {long}") from error
        raise ValueError(f"line {first}: {error}. Quote fields as RFC 4180 says.") from error


def _lines(text: io.StringIO) -> Iterator[str]:
    """The lines of a file; a line of a million fields is not split into them."""
    for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE + 1), ""), 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"line {number} is longer than {LONGEST_LINE} characters. Give each record a line."
            )
        yield line


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
            remedy = f"Its fields are separated by {separator!r}: save it with commas."
        raise ValueError(
            f"its columns are not those of {SCHEMA_FILE}: {len(lacking)} are missing"
            f"{_some(lacking)}, {len(strange)} are not listed, {len(twice)} are there twice"
            f"{_some(twice)}. {remedy}"
        )
    return [header.index(name) for name in schema.columns]


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])})" if names else ""


def _typed(cells: Sequence[str], name: str, schema: Schema, lines: Sequence[int]) -> Any:
    """A column of texts as values; raises `ValueError` that names line and column of a fault."""
    import pandas as pd

    if schema.columns[name].kind == "categorical":
        return _checked(pd.Series([c or None for c in cells], dtype="string"), name, schema, lines)
    values = [_number(cell) for cell in cells]
    wrong = (cell for cell, value in zip(cells, values, strict=True) if value == math.inf)
    signs = {sign for cell in wrong if FOREIGN.fullmatch(cell) for sign in cell if sign in ",' "}
    remedy = "correct it"
    if signs:
        told = " or ".join(repr(sign) for sign in sorted(signs))
        remedy = f"numbers have {told} in them: write 1234.5, with a point and nothing else"
    return _checked(pd.Series(values, dtype="Float64"), name, schema, lines, remedy)


def _number(cell: str) -> float | None:
    """A number; None for an empty cell, infinity for what is no number."""
    if not cell:
        return None
    try:
        number = float(cell) if "_" not in cell and cell.isascii() else math.inf
    except ValueError:
        return math.inf
    return math.inf if math.isnan(number) else number


def _checked(
    values: Any, name: str, schema: Schema, lines: Sequence[int], remedy: str = "correct it"
) -> Any:
    """Values of a column in their type, if the schema allows them; `lines`: line of each row."""
    import numpy as np

    absent, column = values.isna(), schema.columns[name]
    allow = "leave such records out" if name == schema.target else "allow it: missing = true"
    faults = [] if column.missing else [(absent, "is missing", allow)]
    if column.kind == "categorical":
        strange = ~values.isin(column.categories) & ~absent
        faults.append((strange, "is not among the column's categories", "list it, or correct it"))
    else:
        numbers = values.astype("Float64").to_numpy(np.float64, na_value=np.nan)
        wrong = ~absent & ~(np.abs(numbers) <= LARGEST)
        faults.append((wrong, f"is no number from -{LARGEST:g} to {LARGEST:g}", remedy))
        if column.kind == "integer":
            broken = ~absent & ~wrong & (numbers != np.rint(numbers))
            faults.append((broken, "is no whole number", "correct it, or call it numeric"))
    for where, reason, remedy in faults:
        if where.any():
            row = int(np.flatnonzero(where.to_numpy())[0])
            raise ValueError(
                f"column '{name}': the value in line {lines[row]} {reason}, and so in "
                f"{int(where.sum())} records in all; {remedy}."
            )
    types = {"categorical": "string", "integer": "Int64", "numeric": "Float64"}
    return (
        values.astype("Float64").astype(types[column.kind])
        if column.kind != "categorical"
        else values
    )


def _parquet(path: Path, schema: Schema) -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingPackageError("Parquet files", "pyarrow", "tables") from error
    # As a dictionary a text is held once, however many records have it.
    texts = [name for name, column in schema.columns.items() if column.kind == "categorical"]
    parts: dict[str, list[Any]] = {name: [] for name in schema.columns}
    with opened(path, MOST_BYTES) as file:
        try:
            stored = parquet.read_schema(file)  # of nested texts no dictionary can be asked for
            _order(stored.names, schema)
            for name, column in schema.columns.items():
                _check_stored(stored.field(name).type, name, column)
            found = parquet.ParquetFile(file, read_dictionary=texts)
            records = size = 0
            for batch in found.iter_batches(BATCH, columns=list(parts), use_threads=False):
                records, size = records + len(batch), size + batch.nbytes
                if records > MOST_RECORDS or size > MOST_BYTES:
                    raise ValueError(
                        f"has more than {MOST_RECORDS:,} records or {MOST_BYTES:,} bytes. Split it."
                    )
                for name, column in schema.columns.items():
                    parts[name].append(_decoded(batch.column(name), column))
        except pyarrow.ArrowException as error:
            raise ValueError("is no Parquet file that can be read. Write it anew.") from error
    columns = {}
    for name, column in schema.columns.items():
        kind = "string" if column.kind == "categorical" else "Float64"
        values = pd.Series(np.concatenate(parts[name] or [[]]), dtype=kind)
        columns[name] = _checked(values, name, schema, range(1, len(values) + 1))
    return pd.DataFrame(columns)


def _check_stored(kind: Any, name: str, column: SchemaColumn) -> None:
    """Checks the type in which a Parquet file stores a column; raises `ValueError`."""
    from pyarrow import types

    if column.kind == "categorical":
        kind = kind.value_type if types.is_dictionary(kind) else kind
        fits = types.is_string(kind) or types.is_large_string(kind)
    else:
        fits = types.is_floating(kind) or types.is_integer(kind)
    if not (fits or types.is_null(kind)):
        text = column.kind == "categorical"
        wanted = "text, in the words of its categories" if text else "integers or floats"
        raise ValueError(
            f"column '{name}' is stored as {str(kind)[:100]}, and is {column.kind}. Store it as "
            f"{wanted}."
        )


def _decoded(values: Any, column: SchemaColumn) -> Any:
    """Values of a batch: numbers, or texts of which a strange one stands for all others."""
    import numpy as np
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_null(values.type):
        return np.full(len(values), None)
    if column.kind != "categorical":
        return compute.cast(values, "float64", safe=False).to_numpy(zero_copy_only=False)
    known = compute.index_in(values.dictionary, value_set=pyarrow.array(column.categories))
    names = np.array([*column.categories, STRANGE, None], dtype=object)
    codes = np.append(known.fill_null(len(column.categories)), len(names) - 1)
    return names[codes[values.indices.fill_null(len(codes) - 1)]]

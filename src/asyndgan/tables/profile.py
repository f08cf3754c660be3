"""What the columns of a table look like: identifiers, which are never learned, and oddities."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from asyndgan.tables.schema import Schema
from asyndgan.texts import counted

if TYPE_CHECKING:
    import pandas as pd

IDENTIFIER: Final = re.compile(
    r"(?i)(^|[\W_])(ids?|uid|uuid|guid|pid|mrn|ssn|nr|identifier|unnamed)([\W_\d]|$)|nummer"
    r"|(patient|case|subject|record|study|person|stay|visit|admission)[\W_]?(id|n[or]|num|key)"
    r"|(?-i:[a-z]I[Dd]$)"
)
DATE: Final = re.compile(
    r"((19|20)\d\d[-/.]?(0[1-9]|1[0-2])[-/.]?(0[1-9]|[12]\d|3[01])"
    r"|[0-3]?\d[-/.][0-3]?\d[-/.](19|20)?\d\d)([T ].*)?"
)
FEW: Final = 10  # records that share a value which may be named: it is nobody's own
CHANCE: Final = 5.0  # equal pairs of random whole numbers to expect; none is then no chance
CERTAIN: Final = 100  # records whose whole values all differ, which is no chance in any range
MANY: Final = 50  # categories that are called many
MOST_CODES: Final = 4  # values far from all others that are named


def identifiers(records: "pd.DataFrame", schema: Schema) -> Iterator[str]:
    """Why a table may not be learned from: columns that tell records or people apart."""
    for name, column in schema.columns.items():
        values = records[name].dropna()
        count, distinct, texts = len(values), values.nunique(), column.kind == "categorical"
        if name == schema.target or distinct < FEW or not (texts or _whole(values)):
            continue
        named = bool(IDENTIFIER.search(name))
        certain = texts or named or count**2 / 2 / (1 + values.max() - values.min()) > CHANCE
        measured = not certain and column.kind == "integer" and count >= CERTAIN
        if (distinct == count and (certain or measured)) or (named and distinct > count / 5):
            yield (
                f"column '{name}' has {distinct} values in {count} records, as an identifier has, "
                "and they would be learned and repeated. Leave it out at all sites, in the table "
                f"and in schema.json{', or call it numeric if it was measured' * measured}."
            )


def oddities(records: "pd.DataFrame", schema: Schema) -> Iterator[str]:
    """Notes on columns that can be learned from, and may not be meant so."""
    for name, column in schema.columns.items():
        values = records[name].dropna()
        some = values.iloc[:: 1 + len(values) // 99]
        if len(values) and name == schema.target and values.nunique() < 2:
            yield (
                f"column '{name}' holds '{values.iloc[0]}' in every record, so nothing is learned "
                "of other classes."
            )
        elif values.nunique() < 2:
            one = "one" if len(values) else "no"
            yield f"column '{name}' holds {one} value only, so nothing is learned of it."
        elif all(DATE.fullmatch(one if isinstance(one, str) else f"{one:.0f}") for one in some):
            yield f"column '{name}' holds dates: write an age or a number of days instead."
        elif column.kind != "categorical":
            yield from _far_off(name, np.sort(values.to_numpy(np.float64)))
        elif len(column.categories) >= MANY:
            yield f"column '{name}' has {len(column.categories)} categories: merge rare ones."


def _far_off(name: str, numbers: Any) -> Iterator[str]:
    """Notes on few of the sorted numbers that lie far from all others, as codes do."""
    every = len(numbers)
    while len(found := np.unique(numbers)) > 2:
        place = int(np.diff(found).argmax())
        parts = numbers[numbers <= found[place]], numbers[numbers > found[place]]
        few, most = sorted(parts, key=len)
        codes = np.unique(few)  # such as -999 and -998, for several reasons
        shared = len(codes) <= MOST_CODES and len(few) >= FEW * len(codes)
        if found[place + 1] - found[place] <= (most[-1] - most[0]) * (1 if shared else 3):
            return
        told = " or ".join(f"{code:g}" for code in codes)
        told = f"are {told}" if shared else f"hold {counted(len(codes), 'value')}"
        yield (
            f"{len(few) / every:.0%} of column '{name}' ({len(few)} of {every} records) {told}, "
            "far from all others. If it means that nothing was measured, leave the field empty and "
            'write "missing": true in schema.json.'
        )
        numbers = most


def _whole(values: Any) -> bool:
    return bool((values == values.round()).all())

"""Records as numbers in [-1, 1], and back.

A numeric or integer column becomes one number: the place of a value among those of all sites'
records, from -1 (the lowest) to 1. Values that many records share take a whole range of places, and
each record a random one of it, so that a generator need not hit exact values. A categorical column
becomes a one-hot part of -1 and 1. Where values may be missing, a category says so and the number
is 0.

Networks compute in float32. A value that has a range of places, as one that a hundredth of all
records share, is encoded and decoded exactly, whole ones up to 1e15. Between two knots that lie g
apart, a value is kept to about g / 100,000.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch

from asyndgan.arrays import Images
from asyndgan.recipe.table import TableColumn, TableSection
from asyndgan.tables.summary import shortened

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

EDGE: Final = 1e-3
"""Part of the range of places of a shared value that is left free at each end."""


@final
class Encoder:
    """Encodes the records of a recipe's table; fitted by its knots alone, so equal everywhere."""

    def __init__(self, table: TableSection) -> None:
        self.table = table
        self.classes = {name: number for number, name in enumerate(table.classes)}

    def encode(self, records: "pd.DataFrame", random: np.random.Generator | None = None) -> Images:
        """Encodes columns to (n, 1, width) in [-1, 1].

        `random` draws a place among those of equal values; None: their middle.
        """
        parts = []
        for column in self.table.columns:
            values = records[column.name]
            absent = values.isna().to_numpy()
            if column.measured:
                place = _placed(column, values.to_numpy(np.float64, na_value=np.nan), random)
                parts.append(np.where(absent, 0.0, place)[:, None])
                hot = np.stack([~absent, absent], axis=1)[:, : column.choices]
            else:
                names = (*column.categories, None)[: column.choices]
                hot = np.stack(
                    [
                        absent if name is None else (values == name).to_numpy(bool, na_value=False)
                        for name in names
                    ],
                    axis=1,
                )
            parts.append(2.0 * hot - 1.0)
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))[:, None]

    def encode_classes(self, records: "pd.DataFrame") -> torch.Tensor:
        """The target of each record as the number of its class, (n,)."""
        return torch.from_numpy(
            records[self.table.target].map(self.classes).to_numpy(np.int64, copy=True)
        )

    def decode(self, images: Images, classes: torch.Tensor) -> "pd.DataFrame":
        """The records of (n, 1, width) in [-1, 1] and (n,) classes; the inverse of `encode`."""
        import pandas as pd

        rows, place = images[:, 0].double().numpy(), 0
        found: dict[str, object] = {}
        for column in self.table.columns:
            value, hot = np.split(rows[:, place : place + column.width], [column.measured], axis=1)
            place += column.width
            chosen = hot.argmax(1) if column.choices else np.zeros(len(rows), int)
            if column.measured:
                found[column.name] = _valued(column, value[:, 0], chosen == 1)
            else:
                names = np.array([*column.categories, None], dtype=object)
                found[column.name] = pd.Series(names[chosen], dtype="str")
        names = np.array(list(self.classes), dtype=object)
        found[self.table.target] = pd.Series(names[classes.numpy()], dtype="str")
        return pd.DataFrame(found)

    def as_written(self, records: "pd.DataFrame") -> "pd.DataFrame":
        """The records rounded as `decode` rounds; values beyond the knots stay as they are."""
        records = records.reset_index(drop=True)
        written = self.decode(self.encode(records), self.encode_classes(records))
        for column in (one for one in self.table.columns if one.measured):
            values = records[column.name]
            within = values.isna() | values.between(column.knots[0], column.knots[-1])
            written[column.name] = written[column.name].where(within, values)
        return written


def _levels(column: TableColumn) -> Array:
    """Part of all records below each knot, from 0 to 1."""
    return np.linspace(0.0, 1.0, len(column.knots))


def _placed(column: TableColumn, values: Array, random: np.random.Generator | None) -> Array:
    knots, levels = np.array(column.knots), _levels(column)
    steps, first = np.unique(knots, return_index=True)
    last = len(knots) - 1 - np.unique(knots[::-1], return_index=True)[1]
    low = np.interp(values, steps, levels[first])
    high = np.interp(values, steps, levels[last])
    # Between two knots both give a place, of which neither is a range of equal values.
    shared = np.isin(values, steps)
    below = np.clip(np.searchsorted(steps, values) - 1, 0, len(steps) - 1)
    above = np.clip(below + 1, 0, len(steps) - 1)
    gap = steps[above] - steps[below]
    part = np.clip((values - steps[below]) / np.where(gap > 0, gap, 1), 0, 1)
    between = levels[last][below] + part * (levels[first][above] - levels[last][below])
    # Not at the ends of a range, which float32 may leave.
    drawn = low + (EDGE + (1 - 2 * EDGE) * random.random(len(values)) if random else 0.5) * (
        high - low
    )
    return 2 * np.clip(np.where(shared, drawn, between), 0, 1) - 1


def _valued(column: TableColumn, places: Array, absent: Array) -> object:
    import pandas as pd

    values = np.interp((places + 1) / 2, _levels(column), np.array(column.knots))
    if column.kind == "integer":
        whole = pd.Series(np.rint(values)).astype("Int64")
        return whole.mask(absent)
    shared = np.isin(values, np.array(column.knots))
    return pd.Series(shortened(values, shared), dtype="Float64").mask(absent)


def class_numbers(shares: Mapping[str, float], count: int) -> torch.Tensor:
    """Classes of `count` records in these shares, rounded by largest remainder, in blocks."""
    wanted = np.array(list(shares.values())) * count
    numbers = np.floor(wanted).astype(int)
    for place in np.argsort(numbers - wanted)[: count - numbers.sum()]:
        numbers[place] += 1
    return torch.repeat_interleave(torch.arange(len(numbers)), torch.from_numpy(numbers))

"""What `audit.json` may hold, which may come from somebody else."""

import math
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import TypedDict  # as pydantic wants before Python 3.12


def _sensible(value: float) -> float:
    if abs(value) > 1e15:
        raise ValueError("no number that an audit finds")
    return value


Whole = Annotated[int, Field(strict=True, ge=0, le=10**9)]
"""A number of patients, images or steps."""

Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    Field(strict=True),
    AfterValidator(_sensible),
]
"""A finite number or nan, which JSON stores as null."""

Decibels = list[Annotated[float, Field(strict=True, ge=-1000, le=1000, allow_inf_nan=False)]]
"""Ratios between images; rounding leaves some 130 at most."""


class Faded(TypedDict):
    """A fading, as `Fading.told` says it."""

    faded: list[Whole]
    contrasts: list[Number]

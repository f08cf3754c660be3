"""The schema of `run.json` and `metrics.jsonl`, which may come from another party."""

import math
from typing import Annotated, Any, Final, NotRequired

from pydantic import AfterValidator, Field, GetPydanticSchema, StrictBool
from typing_extensions import TypedDict  # as pydantic wants before Python 3.12

from asyndgan.recipe import LABELS_LIMIT
from asyndgan.store.case import MODALITIES_LIMIT
from asyndgan.texts import LARGEST_NUMBER, LONGEST_NEWS, Line, Name, SiteName

MOST_SITES: Final = 1024


def _drawable(value: float) -> float:
    if not (math.isnan(value) or abs(value) <= LARGEST_NUMBER):
        raise ValueError("no number that a run measures")
    return value


Hex = Annotated[str, Field(max_length=64, pattern="^[0-9a-f]*$")]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
"""Bytes that left a site and that came to it."""

Seconds = Annotated[float, Field(strict=True, ge=0, le=1e12)]
Measured = Annotated[float, Field(strict=True), AfterValidator(_drawable)]
"""A number that may be nan."""

Names = Annotated[list[Name], Field(max_length=MODALITIES_LIMIT)]
Labels = Annotated[
    dict[Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,3})$")], Name],
    Field(max_length=LABELS_LIMIT),
]
_SITES: Final = Field(max_length=MOST_SITES)


class _OfSite(TypedDict):
    cases: Count
    share: Annotated[float, Field(strict=True, gt=0, le=1)]
    modalities: Names


class _Spared(TypedDict):
    cases: Count
    modalities: Names


class StartFacts(TypedDict):
    """The run that this one started from: its folder's name, its sites, and what was taken."""

    run: Name
    generator_sha256: Hex
    steps: Count
    sites: Annotated[list[SiteName], Field(max_length=MOST_SITES)]
    took: Line


Sites = Annotated[
    dict[str, dict[str, Any]],
    GetPydanticSchema(lambda _, schema_of: schema_of(Annotated[dict[SiteName, _OfSite], _SITES])),
]
"""Facts of each site, by its name: `cases`, `share` and `modalities`."""

Spared = Annotated[
    dict[str, dict[str, Any]],
    GetPydanticSchema(lambda _, schema_of: schema_of(Annotated[dict[SiteName, _Spared], _SITES])),
]
"""Facts of sites that taught no masks for lack of patients."""

Steps = Annotated[dict[SiteName, Count], _SITES]
Moved = Annotated[dict[SiteName, dict[Name, Count]], _SITES]
"""Bytes by site and kind of message."""


class Record(TypedDict):
    """One step, as a line of `metrics.jsonl`; other keys are left out."""

    step: Count
    seconds: Seconds
    updated: NotRequired[StrictBool]
    shares: dict[SiteName, Annotated[float, Field(strict=True, ge=0, le=1)]]
    losses: dict[SiteName, dict[Name, Measured]]
    round_trip: NotRequired[dict[SiteName, Seconds]]
    sent: Count
    received: Count
    bytes: NotRequired[dict[SiteName, Pair]]
    news: NotRequired[list[Annotated[str, Field(max_length=LONGEST_NEWS)]]]

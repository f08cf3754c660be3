"""The timeline of a recipe: in which steps each site takes part."""

from collections.abc import Collection, Sequence
from typing import Self, final

from pydantic import Field, model_validator

from asyndgan.recipe.sections import Section
from asyndgan.texts import Name


@final
class PresenceSection(Section):
    """A range of steps in which a site takes part."""

    site: Name = Field(description="name of the site")
    first: int = Field(
        0, ge=0, description="first step in which the site takes part, counted from 0"
    )
    last: int | None = Field(
        None,
        ge=0,
        description="last step in which the site takes part. Left out: to the end of the run",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"{self.site} leaves after step {self.last}, before its first one")
        return self


def takes_part(timeline: Sequence[PresenceSection], site: str, step: int) -> bool:
    """Whether a site takes part in a step; a site without an entry always does."""
    named = [part for part in timeline if part.site == site]
    return not named or any(
        part.first <= step and (part.last is None or step <= part.last) for part in named
    )


def presence(timeline: Sequence[PresenceSection], site: str | None, end: int) -> list[range]:
    """Ranges of steps before `end` in which a site takes part, in order."""
    named = [part for part in timeline if part.site == site]
    ranges: list[range] = [] if named else [range(end)]
    for part in sorted(named, key=lambda part: part.first):
        stop = end if part.last is None else min(part.last + 1, end)
        if ranges and part.first <= ranges[-1].stop:
            ranges[-1] = range(ranges[-1].start, max(ranges[-1].stop, stop))
        elif part.first < stop:
            ranges.append(range(part.first, stop))
    return ranges


def attendance(
    timeline: Sequence[PresenceSection], sites: Collection[str], end: int
) -> dict[int, int]:
    """Number of these sites that take part, by each step before `end` at which it may change."""
    leaving = (part.last + 1 for part in timeline if part.last is not None)
    turns = sorted({0, *(part.first for part in timeline), *leaving})
    return {t: sum(takes_part(timeline, site, t) for site in sites) for t in turns if t < end}

"""What a step reports: figures, and events that a person should read (`runs.news`: in words)."""

from dataclasses import dataclass, field
from typing import final


@dataclass(frozen=True)
class _OfSite:
    site: str


@dataclass(frozen=True)
class _ForReason(_OfSite):
    reason: str


@final
class Absent(_ForReason):
    """The run begins without the site."""


@final
class Missed(_ForReason):
    """The site's answer to a step is missing."""


@final
class TurnedAway(_ForReason):
    """The site could not be taken in when it came."""


@final
@dataclass(frozen=True)
class Joined(_OfSite):
    """The site came or came back; its discriminator had done `steps` steps."""

    steps: int


@final
class Comes(_OfSite):
    """The timeline has the site come."""


@final
class Leaves(_OfSite):
    """The timeline has the site leave."""


@final
class StaysAway(_ForReason):
    """The timeline has the site come, and it could not be taken in."""


@final
class NotConnected(_OfSite):
    """The timeline has the site come, and it cannot be reached."""


@final
@dataclass(frozen=True)
class FellBack(_OfSite):
    """The site resumes from `step`, as its checkpoint of the run's step `wanted` is gone."""

    step: int
    wanted: int


@final
class KeepsNoMasks(_OfSite):
    """The site lets none of its masks be kept."""


@final
@dataclass(frozen=True)
class Outweighs(_OfSite):
    """The site's declared share makes it count for `part` of all sites, more than a half."""

    declared: float
    part: float


@final
@dataclass(frozen=True)
class Loud(_OfSite):
    """The site's feedback of a step was this many times as long as the median of all sites'."""

    step: int
    times: float


@final
class NoCheckpoint(_ForReason):
    """The site kept no state of its own at a checkpoint."""


@final
@dataclass(frozen=True)
class Started:
    """The generator began with the weights of another run's; `took` says with which."""

    took: str


OfSite = (
    Absent | Missed | TurnedAway | Joined | Comes | Leaves | StaysAway | NotConnected | FellBack
    | KeepsNoMasks | Outweighs | Loud | NoCheckpoint
)  # fmt: skip
Event = Started | OfSite


@final
@dataclass(frozen=True)
class StepReport:
    """What happened in a step."""

    step: int  # its number, from 0
    updated: bool  # whether the quorum was met and the generator was updated
    shares: dict[str, float]  # normalised share of each site that answered
    losses: dict[str, dict[str, float]]  # value of each loss term, by site
    missed: dict[str, str] = field(default_factory=dict)  # why a site's answer is missing, by site
    # how far the images of absent sites' masks are from those painted when the sites left; None if
    # there was nothing to compare
    reminding: float | None = None
    events: tuple[Event, ...] = ()  # what a person should read, since the report before

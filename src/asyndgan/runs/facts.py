"""What `run.json` and `metrics.jsonl` say of a run; they may come from another party."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NotRequired, final

from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema, StrictBool
from typing_extensions import TypedDict  # as pydantic wants before Python 3.12

from asyndgan.errors import RunError
from asyndgan.lazy import Late
from asyndgan.recipe import LABELS_LIMIT
from asyndgan.store.case import MODALITIES_LIMIT
from asyndgan.texts import LARGEST_NUMBER, LONGEST_NEWS, Line, Name, SiteName, Title

if TYPE_CHECKING:
    from torch import Generator

    from asyndgan.training.scope import Scope

tensors: Any = Late("torch")
scopes: Any = Late("asyndgan.training.scope")  # see `runs/folder.py`

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


State = Literal["running", "interrupted", "failed", "finished"]


@final
@dataclass
class RunFacts:
    """Facts about a run, stored for later commands."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    run: Hex  # its identity
    version: Title  # of asyndgan
    recipe_digest: Hex  # SHA-256 of the resolved recipe
    engine: Title
    state: State = "running"
    steps: Count = 0  # done
    seconds: Seconds = 0.0  # in training, over all attempts
    modalities: Names = field(default_factory=list)  # that the generator paints
    labels: Labels = field(default_factory=dict)
    space: Annotated[list[Count], Field(max_length=3)] = field(default_factory=list)  # sides
    sites: Sites = field(default_factory=dict)  # cases, share (normalised) and modalities of each
    # in how many steps the generator learned from each site; empty: in all
    taught: Steps = field(default_factory=dict)
    # cases and modalities of sites that taught no masks for lack of patients
    spared: Spared = field(default_factory=dict)
    left_sites: Moved = field(default_factory=dict)  # bytes that left each site, by kind of message
    came_to_sites: Moved = field(default_factory=dict)  # bytes that went to each site, likewise
    generator_sha256: Hex = ""
    # by which each site found its patients, as far as it is known here
    patient_patterns: dict[str, Annotated[str, Field(max_length=1000)]] = field(
        default_factory=dict
    )
    sliced: bool = False  # whether volumes are cut into slices, as far as it is known here
    torch: Title = ""
    precision: Title = ""  # of the coordinator's arithmetic; a simulated site's too
    threads: Count = 0  # of the coordinator's arithmetic; 0: not chosen, as in a federation
    generator_version: Count = 0  # `GENERATOR_VERSION` at the start of training; 0: not said
    start: StartFacts | None = None  # run whose generator this one began with; None: it began anew

    @property
    def all_steps(self) -> int:
        """Steps done, those of the run that this one started from included."""
        return self.steps + (self.start["steps"] if self.start else 0)

    @property
    def scope(self) -> "Scope":
        """The run's modalities, labels and image size; raises `RunError` if they are not valid."""
        try:
            found: Scope = scopes.Scope.from_plain(vars(self))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError("run.json does not say what the run paints.") from error
        return found

    @property
    def teachers(self) -> dict[str, dict[str, Any]]:
        """Those of `sites` that the generator learned from: one may come and never judge."""
        taught = self.taught or self.sites
        return {site: about for site, about in self.sites.items() if site in taught}

    def look_of(self, site: str) -> str:
        """The look that a site's images are painted in: its own, if it holds every modality."""
        held = self.sites.get(site, {}).get("modalities", self.modalities)
        return site if set(self.modalities) <= set(held) else str(scopes.SHARED_LOOK)

    def looks(self) -> dict[str, list[str]]:
        """The looks that the generator learned, with the sites that are painted in each."""
        looks: dict[str, list[str]] = {}
        for site in self.teachers:
            looks.setdefault(self.look_of(site), []).append(site)
        return looks

    def judged_in(self) -> dict[str, set[str]]:
        """The modalities that some site judged in each look."""
        return {
            look: {name for site in alike for name in self.sites[site]["modalities"]}
            for look, alike in self.looks().items()
        }

    def drawn_sites(
        self, count: int, random: "Generator", among: Collection[str] | None = None
    ) -> list[str]:
        """Teachers (`among` these alone) drawn by their shares, with replacement."""
        drawn_from = [site for site in self.teachers if among is None or site in among]
        shares = tensors.tensor([float(self.sites[site]["share"]) for site in drawn_from])
        drawn = tensors.multinomial(shares, count, replacement=True, generator=random)
        return [drawn_from[place] for place in drawn.tolist()]

    @property
    def whole(self) -> list[str]:
        """Sites in whose look every modality was judged, by them or by others that share it."""
        judged = self.judged_in()
        return [s for s in self.teachers if set(self.modalities) <= judged[self.look_of(s)]]

    def check_patterns(self, patterns: Mapping[str, str]) -> None:
        """Raises `RunError` if a site's patients, and those held out, were found otherwise."""
        # Compared, never compiled: it may be from a stranger, and matching could take forever.
        for site, pattern in patterns.items():
            if (known := self.patient_patterns.get(site, pattern)) != pattern:
                raise RunError(
                    f"this run found patients of {site} by another pattern of their names, and the "
                    f'same has to find them now: "patient_pattern": {json.dumps(known)} in its '
                    "dataset.json (none, if it is empty)."
                )


def by_site(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Nests byte counts by (site, kind) as site to kind to bytes."""
    nested: dict[str, dict[str, int]] = {}
    for (site, kind), size in sorted(counts.items()):
        nested.setdefault(site, {})[kind] = size
    return nested

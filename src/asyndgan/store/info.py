"""What a data set says of itself: modalities, labels, and what was painted."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final


@final
@dataclass(frozen=True)
class DatasetInfo:
    """The content of dataset.json."""

    name: str  # by default the folder's
    modalities: tuple[str, ...]  # names of the channels, by their number
    labels: dict[str, int]  # name to number, 0 to 255; none is nnU-Net's `ignore`
    file_ending: str
    mask_ending: str
    # all other keys, such as "synthetic" or "provenance"
    extra: dict[str, object] = field(default_factory=dict)
    training: int | None = None  # numTraining; None if absent
    # images and mask of each case, in paths from the folder, with None in place of an image that it
    # lacks; None: by their names
    listed: dict[str, tuple[tuple[str | None, ...], str | None]] | None = None

    @property
    def synthetic(self) -> bool:
        """Whether dataset.json declares all images as painted by a generator."""
        return self.extra.get("synthetic") is True

    @property
    def provenance(self) -> dict[str, Any]:
        """What a synthetic set says of the run that painted it; empty: nothing that can be read."""
        found = self.extra.get("provenance")
        return found if isinstance(found, dict) else {}

    @cached_property  # asked for each file
    def synthetic_cases(self) -> frozenset[str]:
        """Names of the synthetic cases in a set of acquired ones (see `write_extended`)."""
        named = self.extra.get("synthetic_cases")
        return frozenset(map(str, named)) if isinstance(named, list) else frozenset()

    @cached_property
    def painted(self) -> frozenset[str]:
        """Names of the painted channels in a set of acquired ones (see `write_completed`)."""
        named = self.extra.get("synthetic_modalities")
        return frozenset(map(str, named)) if isinstance(named, list) else frozenset()

    @property
    def patient_pattern(self) -> str:
        """By which patients are found in the names of cases; empty: as they are named here."""
        return str(self.extra.get("patient_pattern", ""))

    @property
    def incomplete(self) -> bool:
        """Whether cases may lack modalities; otherwise a missing one is an error."""
        return self.extra.get("incomplete") is True

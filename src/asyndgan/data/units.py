"""Whether stored intensities are Hounsfield units: one rule for the plan and for `check`."""

import re
from collections.abc import Collection
from typing import Final

WARMEST_AIR: Final = -200
"""In a CT every patient's lowest intensity is below this, in Hounsfield units."""

COLDEST: Final = -5000
"""Lowest intensity of a CT: scanners mark with some -3000 what they did not see."""

HOTTEST: Final = 5000
"""Highest intensity that is taken for a CT's where the name does not say so; metal has more."""

_CT: Final = re.compile(r"(?<![a-z])(cb|ld)?ct(?![a-z])|hounsfield|tomogra", re.IGNORECASE)
_OTHER: Final = re.compile(
    r"(?<![a-z])(t[12]|flair|pd|adc|dwi|mr|pet|suv|us|fluo|dapi|gfp|rgb)(?![a-z])"
    r"|mri|fluor|microsc|ultraso|phase",
    re.IGNORECASE,
)


def in_hounsfield(
    name: str, lowest: Collection[float], highest: Collection[float], *, volumes: bool
) -> bool:
    """Whether a modality is a CT: by its range, and unless its name says otherwise.

    Args:
        name: of the modality.
        lowest: stored intensity of each case or patient, one at least.
        highest: likewise.
        volumes: whether all cases are volumes.
    """
    cold = volumes and max(lowest) <= WARMEST_AIR and min(lowest) >= COLDEST
    named = _CT.search(name)
    return cold and bool(named or (not _OTHER.search(name) and max(highest) <= HOTTEST))

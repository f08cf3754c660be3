"""Whether stored intensities are Hounsfield units: one rule for the plan and for `check`."""

import re
from collections.abc import Collection, Mapping
from statistics import median
from typing import Final

WARMEST_AIR: Final = -200
"""In a CT most patients' lowest intensity is below this, in Hounsfield units."""

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


def units_of(extra: Mapping[str, object]) -> dict[str, str]:
    """Units of modalities that a dataset.json names, as an import writes them."""
    units = extra.get("units")
    found = units.items() if isinstance(units, dict) else ()
    return {name: unit for name, unit in found if isinstance(unit, str)}


def in_hounsfield(
    name: str,
    lowest: Collection[float],
    highest: Collection[float],
    unit: str | None = None,
) -> bool:
    """Whether a modality of volumes is a CT: by its unit, or by its range, unless its name objects.

    Most patients decide: one may be a crop without air, or hold metal. `lowest` and `highest`
    stored intensity of each patient, one at least; `unit` of these, None: nobody says.
    """
    if unit is not None:
        return unit.upper() == "HU"
    cold = COLDEST <= median(lowest) <= WARMEST_AIR
    named = _CT.search(name)
    return cold and bool(named or (not _OTHER.search(name) and median(highest) <= HOTTEST))

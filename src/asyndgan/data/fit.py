"""Whether a recipe's intensities and grid fit a data set's images."""

from collections.abc import Sequence
from pathlib import Path

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW
from asyndgan.data.prepared import Case
from asyndgan.errors import DataError
from asyndgan.recipe import ImageSection

MOST_CLIPPED = 0.5
"""Largest fraction of a modality's non-black pixels that may lie above a fixed range."""

MOST_CUT = 0.05
"""Largest fraction of a patient's images, by brightness, that a generator may not paint."""

LEAST_USED = 0.02
"""Smallest fraction of the intensity range that a modality's images must span."""


def check_contrast(cases: Sequence[Case], image: ImageSection, where: str | Path) -> None:
    """Refuses images that the recipe's intensity range reduces to almost one grey value.

    The default range, 0 to 255, fits PNGs; a scanner's volumes may hold any intensities.

    Args:
        cases: prepared cases.
        image: how they were prepared.
        where: the site or folder that they are of, for the message.

    Raises:
        DataError: for some modality, more than half of the non-black pixels lie above a fixed range
            (averaged over cases), or all pixels lie within a fiftieth of the range.
    """
    for place, name in enumerate(cases[0].modalities):
        having = [case for case in cases if name not in case.absent]
        if not having:
            continue
        found = image.intensity_of(name)
        beyond = 0.0
        if found.kind == "range":  # other kinds adapt to each case's own intensities
            beyond = sum(case.preparation.clipped[place] for case in having) / len(having)
        lowest = min(float(case.image[place].min()) for case in having)
        highest = max(float(case.image[place].max()) for case in having)
        used = (highest - lowest) / (IMAGE_HIGH - IMAGE_LOW)
        if beyond <= MOST_CLIPPED and used >= LEAST_USED:
            continue
        what = (
            f"{beyond:.0%} of its pixels that are not black lie beyond and would be white"
            if beyond > MOST_CLIPPED
            else "all of its pixels lie within a fiftieth of that range"
        )
        raise DataError(
            f"{where}: modality {name} does not fit image.intensity ({found.kind}, "
            f"{found.low:g} to {found.high:g}): {what}. Set the range that is stored, "
            "or take percentiles, which suit any: --set image.intensity.default.kind=percentiles "
            "--set image.intensity.default.low=0.5 --set image.intensity.default.high=99.5"
        )


def check_uncut(cases: Sequence[Case], image: ImageSection, where: Path) -> None:
    """Refuses images of which a generator paints a part only: stored, the rest would be black.

    Raises:
        DataError: cropping cut off more than `MOST_CUT` of a patient's images, by brightness.
    """
    of_patients: dict[str, tuple[float, float]] = {}
    for case in cases:  # an end slice of a volume, all air, says nothing
        lost, whole = of_patients.get(case.patient, (0.0, 0.0))
        more, bright = case.preparation.cut
        of_patients[case.patient] = lost + more, whole + bright
    cut = sum(lost > MOST_CUT * whole for lost, whole in of_patients.values())
    if cut:
        height, width = image.size
        raise DataError(
            f"{where}: of {cut} of {len(of_patients)} patients more than {MOST_CUT:.0%} of what is "
            f"not dark lies beyond the {height} x {width} pixels that this run paints; painted "
            "images would be black there. Take a run with image.fit 'pad' or, if it has "
            "image.spacing, a larger image.size."
        )

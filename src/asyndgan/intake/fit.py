"""Whether a recipe's intensities and grid fit a data set's images."""

from collections.abc import Sequence
from pathlib import Path

from asyndgan.errors import DataError
from asyndgan.intake.findings import findings, intensities, refuse, silent
from asyndgan.recipe import ImageSection
from asyndgan.store.prepared import Case
from asyndgan.store.survey import Survey

MOST_CUT = 0.05
"""Largest fraction of a patient's images, by brightness, that a generator may not paint."""


def check_contrast(cases: Sequence[Case], image: ImageSection, where: str | Path) -> None:
    """Refuses images of which the recipe's intensities throw much away.

    The default range, 0 to 255, fits PNGs; a scanner's volumes may hold any intensities.

    Args:
        cases: prepared cases.
        image: how they were prepared.
        where: the site or folder that they are of, for the message.

    Raises:
        DataError: as `asyndgan.intake.findings.intensities` and `silent` find.
    """
    refuse(findings(Survey.of(cases, image), (silent, intensities)), where)


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

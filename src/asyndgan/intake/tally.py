"""What is counted, and what is found wrong, while a data set's files are read."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from asyndgan.intake.listing import CaseFiles
from asyndgan.intake.readers import READERS, DataFileError
from asyndgan.store.info import DatasetInfo
from asyndgan.store.survey import Survey
from asyndgan.texts import counted

SHOWN_NAMELESS = 8
"""Most unnamed labels a report lists; a picture mistaken for a mask may hold hundreds."""


@final
@dataclass(frozen=True)
class Fault:
    """One problem in a data set that has to be corrected.

    Attributes:
        file: the file or folder at fault.
        reason: what is wrong, without a full stop.
        remedy: what to do, as a full sentence.
    """

    file: Path
    reason: str
    remedy: str


@dataclass
class Tally:
    """Counts and faults collected while the files are read.

    `fits` says whether the recipe of the survey is the one that will train, and `pattern` what a
    patient is; `patients` are those of the cases, by the case's name.
    """

    survey: Survey
    pattern: str
    fits: bool
    patients: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    spacings: Counter[tuple[float, ...]] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    cases_with: Counter[int] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fault(self, file: Path, reason: str, remedy: str) -> None:
        """Records a fault; checking continues."""
        self.faults.append(Fault(file, reason, remedy))

    def error(self, error: DataFileError) -> None:
        """Records an error raised by a reader; checking continues."""
        self.fault(error.file, error.reason, error.remedy)


def rows(
    info: DatasetInfo, described: bool, cases: Sequence[CaseFiles], patients: int, tally: Tally
) -> Iterator[tuple[str, str]]:
    """Heading and text of each row of a report.

    Args:
        info: of the data set.
        described: whether its dataset.json is usable.
        cases: its cases.
        patients: number of its patients.
        tally: what was counted.
    """
    volumes = READERS[info.file_ending].volumes
    noun = "volumes" if volumes else "cases"
    yield noun, f"{len(cases)} ({tally.masks} with a mask)"
    if info.synthetic_cases:
        yield f"synthetic {noun}", f"{len(info.synthetic_cases)} of them; counted among all others"
    yield "patients", str(patients)
    yield "modalities", ", ".join(info.modalities) if described else "not known"
    for modality, count in tally.lacking.items() if info.incomplete else ():
        yield f"lack {modality}", f"{count} {noun}; they are judged by what they have"
    yield "size", _range(tally.sizes)
    if READERS[info.file_ending].spaced:
        yield "spacing (mm)", _range(tally.spacings)
    names = {number: name for name, number in info.labels.items()}
    total = tally.pixels.total()
    nameless = sorted(tally.pixels.keys() - names.keys())[:SHOWN_NAMELESS]
    for number in sorted([*names, *nameless]):
        share = 100 * tally.pixels[number] / total if total else 0
        heading = f"label {number} {names.get(number, '(no name)')}"
        yield heading, f"{share:.2f} % of the pixels, in {tally.cases_with[number]} {noun}"
    for modality in info.modalities:
        if modality in tally.extremes:
            low, high = tally.extremes[modality]
            yield f"intensity {modality}", f"{low:g} to {high:g}"
    if tally.fits and tally.survey.volumes:
        yield "in training", _trained(tally.survey, volumes=volumes)


def _trained(survey: Survey, *, volumes: bool) -> str:
    """What the recipe makes of the cases."""
    counts = [volume.slices for volume in survey.volumes.values()]
    height, width = survey.image.size
    of = f", {_range([(count,) for count in counts])} a volume" if volumes else ""
    what = counted(survey.slices, "slice" if volumes else "picture")
    left = ""
    if survey.left_out:
        left = f"; {survey.left_out} without a label are left out"
        left += ", and any whose labels are lost by scaling"
    left += f"; {survey.without} hold no label" if survey.without else ""
    made = f"{what} of {height} x {width} pixels{of}"
    cut = f", {100 * survey.cut:.0f} % of what is stored is cut off" if survey.cut > 0.005 else ""
    return f"{made}, {100 * survey.empty:.0f} % of each is padding{cut}{left}"


def _range(found: Iterable[Sequence[int | float]]) -> str:
    """Formats the smallest and largest value along each axis, as in '128 x 96 to 160'."""
    axes = [(f"{min(axis):.4g}", f"{max(axis):.4g}") for axis in zip(*found, strict=False)]
    return " x ".join(low if low == high else f"{low} to {high}" for low, high in axes) or "none"

"""Reads data sets from their files, and keeps nothing."""

from collections.abc import Iterator
from pathlib import Path

from asyndgan.intake.description import describe
from asyndgan.intake.listing import list_cases
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN, patients_of, read_case
from asyndgan.store.case import RawCase
from asyndgan.store.geometry import Axis
from asyndgan.store.info import DatasetInfo


def read_cases(
    folder: Path,
    *,
    axis: Axis = "axial",
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    info: DatasetInfo | None = None,
) -> Iterator[RawCase]:
    """All cases as stored, slice by slice, sorted by name."""
    info = info or describe(folder)
    cases = list_cases(folder, info)
    patients = patients_of((files.name for files in cases), patient_pattern)
    for files in cases:
        yield from read_case(files, info, axis=axis, patient=patients[files.name])

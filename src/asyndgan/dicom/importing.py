"""Writes what was picked of an archive as a data set of patients with opaque names."""

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import nibabel as nib
import numpy as np

from asyndgan.dicom.choosing import Choice, Pick
from asyndgan.dicom.files import DicomError
from asyndgan.dicom.geometry import voxels_of
from asyndgan.dicom.segments import draw
from asyndgan.dicom.series import faults_of
from asyndgan.errors import DataError
from asyndgan.export.writing import written_whole
from asyndgan.intake.readers import NOT_ACQUIRED
from asyndgan.texts import bounded_text, parsed_json, replace_text

MAX_MAP: Final = 2**26

_NAMED: Final = re.compile(r"p\d{8}")


@final
class PatientMap:
    """The file of a site that tells which patient has which opaque name; never part of a data set.

    A patient who is known keeps their name, so that they are found in a training and a test set.
    Raises `DataError` if the file, which need not exist yet, is no map or lies in the data set
    `out`.
    """

    def __init__(self, path: Path, out: Path) -> None:
        if path.resolve().is_relative_to(out.resolve()):
            raise DataError(
                f"{path}: lies in the data set, and the map of patients must not be handed on with "
                "it. Name a file elsewhere by --map."
            )
        self.path = path
        self._names: dict[str, str] = {}
        self._cases: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                table = parsed_json(bounded_text(path, MAX_MAP, links=True))
                self._names = {str(key): str(name) for key, name in table["patients"].items()}
                self._cases = {str(key): dict(about) for key, about in table["cases"].items()}
                if not all(_NAMED.fullmatch(name) for name in self._names.values()):
                    raise ValueError("a name that this command does not give")
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise DataError(
                    f"{path}: is no map of patients. Name another file by --map."
                ) from None

    def case(self, pick: Pick) -> str:
        """Names a case: `p`, a random number, and `_s` with the number of the patient's case."""
        patient, study = pick.key
        while patient not in self._names:
            name = f"p{secrets.randbelow(9 * 10**7) + 10**7}"
            if name not in self._names.values():
                self._names[patient] = name
        about = {
            "study": study,
            "series": {name: series.key[2] for name, series in pick.channels.items()},
            "segmentations": [mask.key[2] for mask in pick.masks],
        }
        number = 1
        while self._cases.get(name := f"{self._names[patient]}_s{number}", about) != about:
            number += 1
        self._cases[name] = about
        return name

    def save(self) -> None:
        """Writes the file, for its owner alone; raises `StorageError` if it cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = {"patients": self._names, "cases": self._cases}
        replace_text(self.path, json.dumps(table, indent=1, ensure_ascii=False) + "\n", mode=0o600)


def read_cases(
    cases: Sequence[Pick],
    choice: Choice,
    labels: Mapping[str, int],
    faults: list[DicomError],
) -> Iterator[tuple[Pick, list[np.ndarray]]]:
    """Decodes cases, one at a time; `faults` is filled with those that cannot be decoded.

    Yields a case and its arrays on its grid: the channels, and a mask (uint8) if it has one.
    """
    for case in cases:
        channels = list(case.channels.values())
        try:
            mask = _mask(case, choice, labels)
            arrays = []
            for series, grid in zip(channels, case.grids, strict=True):
                with faults_of(series):
                    arrays.append(voxels_of(series, grid))
        except DicomError as fault:
            faults.append(fault.of(channels[0]))
        else:
            yield case, arrays + ([] if mask is None else [mask])


def _mask(case: Pick, choice: Choice, labels: Mapping[str, int]) -> np.ndarray | None:
    if not case.masks:
        return None
    mask = np.zeros(case.grid.shape, np.uint8, order="F")
    drawn = [
        {n: labels[name] for n, text in each.segments.items() if (name := choice.label_of(text))}
        for each in case.masks
    ]
    often = Counter(label for numbers in drawn for label in set(numbers.values()))
    if often and max(often.values()) > 1:
        raise DicomError(
            "has several segmentations with the same label",
            "Name the ones that you want by --segmentation DESCRIPTION.",
        )
    for each, numbers in zip(case.masks, drawn, strict=True):
        with faults_of(each):
            if not choice.labels and "" in each.segments.values():
                raise DicomError(
                    "has segments without a name", "Name the labels, as in --label lesion='*'."
                )
            draw(mask, each, case.grid, numbers, ordered=bool(choice.labels))
    with faults_of(case.masks[0]):
        if not mask.any():
            raise DicomError(
                "has no voxel with a label", "Name its segments by --label, or leave it out."
            )
    return mask


def check_alike(cases: Sequence[Pick], faults: Sequence[DicomError] = ()) -> None:
    """Raises `DataError` without cases, or if modalities differ or only some are synthetic."""
    if not cases:
        none = (
            "The folder holds no DICOM images, but for overviews (localizers) if those are listed"
        )
        why = "What is listed above says why" if faults else none
        raise DataError(f"there is no case to import. {why}.")
    kinds = {tuple(case.channels) for case in cases}
    if len(kinds) > 1:
        named = " or ".join(sorted(", ".join(kind) for kind in kinds))
        raise DataError(f"cases are of {named}. Take one, for example --series {min(kinds)[0]}.")
    if len({s.synthetic for case in cases for s in case.channels.values()}) > 1:
        raise DataError("some series are synthetic, others acquired. Import them one by one.")


def units_by_channel(cases: Sequence[Pick]) -> dict[str, set[str]]:
    """The units of each channel; "" stands for those that no header tells."""
    found: dict[str, set[str]] = {}
    for case in cases:
        for name, series in case.channels.items():
            found.setdefault(name, set()).add(series.unit)
    return found


def write(
    out: Path,
    cases: Sequence[Pick],
    choice: Choice,
    labels: Mapping[str, int],
    patients: PatientMap,
    faults: list[DicomError],
) -> Iterator[tuple[Pick, str]]:
    """Writes a data set, one case at a time, and at its end the map of patients.

    `faults` is filled with cases that are left out after all.

    Yields:
        Each case with its name, when it is written.

    Raises:
        DataError: nothing could be written.
    """
    names = list(cases[0].channels)
    synthetic = any(series.synthetic for series in cases[0].channels.values())
    found = units_by_channel(cases)
    units = {name: unit.pop() for name, unit in found.items() if len(unit) == 1 and unit != {""}}
    count = 0
    with written_whole(out) as half:
        (half / "imagesTr").mkdir(parents=True)
        (half / "labelsTr").mkdir()
        for case, arrays in read_cases(cases, choice, labels, faults):
            name = patients.case(case)
            note = NOT_ACQUIRED if synthetic else ""
            for number, array in enumerate(arrays):
                image, mask = f"imagesTr/{name}_{number:04d}", f"labelsTr/{name}"
                path = half / f"{image if number < len(names) else mask}.nii.gz"
                _save(path, array, case.grid.affine, note)
            count += 1
            yield case, name
        if not count:
            raise DataError("no case could be imported. What is listed above says why.")
        about: dict[str, Any] = {
            "channel_names": {str(number): name for number, name in enumerate(names)},
            "labels": dict(labels),
            "numTraining": count,
            "file_ending": ".nii.gz",
            **({"units": units} if units else {}),
            **({"synthetic": True} if synthetic else {}),
        }
        (half / "dataset.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), "utf-8")
        patients.save()


def _save(path: Path, volume: np.ndarray, affine: np.ndarray, note: str) -> None:
    image = nib.Nifti1Image(volume, affine, dtype=volume.dtype)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode()
    image.header.set_slope_inter(1, 0)
    nib.save(image, path)

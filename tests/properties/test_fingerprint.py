"""A fingerprint that leaves a site does not tell of fewer patients than its policy wants."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from asyndgan.intake.fingerprint import measured
from asyndgan.recipe.fingerprint import STEPS, Fingerprint

LABELS = {"background": 0, "organ": 1, "lesion": 2}


@dataclass
class Patient:
    """Thick slices, in most of which an organ lies on one side; all patients are alike at first."""

    shape: tuple[int, ...] = (9, 8, 4)
    mm: tuple[float, ...] = (1.0, 1.0, 3.0)
    turn: int = 1
    cases: int = 1
    second: bool = True
    changes: list[Callable[[np.ndarray, np.ndarray], None]] = field(default_factory=list)

    def write(self, folder: Path, name: str) -> None:
        places = np.arange(np.prod(self.shape)).reshape(self.shape)
        image, mask = (places * 37 % 90 + 5).astype(np.float32), np.zeros(self.shape, np.uint8)
        mask[np.s_[1:4, 2:6, :3][: mask.ndim]] = 1
        image[mask > 0] += 100
        for change in self.changes:
            change(image, mask)
        affine = np.diag([self.turn * self.mm[0], *self.mm[1:], *[1.0] * (4 - len(self.mm))])
        files = [f"labelsTr/{name}_s{{}}.nii", f"imagesTr/{name}_s{{}}_0000.nii"]
        files += [f"imagesTr/{name}_s{{}}_0001.nii"] if self.second else []
        for case in range(self.cases):
            for file in files:
                values = mask if file.startswith("labels") else image
                nib.save(nib.Nifti1Image(values, affine), folder / file.format(case))


def changed(at: Any, to: float, *, mask: bool = False) -> Callable[[Patient], object]:
    """A change of some voxels of the image or the mask."""

    def change(image: np.ndarray, labels: np.ndarray) -> None:
        (labels if mask else image)[at] = to

    return lambda patient: patient.changes.append(change)


def mirrored(patient: Patient) -> None:
    def change(image: np.ndarray, mask: np.ndarray) -> None:
        image[:], mask[:] = image[::-1].copy(), mask[::-1].copy()

    patient.changes.append(change)


FEATURES: dict[str, Callable[[Patient], object]] = {
    "a lesion": changed(np.s_[6:, 6:, 3:], 2, mask=True),
    "no organ": changed(np.s_[:], 0, mask=True),
    "an organ in every slice": changed(np.s_[1:4, 2:6], 1, mask=True),
    "an organ of the other side": mirrored,
    "more slices": lambda patient: setattr(patient, "shape", (9, 8, 7)),
    "thin slices": lambda patient: setattr(patient, "mm", (1.0, 1.0, 1.0)),
    "a picture": lambda patient: vars(patient).update(shape=(9, 8), mm=(1.0, 1.0)),
    "another orientation": lambda patient: setattr(patient, "turn", -1),
    "several cases": lambda patient: setattr(patient, "cases", 4),
    "no second modality": lambda patient: setattr(patient, "second", False),
    "a pixel of 300": changed(np.s_[0, 0], 300),
    "a fraction": changed(np.s_[0, 0], 0.5),
    "a pixel of 1e6": changed(np.s_[0, 0], 1e6),
    "air": changed(np.s_[5:, :], -1000),
    "other intensities": changed(np.s_[:], 77),
}  # fmt: skip


def fingerprint_of(patients: list[Patient]) -> Fingerprint:
    with TemporaryDirectory() as place:
        folder = Path(place)
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir()
        for number, patient in enumerate(patients):
            patient.write(folder, f"p{number}")
        about = {"channel_names": {"0": "image", "1": "other"}, "labels": LABELS,
                 "incomplete": True, "file_ending": ".nii"}  # fmt: skip
        (folder / "dataset.json").write_text(json.dumps(about))
        return measured(folder)


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], key if name != "unlabelled" else name)
    elif isinstance(one, list | tuple) and len(one) == len(other):
        for each in zip(one, other, strict=True):
            yield from differences(*each, name)
    elif one != other:
        yield name, one, other


MEANS = ("unlabelled", "slices", "explained")
"""Fractions of slices, or of variance, which single patients move by their part and a step."""


@settings(max_examples=settings.default.max_examples // 4, phases=[Phase.generate])
@given(st.data(), st.sampled_from([*FEATURES]), st.integers(2, 4), st.booleans())
def test_what_too_few_patients_have_or_lack_is_told_as_if_none_did(data, feature, fewest, lack):
    assume(not (lack and feature == "no organ"))  # a set without any label is not measured
    odd = data.draw(st.integers(1, fewest - 1), "odd")
    patients = [Patient() for _ in range(data.draw(st.integers(2 * fewest, 2 * fewest + 6)))]
    for patient in patients[odd:] if lack else []:
        FEATURES[feature](patient)
    some = fingerprint_of(patients).bounded(fewest)
    for patient in patients[:odd]:
        FEATURES[feature](patient)
    other = fingerprint_of(patients).bounded(fewest)
    for name, before, after in differences(some.model_dump(), other.model_dump()):
        assert name in MEANS, (name, before, after)
        assert abs(before - after) <= odd / len(patients) + STEPS[-1] + 1e-9, (name, before, after)

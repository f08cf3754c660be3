"""Data sets of volumes, as other software may write them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib


def write_volumes(
    folder: Path,
    cases: Mapping[str, Sequence[Any]],
    *,
    channels: Sequence[str] = ("T1",),
    label: str = "organ",
    ending: str = ".nii.gz",
    **about: object,
) -> Path:
    """Writes cases by name: an image for each channel, a mask and an affine matrix."""
    for name, (*images, mask, affine) in cases.items():
        files = [(f"imagesTr/{name}_{number:04}", image) for number, image in enumerate(images)]
        for file, values in (*files, (f"labelsTr/{name}", mask)):
            path = folder / f"{file}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, affine), path)
    table = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, label: 1}, "numTraining": len(cases), "file_ending": ending,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(table | about))
    return folder

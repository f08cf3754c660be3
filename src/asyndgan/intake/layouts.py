"""What a folder is that holds no dataset.json: DICOM, BIDS, several data sets, or part of one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from asyndgan.intake.near import MOST_OPENED, ending_of, is_dicom, is_litter
from asyndgan.intake.remedies import FROM_DICOM

NAMED_FOLDERS: Final = 5
"""Most folders that an error names where a folder of data sets was given in place of one."""

MOST_SEEN: Final = 2000
"""Most entries that are looked at."""

DEPTH: Final = 4
"""Levels of folders that are looked into."""

WRITE_IT: Final = "Write it as nnU-Net wants it: channel_names, labels, numTraining, file_ending."
LAY_OUT: Final = "put images in imagesTr as CASE_0000{0}, masks in labelsTr as CASE{0}"


def without_description(folder: Path) -> tuple[str, str]:
    """Why a folder has no dataset.json, and what to do: reason and remedy."""
    missing = "this file does not exist"
    if (folder / "dataset.json").is_symlink():
        return "is a link to a file that does not exist", "Fetch it, or put a copy here."
    seen = list(_inside(folder))
    sets = [path.parent for path in seen if path.name == "dataset.json"]
    if sets:
        names = ", ".join(path.relative_to(folder).as_posix() for path in sets[:NAMED_FOLDERS])
        return missing, f"Name the folder of one data set: {names}."
    if folder.name.startswith(("images", "labels")) and (folder.parent / "dataset.json").is_file():
        return missing, f"Name the folder above, which holds it: {folder.parent}."
    named = [path.name for path in seen if path.parent == folder]
    alike = [name for name in named if name.lower().removesuffix(".txt") == "dataset.json"]
    if alike:
        return missing, f"Rename {alike[0]} to dataset.json."
    files = [path for path in seen if path.is_file()]
    shown = [path.relative_to(folder).as_posix() for path in files if ending_of(path.name)]
    volumes = [name for name in shown if name.endswith((".nii", ".nii.gz"))]
    if "dataset_description.json" in named or any(
        part.startswith("sub-") for name in volumes for part in name.split("/")[:-1]
    ):
        example = f", with {volumes[0]}" if volumes else ""
        return (
            f"this file does not exist; the folder looks like a BIDS data set{example}",
            f"Copy what you train on: {LAY_OUT.format('.nii.gz')}, and write dataset.json.",
        )
    if dicom := [path for path in files[:MOST_OPENED] if is_dicom(path)]:
        return (
            "this file does not exist; the folder holds DICOM files, as "
            f"{dicom[0].relative_to(folder).as_posix()}",
            FROM_DICOM,
        )
    if shown and not (folder / "imagesTr").is_dir():
        lay_out = LAY_OUT.format(ending_of(shown[0]))
        return missing, f"Move {shown[0]} and the others: {lay_out}, and write dataset.json."
    return missing, WRITE_IT


def _inside(folder: Path) -> Iterator[Path]:
    """Files and folders in a folder, level by level and sorted, no more than `MOST_SEEN`."""
    level, count = [folder], 0
    for _ in range(DEPTH):
        deeper: list[Path] = []
        for place in level:
            try:
                paths = sorted(place.iterdir())
            except OSError:
                continue
            for path in paths:
                if is_litter(path.name):
                    continue
                count += 1
                if count > MOST_SEEN:
                    return
                yield path
                if path.is_dir():
                    deeper.append(path)
        level = deeper

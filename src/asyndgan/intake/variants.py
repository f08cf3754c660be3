"""Other descriptions of data sets than nnU-Net's version 2, brought into its keys.

The Medical Segmentation Decathlon (MSD) and nnU-Net's version 1 number the names of labels and list
the training files, which may hold several modalities each. Version 2 may list the files of each
case under `dataset`, and may name regions, lists of labels that overlap.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from asyndgan.intake.readers import READERS, DataFileError
from asyndgan.recipe import shown

FILES: Final = "dataset"
"""Key of a map of each case to its `images` and its `label`, in paths from dataset.json."""

OF_MSD: Final = ("modality", "training", "test", "numTest", "tensorImageSize")
MAX_PATH: Final = 512  # letters; a system allows 255 bytes for a name and some 4096 in all
MAX_NAME: Final = 255
MAX_DIGITS: Final = 9
_INSIDE: Final = (
    "Write paths from the folder of dataset.json, without '..', and names of cases without '/'; "
    "link what lies elsewhere."
)


def in_version_2(path: Path, table: Mapping[str, object]) -> dict[str, object]:
    """The content of a dataset.json in the keys of nnU-Net's version 2; another stays as it is.

    Raises `DataFileError` if its list of training files cannot be used.
    """
    modality, training = table.get("modality"), table.get("training")
    if "file_ending" in table or not isinstance(modality, dict) or not isinstance(training, list):
        return dict(table)
    entries = [entry for entry in training if isinstance(entry, dict)]
    images = [str(entry.get("image")) for entry in entries]
    names = {PurePosixPath(name).name for name in images}
    ending = next((e for e in READERS if images and images[0].endswith(e)), None)
    if len(names) < len(training) or not ending or not all(n.endswith(ending) for n in names):
        raise DataFileError(
            path,
            "lists training files that are no images of one format, or one of them twice",
            'Write each as {"image": "imagesTr/CASE.nii.gz", "label": "labelsTr/CASE.nii.gz"}.',
        )
    labels = table.get("labels")
    if isinstance(labels, dict) and _numbers_names(labels):
        labels = {name: int(number) for number, name in labels.items()}
    return {
        **{key: value for key, value in table.items() if key not in OF_MSD},
        "channel_names": modality,
        "labels": labels,
        "file_ending": ending,
        FILES: {
            PurePosixPath(name).name.removesuffix(ending): {
                "images": _images(path.parent, name, ending, len(modality)),
                "label": entry.get("label"),
            }
            for name, entry in zip(images, entries, strict=True)
        },
    }


def _numbers_names(labels: Mapping[str, object]) -> bool:
    """Whether labels map numbers to names, each once; others are refused with all labels."""
    names = [name for name in labels.values() if isinstance(name, str)]
    numbers = [number for number in labels if number.isdecimal() and len(number) < MAX_DIGITS]
    return len({*names}) == len(numbers) == len(labels)


def _images(folder: Path, name: str, ending: str, modalities: int) -> list[str | None]:
    """The files of a case in MSD's list: version 1 of nnU-Net lists them without a number.

    The place of a number without a file holds None, so the others keep theirs.
    """
    numbered = [f"{name.removesuffix(ending)}_{n:04d}{ending}" for n in range(modalities)]
    found = [one if is_inside(one) and (folder / one).is_file() else None for one in numbered]
    return found if any(found) and not (is_inside(name) and (folder / name).exists()) else [name]


def is_inside(name: str) -> bool:
    """Whether a path is one from the folder of a data set that does not lead out of it."""
    path = PurePosixPath(name)
    plain = 0 < len(name) <= MAX_PATH and name.isprintable() and "\\" not in name
    short = all(len(part.encode(errors="replace")) <= MAX_NAME for part in path.parts)
    return plain and short and not path.is_absolute() and ".." not in path.parts


def checked_files(
    path: Path, files: object
) -> dict[str, tuple[tuple[str | None, ...], str | None]] | None:
    """Checks the map of cases to files, and returns the images and mask of each; None: no map.

    Images are in the order of the modalities, with None in place of one that the case lacks. Raises
    `DataFileError` if it is of another form, or leads out of the folder.
    """
    if files is None:
        return None
    form = f'Write "{FILES}": {{"CASE": {{"images": ["a.png"], "label": "b.png"}}}}.'
    fault = DataFileError(path, f"{FILES} is no map of cases to files", form)
    if not isinstance(files, dict) or not files:
        raise fault
    checked = {}
    for case, entry in files.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        places = images if isinstance(images, list) else []
        names = [name for name in (*places, label) if name is not None]
        if places.count(None) == len(places) or not all(isinstance(name, str) for name in names):
            raise fault
        outside = [name for name in (*names, case) if not is_inside(name)]
        if outside or PurePosixPath(case).name != case:  # folders bear the names of cases
            raise DataFileError(path, f"{FILES} names {shown((outside or [case])[0])}", _INSIDE)
        checked[case] = (tuple(places), label)
    return checked


def disjoint(labels: Mapping[str, object]) -> dict[str, object]:
    """Labels that do not overlap, in place of regions (lists of the numbers in the masks).

    A number is named by the smallest region that holds it: alone, by the region's name, with
    others, as the rest of it. With whole = [1, 2, 3], core = [2, 3] and enhancing = 3 these are
    1, "rest of whole", 2, "rest of core" and 3, "enhancing". A name that is taken gets its number.
    """
    regions = {
        name: {*number} if isinstance(number, list) else {number} for name, number in labels.items()
    }
    smallest = {
        number: min((r for r in regions if number in regions[r]), key=lambda r: len(regions[r]))
        for number in sorted(set().union(*regions.values()))
    }
    named: dict[str, object] = {}
    for number, region in smallest.items():
        name = region if len(regions[region]) == 1 else f"rest of {region}"
        taken = name in named or [*smallest.values()].count(region) > 1
        named[f"{name} ({number})" if taken else name] = number
    return named

"""A data set from arrays in memory, for those whose own code reads their files."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from asyndgan.errors import DataError
from asyndgan.export.writing import in_colour, write_dataset, written_whole
from asyndgan.intake.patients import patients_of
from asyndgan.intake.readers.reader import viewed
from asyndgan.store.case import RawCase


def from_arrays(
    folder: str | PathLike[str],
    images: Sequence[Any],
    masks: Sequence[Any] | None,
    patients: Sequence[str],
    *,
    modalities: Sequence[str],
    labels: Mapping[str, int],
    spacing: Sequence[float] | None = None,
) -> Path:
    """Writes a site's data set from arrays, for data that your own code reads.

    Args:
        folder: new folder.
        images: of each case an array or tensor (channels, rows, columns), or of a volume (channels,
            right, anterior, superior) as MONAI's `Orientationd(axcodes="RAS")` gives it.
        masks: of each case whole numbers on the same sides, with one channel or none; None for a
            case that nobody labelled. None instead of the list: none is.
        patients: of each case whose it is: letters, digits, "-", "+" and ".".
        modalities: names of the channels.
        labels: name to number, "background" to 0.
        spacing: millimetres along each side; None: 1.

    Returns:
        The folder, for `train` and the others.

    Raises:
        DataError: the arrays do not fit together, or the folder cannot be written.
    """
    given = [None] * len(images) if masks is None else masks
    if not len(images) == len(given) == len(patients) > 0:
        raise DataError(
            f"{len(images)} images, {len(given)} masks and {len(patients)} patients were given. "
            "Give one of each for every case, and None for a mask that there is not."
        )
    first = _array(images[0])
    axes = first.ndim - 1
    apart = np.ones(axes) if spacing is None else np.asarray(spacing, float).ravel()
    if axes not in (2, 3) or len(apart) != axes or not (np.isfinite(apart) & (apart > 0)).all():
        raise DataError(
            f"the first image has the shape {first.shape}, and the spacing is "
            f"{spacing}. Give channels first, then two sides of pictures or three of volumes, and "
            "for each side the millimetres, above 0."
        )
    # Volumes are given (right, anterior, superior), and written as their slices are viewed.
    held = tuple(map(float, apart if axes == 2 else apart[::-1]))
    count: dict[str, int] = {}
    cases = []
    for number, (image, mask, whose) in enumerate(zip(images, given, patients, strict=True)):
        channels, patient = _array(image), str(whose)
        drawn = None if mask is None else _array(mask)
        sides = channels.shape[1:]
        if (
            (len(channels), len(sides)) != (len(modalities), axes)
            or 0 in sides
            or channels.dtype.kind not in "biuf"
        ):
            raise DataError(
                f"image {number} has the shape {channels.shape} and the type {channels.dtype}. "
                f"Give {len(modalities)} channels ({', '.join(modalities)}) and {axes} sides of "
                "real numbers."
            )
        if in_colour(modalities) and axes == 2 and channels.dtype != np.uint8:
            raise DataError(
                f"image {number} is of {channels.dtype}, and red, green and blue are stored in 8 "
                "bits. Give uint8 from 0 to 255, or name the channels otherwise."
            )
        if drawn is not None and (
            drawn.shape[-axes:] != sides
            or drawn.size != channels[0].size
            or drawn.dtype.kind not in "iub"
        ):
            raise DataError(
                f"mask {number} has the shape {drawn.shape} and the type {drawn.dtype}, its image "
                f"{channels.shape}. Give whole numbers, and the sides of the image."
            )
        count[patient] = count.get(patient, 0) + 1
        named = f"{patient}_s{count[patient]:03}"
        labelled = None if drawn is None else drawn.reshape(sides).astype(np.int64)
        if axes == 3 and labelled is not None:
            labelled = viewed(labelled, 2)
        planes = [viewed(volume, 2) for volume in channels] if axes == 3 else channels
        by_name = dict(zip(modalities, planes, strict=True))
        cases.append(RawCase(named, patient, by_name, labelled, held))
    read = patients_of(case.name for case in cases)
    if other := next((case for case in cases if read[case.name] != case.patient), None):
        raise DataError(
            f"patient '{other.patient}' would be read as another. Name each patient, and none with "
            "'_s' or '_z' and a number."
        )
    out = Path(folder)
    with written_whole(out) as half:
        write_dataset(
            half, cases, modalities=modalities, name=out.name,
            labels={name: int(number) for name, number in labels.items()},
            file_ending=".tif" if axes == 2 else ".nii.gz",
        )  # fmt: skip
    return out


def _array(values: Any) -> np.ndarray:
    """An array of what may be a tensor that is on another device, learned, or of bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)

"""Converts stored arrays to the recipe's grid and intensities, and back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image, Mask
from asyndgan.errors import DataError
from asyndgan.recipe import ImageSection
from asyndgan.store.case import MODALITIES_LIMIT, Preparation, RawCase
from asyndgan.store.fitting import ABSENT, planned
from asyndgan.store.prepared import Case
from asyndgan.store.resampling import moved_into, nearest, resample, resample_labels


def prepare(
    raw: RawCase, image: ImageSection, modalities: Sequence[str], *, incomplete: bool = False
) -> Case:
    """Converts a case to the recipe's grid and intensities, with `modalities` in this order.

    An `incomplete` one may lack some of them, but not all.

    Returns:
        A case with image [C, *size] float32 in [-1, 1] and mask [*size] int64, where size is
        `image.size`. Pixels outside the stored image are -1 and label 0; a missing mask is all 0.

    Raises:
        DataError: a modality is missing, intensities are not finite, or resampling would enlarge
            the plane to more than `MOST_ENLARGED` pixels or shrink it below `LEAST_SIDE`.
    """
    preparation = planned(raw, image, modalities, incomplete=incomplete)
    ends = zip(modalities, preparation.scale, preparation.shift, strict=True)
    planes = [
        np.clip(raw.channels[name].astype(np.float64) * scale + shift, IMAGE_LOW, IMAGE_HIGH)
        if name in raw.channels
        else np.full(preparation.shape, IMAGE_LOW)
        for name, scale, shift in ends
    ]
    picture = torch.from_numpy(np.stack(planes).astype(np.float32))
    resized, offset = preparation.resized, preparation.offset
    picture = resample(picture, resized)
    picture = picture.clamp(IMAGE_LOW, IMAGE_HIGH)  # antialiasing weights sum to 1 only roughly
    placed = moved_into(picture, image.size, offset, IMAGE_LOW)
    if min(offset) < 0:
        preparation = replace(preparation, cut=_cut(picture, placed))
    labels = np.zeros(preparation.shape, np.int64) if raw.mask is None else raw.mask
    mask = resample_labels(torch.from_numpy(np.array(labels)), resized)
    return Case(
        name=raw.name,
        patient=raw.patient,
        image=placed,
        mask=moved_into(mask[None], image.size, offset, 0)[0],
        modalities=tuple(modalities),
        preparation=preparation,
        absent=tuple(name for name in modalities if name not in raw.channels),
    )


def invert(image: Image, preparation: Preparation) -> np.ndarray:
    """Restores the stored grid and intensities of an image [C, *size]: float32 (C, *stored sides).

    Exact (to float32) where nothing was resampled or clipped. Cropped parts get what -1 stands for.
    Raises `DataError` if `image` has another number of channels than the preparation.
    """
    if len(image) != len(preparation.scale):
        raise DataError(
            f"an image of {len(image)} channels cannot be brought back by the preparation of "
            f"{len(preparation.scale)}. Take the channels of the same case."
        )
    picture = image.detach().cpu().to(torch.float64)
    back = tuple(-start for start in preparation.offset)
    picture = moved_into(picture, preparation.resized, back, IMAGE_LOW)
    picture = resample(picture, preparation.shape)
    scale, shift = (
        np.array(values).reshape(-1, *[1] * len(preparation.shape))
        for values in (preparation.scale, preparation.shift)
    )
    return ((picture.numpy() - shift) / scale).astype(np.float32)


def invert_mask(mask: Mask, preparation: Preparation) -> np.ndarray:
    """Restores the stored grid of a mask [*size]; returns int64 of the stored sides."""
    back = tuple(-start for start in preparation.offset)
    labels = moved_into(mask.detach().cpu()[None], preparation.resized, back, 0)
    return nearest(labels[0], preparation.shape).numpy()


def stored_as(image: ImageSection, modality: str) -> tuple[float, float]:
    """Scale and shift for storing a painted channel: of the recipe's fixed range, else 0 to 255.

    Percentiles and standard deviations depend on a case's own intensities, which are unknown for a
    painted channel.
    """
    intensity = image.intensity_of(modality)
    if intensity.kind != "range":
        return ABSENT
    scale = (IMAGE_HIGH - IMAGE_LOW) / (intensity.high - intensity.low)
    return scale, IMAGE_LOW - intensity.low * scale


def blanked(case: Case, modalities: Collection[str]) -> Case:
    """Returns the case with these modalities blanked to -1 and marked as absent."""
    image = case.image.clone()
    image[[name in modalities for name in case.modalities]] = IMAGE_LOW
    return replace(case, image=image, absent=tuple({*case.absent, *modalities}))


def lacked_by_all(cases: Iterable[Case]) -> set[str]:
    """Modalities that are absent from every one of the cases, of which there is at least one."""
    return set.intersection(*(set(case.absent) for case in cases))


def widened(case: Case, modalities: Sequence[str]) -> Case:
    """Returns the case with exactly these channels; those it does not have are -1."""
    own = {name: place for place, name in enumerate(case.modalities)}
    lacking = [name for name in modalities if name not in own]
    nothing = torch.full(case.mask.shape, IMAGE_LOW)
    image = [case.image[own[name]] if name in own else nothing for name in modalities]
    scales = zip(case.preparation.scale, case.preparation.shift, strict=True)
    known = dict(zip(case.modalities, scales, strict=True))
    scale, shift = zip(*(known.get(name, ABSENT) for name in modalities), strict=True)
    return replace(
        case,
        image=torch.stack(image),
        modalities=tuple(modalities),
        preparation=replace(case.preparation, scale=scale, shift=shift),
        absent=(*case.absent, *lacking),
    )


def masks_as_images(cases: Sequence[Case], labels: Mapping[str, int]) -> list[Case]:
    """Cases whose images are their masks: a channel a label by number, 1 where it is, -1 elsewhere.

    Raises `DataError` if there are more labels than modalities a message may name.
    """
    if len(labels) > MODALITIES_LIMIT:
        raise DataError(
            f"the data set has {len(labels)} labels; a generator of masks paints "
            f"{MODALITIES_LIMIT} at most. Merge some of them."
        )
    ordered = sorted(labels, key=lambda name: labels[name])
    numbers = [labels[name] for name in ordered]
    return [
        replace(
            case, image=torch.stack([case.mask == number for number in numbers]) * 2.0 - 1.0,
            modalities=tuple(ordered), absent=(),
        )
        for case in cases
    ]  # fmt: skip


def _cut(picture: Tensor, placed: Tensor) -> tuple[float, float]:
    """Brightness of `picture` [C, *sides] that is not in `placed`, and all of it."""
    # Air need not be -1: scaled by standard deviations it is not.
    darkest = picture.amin(tuple(range(1, picture.ndim)), keepdim=True)
    whole, kept = (float((one - darkest).clamp(0).double().sum()) for one in (picture, placed))
    return max(0.0, whole - kept), whole

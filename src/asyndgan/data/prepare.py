"""Converts stored arrays to the recipe's grid and intensities, and back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asyndgan.arrays import IMAGE_HIGH, IMAGE_LOW, Image, Mask
from asyndgan.data.case import MODALITIES_LIMIT, Case, Preparation, RawCase
from asyndgan.data.description import DatasetInfo, describe
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN, read_cases, read_masks
from asyndgan.data.readers import DataFileError
from asyndgan.errors import DataError
from asyndgan.recipe import ImageSection, Intensity

SYNTHETIC_INTENSITY = Intensity(kind="range", low=0, high=255)
"""How synthetic data sets store [-1, 1] in 8 bits, independent of the recipe."""

ABSENT = (1 / 127.5, IMAGE_LOW)
"""Scale and shift for a modality that a case lacks: those of `SYNTHETIC_INTENSITY`."""

MOST_ENLARGED = 2**24
"""Most pixels of a plane that a recipe enlarges: only what is stored says what a machine bears."""

MOST_CLIPPED = 0.5
"""Largest fraction of a modality's non-black pixels that may lie above a fixed range."""

MOST_CUT = 0.05
"""Largest fraction of a patient's images, by brightness, that a generator may not paint."""

LEAST_USED = 0.02
"""Smallest fraction of the intensity range that a modality's images must span."""

ROUNDED = 1e-4
"""Tolerance at the ends of the intensity range, for rounding errors."""


def prepare(
    raw: RawCase, image: ImageSection, modalities: Sequence[str], *, incomplete: bool = False
) -> Case:
    """Converts one case to the recipe's grid and intensities.

    Args:
        raw: the case as stored.
        image: the recipe's grid and normalisation.
        modalities: the channels to return, in this order.
        incomplete: whether the case may lack some of them, but not all.

    Returns:
        A case with image [C, H, W] float32 in [-1, 1] and mask [H, W] int64, where H, W is
        `image.size`. Pixels outside the stored image are -1 and label 0; a missing mask is all 0.

    Raises:
        DataError: a modality is missing, intensities are not finite, or resampling would
            enlarge the plane to more than `MOST_ENLARGED` pixels.
    """
    missing = [modality for modality in modalities if modality not in raw.channels]
    if len(missing) == len(modalities) or (missing and not incomplete):
        raise DataError(
            f"case {raw.name} has no modality {', '.join(missing) or 'at all'}; it has "
            f"{', '.join(raw.channels)}. Add the files, leave the case out, or take "
            "image.modalities that every case has. A generator may be trained on a set whose "
            'dataset.json says "incomplete": true; audit and augment want every modality of every '
            "case."
        )
    height, width = next(iter(raw.channels.values())).shape
    scales = [
        ABSENT if name in missing else _scale(raw, name, image.intensity_of(name))
        for name in modalities
    ]
    nothing = np.full((height, width), IMAGE_LOW, np.float32), 0.0
    brought = [
        nothing if name in missing else _normalised(raw.channels[name], scale, shift)
        for name, (scale, shift) in zip(modalities, scales, strict=True)
    ]
    resized = _resized((height, width), raw, image)
    offset = ((image.size[0] - resized[0]) // 2, (image.size[1] - resized[1]) // 2)
    planes = np.stack([plane for plane, _ in brought])
    picture = _resample(torch.from_numpy(planes), resized, image.resampling)
    picture = picture.clamp(IMAGE_LOW, IMAGE_HIGH)  # antialiasing weights sum to 1 only roughly
    placed = _moved(picture, image.size, offset, IMAGE_LOW)
    preparation = Preparation(
        shape=(height, width),
        spacing=raw.spacing,
        resized=resized,
        offset=offset,
        scale=tuple(scale for scale, _ in scales),
        shift=tuple(shift for _, shift in scales),
        clipped=tuple(beyond for _, beyond in brought),
        cut=_cut(picture, placed) if min(offset) < 0 else (0.0, 0.0),
    )
    labels = np.zeros((height, width), np.int64) if raw.mask is None else raw.mask
    mask = _resample_labels(torch.from_numpy(np.array(labels)), resized)
    return Case(
        name=raw.name,
        patient=raw.patient,
        image=placed,
        mask=_moved(mask[None], image.size, offset, 0)[0],
        modalities=tuple(modalities),
        preparation=preparation,
        absent=tuple(missing),
    )


def invert(image: Image, preparation: Preparation) -> np.ndarray:
    """Restores the stored grid and intensities of an image [C, H, W] in [-1, 1].

    The inverse is exact (to float32) where nothing was resampled or clipped. Cropped parts are
    filled with the intensity that corresponds to -1.

    Returns:
        float32 (C, rows, columns), with the channels of the case that `preparation` belongs to.

    Raises:
        DataError: `image` has a different number of channels.
    """
    if len(image) != len(preparation.scale):
        raise DataError(
            f"an image of {len(image)} channels cannot be brought back by the preparation of "
            f"{len(preparation.scale)}. Take the channels of the same case."
        )
    picture = image.detach().cpu().to(torch.float64)
    back = tuple(-start for start in preparation.offset)
    picture = _moved(picture, preparation.resized, back, IMAGE_LOW)
    picture = _resample(picture, preparation.shape, "linear")
    scale, shift = (
        np.array(values)[:, None, None] for values in (preparation.scale, preparation.shift)
    )
    return ((picture.numpy() - shift) / scale).astype(np.float32)


def invert_mask(mask: Mask, preparation: Preparation) -> np.ndarray:
    """Restores the stored grid of a mask [H, W]; returns int64 (rows, columns)."""
    back = tuple(-start for start in preparation.offset)
    labels = _moved(mask.detach().cpu()[None], preparation.resized, back, 0)
    return _nearest(labels[0], preparation.shape).numpy()


def load_cases(
    folder: Path,
    image: ImageSection,
    modalities: Sequence[str] | None = None,
    *,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    unmasked: bool = True,
    incomplete: bool = False,
    augmented: bool = False,
    synthetic: bool = False,
) -> list[Case]:
    """Reads and prepares a whole data set.

    A synthetic data set (dataset.json says `"synthetic": true`) is stored normalised and on its
    recipe's grid, so it is read with `SYNTHETIC_INTENSITY` and not resampled to `image.spacing`.

    Args:
        folder: holds dataset.json.
        image: the recipe's grid and normalisation.
        modalities: channels to read. None means those of the recipe that the data set has, in the
            recipe's order, or all acquired ones of the data set if the recipe lists none.
        patient_pattern: see `asyndgan.data.nnunet.patient_of`.
        unmasked: accept cases without a mask as all background; otherwise they are refused.
        incomplete: accept cases that lack a modality, if dataset.json says `"incomplete": true`;
            cases that lack all are left out.
        augmented: accept a set with synthetic cases beside real ones; otherwise it is refused.
        synthetic: accept a synthetic data set; otherwise it is refused, lest what a generator
            painted counts as patients.

    Raises:
        DataError: the data set cannot be read or prepared; the error names the file or the case.
    """
    info = describe(folder)
    wanted = tuple(modalities) if modalities is not None else shared_modalities(info, image)
    if not wanted:
        raise DataFileError(
            folder / "dataset.json",
            f"has the modalities {', '.join(info.modalities)}, none of which is in the recipe's "
            f"image.modalities ({', '.join(image.modalities)})",
            "Name them alike; modalities match by name.",
        )
    if info.synthetic_cases and not augmented:
        raise DataFileError(
            folder,
            f"holds {len(info.synthetic_cases)} synthetic cases beside real ones",
            "Name the data set that it was made from.",
        )
    if info.synthetic and not synthetic:
        raise DataFileError(
            folder, "is a synthetic data set, and patients are wanted", "Name a folder of theirs."
        )
    if info.synthetic:
        image = image.model_copy(update={"intensity": {"default": SYNTHETIC_INTENSITY}})
    image = _grid_for(info, image)
    incomplete = incomplete and info.incomplete
    cases: list[Case] = []
    for raw in read_cases(folder, axis=image.axis, patient_pattern=patient_pattern):
        if raw.mask is None and not unmasked:
            raise DataFileError(
                folder / "labelsTr",
                f"case {raw.name} has no mask here",
                "Add it, or move the image away; 'asyndgan check' counts the cases that have one.",
            )
        if incomplete and not any(name in raw.channels for name in wanted):
            continue  # the case has only modalities that are not asked for
        case = prepare(raw, image, wanted, incomplete=incomplete)
        if image.slices == "all" or case.mask.any():
            cases.append(case)
    if not cases:
        raise DataFileError(
            folder,
            f"holds no case with a label ('image.slices' is '{image.slices}') and with any of "
            f"{', '.join(wanted)}",
            "Set image.slices to 'all', give the labels numbers above 0, or name what cases have.",
        )
    return cases


def check_contrast(cases: Sequence[Case], image: ImageSection, where: str | Path) -> None:
    """Refuses images that the recipe's intensity range reduces to almost one grey value.

    The default range, 0 to 255, fits PNGs; a scanner's volumes may hold any intensities.

    Args:
        cases: prepared cases.
        image: how they were prepared.
        where: the site or folder that they are of, for the message.

    Raises:
        DataError: for some modality, more than half of the non-black pixels lie above a fixed range
            (averaged over cases), or all pixels lie within a fiftieth of the range.
    """
    for place, name in enumerate(cases[0].modalities):
        having = [case for case in cases if name not in case.absent]
        if not having:
            continue
        found = image.intensity_of(name)
        beyond = 0.0
        if found.kind == "range":  # other kinds adapt to each case's own intensities
            beyond = sum(case.preparation.clipped[place] for case in having) / len(having)
        lowest = min(float(case.image[place].min()) for case in having)
        highest = max(float(case.image[place].max()) for case in having)
        used = (highest - lowest) / (IMAGE_HIGH - IMAGE_LOW)
        if beyond <= MOST_CLIPPED and used >= LEAST_USED:
            continue
        what = (
            f"{beyond:.0%} of its pixels that are not black lie beyond and would be white"
            if beyond > MOST_CLIPPED
            else "all of its pixels lie within a fiftieth of that range"
        )
        raise DataError(
            f"{where}: modality {name} does not fit image.intensity ({found.kind}, "
            f"{found.low:g} to {found.high:g}): {what}. Set the range that is stored, "
            "or take percentiles, which suit any: --set image.intensity.default.kind=percentiles "
            "--set image.intensity.default.low=0.5 --set image.intensity.default.high=99.5"
        )


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


def load_masks(folder: Path, image: ImageSection) -> list[tuple[str, Mask]]:
    """Reads the masks of a data set, whether or not it has images, on the recipe's grid.

    Masks released by sites (dataset.json says `"masks_only": true`) and masks of a synthetic data
    set are already on that grid and are not resampled to `image.spacing`.

    Args:
        folder: holds dataset.json and labelsTr.
        image: the recipe's grid.

    Returns:
        Name and mask [H, W] of each case or slice; all-background masks only if `image.slices` is
        "all".

    Raises:
        DataError: there is no mask, or one cannot be read.
    """
    image = _grid_for(describe(folder), image)
    prepared = (prepare(raw, image, ["mask"]) for raw in read_masks(folder, axis=image.axis))
    found = [(case.name, case.mask) for case in prepared]
    return [(name, mask) for name, mask in found if image.slices == "all" or mask.any()]


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
    """Replaces the images of cases by their masks, for a generator that paints masks.

    Args:
        cases: prepared cases.
        labels: number of each label by name, as in `dataset.json`.

    Returns:
        Cases whose images have one channel per label, in the order of their numbers: 1 where the
        label is, -1 elsewhere.

    Raises:
        DataError: there are more labels than modalities a message may name.
    """
    if len(labels) > MODALITIES_LIMIT:
        raise DataError(
            f"the data set has {len(labels)} labels; a generator of masks paints "
            f"{MODALITIES_LIMIT} at most. Merge some of them."
        )
    ordered = sorted(labels, key=lambda name: labels[name])
    numbers = torch.tensor([labels[name] for name in ordered]).reshape(-1, 1, 1)
    return [
        replace(
            case,
            image=(case.mask == numbers) * 2.0 - 1.0,
            modalities=tuple(ordered),
            absent=(),
        )
        for case in cases
    ]


def shared_modalities(info: DatasetInfo, image: ImageSection) -> tuple[str, ...]:
    """Acquired modalities that data set and recipe share, in the recipe's order.

    All acquired modalities of the data set if the recipe lists none.
    """
    acquired = tuple(name for name in info.modalities if name not in info.painted)
    if not image.modalities:
        return acquired
    return tuple(name for name in image.modalities if name in acquired)


def _grid_for(info: DatasetInfo, image: ImageSection) -> ImageSection:
    """The recipe's grid, without spacing for data sets this package wrote on that grid.

    Those are PNGs, which have no spacing, so resampling would shrink or enlarge them.
    """
    if not (info.synthetic or info.extra.get("masks_only") is True):
        return image
    return image.model_copy(update={"spacing": None, "fit": "pad"})


def _scale(raw: RawCase, modality: str, intensity: Intensity) -> tuple[float, float]:
    """Computes the factor and summand that map stored intensities to [-1, 1]."""
    case = raw.intensities(modality)
    lowest, highest = case.extremes
    if not np.isfinite((lowest, highest)).all():
        raise DataError(
            f"case {raw.name}, modality {modality}: some intensities are infinite or not numbers. "
            "Replace them; 'asyndgan check' names every such file."
        )
    low, high = intensity.low, intensity.high
    if intensity.kind == "percentiles":
        low, high = case.percentiles(low, high)
        if low == high:  # nearly all pixels share one intensity: use the full range
            low, high = lowest, highest
    elif intensity.kind == "zscore":
        mean, deviation = case.moments
        low, high = mean + low * deviation, mean + high * deviation
    if intensity.kind != "range" and lowest == highest:
        low, high = lowest, lowest + max(1.0, abs(lowest))  # constant: becomes -1, invertibly
    scale = (IMAGE_HIGH - IMAGE_LOW) / (high - low)
    return scale, IMAGE_LOW - low * scale


def _normalised(stored: np.ndarray, scale: float, shift: float) -> tuple[np.ndarray, float]:
    """Maps to [-1, 1]; also returns the fraction of non-black pixels that lay above white."""
    prepared = stored.astype(np.float64) * scale + shift
    bright = int(np.count_nonzero(prepared > IMAGE_LOW + ROUNDED))
    beyond = int(np.count_nonzero(prepared > IMAGE_HIGH + ROUNDED)) / max(1, bright)
    return np.clip(prepared, IMAGE_LOW, IMAGE_HIGH).astype(np.float32), beyond


def _cut(picture: Tensor, placed: Tensor) -> tuple[float, float]:
    """Brightness of `picture` [C, h, w] that is not in `placed`, and all of it."""
    # Air need not be -1: scaled by standard deviations it is not.
    darkest = picture.amin((1, 2), keepdim=True)
    whole, kept = (float((one - darkest).clamp(0).double().sum()) for one in (picture, placed))
    return max(0.0, whole - kept), whole


def _resized(shape: tuple[int, int], raw: RawCase, image: ImageSection) -> tuple[int, int]:
    """Rows and columns after resampling, before cropping and padding."""
    if image.spacing:
        factors = [stored / to for stored, to in zip(raw.spacing, image.spacing, strict=True)]
    elif image.fit == "stretch":
        return image.size
    else:
        # Proportions are those in millimetres: pixels of thick slices are not square.
        sides = [
            to / (stored * mm)
            for stored, mm, to in zip(shape, raw.spacing, image.size, strict=True)
        ]
        scale = min(sides) if image.fit == "pad" else max(sides)
        factors = [scale * mm for mm in raw.spacing]
    height, width = (
        max(1, round(side * factor)) for side, factor in zip(shape, factors, strict=True)
    )
    if height * width > max(MOST_ENLARGED, shape[0] * shape[1]):
        raise DataError(
            f"case {raw.name} would become {height} x {width} pixels. "
            f"Take a larger image.spacing, or check the file's ({raw.spacing} mm)."
        )
    return height, width


def _resample(
    image: Tensor, size: tuple[int, int], resampling: Literal["linear", "nearest"]
) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    if resampling == "nearest":
        return F.interpolate(image[None], size, mode="nearest-exact")[0]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _resample_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples labels: when shrinking, each new pixel takes the label that covers most of it.

    The nearest label would not do then: halving averages four pixels, and the nearest of them lies
    half a pixel off their middle, so masks would be shifted against images.
    """
    height, width = labels.shape
    if size[0] >= height and size[1] >= width:
        return _nearest(labels, size)
    # Label by label: masks may hold hundreds, and a stack of them all would not fit in memory.
    most = torch.full(size, -1.0)
    taken = torch.zeros(size, dtype=labels.dtype)
    for label in labels.unique():
        covers = _resample((labels == label)[None].float(), size, "linear")[0]
        taken = torch.where(covers > most, label, taken)
        most = torch.maximum(covers, most)
    return taken


def _nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    return _resample(labels[None].double(), size, "nearest")[0].long()


def _moved(image: Tensor, size: Sequence[int], offset: Sequence[int], fill: float) -> Tensor:
    """Places `image` [C, h, w] at `offset` in a new one of `size`, cropping what lies outside."""
    moved = image.new_full((len(image), *size), fill)
    (top, left), (height, width) = offset, image.shape[-2:]
    into = moved[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    rows, columns = into.shape[-2:]
    from_top, from_left = max(-top, 0), max(-left, 0)
    into.copy_(image[:, from_top : from_top + rows, from_left : from_left + columns])
    return moved

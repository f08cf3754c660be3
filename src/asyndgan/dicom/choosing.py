"""Which series of a study become a case, and which segmentations its mask."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby
from typing import final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from asyndgan.dicom.files import DicomError
from asyndgan.dicom.geometry import Grid, grid_of
from asyndgan.dicom.series import Archive, Series, faults_of
from asyndgan.errors import DataError
from asyndgan.intake.description import BACKGROUND, IGNORED, MAX_LABEL
from asyndgan.intake.grids import ORIGIN_TOLERANCE
from asyndgan.texts import Name, named_alike

_ONE_ID = "Give all files of a patient one PatientID, and each series a UID of its own."
Wanted = Sequence[tuple[str, str]]


@final
@dataclass(frozen=True)
class Choice:
    """What to take from an archive; what is empty narrows nothing."""

    series: Wanted = ()  # name of a channel; pattern of description, number, modality of its series
    segmentations: Sequence[str] = ()  # patterns of the description or number
    labels: Wanted = ()  # name of a label; pattern of the names of its segments

    def label_of(self, segment: str) -> str | None:
        """The label that a segment becomes; None if it is left out."""
        if segment.casefold() == BACKGROUND:
            return None
        if not self.labels:
            return segment
        return next((name for name, like in self.labels if _fits(like, segment)), None)


@final
@dataclass(frozen=True)
class Pick:
    """A case to be: channels, their grids of the same voxels, and segmentations of any of them."""

    channels: Mapping[str, Series]
    grids: Sequence[Grid]
    masks: Sequence[Series]

    @property
    def grid(self) -> Grid:
        """The grid of the first channel, which is that of all files."""
        return self.grids[0]

    @property
    def key(self) -> tuple[str, str]:
        """PatientID and Study Instance UID; private."""
        return next(iter(self.channels.values())).key[:2]


@final
@dataclass
class Picked:
    """The cases to be, and the faults of what is left out, each `of` a series."""

    cases: list[Pick] = field(default_factory=list)
    faults: list[DicomError] = field(default_factory=list)


def pick(archive: Archive, choice: Choice) -> Picked:
    """Picks the cases of an archive; what cannot be one is a fault of its study."""
    picked = Picked()
    masked = any(each.is_segmentation for each in archive.series)
    owners: dict[str, set[str]] = {}
    for each in archive.series:
        if not each.is_segmentation:
            owners.setdefault(each.key[2], set()).add(each.key[0])
    for _, of_patient in groupby(archive.series, lambda each: each.key[0]):
        patient = list(of_patient)
        masks = [each for each in patient if each.is_segmentation]
        images = [each for each in patient if not each.is_segmentation]
        for mask in masks:
            if not any(_is_of(mask, each) for each in images):
                fault = DicomError("is of a series that is not here", "Export that series too.")
                if not mask.references.isdisjoint(owners):
                    fault = DicomError("has another PatientID than its images", _ONE_ID)
                picked.faults.append(fault.of(mask))
        for each in patient:
            if len(owners.get(each.key[2], ())) > 1:
                each.faults.insert(0, DicomError("has images with several PatientIDs", _ONE_ID))
        for _, of_study in groupby(patient, lambda each: each.key[1]):
            study = [each for each in of_study if not (each.is_segmentation or each.localizer)]
            try:
                if study:
                    _pick_study(study, masks, choice, picked, masked=masked)
            except DicomError as fault:
                picked.faults.append(fault.of(study[0]))
    return picked


def _pick_study(
    images: Sequence[Series],
    masks: Sequence[Series],
    choice: Choice,
    picked: Picked,
    *,
    masked: bool,
) -> None:
    """Adds the cases of a study, from its series of images and the patient's segmentations."""
    if not images[0].key[0]:
        raise DicomError(
            "has no PatientID, by which studies of one patient are kept together",
            "Give each patient a PatientID of their own.",
        )
    likes = choice.segmentations or ["*"]
    masks = [each for each in masks if any(_fits(like, *each.told) for like in likes)]
    own = {id(each): [mask for mask in masks if _is_of(mask, each)] for each in images}
    for channels in _channels(images, own, choice):
        drawn = {id(mask): mask for each in channels.values() for mask in own[id(each)]}
        try:
            if masked and not drawn:
                raise DicomError("has no segmentation", "Export it beside the images.")
            picked.cases.append(Pick(channels, _grids(channels), list(drawn.values())))
        except DicomError as fault:
            picked.faults.append(fault.of(next(iter(channels.values()))))


def _is_of(mask: Series, image: Series) -> bool:
    """Whether a segmentation names a series of the patient or, naming none, lies in its space."""
    if image.is_segmentation or not mask.is_segmentation or mask.key[0] != image.key[0]:
        return False
    if mask.references:
        return image.key[2] in mask.references
    return image.frame_of_reference == mask.frame_of_reference != ""


def _channels(
    images: Sequence[Series], masks: Mapping[int, Sequence[Series]], choice: Choice
) -> list[dict[str, Series]]:
    """The channels of each case of a study; `DicomError`: one has no series or several."""
    referenced = [each for each in images if masks[id(each)]]
    if not choice.series:
        found = referenced or images
        if len(found) > 1 and not referenced:
            raise DicomError(
                f"has {len(found)} series of images, and no segmentation names one",
                "Name the series by --series CHANNEL=DESCRIPTION.",
            )
        return [{each.kind: each} for each in found]
    channels = {}
    for name, like in choice.series:
        fit = [each for each in images if _fits(like, *each.told, each.kind)]
        fit = [each for each in fit if masks[id(each)]] or fit if len(fit) > 1 else fit
        if len(fit) != 1:
            raise DicomError(
                f"has {len(fit) or 'no'} series for the channel '{name}'",
                "Give --series a description that fits one series a study (--names prints them).",
            )
        channels[name] = fit[0]
    return [channels]


def _fits(pattern: str, *texts: str) -> bool:
    return any(fnmatchcase(text.casefold(), pattern.casefold()) for text in texts)


def _grids(channels: Mapping[str, Series]) -> list[Grid]:
    grids = []
    for each in channels.values():
        with faults_of(each):
            grids.append(grid_of(each))
    first = grids[0]
    inverse = np.linalg.inv(first.affine)
    for grid in grids[1:]:
        ends = np.array([[0, 0, 0, 1], [*np.subtract(grid.shape, 1), 1]])
        if grid.shape != first.shape or not np.allclose(
            ends @ (inverse @ grid.affine).T, ends, atol=ORIGIN_TOLERANCE
        ):
            raise DicomError(
                f"has the channels {', '.join(channels)} on different grids",
                "Import one channel, or resample them to one grid first.",
            )
    return grids


def labels_of(cases: Iterable[Pick], choice: Choice) -> dict[str, int]:
    """The labels of a data set: those that were named in their order, or all by the alphabet.

    Raises:
        DataError: names of segments are no names of labels, or differ only in how they are written.
    """
    masks = [mask for case in cases for mask in case.masks]
    found = {choice.label_of(segment) for mask in masks for segment in mask.segments.values()}
    names = list(dict.fromkeys(name for name, _ in choice.labels)) or sorted(filter(None, found))
    if alike := named_alike(names):
        raise DataError(
            "Segments are called "
            + ", ".join(f"'{one}' and '{other}'" for one, other in alike)
            + f". Name the labels, for example --label '{alike[0][0]}' for both if they are one."
        )
    try:
        for name in names:
            TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise DataError(
            "the name of a segment is too long or cannot be shown. Name the labels by --label."
        ) from None
    if len(names) > MAX_LABEL or {IGNORED, BACKGROUND} & set(map(str.casefold, names)):
        raise DataError(
            f"there are {len(names)} labels; {MAX_LABEL} are the most, and none is called "
            f"'{IGNORED}' or '{BACKGROUND}'. Name those that you want by --label."
        )
    return {BACKGROUND: 0, **{name: number for number, name in enumerate(names, 1)}}

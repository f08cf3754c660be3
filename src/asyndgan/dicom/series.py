"""What lies in a folder of DICOM files: series of images, and segmentations of them."""

import filecmp
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from asyndgan.dicom.files import RTSTRUCT, DicomError, NotDicomError, header_of

MODALITIES: Final = frozenset(
    {"CT", "MR", "PT", "NM", "US", "XA", "DX", "CR", "MG", "OT", "OP", "OPT", "IVUS", "RF", "XC"}
)
"""Modalities of images (DICOM PS3.3 C.7.3.1.1.1); another word in that field may be anything."""

MOST: Final = 1e9
"""Largest number in a header: of millimetres, or of units a stored value."""

_UNITS: Final = frozenset({"HU", "BQML", "CNTS", "GML"})
_CLOSED: Final = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_SEG: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_CLASS, _DIRECTORY = "MediaStorageSOPClassUID", "1.2.840.10008.1.3.10"
_TAGS: Final = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"),
    *("SeriesNumber", "SeriesDescription", "Modality", "ImageType", "BurnedInAnnotation"),
    *("SyntheticData", "FrameOfReferenceUID", "Rows", "Columns", "NumberOfFrames", "BitsAllocated"),
    *("SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient", "PixelSpacing"),
    *("ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "Units", "SegmentationType", "SegmentSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ReferencedSeriesSequence", "StructureSetROISequence", "StructureSetLabel"),
    *("ReferencedFrameOfReferenceSequence", "ModalityLUTSequence", "ROIContourSequence"),
)


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """One plane: where it is stored and where it lies."""

    file: Path
    number: int  # in the file, from 0
    # of the first pixel's centre, in millimetres (left, posterior, superior)
    position: tuple[float, ...]
    orientation: tuple[float, ...]  # of a row and of a column, unit vectors
    spacing: tuple[float, ...]  # millimetres between rows and between columns
    thickness: float  # millimetres from slice to slice, as the header claims; 0: it does not
    slope: float  # from stored values to units, as `intercept`
    intercept: float
    segment: int  # number of what a frame of a SEG shows; 0 elsewhere


@final
@dataclass
class Series:
    """The files of one series, either images or one segmentation."""

    key: tuple[str, str, str]  # PatientID in small letters, Study and Series Instance UID; private
    kind: str  # the modality, `SEG` or `RTSTRUCT`
    number: str  # private, like `description`
    description: str
    frame_of_reference: str
    frames: list[Frame] = field(default_factory=list)  # none of an RTSTRUCT
    files: list[Path] = field(default_factory=list)
    shapes: dict[Path, tuple[int, int, int]] = field(default_factory=dict)  # frames, rows, columns
    faults: list[DicomError] = field(default_factory=list)  # why files cannot be used
    references: set[str] = field(default_factory=set)  # Series Instance UIDs, of a segmentation
    segments: dict[int, str] = field(default_factory=dict)  # each with a frame or closed contour
    empty: list[str] = field(default_factory=list)  # names of the others
    gaps: bool = False  # whether, once drawn, a label is absent on a slice between two that have it
    localizer: bool = False  # whether it is an overview from which others were planned
    burned: bool = False  # whether text may be burned into the pixels
    synthetic: bool = False  # whether it says that it was not acquired
    unit: str = ""  # of the values; "" if none is known

    @property
    def told(self) -> tuple[str, str]:
        """What people call it; private."""
        return self.description, self.number

    @property
    def is_segmentation(self) -> bool:
        """Whether it holds no images of its own."""
        return self.kind in ("SEG", "RTSTRUCT")


@contextmanager
def faults_of(series: Series) -> Iterator[None]:
    """Marks a fault that is raised inside as one of this series, unless it is of another one."""
    try:
        yield
    except DicomError as fault:
        raise fault.of(series)  # noqa: B904


@final
@dataclass
class Archive:
    """A folder of DICOM files: all series, sorted by patient and study, and other files.

    `others` counts DICOM files without images or segmentations; `foreign` are no DICOM, and
    `broken` cannot be read.
    """

    series: list[Series] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    others: int = 0
    broken: list[Path] = field(default_factory=list)


def read_archive(folder: Path) -> Archive:
    """Reads the headers of all files in a folder; links to other folders are not followed."""
    archive = Archive()
    found: dict[tuple[str, ...], Series] = {}
    copies: dict[tuple[str, ...], Path] = {}

    told = archive.broken
    for place, folders, names in os.walk(folder, onerror=lambda e: told.append(Path(e.filename))):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            try:
                with header_of(path, _TAGS) as dataset:
                    if kind := _kind_of(dataset):
                        _add(found, copies, path, dataset, kind)
                    else:
                        archive.others += 1
            except NotDicomError:
                archive.foreign.append(path)
            except DicomError:
                archive.broken.append(path)
    whole = (s for s in found.values() if s.frames or s.faults or s.kind == "RTSTRUCT")
    archive.series = sorted(whole, key=lambda s: (*s.key[:2], s.is_segmentation, s.key[2]))
    return archive


def _kind_of(dataset: Any) -> str:
    """Kind of a file's series; "" if it has neither images nor segments. May raise `DicomError`."""
    sop, modality = str(dataset.get("SOPClassUID")), str(dataset.get("Modality"))
    if "SOPClassUID" not in dataset and str(dataset.file_meta.get(_CLASS)) != _DIRECTORY:
        raise DicomError("is cut off", "Export it again.")
    image = modality if modality in MODALITIES and "Rows" in dataset else ""
    return "SEG" if sop in _SEG else "RTSTRUCT" if sop == RTSTRUCT else image


def _new_series(dataset: Any, kind: str) -> Series:
    """The series that a file is of, still without it."""
    label = "StructureSetLabel" if kind == "RTSTRUCT" else "SeriesDescription"
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", label)
    patient, study, uid, number, told = (str(dataset.get(name) or "").strip() for name in names)
    frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
    return Series((patient.casefold(), study, uid), kind, number, told, frame_of_reference)


def _add(
    found: dict[tuple[str, ...], Series],
    copies: dict[tuple[str, ...], Path],
    path: Path,
    dataset: Any,
    kind: str,
) -> None:
    """Adds a file to its series, unless it is a copy, as in a copied folder, of one that is there.

    Each file of a segmentation is a series of its own.
    """
    new = _new_series(dataset, kind)
    image = [str(dataset.get(name)) for name in ("SOPInstanceUID", "ImagePositionPatient")]
    first = copies.setdefault((*new.key, kind, *image), path)
    if first != path and filecmp.cmp(first, path, shallow=False):
        return
    alone = str(path) if new.is_segmentation else ""
    series = found.setdefault((*new.key, kind, alone), new)
    series.files.append(path)
    if series.is_segmentation:
        _describe_segments(series, dataset)
    elif first != path:
        series.faults.append(
            DicomError(
                "holds two files of one image, and their contents differ",
                "Keep the right one of each pair with one SOP Instance UID.",
            )
        )
    if kind == "RTSTRUCT":  # which has no planes
        return
    _describe_images(series, dataset)
    try:
        _check_pixels(dataset, kind)
        shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
        series.frames += _frames(path, dataset, shape[0])
        series.shapes[path] = shape
        if kind == "SEG" and all(frame.segment for frame in series.frames):  # no label map
            _keep(series, {frame.segment for frame in series.frames})
    except DicomError as fault:
        series.faults.append(fault)


def _describe_images(series: Series, dataset: Any) -> None:
    types = str(dataset.get("ImageType")).upper()
    burned = str(dataset.get("BurnedInAnnotation") or "").upper()
    captured = str(dataset.get("SOPClassUID")).startswith(_CAPTURE)
    doubtful = "SECONDARY" in types or captured or series.kind == "US"
    series.burned |= burned == "YES" or (doubtful and burned != "NO" and series.kind != "SEG")
    series.localizer |= "LOCALIZER" in types
    series.synthetic |= str(dataset.get("SyntheticData") or "").upper() == "YES"
    unit = _unit_of(dataset, series.kind)
    series.unit = unit if unit == series.unit or len(series.files) == 1 else ""


def _unit_of(dataset: Any, kind: str) -> str:
    """The unit of rescaled values; "" if none is known, or they are not rescaled."""
    groups = [
        *(dataset.get("PerFrameFunctionalGroupsSequence") or ())[:1],
        *(dataset.get("SharedFunctionalGroupsSequence") or ())[:1],
    ]
    items = [i for group in groups for i in group.get("PixelValueTransformationSequence") or ()]
    scale = next((item for item in (*items, dataset) if "RescaleSlope" in item), None)
    usual = "HU" if kind == "CT" and scale is not None else ""  # as PS3.3 C.8.2.1 has it
    told = (scale or dataset).get("RescaleType") or dataset.get("Units") or usual
    return unit if (unit := str(told).upper()) in _UNITS else ""


def _describe_segments(series: Series, dataset: Any) -> None:
    for item in dataset.get("SegmentSequence") or ():
        series.segments[int(item.SegmentNumber)] = str(item.get("SegmentLabel") or "").strip()
    for item in dataset.get("StructureSetROISequence") or ():
        series.segments[int(item.ROINumber)] = str(item.get("ROIName") or "").strip()
    named = list(dataset.get("ReferencedSeriesSequence") or ())
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        uid = str(frame.get("FrameOfReferenceUID") or "")
        series.frame_of_reference = series.frame_of_reference or uid
        for study in frame.get("RTReferencedStudySequence") or ():
            named += study.get("RTReferencedSeriesSequence") or ()
    series.references |= {str(item.get("SeriesInstanceUID")) for item in named}
    if series.kind == "RTSTRUCT":
        regions = dataset.get("ROIContourSequence") or ()
        _keep(series, {int(item.ReferencedROINumber) for item in regions if _is_drawn(item)})


def _is_drawn(region: Any) -> bool:
    return any(map(is_closed, region.get("ContourSequence") or ()))


def is_closed(contour: Any) -> bool:
    """Whether a contour surrounds pixels, unlike points and open lines."""
    return str(contour.get("ContourGeometricType")) in _CLOSED


def _keep(series: Series, drawn: Container[int]) -> None:
    """Keeps the segments of which anything is drawn."""
    series.empty = [name for number, name in series.segments.items() if number not in drawn]
    series.segments = {n: name for n, name in series.segments.items() if n in drawn}


def _check_pixels(dataset: Any, kind: str) -> None:
    if dataset.get("ModalityLUTSequence"):
        raise DicomError(
            "stores its intensities by a table (Modality LUT)",
            "Export it with a rescale slope and intercept.",
        )
    stored = str(dataset.get("PhotometricInterpretation"))
    coloured = stored == "PALETTE COLOR" and kind != "SEG"
    if coloured or int(dataset.get("SamplesPerPixel") or 0) != 1:
        raise DicomError("holds pictures in colour", "Export them as PNG, one file a case.")
    if stored == "MONOCHROME1":
        raise DicomError("is stored inverted (MONOCHROME1)", "Export it as MONOCHROME2.")
    if stored not in ("MONOCHROME2", "PALETTE COLOR"):
        raise DicomError("does not say which values are bright", "Export it as MONOCHROME2.")
    if kind == "SEG" and str(dataset.get("SegmentationType")) == "FRACTIONAL":
        raise DicomError("holds probabilities", "Threshold it, and export it as a binary SEG.")


def _frames(path: Path, dataset: Any, count: int) -> Iterator[Frame]:
    """The planes of a file, of one or, with functional groups, of several frames."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    if not 1 <= count <= max(1, len(per_frame)):
        raise DicomError("does not say where each of its frames lies", "Export one file a slice.")
    for number in range(count):
        groups = [*per_frame[number : number + 1], *shared[:1]]

        def told(macro: str, name: str, groups: list[Any] = groups) -> Any:
            for group in groups:
                for item in (group.get(macro) or ())[:1]:  # PS3.3 C.7.6.16: it has one
                    if name in item:
                        return item.get(name)
            return dataset.get(name)

        measures, scale = "PixelMeasuresSequence", "PixelValueTransformationSequence"
        slope, intercept = told(scale, "RescaleSlope"), told(scale, "RescaleIntercept")
        wide, thick = told(measures, "SpacingBetweenSlices"), told(measures, "SliceThickness")
        segment = told("SegmentIdentificationSequence", "ReferencedSegmentNumber")
        frame = Frame(
            path,
            number,
            position=_floats(told("PlanePositionSequence", "ImagePositionPatient")),
            orientation=_floats(told("PlaneOrientationSequence", "ImageOrientationPatient")),
            spacing=_floats(told(measures, "PixelSpacing")),
            thickness=abs(float(wide or thick or 0)),
            slope=1.0 if slope is None else float(slope),
            intercept=float(intercept or 0),
            segment=int(segment or 0),
        )
        place = (frame.position, frame.orientation, frame.spacing)
        if [*map(len, place)] != [3, 6, 2] or min(frame.spacing) <= 0:
            raise DicomError(
                "has images without a place in space, such as X-rays or ultrasound",
                "Export them as PNG, one file a case.",
            )
        numbers = [*sum(place, ()), frame.thickness, frame.slope, frame.intercept]
        if not (np.abs(numbers) < MOST).all():
            raise DicomError("has vast numbers in its header, or none", "Export it again.")
        yield frame


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(map(float, () if values is None else values))

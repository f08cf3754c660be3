"""DICOM files of invented patients, made by pydicom and highdicom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SPACING = (0.8, 0.7)  # between rows, between columns
ORIGIN = np.array([-90.0, -110.0, 40.0])


def series(
    volume: np.ndarray,
    *,
    patient: str = "ID-1",
    study: str | None = None,
    orientation: Sequence[float] = AXIAL,
    step: Sequence[float] | None = None,
    slope: float = 1,
    intercept: float = -1024,
    modality: str = "CT",
    description: str = "",
    number: int = 1,
    **header: Any,
) -> list[Dataset]:
    """One image a slice of `volume` [slices, rows, columns], whose slices follow each other by
    `step` millimetres (left, posterior, superior)."""
    row, column = np.array(orientation).reshape(2, 3)
    way = np.cross(row, column) * 2.5 if step is None else np.array(step)
    shared = {
        "SOPClassUID": CT, "StudyInstanceUID": study or generate_uid(), "PatientID": patient,
        "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(),
        "PatientName": "Smith^Ann", "PatientBirthDate": "", "PatientSex": "", "StudyDate": "",
        "StudyTime": "", "StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": "",
        "Modality": modality, "SeriesDescription": description, "SeriesNumber": number,
        "Manufacturer": "", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": list(orientation), "PixelSpacing": list(SPACING),
        "SliceThickness": 2.5, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": slope, "RescaleIntercept": intercept,
    }  # fmt: skip
    made = []
    for place, plane in enumerate(volume):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        bits = 8 * plane.dtype.itemsize
        for key, value in {
            **shared,
            "SOPInstanceUID": generate_uid(),
            "InstanceNumber": len(volume) - place,
            "ImagePositionPatient": [f"{mm:.10g}" for mm in ORIGIN + place * way],
            "Rows": plane.shape[0], "Columns": plane.shape[1],
            "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
            "PixelRepresentation": int(plane.dtype.kind == "i"), "PixelData": plane.tobytes(),
            **header,
        }.items():  # fmt: skip
            setattr(image, key, value)
        made.append(image)
    return made


def place_of(images: Sequence[Dataset], column: float, row: float, slice_: int) -> np.ndarray:
    """Where a point of a slice lies, in millimetres (left, posterior, superior), by PS3.3
    C.7.6.2.1.1."""
    image = images[slice_]
    x, y = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    down, across = map(float, image.PixelSpacing)
    return np.array(image.ImagePositionPatient, float) + x * across * column + y * down * row


def seg(
    images: Sequence[Dataset], segments: Mapping[str, np.ndarray], kind: str = "BINARY", **more: Any
) -> Dataset:
    """The SEG of these masks [slices, rows, columns]."""
    described = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=name, algorithm_type="MANUAL",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
        )
        for number, name in enumerate(segments, 1)
    ]  # fmt: skip
    pixels = np.stack([*segments.values()], -1).astype(np.uint8)
    if kind == "LABELMAP":
        pixels = (pixels * np.arange(1, len(segments) + 1)).max(-1).astype(np.uint8)
    return hd.seg.Segmentation(
        source_images=images, pixel_array=pixels, segmentation_type=kind,
        segment_descriptions=described, series_instance_uid=generate_uid(), series_number=90,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="m",
        manufacturer_model_name="m", software_versions="1", device_serial_number="1", **more,
    )  # fmt: skip


def rtstruct(
    images: Sequence[Dataset], regions: Mapping[str, Sequence[np.ndarray]], **header: Any
) -> Dataset:
    """An RTSTRUCT of regions, each of contours [points, 3] in millimetres."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = RTSTRUCT, generate_uid()
    made.Modality, made.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    made.StructureSetLabel = "plan"
    for key in ("PatientID", "StudyInstanceUID"):
        setattr(made, key, images[0].get(key))
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = images[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence = [referenced]
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{mm:.8g}" for mm in points.ravel()]
            drawn.ContourSequence.append(contour)
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(drawn)
    for key, value in header.items():
        setattr(made, key, value)
    return made


def save(folder: Path, *datasets: Dataset, name: str = "image") -> Path:
    """Writes files into a folder, in an order that is not that of their slices."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = len([*folder.iterdir()])
    for number, dataset in enumerate(reversed(datasets), taken):
        dataset.save_as(folder / f"{name}-{number:03d}.dcm", enforce_file_format=True)
    return folder

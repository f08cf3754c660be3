"""Writes a synthetic data set as DICOM, marked as synthetic wherever a viewer looks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from asyndgan import __version__
from asyndgan.dicom.files import silent
from asyndgan.dicom.series import MODALITIES
from asyndgan.export.writing import written_whole
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.intake.labelling import read_mask
from asyndgan.intake.nnunet import read_image
from asyndgan.intake.patients import patient_of
from asyndgan.intake.readers import NOT_ACQUIRED, DataFileError, Stored
from asyndgan.intake.readers.reader import plane_of
from asyndgan.intake.readers.volumes import TO_RAS
from asyndgan.intake.units import units_of
from asyndgan.store.fitting import check_finite
from asyndgan.store.info import DatasetInfo

MARK: Final = "SYNTHETIC"
_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture, the class for images that no modality acquired."""

_EMPTY: Final = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator"),
)


def export(folder: Path, out: Path) -> Iterator[str]:
    """Writes each case of a synthetic data set as a study, with a series for each channel.

    Images are secondary captures of 16 bits, one slice a file: whole numbers as they are, others
    rounded to a step of a 65536th of their range or less. Masks become a SEG.

    Yields:
        The name of each case when it is written.

    Raises:
        DataError: the set does not declare itself as synthetic, or cannot be read or written.
    """
    info = describe(folder)
    if not info.synthetic:
        raise DataFileError(
            folder / "dataset.json",
            "does not say that all images are synthetic, so its images may be of patients",
            "Export a set that 'asyndgan generate' painted.",
        )
    units = {name: "HU" for name, unit in units_of(info.extra).items() if unit == "HU"}
    with written_whole(out) as half, silent():
        for files in DataSet(folder).files:
            channels: dict[str, Stored] = {}
            for number, path in sorted(files.images.items()):
                channels |= read_image(path, number, info)
            common = _of_patient(patient_of(files.name, info.patient_pattern))
            (half / files.name).mkdir(parents=True)
            first: list[Any] = []
            for number, (name, stored) in enumerate(channels.items(), 1):
                check_finite(files.name, name, stored.values)
                slices = _series(stored, name, number, units.get(name, "US"), common)
                for place, dataset in enumerate(slices, 1):
                    path = half / files.name / f"{number}_{place:04d}.dcm"
                    dataset.save_as(path, enforce_file_format=True)
                first = first or slices
            if files.mask:
                mask = _planes(read_mask(files.mask))[0]
                if mask.any():
                    segmentation = _segmentation(first, mask, info, len(channels) + 1)
                    segmentation.save_as(half / files.name / "mask.dcm", enforce_file_format=True)
            yield files.name


def _of_patient(patient: str) -> dict[str, Any]:
    """The elements that the files of a case share, with new UIDs."""
    from pydicom.uid import generate_uid

    name = f"{MARK}^{patient}"[:64].replace("\\", "-").replace("=", "-")
    return {
        **dict.fromkeys(_EMPTY, ""),
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": name,
        "PatientID": f"{MARK}-{patient}"[:64].replace("\\", "-"),
        "PatientComments": NOT_ACQUIRED,
        "StudyInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "StudyDescription": f"{MARK} images, not of a patient",
        "StudyID": MARK,
        "Manufacturer": "asyndgan",
        "SoftwareVersions": __version__,
        "SyntheticData": "YES",
        "BurnedInAnnotation": "NO",
        "ImageComments": NOT_ACQUIRED,
    }


def _planes(stored: Stored) -> tuple[np.ndarray, int]:
    """The slices [slices, rows, columns] of a volume or picture, and the axis they were cut along.

    A volume of one slice is cut along that axis, any other into axial slices.
    """
    if stored.affine is None:
        return stored.values[np.newaxis], 2
    shape = stored.values.shape
    axis = 2 if 1 not in shape or shape[2] == 1 else shape.index(1)
    return np.stack([plane_of(stored.values, axis, k) for k in range(shape[axis])]), axis


def _series(
    stored: Stored, name: str, number: int, unit: str, common: Mapping[str, Any]
) -> list[Any]:
    """The data sets of one channel, one a slice."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    planes, axis = _planes(stored)
    words, slope, intercept = _stored_words(planes)
    # Rows and columns run against the first two other axes of the volume (see `plane_of`).
    affine = np.eye(4) if stored.affine is None else TO_RAS @ stored.affine
    across, down = (affine[:3, each] for each in range(3) if each != axis)
    turned = 1 if stored.affine is None else -1
    spacing = [float(np.linalg.norm(way)) for way in (down, across)]
    directions = [*(turned * across / spacing[1]), *(turned * down / spacing[0])]
    uid = generate_uid()
    datasets = []
    for place, plane in enumerate(words):
        corner = np.zeros(3)
        if stored.affine is not None:
            corner = np.subtract(stored.values.shape, 1)
        corner[axis] = place
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for key, value in {
            **common,
            "SOPClassUID": _CAPTURE,
            "SOPInstanceUID": generate_uid(),
            "SeriesInstanceUID": uid,
            "SeriesNumber": number,
            "SeriesDescription": f"{MARK} {name}"[:64],
            "InstanceNumber": place + 1,
            "Modality": name if name in MODALITIES else "OT",
            "ConversionType": "SYN",
            "ImageType": ["DERIVED", "SECONDARY"],
            "DerivationDescription": NOT_ACQUIRED,
            "ImagePositionPatient": _decimals(affine[:3, :3] @ corner + affine[:3, 3]),
            "ImageOrientationPatient": _decimals(directions),
            "PixelSpacing": _decimals(spacing),
            "SliceThickness": _decimals([np.linalg.norm(affine[:3, axis])])[0],
            "Rows": plane.shape[0],
            "Columns": plane.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": int(words.dtype == np.int16),
            "RescaleSlope": _decimals([slope])[0],
            "RescaleIntercept": _decimals([intercept])[0],
            "RescaleType": unit,
            "PixelData": plane.astype("<i2" if words.dtype == np.int16 else "<u2").tobytes(),
        }.items():
            setattr(dataset, key, value)
        datasets.append(dataset)
    return datasets


def _stored_words(planes: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Intensities as 16-bit integers, and slope and intercept that lead back to them."""
    low, high = float(planes.min()), float(planes.max())
    if (planes == np.round(planes)).all():
        for kind in (np.int16, np.uint16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return planes.astype(kind), 1.0, 0.0
    # A power of two is a short decimal, so that reading gives back exactly what was rounded to.
    slope = 2.0 ** np.ceil(np.log2(max(high - low, 1e-3) / 65000))
    intercept = float(np.floor(low / slope) * slope)
    return np.round((planes - intercept) / slope).astype(np.uint16), slope, intercept


def _decimals(numbers: Sequence[Any] | np.ndarray) -> list[Any]:
    """Numbers in the 16 characters that DICOM has for each."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(number), auto_format=True) for number in numbers]


def _segmentation(images: Sequence[Any], mask: np.ndarray, info: DatasetInfo, number: int) -> Any:
    """The SEG of a mask [slices, rows, columns]; its segments bear the names of the labels."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    present = {name: label for name, label in info.labels.items() if label and label in mask}
    algorithm = hd.AlgorithmIdentificationSequence(
        name="asyndgan", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=place,
            segment_label=name,
            # Whatever a label names, it is no finding: the SEG's segment bears the name.
            segmented_property_category=Code("91723000", "SCT", "Anatomical structure"),
            segmented_property_type=Code("85756007", "SCT", "Tissue"),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for place, name in enumerate(present, 1)
    ]
    layers = np.stack([mask == label for label in present.values()], -1)
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=layers.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=number,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="asyndgan",
        manufacturer_model_name="asyndgan",
        software_versions=__version__,
        device_serial_number="0",
        content_label=MARK,
        content_description=f"{MARK}: belongs to images that were painted",
        series_description=f"{MARK} mask",
    )
    for key in ("ImageComments", "PatientComments", "SyntheticData", "StudyDescription"):
        setattr(segmentation, key, images[0].get(key))
    return segmentation

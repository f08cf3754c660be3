"""Import of DICOM: voxels and masks as in the source, and everything that cannot be imported."""

import copy
import io
import json
import os
import shutil
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from typer.testing import CliRunner

from archives import AXIAL, ORIGIN, SAGITTAL, place_of, rtstruct, save, seg, series
from asyndgan.cli import app
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.intake.patients import patient_of
from reading import used_by

OBLIQUE = tuple(np.round([np.cos(0.3), np.sin(0.3), 0, -np.sin(0.3), np.cos(0.3), 0], 6))
RNG = np.random.default_rng(0)
SHAPE = (5, 12, 10)  # slices, rows, columns


def volume(shape: Sequence[int] = SHAPE, kind: type = np.int16) -> np.ndarray:
    return RNG.integers(0, 3000, shape).astype(kind)


def ball(shape: Sequence[int] = SHAPE) -> np.ndarray:
    grid = np.indices(shape)
    return sum((g - (n - 1) / 2) ** 2 for g, n in zip(grid, shape, strict=True)) < 6


def run(*words: object, code: int = 0) -> str:
    """What an import prints; a failure's message is at its end."""
    done = CliRunner().invoke(app, ["import", *map(str, words)], env={"COLUMNS": "80"})
    assert done.exit_code == code, (done.output, done.exception)
    said = done.output if code != 1 else f"{done.output}{done.exception}"
    assert all(len(line) <= 80 for line in done.output.splitlines() if line[:1] in "│┏┃"), said
    return " ".join(said.split())


def stored(folder: Path) -> dict[str, nib.Nifti1Image]:
    return {path.name: nib.load(path) for path in sorted(folder.rglob("*.nii.gz"))}


def only(folder: Path, part: str) -> nib.Nifti1Image:
    (found,) = stored(folder / part).values()
    return found


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "?"])
def test_voxels_and_their_places_are_those_of_the_source(orientation, tmp_path):
    values, mask = volume(), ball()
    images = series(values, orientation=orientation)
    save(tmp_path / "from", *images, seg(images, {"lesion": mask}))
    run(tmp_path / "from", tmp_path / "to")
    image, label = only(tmp_path / "to", "imagesTr"), only(tmp_path / "to", "labelsTr")
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
    assert (values - 1024 == np.asarray(image.dataobj).T).all()
    assert (mask == np.asarray(label.dataobj).T).all()
    # highdicom finds the same places, with its axes in another order
    other = hd.get_volume_from_series(images)
    wanted = nib.Nifti1Image(np.asarray(other.array), np.diag([-1, -1, 1, 1]) @ other.affine)
    found, wanted = nib.as_closest_canonical(image), nib.as_closest_canonical(wanted)
    assert np.allclose(found.affine, wanted.affine, atol=1e-4)
    assert (np.asarray(found.dataobj) == np.asarray(wanted.dataobj)).all()
    assert (image.affine == label.affine).all()
    assert nib.aff2axcodes(image.affine) == (
        ("P", "I", "R") if orientation == SAGITTAL else ("L", "P", "S")
    )
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_tilted_gantry_shears_the_affine_and_is_told(tmp_path):
    values, mask, way = volume(), ball(), [0, 0.9, 2.5]
    images = series(values, step=way)
    save(tmp_path / "from", *images, seg(images, {"lesion": mask}))
    assert "tilted gantry (up to 19.8 degrees)" in run(tmp_path / "from", tmp_path / "to")
    image = only(tmp_path / "to", "imagesTr")
    assert (values - 1024 == np.asarray(image.dataobj).T).all()
    assert (mask == np.asarray(only(tmp_path / "to", "labelsTr").dataobj).T).all()
    for place in range(SHAPE[0]):
        lies = image.affine @ [3, 4, place, 1]
        assert np.allclose(lies[:3] * [-1, -1, 1], place_of(images, 3, 4, place), atol=1e-3)


def setting(*places: int, **header: Any) -> Callable[[list[Dataset]], list[Dataset]]:
    """Headers say this at images of these places, or at all."""

    def change(images: list[Dataset]) -> list[Dataset]:
        for image in [images[place] for place in places] or images:
            for name, value in header.items():
                setattr(image, name, value)
        return images

    return change


def twice(images: list[Dataset]) -> list[Dataset]:
    """The first time point, and a second one in the same series."""
    others = series(volume(), study=images[0].StudyInstanceUID, patient=images[0].PatientID)
    for image in others:
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
        image.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    return [*images, *others]


def shifted(images: list[Dataset]) -> list[Dataset]:
    images[2].ImagePositionPatient = [*(ORIGIN[:2] + 3), images[2].ImagePositionPatient[2]]
    return images


def uneven(images: list[Dataset]) -> list[Dataset]:
    images[2].ImagePositionPatient = [*ORIGIN[:2], images[2].ImagePositionPatient[2] + 0.6]
    return images


def placeless(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        del image.ImagePositionPatient
    return images


def differing(**header: Any) -> Callable[[list[Dataset]], list[Dataset]]:
    """A second file of one image, in whose header this is otherwise."""
    return lambda images: [*images, *setting(**header)([copy.deepcopy(images[2])])]


def with_table(images: list[Dataset]) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType, item.LUTData = [2, 0, 16], "HU", bytes(4)
    return setting(ModalityLUTSequence=[item])(images)


def with_two_macros(images: list[Dataset]) -> list[Dataset]:
    """Of which the first counts, and says nothing."""
    for image in images:
        measures, shared = Dataset(), Dataset()
        measures.PixelSpacing = image.PixelSpacing
        shared.PixelMeasuresSequence = [Dataset(), measures]
        image.SharedFunctionalGroupsSequence = [shared]
        del image.PixelSpacing
    return images


def cut_short(images: list[Dataset]) -> list[Dataset]:
    images[1].PixelData = images[1].PixelData[:-100]
    return images


NO_VOLUMES: list[tuple[Callable[[list[Dataset]], list[Dataset]], str]] = [
    (lambda images: images[:2] + images[3:], "Lacks slices: 1 in 1 gaps. Export all"),
    (uneven, "Has slices 1.9 to 3.1 mm apart"),
    (twice, "Holds 10 images at 5 places (time points, echoes"),
    (setting(-1, ImageOrientationPatient=list(SAGITTAL)), "Holds images of several orientations"),
    (shifted, "Has slices that are shifted against each other"),
    (setting(2, Rows=10, Columns=12), "Holds images of several sizes"),
    (setting(1, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "Holds pictures in colour"),
    (setting(0, PhotometricInterpretation="PALETTE COLOR"), "Holds pictures in colour"),
    (setting(0, PhotometricInterpretation="MONOCHROME1"), "Is stored inverted"),
    (setting(0, PhotometricInterpretation=None), "Does not say which values are bright"),
    (placeless, "Has images without a place in space"),
    (with_two_macros, "Has images without a place in space"),
    (setting(PatientID=" "), "Has no PatientID"),
    (setting(3, 4, PatientID="ID-01"), "Has images with several PatientIDs. Give all files of"),
    (setting(ImagePositionPatient=["1e308", "1e308", "-1e308"]), "vast numbers"),
    (setting(Rows=65535, Columns=65535), "or more than 536870912"),
    (setting(BitsStored=12, HighBit=3), "header does not describe"),
    (setting(BitsStored=12, HighBit=16), "header does not describe"),
    (with_table, "Modality LUT"),
    (differing(RescaleIntercept=0), "two files of one image"),
    (differing(PixelData=bytes(2 * SHAPE[1] * SHAPE[2])), "two files of one image"),
    (cut_short, "truncated, damaged or too large"),
]


@pytest.mark.parametrize("dry", [True, False])
def test_series_that_are_no_volumes_are_left_out_and_named(dry, tmp_path, caplog, recwarn):
    save(tmp_path / "from", *(good := series(volume(), patient="good")))
    save(tmp_path / "from", seg(good, {"lesion": ball()}))
    for number, (change, _) in enumerate(NO_VOLUMES):
        images = series(volume(), patient=f"ID-{number + 2}")
        mask = seg(images, {"lesion": ball()})
        save(tmp_path / "from", *change(images), mask)
    said = run(tmp_path / "from", tmp_path / "to", *["--dry-run"] * dry)
    assert not [says for _, says in NO_VOLUMES if says not in said]
    assert "1 case of 1 patient" in said and (dry or len(stored(tmp_path / "to")) == 2)
    assert not caplog.records and not [w for w in recwarn if "dicom" in str(w.filename)]


def test_segments_get_numbers_by_the_alphabet_or_by_the_order_of_their_labels(tmp_path):
    liver, hole = ball(), np.zeros(SHAPE, bool)
    hole[2, 5:7, 4:6] = True
    images = series(volume())
    save(tmp_path / "from", *images, seg(images, {"Tumour": hole, "Liver": liver & ~hole}))
    run(tmp_path / "from", tmp_path / "plain")
    assert describe(tmp_path / "plain").labels == {"background": 0, "Liver": 1, "Tumour": 2}
    wanted = np.where(hole, 2, liver).T
    assert (np.asarray(only(tmp_path / "plain", "labelsTr").dataobj) == wanted).all()
    words = ("--label", "tumour=tum*", "--label", "liver")
    run(tmp_path / "from", tmp_path / "named", *words)
    assert describe(tmp_path / "named").labels == {"background": 0, "tumour": 1, "liver": 2}
    wanted = np.where(hole, 1, 2 * liver).T
    assert (np.asarray(only(tmp_path / "named", "labelsTr").dataobj) == wanted).all()
    run(tmp_path / "from", tmp_path / "one", "--label", "tumour")
    assert (np.asarray(only(tmp_path / "one", "labelsTr").dataobj) == hole.T).all()


def test_segments_that_overlap_are_refused_until_their_order_is_told(tmp_path):
    small = np.zeros(SHAPE, bool)
    small[2, 5:7, 4:6] = True
    images = series(volume())
    save(tmp_path / "from", *images, seg(images, {"a": small, "b": ball()}))
    said = run(tmp_path / "from", tmp_path / "to", code=1)
    assert "Holds segments that overlap" in said and not (tmp_path / "to").exists()
    run(tmp_path / "from", tmp_path / "to", "--label", "b", "--label", "a")
    wanted = np.where(small, 2, ball()).T
    assert (np.asarray(only(tmp_path / "to", "labelsTr").dataobj) == wanted).all()


def square(images: Sequence[Dataset], low: float, high: float, slice_: int) -> np.ndarray:
    corners = [(low, low), (low, high), (high, high), (high, low)]
    return np.array([place_of(images, x, y, slice_) for x, y in corners])


@pytest.mark.parametrize("way", [None, [0, 0.9, 2.5]], ids=["upright", "tilted"])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_contours_become_the_pixels_whose_centres_they_surround_with_holes(
    orientation, way, tmp_path
):
    images = series(volume(), orientation=orientation, step=way if orientation == AXIAL else None)
    ring = [square(images, 1.6, 7.4, 1), square(images, 3.5, 5.5, 1), square(images, 2.6, 4.4, 3)]
    triangle = np.array(
        [place_of(images, x, y, 2) for x, y in [(0.5, 0.5), (8.4, 0.5), (0.5, 8.4)]]
    )
    save(tmp_path / "from", *images, rtstruct(images, {"ring": ring, "triangle": [triangle]}))
    run(tmp_path / "from", tmp_path / "to")
    wanted = np.zeros(SHAPE, int)
    wanted[1, 2:8, 2:8] = 1
    wanted[1, 4:6, 4:6] = 0
    wanted[3, 3:5, 3:5] = 1
    row, column = np.indices(SHAPE[1:])
    wanted[2][(row > 0.5) & (column > 0.5) & (row + column < 8.9)] = 2
    assert (wanted == np.asarray(only(tmp_path / "to", "labelsTr").dataobj).T).all()


def of_contours(corners: tuple[float, float], off: float) -> Callable[[list[Dataset]], Dataset]:
    """An RTSTRUCT of a square, drawn this far off its slice."""
    return lambda images: rtstruct(
        images, {"a": [square(images, *corners, 1) + np.array([0, 0, off])]}
    )


def coarser(images: list[Dataset]) -> Dataset:
    mask = seg(images, {"lesion": ball()})
    mask.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.9, 0.7]
    return mask


def nameless(images: list[Dataset]) -> Dataset:
    mask = seg(images, {"a": ball()})
    mask.SegmentSequence[0].SegmentLabel = ""
    return mask


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (of_contours((2, 5), 1), "contours that lie on no slice"),
        (of_contours((2, 5), 1e9), "contours that lie on no slice"),
        (of_contours((2, 5), np.nan), "Cannot be read"),
        (of_contours((20, 25), 0), "no voxel with a label"),
        (lambda images: seg(images, {"a": ball()}, "FRACTIONAL"), "Holds probabilities"),
        (coarser, "another grid than its image"),
        (nameless, "1. H"),
        (lambda _: seg(series(volume()), {"a": ball()}), "Is of a series that is"),
    ],
)
def test_masks_that_do_not_fit_are_named_and_their_series_is_not_taken(made, says, tmp_path):
    images = series(volume())
    with disable_value_validation():
        save(tmp_path / "from", *images, made(images))
    assert says in run(tmp_path / "from", tmp_path / "to", code=1)


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_a_region_that_holds_nothing_becomes_a_label_only_if_it_is_named(kind, tmp_path):
    images = series(volume())
    if kind == "RTSTRUCT":
        rings = [square(images, 2, 5, 1)]
        mask = rtstruct(images, {"gtv": rings, "iso": [ORIGIN[None]], "": [], "empty": []})
        mask.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
        del mask.ROIContourSequence[3]
    else:
        mask = seg(images, {"gtv": ball(), "iso": 0 * ball(), "empty": 0 * ball()})
    save(tmp_path / "from", *images, mask)
    said = run(tmp_path / "from", tmp_path / "to")
    assert "Labels: 1 gtv. Make" in said
    assert "! No case has a frame or a closed contour of empty, iso. These become" in said
    run(tmp_path / "from", tmp_path / "named", "--label", "iso", "--label", "gtv")
    assert describe(tmp_path / "to").labels == {"background": 0, "gtv": 1}
    assert set(np.unique(only(tmp_path / "named", "labelsTr").dataobj)) == {0, 2}


@pytest.mark.parametrize(("places", "gaps"), [((0, 1, 4), True), ((1, 2, 3), False)])
def test_a_label_that_is_absent_between_slices_that_have_it_is_told(places, gaps, tmp_path):
    images = series(volume())
    parts = np.zeros((2, *SHAPE), bool)
    parts[0, :, :3, :3] = True
    parts[1, places, 5:8, 5:8] = True
    save(tmp_path / "from", *images, seg(images, dict(zip("ab", parts, strict=True))))
    said = run(tmp_path / "from", tmp_path / "to")
    assert ("! Masks of 1 series have gaps: a slice lacks a label" in said) == gaps


def test_contours_that_would_take_long_are_refused_before_they_are_drawn(tmp_path, monkeypatch):
    images = series(volume())
    ring = [np.tile(square(images, 0, 9, place), (100, 1)) for place in range(2)]
    save(tmp_path / "from", *images, rtstruct(images, {"a": ring}))
    monkeypatch.setattr("asyndgan.dicom.segments.MAX_CROSSINGS", 2000)
    assert "contours of too many points" in run(tmp_path / "from", tmp_path / "to", code=1)
    monkeypatch.setattr("asyndgan.dicom.segments.MAX_CROSSINGS", 4000)
    assert "no voxel with a label" in run(tmp_path / "from", tmp_path / "to", code=1)


@pytest.mark.parametrize(
    ("kind", "slope", "intercept", "wanted"),
    [
        (np.uint8, 1, 0, np.uint8), (np.int16, 1, -1024, np.int16), (np.uint16, 20, 0, np.int32),
        (np.uint16, 0.25, 3, np.float32),
    ],
)  # fmt: skip
def test_integers_stay_integers_where_scaling_allows(kind, slope, intercept, wanted, tmp_path):
    values = RNG.integers(0, 250 if kind is np.uint8 else 3000, SHAPE).astype(kind)
    save(tmp_path / "from", *series(values, slope=slope, intercept=intercept))
    run(tmp_path / "from", tmp_path / "to")
    image = only(tmp_path / "to", "imagesTr")
    assert image.get_data_dtype() == wanted
    assert (values.astype(np.float64) * slope + intercept == np.asarray(image.dataobj).T).all()


def test_each_slice_has_a_scale_of_its_own_and_spare_bits_do_not_count(tmp_path):
    values = RNG.integers(0, 4096, SHAPE).astype(np.uint16)
    images = series(values | 0x8000, BitsStored=12, HighBit=11, modality="PT", Units="BQML")
    for place, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = 0.5 + place, 0
    save(tmp_path / "from", *images)
    run(tmp_path / "from", tmp_path / "to")
    wanted = values * (0.5 + np.arange(SHAPE[0]))[:, None, None]
    assert (wanted == np.asarray(only(tmp_path / "to", "imagesTr").dataobj).T).all()
    assert describe(tmp_path / "to").extra["units"] == {"PT": "BQML"}


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_images_are_read_with_what_the_extra_installs(syntax, tmp_path):
    values = volume()
    images = series(values)
    for image in images:
        image.compress(syntax, generate_instance_uid=False)
    save(tmp_path / "from", *images)
    run(tmp_path / "from", tmp_path / "to")
    assert (values - 1024 == np.asarray(only(tmp_path / "to", "imagesTr").dataobj).T).all()


def as_picture(plane: np.ndarray, kind: str, **options: Any) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(plane).save(packed, kind, **options)
    return packed.getvalue()


def claiming(frame: bytes, marker: bytes, after: int, size: bytes) -> bytes:
    """A frame whose header claims another size."""
    start = frame.index(marker) + after
    return frame[:start] + size + frame[start + len(size) :]


def bomb(kind: str, plane: np.ndarray) -> tuple[str, bytes]:
    """A frame that a decoder would unpack to far more than the image, and its syntax."""
    vast, rows = b"\x7f\xff\x7f\xff", struct.pack(">IIII", 40_000, 40_000, 0, 0)
    octets = (plane % 256).astype(np.uint8)
    j2k = partial(as_picture, plane.astype(np.uint16), "JPEG2000", irreversible=False)
    again = struct.pack("<16I", 15, *[64, 64 + 2**16] * 7, 64) + b"\x80" * 2**16
    jpeg_ls = series(plane[None])[0]
    jpeg_ls.compress(JPEGLSLossless, generate_instance_uid=False)
    (lossless,) = generate_frames(jpeg_ls.PixelData, number_of_frames=1)
    return {
        "JPEG-LS": lambda: (JPEGLSLossless, claiming(lossless, b"\xff\xf7", 5, vast)),
        "JPEG": lambda: (
            JPEGBaseline8Bit, claiming(as_picture(octets, "JPEG"), b"\xff\xc0", 5, vast)
        ),
        "JPEG 2000": lambda: (
            JPEG2000Lossless, claiming(j2k(no_jp2=True), b"\xff\x51", 6, rows)
        ),
        "RLE whose segments are one": lambda: (RLELossless, again),
    }[kind]()  # fmt: skip


BOMBS = ("JPEG-LS", "JPEG", "JPEG 2000", "RLE whose segments are one")


def test_frames_that_claim_to_be_vast_are_refused_and_take_little(tmp_path: Path) -> None:
    for kind in BOMBS:
        images = series(volume(), patient=kind)
        for image in images:
            image.file_meta.TransferSyntaxUID, frame = bomb(kind, volume(kind=np.uint16)[0])
            image.PixelData = encapsulate([frame])
            image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        save(tmp_path / "from", *images)
    imported = (
        "from typer.testing import CliRunner; from asyndgan.cli import app; "
        "done = CliRunner().invoke(app, ['import', *sys.argv[2:]]); "
        "assert done.exit_code == 1; raise type(done.exception)(done.output)"
    )
    _, kilobytes, said = used_by(imported, tmp_path / "from", tmp_path / "to")
    said = " ".join(said.split())
    assert "truncated, damaged or too large" in said or "takes more than" in said
    assert kilobytes < 1.2 * 2**20


def test_a_table_of_offsets_leads_to_no_other_frames(tmp_path: Path) -> None:
    plane = volume(kind=np.uint16)[0]
    octets, (_, vast) = (plane % 256).astype(np.uint8), bomb("JPEG", plane)
    good = as_picture(octets, "JPEG")
    good += b"\0" * (len(good) % 2)
    images = series(np.stack([octets] * 3))
    for image in images:
        image.PixelData = encapsulate([good, vast], has_bot=False)
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        image.ExtendedOffsetTable = struct.pack("<Q", 8 + len(good))
        image.ExtendedOffsetTableLengths = struct.pack("<Q", len(vast))
        image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    save(tmp_path / "from", *images)
    run(tmp_path / "from", tmp_path / "to")
    found = np.asarray(only(tmp_path / "to", "imagesTr").dataobj).T[0] + 1024
    assert (found == np.asarray(Image.open(io.BytesIO(good)))).all()


def enhanced(values: np.ndarray) -> Dataset:
    """One file of many frames, whose places are in functional groups, last slice first."""
    images = series(values[::-1], step=[0, 0, -2.5])
    made = series(values[:1])[0]
    del made.ImagePositionPatient, made.ImageOrientationPatient
    del made.PixelSpacing, made.SliceThickness
    made.SOPClassUID, made.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", len(values)
    made.PixelData = values[::-1].tobytes()
    shared, measures, orientation, scale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = images[0].PixelSpacing, 2.5
    orientation.ImageOrientationPatient = list(AXIAL)
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -1000, "HU"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelValueTransformationSequence = [scale]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = []
    for image in images:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = image.ImagePositionPatient
        group.PlanePositionSequence = [position]
        made.PerFrameFunctionalGroupsSequence.append(group)
    return made


def test_an_enhanced_image_of_many_frames_is_read_by_its_functional_groups(tmp_path):
    values = volume()
    save(tmp_path / "from", enhanced(values))
    run(tmp_path / "from", tmp_path / "to")
    image = only(tmp_path / "to", "imagesTr")
    assert (values - 1000 == np.asarray(image.dataobj).T).all()
    assert np.allclose(image.affine[:3, 3], [90, 110, ORIGIN[2] - 10])


def test_all_studies_of_a_patient_are_one_patient_whose_name_is_kept(tmp_path):
    for patient in ("ID-1", "id-1", "ID-2"):
        images = series(volume(), patient=patient)
        save(tmp_path / "from", *images, seg(images, {"lesion": ball()}))
    run(tmp_path / "from", tmp_path / "to")
    names = [case.name for case in DataSet(tmp_path / "to").files]
    patients = {patient_of(name) for name in names}
    assert len(names) == 3 and len(patients) == 2
    assert sorted(name.partition("_")[2] for name in names) == ["s1", "s1", "s2"]
    told = tmp_path / "to-patients.json"
    assert stat.S_IMODE(told.stat().st_mode) == 0o600
    assert set(json.loads(told.read_text())["patients"].values()) == patients
    # another import knows them, and one without the map calls them otherwise
    run(tmp_path / "from", tmp_path / "again", "--map", told)
    run(tmp_path / "from", tmp_path / "other")
    assert set(stored(tmp_path / "again")) == set(stored(tmp_path / "to"))
    assert not set(stored(tmp_path / "other")) & set(stored(tmp_path / "to"))


@pytest.mark.parametrize("inside", ["to/patients.json", "to/imagesTr/../x.json"])
def test_the_map_of_patients_never_lies_in_the_data_set(inside, tmp_path):
    save(tmp_path / "from", *series(volume()))
    said = run(tmp_path / "from", tmp_path / "to", "--map", tmp_path / inside, code=1)
    assert "must not be handed on" in said and not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"patients": {"id-1": "../../x"}, "cases": {}}', '{"patients": [], "cases": 3}'],
)
def test_a_map_of_patients_that_no_import_wrote_is_refused(content, tmp_path):
    save(tmp_path / "from", *series(volume()))
    (tmp_path / "map.json").write_text(content)
    words = ("--map", tmp_path / "map.json")
    assert "is no map of patients" in run(tmp_path / "from", tmp_path / "to", *words, code=1)


def test_of_several_series_the_one_with_a_segmentation_is_taken_or_the_one_that_is_named(tmp_path):
    study, values = generate_uid(), volume()
    first = series(values, study=study, description="T1 pre", modality="MR", number=3)
    second = series(volume(), study=study, description="FLAIR", modality="MR", number=4)
    save(tmp_path / "from", *first, *second)
    said = run(tmp_path / "from", tmp_path / "to", code=1)
    assert "2 series of images, and no segmentation" in said
    save(tmp_path / "from", seg(first, {"lesion": ball()}))
    run(tmp_path / "from", tmp_path / "segmented")
    assert (values - 1024 == np.asarray(only(tmp_path / "segmented", "imagesTr").dataobj).T).all()
    words = ("--series", "FLAIR", "--series", "T1=t1*")
    run(tmp_path / "from", tmp_path / "both", *words)
    assert describe(tmp_path / "both").modalities == ("FLAIR", "T1")
    images = stored(tmp_path / "both" / "imagesTr")
    assert (values - 1024 == np.asarray([*images.values()][1].dataobj).T).all()
    run(tmp_path / "from", tmp_path / "number", "--series", "T1=3")
    assert (values - 1024 == np.asarray(only(tmp_path / "number", "imagesTr").dataobj).T).all()


@pytest.mark.parametrize(
    ("segments", "words", "says"),
    [
        (({"Liver": ball()}, {"liver": ball()}), (), "'Liver' and 'liver'"),
        (({"ignore": ball()}, {"b": ball()}), (), "none is called 'ignore'"),
        (({"a": ball()}, {"b": ball()}), ("--segmentation", "nothing"), "Has no segmentation"),
    ],
)
def test_conflicts_between_patients_are_named(segments, words, says, tmp_path):
    for number, each in enumerate(segments):
        images = series(volume(), patient=f"ID-{number}")
        save(tmp_path / "from", *images, seg(images, each))
    assert says in run(tmp_path / "from", tmp_path / "to", *words, code=1)
    assert not (tmp_path / "to").exists()


def test_two_segmentations_with_one_label_are_ambiguous_until_one_is_named(tmp_path):
    images = series(volume())
    for reader in ("Ann", "Bob"):
        part = ball()
        part[:2] = reader == "Bob"
        mask = seg(images, {"lesion": part}, series_description=reader)
        save(tmp_path / "from", mask)
    save(tmp_path / "from", *images)
    said = run(tmp_path / "from", tmp_path / "to", code=1)
    assert "several segmentations with the same label" in said
    run(tmp_path / "from", tmp_path / "to", "--segmentation", "ann")
    wanted = ball()
    wanted[:2] = False
    assert (wanted == np.asarray(only(tmp_path / "to", "labelsTr").dataobj).T).all()


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_a_segmentation_with_another_patient_id_than_its_images_is_named(kind, tmp_path):
    images = series(volume())
    rings = {"a": [square(images, 2, 5, 1)]}
    mask = seg(images, {"a": ball()}) if kind == "SEG" else rtstruct(images, rings)
    del mask.PatientID  # highdicom shares the element with the images
    mask.PatientID = "ID-01"
    save(tmp_path / "from", *images, mask)
    said = run(tmp_path / "from", tmp_path / "to", code=1)
    assert "Has another PatientID than its images. Give all files of a patient one" in said


@pytest.mark.parametrize(
    ("header", "warned"),
    [
        ({"BurnedInAnnotation": "YES"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY"], "BurnedInAnnotation": "NO"}, False),
        ({"modality": "US"}, True),
        ({}, False),
    ],
)
def test_text_that_may_be_burned_into_pixels_is_warned_of(header, warned, tmp_path):
    save(tmp_path / "from", *series(volume(), **header))
    said = run(tmp_path / "from", tmp_path / "to", "--dry-run")
    assert ("1 series may have text burned into their pixels" in said) == warned


def test_a_segmentation_that_is_there_twice_counts_once(tmp_path):
    images = series(volume())
    save(tmp_path / "from", *images, seg(images, {"lesion": ball()}))
    shutil.copytree(tmp_path / "from", tmp_path / "from" / "copy")
    assert "1 case of 1 patient" in run(tmp_path / "from", tmp_path / "to")
    assert (ball() == np.asarray(only(tmp_path / "to", "labelsTr").dataobj).T).all()


@pytest.mark.parametrize(("kind", "high"), [(np.uint16, 13), (np.int16, 14)])
def test_the_bits_of_a_value_lie_where_the_header_says(kind, high, tmp_path):
    values = RNG.integers(0, 2048, SHAPE) - (1000 if kind is np.int16 else 0)
    words = ((values & 0xFFF) << (high - 11)) | (0x8000 if high < 15 else 0)
    images = series(words.astype(np.uint16), BitsStored=12, HighBit=high, intercept=0)
    for image in images:
        image.PixelRepresentation = int(kind is np.int16)
    save(tmp_path / "from", *images)
    run(tmp_path / "from", tmp_path / "to")
    assert (values == np.asarray(only(tmp_path / "to", "imagesTr").dataobj).T).all()


@pytest.mark.parametrize(("said", "unit"), [("", {"CT": "HU"}), ("US", None)])
def test_hounsfield_units_are_those_that_a_rescale_leads_to(said, unit, tmp_path):
    for place, kept in (("a", True), ("b", False)):
        images = series(volume(), RescaleType=said)
        for image in () if kept else images:
            del image.RescaleSlope, image.RescaleIntercept, image.RescaleType
        save(tmp_path / place, *images)
        run(tmp_path / place, tmp_path / "to" / place)
        assert describe(tmp_path / "to" / place).extra.get("units") == (unit if kept else None)


def test_a_folder_without_images_is_said_to_hold_none(tmp_path):
    save(tmp_path / "from", *series(volume(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    (tmp_path / "from" / "a.txt").write_text("Smith")
    said = run(tmp_path / "from", tmp_path / "to", code=1)
    assert "holds no DICOM images" in said and "Nothing was written." in said
    assert [*tmp_path.iterdir()] == [tmp_path / "from"]


def garbage(folder: Path) -> int:
    """Writes files that are no DICOM, or hostile; returns their number."""
    image = save(folder / "one", series(volume())[0]) / "image-000.dcm"
    whole = image.read_bytes()
    shutil.rmtree(folder / "one")
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    head = whole[: whole.index(b"\x08\x00\x08\x00CS")]
    bare = whole[132:]
    deflated = head.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0\0")
    bomb = zlib.compress(bytes(2**28), wbits=-15)
    files = {
        "bare": bare, "empty": b"", "text": b"Smith, Ann",
        "zeros": bytes(2**20), "preamble": bytes(128) + b"DICM", "cut": whole[: len(whole) // 2],
        "cut meta": whole[:150], "nested": head + nested * 20_000,
        "items": head + nested[:12] + b"\xfe\xff\x00\xe0\0\0\0\0" * 100_000,
        "deflated": deflated + bomb, "long": head + b"\x10\x00\x20\x00UT\0\0\xff\xff\xff\x7f",
        "noise": head + RNG.bytes(5000),
    }  # fmt: skip
    for name, content in files.items():
        (folder / f"{name}.dcm").write_bytes(content)
    os.mkfifo(folder / "pipe.dcm")
    (folder / "loop").symlink_to(folder)
    (folder / "device.dcm").symlink_to("/dev/zero")
    return len(files)


def test_garbage_among_the_files_changes_nothing(tmp_path):
    values = volume()
    images = series(values)
    save(tmp_path / "from", *images, seg(images, {"lesion": ball()}))
    garbage(tmp_path / "from")
    said = run(tmp_path / "from", tmp_path / "to")
    assert "cannot be read, so slices may be missing" in said and "no DICOM" in said
    assert "Smith" not in said
    assert (values - 1024 == np.asarray(only(tmp_path / "to", "imagesTr").dataobj).T).all()


@pytest.mark.parametrize(("command", "lacking"), [("import", "pydicom"), ("export", "highdicom")])
def test_a_missing_extra_is_named(command, lacking, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, lacking, None)
    done = CliRunner().invoke(app, [command, str(tmp_path), str(tmp_path / "to")])
    assert "pip install '.[dicom]'" in str(done.exception)

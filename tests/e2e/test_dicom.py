"""From an archive of DICOM to a trained run, and from a synthetic set to DICOM and back."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary

from archives import place_of, rtstruct, save, seg, series
from asyndgan.export.writing import write_dataset
from asyndgan.intake.description import describe
from asyndgan.store.case import RawCase
from commands import command
from small import declare
from volumes import write_volumes

COMMAND = Path(sys.executable).with_name("asyndgan")
RNG = np.random.default_rng(0)
SHAPE = (3, 32, 32)
TINY = [
    "image.size=32", "generator.width=4", "generator.blocks=1", "discriminator.width=4",
    "discriminator.layers=1", "training.steps=2", "training.batch=2",
    "image.intensity.default.low=-1000", "image.intensity.default.high=1000",
]  # fmt: skip
SET = [word for override in TINY for word in ("--set", override)]


def asyndgan(*words: object, code: int = 0) -> str:
    """What a command prints, on both streams."""
    done = command(*words, COLUMNS="80")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def apart(*words: object) -> str:
    """The same in a process of its own, whose streams hold what libraries say as well."""
    done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


CANARIES: dict[str, Any] = {
    **dict.fromkeys(("LO", "SH", "PN", "ST", "LT", "UT", "UC", "UR"), "Canary^Yellow"),
    **dict.fromkeys(("AE", "CS"), "CANARY"),
    **{"DA": "19370519", "TM": "193705", "DT": "19370519193705", "AS": "937Y"},
    **{"IS": "7351937", "DS": "73519.37", "UI": "1.2.7351937.1"},
}
"""A value of each kind of field that is text; what is found of it in an output gave it away."""

FOUND = re.compile(r"canary|1937|73519|937y", re.IGNORECASE)
NEEDED = re.compile(
    "SOPClassUID|Modality|ImagePosition.*|ImageOrientation.*|PixelSpacing|SliceThickness|Rescale.*"
    "|PhotometricInterpretation|NumberOfFrames|SpecificCharacterSet|ROIName|SegmentLabel"
    "|SegmentationType|.*InstanceUID|FrameOfReferenceUID|.*Contour.*|Spacing.*|.*SegmentNumber"
    "|(Referenced)?ROINumber|PatientID"
)
"""Fields that say where and what the voxels are, what refers to what, and names of labels."""


def with_canaries(dataset: Dataset, *, nested: bool = False) -> Dataset:
    """Fills every field of text, and private ones, of a data set and of its sequences."""
    for item in [item for element in dataset if element.VR == "SQ" for item in element.value]:
        with_canaries(item, nested=True)
    if not nested:
        for tag, (kind, multiplicity, _, _, keyword) in DicomDictionary.items():
            usable = kind in CANARIES and 0x00080000 <= tag < 0x7FE00000 and keyword
            if usable and not NEEDED.fullmatch(keyword):
                many = int(multiplicity[0]) if multiplicity[0].isdigit() else 1
                value = [CANARIES[kind]] * many if many > 1 else CANARIES[kind]
                dataset.add_new(tag, kind, value)
        item = Dataset()
        item.PatientName = item.SeriesDescription = "Canary^Yellow"
        dataset.RequestAttributesSequence = [item]
    else:
        dataset.PatientName = dataset.SeriesDescription = dataset.ImageComments = "Canary^Yellow"
    dataset.private_block(0x0099, "CANARY 1.0", create=True).add_new(1, "LO", "Canary^Yellow")
    return dataset


@pytest.fixture
def archive(tmp_path):
    """Four patients, two with a SEG and two with an RTSTRUCT; canaries in each field and name."""
    folder = tmp_path / "archive"
    with disable_value_validation():
        for number in range(4):
            values = RNG.integers(0, 2000, SHAPE).astype(np.int16)
            uid = f"1.2.7351937.{number}"
            images = series(values, patient=f"Canary-{number}", study=f"{uid}.1")
            mask = np.zeros(SHAPE, bool)
            mask[:, 8:20, 10:22] = True
            if number < 2:
                drawn = seg(images, {"lesion": mask})
            else:
                corners = [(9.5, 7.5), (21.5, 7.5), (21.5, 19.5), (9.5, 19.5)]
                rings = [
                    np.array([place_of(images, x, y, place) for x, y in corners])
                    for place in range(SHAPE[0])
                ]
                drawn = rtstruct(images, {"lesion": rings})
            for place, image in enumerate(images):
                image.SeriesInstanceUID, image.SOPInstanceUID = f"{uid}.2", f"{uid}.3.{place}"
            for item in [*drawn.get("ReferencedSeriesSequence", [])]:
                item.SeriesInstanceUID = f"{uid}.2"
            if number >= 2:
                frame = drawn.ReferencedFrameOfReferenceSequence[0]
                study = frame.RTReferencedStudySequence[0]
                study.RTReferencedSeriesSequence[0].SeriesInstanceUID = f"{uid}.2"
            cursed = [with_canaries(each) for each in (*images, drawn)]
            save(folder / f"Canary^Yellow-{number}", *cursed, name="Canary 1937")
        (folder / "Canary.txt").write_text("Canary^Yellow")
        lost = with_canaries(series(np.zeros((1, 4, 4), np.int16), PatientID="")[0])
        save(folder / "Canary lost", lost)
        cut = save(folder / "Canary cut", lost) / "image-000.dcm"
        cut.write_bytes(cut.read_bytes()[:900])
    return folder


def test_no_field_of_a_header_reaches_the_set_or_the_terminal_and_the_set_can_be_trained_on(
    archive, tmp_path
):
    out = tmp_path / "north"
    before = sorted(tmp_path.rglob("*"))
    said = asyndgan("import", archive, out, "--dry-run")
    assert "4 cases of 4 patients can be imported" in said
    assert sorted(tmp_path.rglob("*")) == before
    said += apart("import", archive, out)
    # a failure has no canary in it either
    said += asyndgan("import", archive, tmp_path / "no", "--series", "T9", code=1)
    hidden = said.replace(str(tmp_path), "").replace(str(archive), "")
    assert not FOUND.search(hidden), hidden
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        whole = path.read_bytes()
        if path.name.endswith(".nii.gz"):
            image = nib.load(path)
            whole = image.header.binaryblock + b"".join(
                each.get_content() for each in image.header.extensions
            )
        assert not FOUND.search(whole.decode("latin1") + str(path.relative_to(tmp_path))), path
    told = (tmp_path / "north-patients.json").read_text()
    assert "canary-3" in told and "7351937" in told
    assert "Canary" in asyndgan("import", archive, tmp_path / "named", "--names", "--dry-run")
    told = command("import", archive, tmp_path / "named", "--dry-run", "--json").stdout
    assert [one["result"] for one in json.loads(told)["series"]].count("a case") >= 4
    assert "No faults" in asyndgan("check", out, *SET)
    train = ("train", "default", "--site", f"north={out}", "--out", tmp_path / "run", *SET)
    assert "step 2/2" in asyndgan(*train)


def synthetic(folder: Path, ending: str, *, whole: bool = True, declared: bool = True) -> Path:
    low, high = (0, 255) if ending == ".png" else (-900, 2500)
    cases = [
        RawCase(
            name=f"north-m{number:05d}_d1",
            patient="",
            channels={
                name: RNG.integers(low, high, (20, 24)).astype(np.float32) + (0 if whole else 0.37)
                for name in ("CT", "Łódź")
            },
            mask=RNG.integers(0, 3, (20, 24)),
            spacing=(1.5, 0.75),
        )
        for number in range(2)
    ]
    write_dataset(
        folder, cases, modalities=["CT", "Łódź"], file_ending=ending, name="made",
        labels={"background": 0, "liver": 1, "tumour": 2},
        extra={"synthetic": True} if declared else {},
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(("ending", "whole"), [(".nii.gz", False), (".png", True)])
def test_what_is_exported_is_imported_with_the_same_voxels_and_is_still_synthetic(
    ending, whole, tmp_path
):
    made = synthetic(tmp_path / "made", ending, whole=whole)
    assert "2 cases as DICOM" in asyndgan("export", made, tmp_path / "dicom")
    channels = ("--series", "CT=* ct", "--series", "Łódź=*łódź")
    asyndgan("import", tmp_path / "dicom", tmp_path / "back", *channels)
    info = describe(tmp_path / "back")
    assert info.synthetic and info.labels == {"background": 0, "liver": 1, "tumour": 2}
    names = json.loads((tmp_path / "back-patients.json").read_text())["patients"]
    for number in range(2):
        case = names[f"synthetic-north-m{number:05d}_d1"] + "_s1"
        for part, name in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", "")):
            found = nib.as_closest_canonical(
                nib.load(tmp_path / "back" / part / f"{case}{name}.nii.gz")
            )
            values = np.asarray(found.dataobj)[..., 0]
            path = made / part / f"north-m{number:05d}_d1{name}{ending}"
            if ending == ".png":
                wanted = np.flip(np.asarray(Image.open(path)).T)
            else:
                wanted = np.asarray(nib.load(path).dataobj)[..., 0]
                assert np.allclose(found.affine, nib.load(path).affine, atol=1e-5)
            most = 0 if whole or part == "labelsTr" else (wanted.max() - wanted.min()) / 60_000
            assert np.abs(values - wanted).max() <= most


@pytest.mark.parametrize("shape", [(6, 7, 4), (1, 7, 4)], ids=["volume", "sagittal slice"])
def test_a_synthetic_volume_comes_back_to_its_place(shape, tmp_path):
    affine = np.array([[0, 0, 2.5, -7], [-0.8, 0.1, 0, 20], [0.1, 0.8, 0, -30], [0, 0, 0, 1]])
    values = RNG.integers(-900, 900, shape[1:] + shape[:1]).astype(np.int16)  # right is stored last
    case = {"x": (values, (values > 0).astype("u1"), affine)}
    write_volumes(tmp_path / "made", case, channels=["CT"], label="bone", synthetic=True)
    asyndgan("export", tmp_path / "made", tmp_path / "dicom")
    asyndgan("import", tmp_path / "dicom", tmp_path / "back")
    for part in ("imagesTr", "labelsTr"):
        made, back = (
            nib.as_closest_canonical(nib.load(*(tmp_path / folder / part).iterdir()))
            for folder in ("made", "back")
        )
        assert np.allclose(made.affine, back.affine, atol=1e-4)
        assert (np.asarray(made.dataobj) == np.asarray(back.dataobj)).all()


def test_every_file_says_in_each_place_that_it_is_synthetic(tmp_path):
    asyndgan("export", synthetic(tmp_path / "made", ".nii.gz"), tmp_path / "dicom")
    files = [dcmread(path) for path in sorted((tmp_path / "dicom").rglob("*.dcm"))]
    assert len(files) == 6 and len({file.SOPInstanceUID for file in files}) == 6
    assert len({file.StudyInstanceUID for file in files}) == 2
    for file in files:
        for key in (
            "PatientName", "PatientID", "StudyDescription", "SeriesDescription", "ImageComments",
            "PatientComments",
        ):  # fmt: skip
            assert "synthetic" in str(file[key].value).lower(), key
        assert list(file.ImageType)[:2] == ["DERIVED", "SECONDARY"] or file.Modality == "SEG"
        assert file.SyntheticData == "YES"
        assert file.get("ConversionType", "SYN") == "SYN"


def test_a_set_that_is_not_declared_synthetic_is_refused(tmp_path):
    made = synthetic(tmp_path / "made", ".png", declared=False)
    said = asyndgan("export", made, tmp_path / "dicom", code=1)
    assert "may be of patients" in said and not (tmp_path / "dicom").exists()


@pytest.mark.parametrize("units", [None, {"CT": "HU"}, {"CT": "BQML"}])
def test_an_exported_unit_is_that_of_the_set_and_its_labels_are_no_findings(units, tmp_path):
    made = synthetic(tmp_path / "made", ".png")
    declare(made, **{"units": units} if units else {})
    asyndgan("export", made, tmp_path / "dicom")
    files = [dcmread(path) for path in sorted((tmp_path / "dicom").rglob("*.dcm"))]
    said = {file.RescaleType for file in files if file.SeriesDescription.endswith("CT")}
    assert said == {"HU" if units == {"CT": "HU"} else "US"}
    for segment in (one for file in files for one in file.get("SegmentSequence", ())):
        assert segment.SegmentLabel in ("liver", "tumour")
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "85756007"


def test_intensities_that_are_no_numbers_are_not_exported(tmp_path):
    made = synthetic(tmp_path / "made", ".nii.gz")
    path = next((made / "imagesTr").iterdir())
    held = nib.load(path)
    values = held.get_fdata()
    values[0, 0] = np.inf
    nib.save(nib.Nifti1Image(values.astype(np.float32), held.affine), path)
    said = asyndgan("export", made, tmp_path / "dicom", code=1)
    assert "infinite or not numbers" in said and not (tmp_path / "dicom").exists()


def test_synthetic_and_acquired_series_are_not_mixed(tmp_path):
    asyndgan("export", synthetic(tmp_path / "made", ".nii.gz"), tmp_path / "dicom")
    images = series(np.zeros(SHAPE, np.int16))
    save(tmp_path / "dicom" / "real", *images, seg(images, {"liver": np.ones(SHAPE, bool)}))
    said = asyndgan("import", tmp_path / "dicom", tmp_path / "to", "--series", "CT", code=1)
    assert "some series are synthetic, others acquired" in said

"""What is measured of a folder, and fingerprints of strangers."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import DataError
from asyndgan.export.writing import write_dataset
from asyndgan.intake.fingerprint import MOST_BYTES, loaded, measured
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.store.case import RawCase
from volumes import write_volumes

LABELS = {"background": 0, "left": 1, "right": 2}


def halves(folder: Path, patients: int = 4, *, fourth: bool = False) -> Path:
    """Pictures of two patches that a mirror exchanges; a quarter of them empty, if so wanted."""
    chance = np.random.default_rng(0)
    cases = []
    for number in range(patients):
        mask = np.zeros((20, 30), np.int64)
        if not (fourth and number == 0):
            mask[5:15, 3:10], mask[5:15, 20:27] = 1, 2
        image = chance.integers(0, 20, mask.shape) + 100.0 * (mask > 0)
        cases.append(RawCase(f"p{number}_s1", f"p{number}", {"T1": image.astype(np.float32)}, mask))
    write_dataset(folder, cases, modalities=("T1",), labels=LABELS, name="halves")
    return folder


def volume(
    folder: Path, dtype: type, scale: float, turn: tuple[int, int] = (1, 1), name: str = "T1"
) -> Path:
    """Two patients' volumes of thick axial slices, of which half hold a label."""
    mask = np.zeros((24, 20, 8), np.uint8)
    mask[4:10, 5:15, 2:6] = 1
    image = scale * (np.random.default_rng(1).uniform(0, 1, mask.shape) + mask)
    affine = np.diag([turn[0] * 1.0, turn[1] * 1.0, 5.0, 1.0])
    cases = dict.fromkeys(("ann", "bob"), (image.astype(dtype), mask, affine))
    return write_volumes(folder, cases, channels=[name])


def test_pictures_are_measured(tmp_path):
    found = measured(halves(tmp_path / "a", fourth=True))
    assert (found.patients, found.spaced) == (4, False)
    assert [side.voxels.middle for side in found.axes] == [20, 30]
    assert found.unlabelled == {"axial": 0.25} and found.thick is None
    (one,) = found.modalities
    assert (one.kind, one.bits, one.patients) == ("grey", 8, 4)
    assert one.whole and one.inside
    assert one.whole.p0_5.middle < 20 <= 100 <= one.inside.p0_5.middle
    # A case without a label does not count: a plan leaves such slices out where they are many.
    assert one.explained == pytest.approx(0.98, abs=0.03)
    left, right = found.labels
    assert (left.name, left.patients, left.slices) == ("left", 3, 0.75)
    assert left.area and left.area.middle == pytest.approx(70 / 600)
    assert (left.side, right.side) == (1, -1)


def test_volumes_are_measured_as_the_patient_lies(tmp_path):
    found = measured(volume(tmp_path / "a", np.float32, 3.0, turn=(-1, -1)))
    assert found.thick == "axial"
    assert [side.view.middle for side in found.axes] == [24, 20, 40]
    assert found.unlabelled == {"sagittal": 0.75, "coronal": 0.5, "axial": 0.5}
    assert (found.modalities[0].kind, found.modalities[0].bits) == ("mri", 32)
    turned, plain = found.labels[0], measured(volume(tmp_path / "b", np.float32, 3.0)).labels[0]
    assert plain.side and turned.side == -plain.side


def scans(folder: Path, lowest: tuple[float, ...], name: str = "CT", units: object = None) -> Path:
    """Patients with an organ of 80 HU in tissue of 40, around it air or whatever is lowest."""
    chance, cases = np.random.default_rng(2), {}
    for number, low in enumerate(lowest):
        mask = np.zeros((24, 24, 8), np.uint8)
        mask[8:16, 8:16, 3:5] = 1
        image = np.full(mask.shape, low)
        image[4:20, 4:20] = 40
        image = image + 40 * mask + chance.normal(0, 10, mask.shape)
        cases[f"p{number}"] = image.astype(np.int16), mask, np.eye(4)
    return write_volumes(folder, cases, channels=[name], **({"units": units} if units else {}))


@pytest.mark.parametrize(
    ("lowest", "units", "kind"),
    [
        ((-1000, -1000, 0), None, "ct"),
        ((-1000, 0, 0), None, "mri"),
        ((0, 0, 0), {"CT": "HU"}, "ct"),
        ((-1000, -1000, -1000), {"CT": "BQML"}, "mri"),
    ],
)
def test_a_ct_is_told_by_its_units_or_by_most_of_its_cases(tmp_path, lowest, units, kind):
    folder = scans(tmp_path / "a", lowest, units=units)
    assert measured(folder).modalities[0].kind == kind


def boxes(folder: Path, **shapes: tuple[tuple[int, int, int], float]) -> Path:
    """A volume for each name, of its own number of voxels and slice distance, with a label."""
    cases = {}
    for name, (shape, thick) in shapes.items():
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(side // 4, -(side // 4) or None) for side in shape)] = 1
        chance = np.random.default_rng(zlib.crc32(f"{folder.name} {name}".encode()))
        image = 50.0 * mask + chance.uniform(0, 20, shape)
        cases[name] = image, mask, np.diag([1.0, 1.0, thick, 1.0])
    return write_volumes(folder, cases)


@pytest.mark.parametrize(
    ("shape", "others", "sets"),
    [
        ((1, 40, 48), (1, 40, 48), "image.axis sagittal"),
        ((200, 200, 12), (16, 16, 12), "each is scaled to the size"),
    ],
)
def test_a_plan_is_one_that_check_passes(shape, others, sets, tmp_path):
    sites = [
        boxes(tmp_path / site, **{f"{site}{n}": (own, 1.0) for n in range(6)})
        for site, own in (("north", shape), ("south", others))
    ]
    told = CliRunner().invoke(app, ["plan", *map(str, sites)], env={"COLUMNS": "300"})
    assert sets in " ".join(told.output.split())
    checked = CliRunner().invoke(app, ["check", *map(str, sites)], env={"COLUMNS": "300"})
    assert checked.exit_code == 0, checked.output


def test_synthetic_images_are_not_measured(tmp_path):
    folder = halves(tmp_path / "a")
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "synthetic": True}))
    with pytest.raises(DataError, match="synthetic"):
        measured(folder)


@pytest.mark.parametrize(
    ("masks", "said"),
    [("none", "no mask is there.*only 'complete' needs none"), ("empty", "no mask there holds a")],
)
def test_a_folder_whose_masks_say_nothing_is_not_measured(masks, said, tmp_path):
    folder = halves(tmp_path / "a")
    for path in (folder / "labelsTr").iterdir():
        if masks == "none":
            path.unlink()
        else:
            Picture.new("L", (30, 20)).save(path)
    if masks == "none":
        (folder / "labelsTr").rmdir()
    with pytest.raises(DataError, match=f"labelsTr: {said}"):
        measured(folder)


def test_figures_that_no_scanner_stores_are_an_error(tmp_path):
    folder = volume(tmp_path / "a", np.float64, 1.0)
    image = next((folder / "imagesTr").iterdir())
    values = nib.load(image).get_fdata()
    nib.save(nib.Nifti1Image(values * np.nan, nib.load(image).affine), image)
    with pytest.raises(DataError, match="infinite or not numbers"):
        measured(folder)
    for part in ("imagesTr", "labelsTr"):
        for file in (folder / part).iterdir():
            held = nib.load(file)
            kept = np.nan_to_num(held.get_fdata()).astype(held.get_data_dtype())
            nib.save(nib.Nifti1Image(kept, np.diag([1e20, 1e20, 1e20, 1])), file)
    with pytest.raises(DataError, match="no scanner stores"):
        measured(folder)


def test_few_patients_are_told_by_names_alone(tmp_path):
    found = measured(halves(tmp_path / "a", patients=4))
    kept = found.bounded(5)
    assert kept.patients is None and not kept.axes and not kept.unlabelled
    assert [each.name for each in kept.labels] == ["left", "right"]
    assert all(each.area is None and each.patients is None for each in kept.labels)
    assert kept.modalities[0].whole is None and kept.modalities[0].kind == "unknown"


def test_tails_of_spreads_need_ten_times_the_patients(tmp_path):
    found = measured(halves(tmp_path / "a", patients=6, fourth=True))
    assert found.bounded(5).labels[0].patients == found.bounded(5).patients == 5
    whole = found.bounded(5).modalities[0].whole
    assert whole and whole.p99_5.low is None and whole.p99_5.middle
    assert found.bounded(6).labels[0].patients is None


def test_a_label_that_few_lack_is_told_as_that_of_all(tmp_path):
    (label, _) = measured(halves(tmp_path / "a", patients=10, fourth=True)).bounded(5).labels
    assert label.patients == 10


def lesions(folder: Path, *, ill: int, odd: Callable[[np.ndarray], object]) -> Fingerprint:
    """Of 24 volumes, in some of which lies a lesion of 217, as they leave; the last is `odd`."""
    cases = {}
    for number in range(24):
        image = np.full((12, 12, 6), 60, np.int16)
        image[6:] = 9
        if number == 23:
            odd(image)
        mask = np.zeros(image.shape, np.uint8)
        mask[2:5, 2:5, 1:4] = number < ill
        image[mask > 0] = 217
        cases[f"p{number}"] = image, mask, np.eye(4)
    return measured(write_volumes(folder, cases, label="lesion", ending=".nii")).bounded(5)


def test_a_lesion_of_one_patient_alone_leaves_no_figure(tmp_path):
    found = lesions(tmp_path / "a", ill=1, odd=lambda image: None)
    (one,) = found.modalities
    assert one.whole and (one.inside, one.explained) == (None, None)
    assert found.labels[0].model_dump(exclude_defaults=True) == {"name": "lesion", "number": 1}
    assert set(found.unlabelled.values()) == {1.0}


@pytest.mark.parametrize(
    "odd",
    [
        lambda image: image.__setitem__((0, 0, 0), 300),
        lambda image: image.resize((12, 12, 9), refcheck=False),
        lambda image: image.__setitem__(np.s_[9:], -1000),
    ],
    ids=["a bright pixel", "more slices", "air"],
)
def test_one_odd_patient_changes_nothing_that_leaves(odd, tmp_path):
    plain = lesions(tmp_path / "a", ill=16, odd=lambda image: None)
    assert lesions(tmp_path / "b", ill=16, odd=odd) == plain


def test_nothing_leaves_of_a_fingerprint_without_numbers_of_patients(tmp_path):
    found = measured(halves(tmp_path / "a", patients=30))
    bare = found.bounded(1).bounded(5)
    assert (bare.patients, bare.axes, bare.unlabelled) == (None, (), {})


def good(tmp_path: Path) -> dict[str, Any]:
    return json.loads(measured(halves(tmp_path / "good")).model_dump_json())


def spread_of(found: dict[str, Any]) -> dict[str, Any]:
    return found["axes"][0]["voxels"]


def flat(value: float) -> dict[str, float]:
    return dict.fromkeys(("low", "middle", "high"), value)


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "not in order": lambda found: spread_of(found).update(low=99),
    "finite": lambda found: spread_of(found).update(middle=float("nan")),
    "or equal to 1000000": lambda found: spread_of(found).update(high=1e300),
    "no key here": lambda found: found.update(path="/home/ann"),
    "more patients": lambda found: found["labels"][0].update(patients=9),
    "is no label to be painted": lambda found: found["labels"][0].update(name="Ignore"),
    "8 bits is from 0 to 255": lambda found: (
        found["modalities"][0].update(bits=8),
        found["modalities"][0]["whole"].update(p99_5=flat(300)),
    ),
    "one voxel at least": lambda found: found["axes"][0].update(voxels=flat(1e-3), view=flat(1e-3)),
    "patients": lambda found: found.update(patients=True),
    "twice": lambda found: found["labels"].append(found["labels"][0]),
    "axes": lambda found: found["axes"].pop(),
    "modalities.0.name": lambda found: found["modalities"][0].update(name="\x1b[2J"),
    "labels.0.number": lambda found: found["labels"][0].update(number=10**30),
    "behind": lambda found: found.update(behind={"axes": (4, -1, 0)}),
    "modalities.0 = [1, 2]: write a table": lambda found: found.update(modalities=[[1, 2]]),
    "unlabelled": lambda found: found.update(unlabelled={"oblique": 0.5}),
}


@pytest.mark.parametrize("says", HOSTILE)
def test_a_strangers_fingerprint_is_bounded(tmp_path, says):
    found = good(tmp_path)
    HOSTILE[says](found)
    file = tmp_path / "north.json"
    file.write_text(json.dumps(found))
    with pytest.raises(DataError) as error:
        loaded(file)
    assert says in str(error.value) and "asyndgan fingerprint" in str(error.value)
    assert len(str(error.value).splitlines()) == 3  # one wrong key


@pytest.mark.parametrize(
    "text",
    [
        "", "[1, 2]", "{", '{"spaced": true, "spaced": false}', '{"a":' * 90 + "1" + "}" * 90,
        "[" * 10**5, " " * (MOST_BYTES + 1), "\udcff",
    ],
)  # fmt: skip
def test_what_is_no_fingerprint_is_an_error_that_names_it(tmp_path, text):
    file = tmp_path / "north.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"north\.json") as error:
        loaded(file)
    assert "instance of" not in str(error.value)


def test_the_command_prints_all_that_it_writes_at_80_columns(tmp_path):
    folder, out = halves(tmp_path / "north"), tmp_path / "north.json"
    words = ["fingerprint", str(folder), "--out", str(out)]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.output.splitlines() if not line.startswith("Written")]
    assert max(map(len, lines)) <= 80
    found = loaded(out)
    assert found == measured(folder)
    assert all(f"labels {each.name}" in shown.output for each in found.labels)
    assert str(tmp_path) not in out.read_text() and "p0" not in json.loads(out.read_text())
    again = CliRunner().invoke(app, words)
    assert again.exit_code and "exists already" in str(again.exception)


def test_a_plan_of_a_folder_and_a_file_is_written(tmp_path):
    halves(tmp_path / "north")
    file, out = tmp_path / "south.json", tmp_path / "recipe.toml"
    file.write_text(measured(halves(tmp_path / "other")).model_dump_json())
    again = shutil.copy(file, tmp_path / "again.json")
    words = ["plan", str(tmp_path / "north"), str(file), f"b={again}", "--out", str(out)]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert "north (4 patients), south (4 patients), b (4 patients)" in shown.output
    assert "a mirrored mask of 'left' resembles no mask of these patients" in " ".join(
        shown.output.split()
    )
    assert "Expected: about" in shown.output
    assert "(rule 'sides')" in out.read_text()

"""What `check` and `train` conclude from data that can be read."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from asyndgan.engines.setup import SiteSetup, load_cohort
from asyndgan.errors import AsyndganError, DataError
from asyndgan.intake.between import compare_folders, notes_between, same_pictures
from asyndgan.intake.check import CheckReport, check_folder
from asyndgan.intake.dataset import DataSet, told
from asyndgan.intake.patients import joined, patient_of
from asyndgan.intake.units import in_hounsfield
from asyndgan.recipe import Recipe
from asyndgan.runs.train import train
from reading import told_by

MakeRecipe = Callable[..., Recipe]
SIDES = (24, 20, 10)


def drawn(seed: int, shape: tuple[int, ...] = SIDES) -> tuple[np.ndarray, np.ndarray]:
    """Grey values, 0 to 255, and a mask with the labels 1 (a body) and 2 (a spot in it)."""
    chance = np.random.default_rng(seed)
    sides = (np.linspace(-1, 1, side) if side > 3 else np.zeros(side) for side in shape)
    places = np.meshgrid(*sides, indexing="ij")
    radius = np.sqrt(sum(place**2 for place in places))
    mask = (radius < 0.9).astype(np.uint8) + (radius < 0.3)
    noise = chance.uniform(0, 20, shape)
    return noise + 100 * (mask > 0) + 100 * (mask > 1), mask


def described(folder: Path, ending: str, modality: str = "T1", **keys: object) -> None:
    table = {
        "channel_names": {"0": modality},
        "labels": {"background": 0, "body": 1, "spot": 2},
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps({**table, **keys}))


def volumes(
    folder: Path,
    stored: Callable[[np.ndarray, np.ndarray, int], np.ndarray] = lambda grey, mask, n: grey,
    *,
    patients: int = 4,
    spacing: tuple[float, float, float] = (1, 1, 3),
    shape: tuple[int, ...] = SIDES,
    labels: int = 2,
    seed: int = 0,
    **keys: object,
) -> Path:
    """A data set of volumes; `stored` makes the intensities of patient n."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(patients):
        grey, mask = drawn(seed + number, shape)
        name, affine = f"p{seed + number:03d}", np.diag([*spacing, 1.0])
        image = np.asarray(stored(grey, mask, number), np.float32)
        nib.save(nib.Nifti1Image(image, affine), folder / f"imagesTr/{name}_0000.nii.gz")
        mask = np.minimum(mask, labels)
        nib.save(nib.Nifti1Image(mask, affine), folder / f"labelsTr/{name}.nii.gz")
    described(folder, ".nii.gz", **keys)
    return folder


def pictures(
    folder: Path, names: list[str], *, seed: int = 0, shape: tuple[int, int] = (32, 32)
) -> Path:
    """A data set of grey pictures."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(names):
        grey, mask = drawn(seed + number, shape)
        Picture.fromarray(grey.astype(np.uint8)).save(folder / f"imagesTr/{name}_0000.png")
        Picture.fromarray(mask).save(folder / f"labelsTr/{name}.png")
    described(folder, ".png")
    return folder


def checked(folder: Path, *overrides: str) -> CheckReport:
    return check_folder(folder, image=Recipe.from_toml("", overrides).image)


HOUNSFIELD = ("image.intensity.default.low=-1000", "image.intensity.default.high=1000")
PERCENTILES = (
    "image.intensity.default.kind=percentiles", "image.intensity.default.low=0.5",
    "image.intensity.default.high=99.5",
)  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "suited"),
    [
        # A chest: the spot lies in the range, and the lung that is most of the picture below it.
        (lambda grey, mask, n: np.where(mask == 2, 50, -850 + grey), HOUNSFIELD),
        (lambda grey, mask, n: (grey - 60) / 50, PERCENTILES),  # a z-score
        (lambda grey, mask, n: grey * (16 if n > 1 else 1), PERCENTILES),  # one of two scanners
    ],
    ids=["lung", "z-score", "bright scanner"],
)
def test_lost_intensities_are_a_fault(
    stored: Callable[..., np.ndarray], suited: tuple[str, ...], tmp_path: Path, tiny: MakeRecipe
) -> None:
    folder = volumes(tmp_path / "a", stored)
    fault = checked(folder).faults[0]
    assert fault.reason.startswith("modality T1 does not fit image.intensity (range, 0 to 255)")
    assert "'asyndgan plan' chooses" in fault.remedy
    assert checked(folder, *suited).faults == ()
    setup = SiteSetup("north", folder, tmp_path / "state")
    with pytest.raises(DataError, match="site north: modality T1 does not fit"):
        load_cohort(setup, tiny("image.size=32"))
    assert len(load_cohort(setup, tiny("image.size=32", *suited))) == 4 * SIDES[2]


@pytest.mark.parametrize(
    ("name", "highest", "ct"),
    [("CT", 30000, True), ("low-dose CT", 900, True), ("0", 900, True), ("0", 6650, False),
     ("T1", 900, False), ("fluorescence", 900, False)],
)  # fmt: skip
def test_hounsfield_units_are_claimed_of_a_ct_alone(name: str, highest: int, ct: bool) -> None:
    assert in_hounsfield(name, [-940, -1000], [highest]) == ct


@pytest.mark.parametrize(
    ("odd", "patients", "fault"),
    [((3, 8), 12, False), ((0, 1), 4, True), ((0,), 1, True)],
)  # fmt: skip
def test_single_patients_are_noted_by_name_and_a_scanner_is_a_fault(
    odd: tuple[int, ...], patients: int, fault: bool, tmp_path: Path, tiny: MakeRecipe
) -> None:
    folder = volumes(tmp_path / "a", lambda grey, mask, n: grey * (20 if n in odd else 1),
                     patients=patients, shape=(12, 12, 2))  # fmt: skip
    report = checked(folder)
    setup = SiteSetup("north", folder, tmp_path / "state")
    assert bool(report.faults) == fault
    if fault:
        with pytest.raises(DataError, match="does not fit"):
            load_cohort(setup, tiny("image.size=32"))
    else:
        (note,) = [note for note in report.notes if "does not fit" in note]
        names = ", ".join(f"p{n:03d}" for n in odd)
        assert f"in {len(odd)} of {patients} patients ({names})" in note
        assert load_cohort(setup, tiny("image.size=32")).patients == patients


def test_a_window_that_is_set_by_hand_is_noted_and_no_fault(
    tmp_path: Path, tiny: MakeRecipe
) -> None:
    # Lung is labelled, soft tissue is meant.
    values = (40, -800, 60)
    folder = volumes(tmp_path / "a", lambda grey, mask, n: np.choose(mask, values) + grey / 10)
    chosen = ["image.intensity.default.low=-160", "image.intensity.default.high=240"]
    report = checked(folder, *chosen)
    assert report.faults == ()
    (note,) = [note for note in report.notes if "does not fit" in note]
    assert note.endswith("unless this is meant")
    load_cohort(SiteSetup("north", folder, tmp_path / "s"), tiny("image.size=32", *chosen))
    assert checked(folder).faults  # by the default range


def test_intensities_are_not_judged_where_a_refusal_would_tell_of_patients(
    tmp_path: Path, tiny: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    folder = volumes(tmp_path / "a", lambda grey, mask, n: grey * 40)
    private = tiny(
        "image.size=32", "privacy.kind=discriminator", "discriminator.kind=patch",
        "loss.segmentation=0", "privacy.conditions=unprotected", "masks.release=false",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        load_cohort(SiteSetup("north", folder, tmp_path / "s"), private, tell=logging.warning)
    assert "modality T1 does not fit" in caplog.text


SLICES = {
    "BraTS20_Training_{0:03d}_slice_{1}": r"(.+)_slice_\d+$",
    "IM-{0:04d}-{1:04d}": r"(.+)\-\d+$",
    "pat{0}slice{1}": r"(.+)slice\d+$",
    "{2} Frame-{1}": r"(.+)\ Frame\-\d+$",
}


@pytest.mark.parametrize("form", SLICES)
def test_slices_named_by_a_counter_are_joined(form: str) -> None:
    people = ("anna", "bert", "carl")
    names = [
        form.format(patient, number, people[patient]) for patient in range(3) for number in range(7)
    ]
    found = joined(names, "")
    assert found and (found.cases, found.patients, found.pattern) == (21, 3, SLICES[form])
    assert len({patient_of(name, found.pattern) for name in names}) == 3
    assert joined(names, found.pattern) is None


@pytest.mark.parametrize(
    ("form", "many"),
    [("hippocampus_{0:03d}", 90), ("BraTS20_Training_{0:03d}", 369),
     ("case{0}_s{0:02d}", 30), ("0287e7{0:03d}ee5b{1:02d}", 50)],
)  # fmt: skip
def test_numbers_of_patients_are_no_counters_of_slices(form: str, many: int) -> None:
    names = [form.format(number, number * 37 % 100) for number in range(many)]
    assert joined(names, "") is None


@pytest.mark.parametrize(
    "names",
    [
        [f"site{site}_{n:03d}" for site in (1, 2, 3) for n in range(12)],
        [f"2019-05-{day:02d}_{n:03d}" for day in range(1, 8) for n in range(6)],
        [f"c{site}p{n:02d}" for site in range(4) for n in range(8)],
        [f"{site}_img_{n:03d}" for site in ("north", "south") for n in range(40)],
        [f"KiTS19-{n:03d}" for n in range(40)],
        [f"{kind} ({n})" for kind in ("benign", "malignant", "normal") for n in range(40)],
    ],
    ids=lambda names: names[0],
)
def test_numbers_of_hospitals_days_and_sets_are_no_patients(names: list[str]) -> None:
    assert joined(names, "") is None


SITES = {
    "other glue": (
        [f"HN{p:02d}-{n:03d}" for p in range(3) for n in range(5)],
        [f"QX{p:02d}_im{n}" for p in range(4) for n in range(5)],
        [3, 4],
    ),
    "patients by the default": (
        [f"HN{p:02d}_{n:03d}" for p in range(3) for n in range(5)],
        [f"ann{p}_s{n}" for p in range(4) for n in range(5)],
        [3, 4],
    ),
    "a cohort's numbers": (
        [f"HN{p:02d}_{n:03d}" for p in range(3) for n in range(5)],
        [f"BraTS2021_{n:05d}" for n in range(20)],
        [3, 20],
    ),
}


@pytest.mark.parametrize("kind", SITES)
def test_the_pattern_that_is_proposed_joins_what_it_says(kind: str) -> None:
    *folders, patients = SITES[kind]
    for names, people in zip(folders, patients, strict=True):
        found = joined(names, "")
        pattern = found.pattern if found else ""
        assert len({patient_of(name, pattern) for name in names}) == people
        assert joined(names, pattern) is None


def test_patients_are_told_without_opening_an_image(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", [f"sub{n // 4:02d}_{n % 4}" for n in range(8)])
    for path in folder.glob("imagesTr/*"):
        path.write_bytes(b"")
    text = told({"north": DataSet(folder)})
    assert text.startswith("north: 8 patients, 8 pictures. 8 cases look like 2 patients")
    key = r'"patient_pattern": "(.+)_\\d+$"'
    assert text.endswith(f" in dataset.json: {key}")
    told_by(folder, json.loads(f"{{{key}}}")["patient_pattern"])  # as it is copied
    assert told({"north": DataSet(folder)}) == "north: 2 patients, 8 pictures"


def test_one_picture_under_two_names_is_found(tmp_path: Path) -> None:
    north = pictures(tmp_path / "north", ["ann", "bob"])
    south = pictures(tmp_path / "south", ["cid", "dan"], seed=1)  # cid is bob
    (fault,) = same_pictures([checked(north), checked(south)])
    assert fault.file == south / "imagesTr/cid_0000.png"
    assert not checked(pictures(tmp_path / "twice", ["ann", "bob", "eve"])).notes
    for path in (tmp_path / "twice").glob("*/eve*"):
        path.write_bytes((path.parent / path.name.replace("eve", "ann")).read_bytes())
    (note,) = checked(tmp_path / "twice").notes
    assert note.startswith("2 cases are one picture")
    assert "(ann, eve)" in note


def test_copies_are_one_note_however_many_there_are(tmp_path: Path) -> None:
    groups = ["ab", "cd", "ef", "gh", "ij"]
    names = [f"{group[0]}{name}" for group in groups for name in group]
    folder = pictures(tmp_path / "a", names)
    for name in names:
        for path in folder.glob(f"*/{name}*"):
            path.write_bytes((path.parent / path.name.replace(name, name[0] * 2)).read_bytes())
    (note,) = [one for one in checked(folder).notes if "several patients" in one]
    assert note.startswith(f"{len(names)} cases are ")
    assert len([name for name in names if name in note]) <= 3
    (finding,) = [one for one in checked(folder).findings if one.kind == "duplicates"]
    assert sorted(finding.volumes) == names


def test_capitals_do_not_tell_patients_apart(tmp_path: Path) -> None:
    north = pictures(tmp_path / "north", ["ann", "bob"])
    south = pictures(tmp_path / "south", ["Ann", "dan"], seed=7)
    (fault,) = compare_folders([checked(north), checked(south)])
    assert fault.file == south / "imagesTr/Ann_0000.png"
    (fault,) = check_folder(north, test=south).faults
    assert fault.file == south / "imagesTr/Ann_0000.png"


def test_sites_of_other_labels_and_modalities_are_noted(tmp_path: Path) -> None:
    north, other = volumes(tmp_path / "n"), volumes(tmp_path / "o", seed=14)
    described(other, ".nii.gz", "FLAIR", labels={"background": 0, "body": 1, "spots": 2})
    reports = [checked(north), checked(other)]
    kinds = ["modality 'T1'", "modality 'FLAIR'", "label 'spot'", "label 'spots'"]
    assert [note.partition(" is not")[0] for note in notes_between(reports)] == kinds
    assert not [*notes_between(reports, told=2)]  # by the plan
    twice = replace(reports[1], labels={"background": 0, "cyst": 1, "Cyst": 2})
    assert "names 'cyst' and 'Cyst'" in str(compare_folders([twice]))


def lacking(folder: Path, patients: int, without: int) -> Path:
    """Two modalities, of which the first `without` patients lack the second."""
    volumes(folder, patients=patients)
    for path in sorted(folder.glob("imagesTr/*"))[without:]:
        path.with_name(path.name.replace("0000", "0001")).write_bytes(path.read_bytes())
    described(folder, ".nii.gz", channel_names={"0": "T1", "1": "T2"}, incomplete=True)
    return folder


def modalities(folder: Path, count: int) -> Path:
    """A data set of so many equal modalities."""
    volumes(folder, patients=2, shape=(12, 12, 2))
    for path in list(folder.glob("imagesTr/*")):
        for number in range(1, count):
            other = path.with_name(path.name.replace("_0000", f"_{number:04d}"))
            other.write_bytes(path.read_bytes())
    names = {str(number): f"echo{number}" for number in range(count)}
    described(folder, ".nii.gz", channel_names=names)
    return folder


CROSSED = "discriminator.cross_fitted=true"
REFUSED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], str]] = {
    "one patient": (lambda at: volumes(at, patients=1), (CROSSED,), "has one patient"),
    "one half lacks it": (lambda at: lacking(at, 4, 3), (CROSSED,), "one half alone has"),
    "incomplete": (
        lambda at: lacking(at, 6, 3),
        (
            "privacy.kind=discriminator", "privacy.conditions=unprotected", "masks.release=false",
            "discriminator.cross_fitted=false", "loss.segmentation=0",
        ),
        "some cases lack a modality",
    ),
    "no such modality": (volumes, ("image.modalities=FLAIR",), "none of which is in the recipe"),
    "many modalities": (lambda at: modalities(at, 17), (), "17 modalities"),
    "intensities": (lambda at: volumes(at, lambda g, m, n: g * 40), (), "does not fit"),
    "thin": (lambda at: volumes(at, shape=(1, 24, 20)), (), "axial slices are"),
    "no labels": (lambda at: volumes(at, labels=0), (), "no mask holds a label"),
    "own mask": (lambda at: volumes(at, lambda g, m, n: m * 90.0), (), "its own mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_training_refuses_for_its_data_is_a_fault_of_check(
    name: str, tmp_path: Path, tiny: MakeRecipe
) -> None:
    make, overrides, why = REFUSED[name]
    folder, recipe = make(tmp_path / "a"), tiny("image.size=32", *overrides)
    faults = check_folder(folder, image=recipe.image, recipe=recipe).faults
    assert any(why in fault.reason for fault in faults)
    with pytest.raises(AsyndganError, match=why):
        train(recipe, {"north": folder}, tmp_path / "run")


def test_a_pattern_that_fits_no_name_is_told_where_patients_are_counted(tmp_path: Path) -> None:
    folder = volumes(tmp_path / "a")
    nobody = "fits, but names no patient in the 4 names"
    for pattern, fault in (
        ("x(.+)", "fits none of the"), ("(.+)_ses", "fits none of the"), ("(.+)", ""),
        ("(x?)", nobody), ("(x)?.+", nobody), ("x?", nobody),
    ):  # fmt: skip
        said = f'"patient_pattern": "{pattern}" in dataset.json {fault}'
        told_by(folder, pattern)
        assert (said in told({"north": DataSet(folder)})) == bool(fault)
        notes = check_folder(folder).notes
        assert any(note.startswith(said) for note in notes) == bool(fault)

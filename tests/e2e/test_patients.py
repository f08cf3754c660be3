"""Whose case is whose, from names of files to folds, hold-out and notes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asyndgan.api import generate
from asyndgan.export.lists import SPLITS_FILE
from asyndgan.export.writing import write_dataset
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet, told
from asyndgan.intake.fingerprint import measured
from asyndgan.painting.sets import of_sites, synthetic_of_run
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import train
from asyndgan.store import RawCase
from asyndgan.store.splits import halves_of, hold_out_of
from commands import asyndgan

TINY = ("image.size=32", "training.steps=2")


def drawn(folder: Path, names: list[str], seed: int = 0) -> Path:
    """Grey pictures of other spots each, in the order of the names."""
    chance, rows = np.random.default_rng(seed), np.arange(32)[:, None]

    def case(name: str) -> RawCase:
        spot = np.hypot(rows - chance.uniform(10, 22), rows.T - chance.uniform(10, 22)) < 6
        grey = (chance.uniform(0, 60, (32, 32)) + 150 * spot).astype(np.uint8)
        return RawCase(name, name, {"T1": grey}, spot.astype(np.uint8), (1.0, 1.0))

    labels = {"background": 0, "spot": 1}
    write_dataset(folder, map(case, names), modalities=("T1",), labels=labels, name="drawn")
    return folder


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    names = [f"ann{patient}_s{slice}" for patient in range(3) for slice in range(4)]
    return {"north": drawn(folder / "north", names), "south": drawn(folder / "south", names, 1)}


@pytest.fixture(scope="module")
def run(sites, tiny, tmp_path_factory):
    return train(tiny(*TINY, "masks.release=true"), sites, tmp_path_factory.mktemp("run") / "run")


def shared_by_folds(folder: Path, patient_of_mask: Callable[[str], str]) -> set[str]:
    """Patients both of whose sides of a fold have images."""
    shared = set[str]()
    for fold in json.loads((folder / SPLITS_FILE).read_text()):
        train, val = (
            {patient_of_mask(name.partition("_d")[0]) for name in fold[part]} for part in fold
        )
        assert train and val
        shared |= train & val
    return shared


@pytest.mark.parametrize("form", ["sub{}_s{}", "MEYER{0}_s0{1}"])
def test_masks_of_a_patient_share_a_fold_and_nothing_else_changes(form, run, tmp_path):
    names = [form.format(patient, slice) for patient in range(3) for slice in range(4)]
    masks = drawn(tmp_path / "masks", names, 2)
    alone = drawn(tmp_path / "alone", [f"case{number:02d}" for number in range(12)], 2)
    sets = {folder: tmp_path / f"of {folder.name}" for folder in (masks, alone)}
    for folder, out in sets.items():
        assert generate(run.path, out, masks=folder) == 36
    found = sets[masks]
    assert not shared_by_folds(found, lambda mask: str((int(mask[-5:]) - 1) // 4))
    assert shared_by_folds(sets[alone], lambda mask: str((int(mask[-5:]) - 1) // 4))
    for path in found.glob("*/*"):
        assert path.read_bytes() == (sets[alone] / path.relative_to(found)).read_bytes()
    about, other = (DataSet(out).table["provenance"] for out in sets.values())
    assert about == {**other, "folds": "patient"} == {**about, "recipe": other["recipe"]}
    written = [path.read_text() for path in found.iterdir() if path.is_file()]
    assert not any(name[:4] in text for name in names for text in written)


def test_masks_of_one_patient_and_released_masks_are_said_to_be_split(run, tmp_path):
    one = drawn(tmp_path / "one", [f"sub1_s{slice}" for slice in range(4)], 3)
    for number, masks in enumerate((one, None, run.masks)):
        generate(run.path, out := tmp_path / f"{number}", masks=masks)
        assert not shared_by_folds(out, str)
        card = (out / "MODEL_CARD.md").read_text()
        assert "a patient's masks may be split between folds" in card


def test_the_set_of_an_evaluation_has_folds_by_the_sites_patients(sites, tiny, tmp_path):
    run = train(tiny(*TINY, "masks.release=false"), sites, tmp_path / "run")
    opened = RunSites.opened(run, sites)
    painted = synthetic_of_run(opened, tmp_path / "set")
    owners = of_sites(opened.kept()).patients
    assert len(set(owners.values())) == 6
    assert not shared_by_folds(painted.folder, owners.__getitem__)
    card = (painted.folder / "MODEL_CARD.md").read_text()
    assert "All images of one patient's masks are in one fold" in card


@pytest.mark.parametrize("forms", [("Sub-00{}_s0", "SUB-00{}_s1"), ("HNa00{}_z0", "hnA00{}_s1")])
def test_a_patient_in_two_spellings_is_one_everywhere(forms, tiny, tmp_path):
    names = [form.format(patient) for form in forms for patient in range(6)]
    folder = drawn(tmp_path / "a", names)
    assert dict(check_folder(folder).rows)["patients"] == "6"
    assert told({"a": DataSet(folder)}) == "a: 6 patients, 12 pictures"
    assert measured(folder).patients == 6
    cases = DataSet(folder).cases(tiny("image.size=32").image)
    people = [case.patient for case in cases]
    assert len(set(people)) == 6
    for seed in range(5):
        kept, held = hold_out_of(cases, part=0.3, seed=seed)
        assert not {one.name[-4] for one in kept} & {one.name[-4] for one in held}
        assert held
    assert len(set(zip(people, halves_of(people), strict=True))) == 6


def test_a_set_of_one_spelling_keeps_it_and_so_who_is_held_out(tiny, tmp_path):
    names = ["Ann_s0", "Ann_s1", "BOB", "cid_s0", "Eve"]
    cases = DataSet(drawn(tmp_path / "a", names)).cases(tiny("image.size=32").image)
    people = {case.name: case.patient for case in cases}
    assert people == dict(zip(names, ["Ann", "Ann", "BOB", "cid", "Eve"], strict=True))


def test_patients_to_judge_on_are_counted_and_noted_as_the_sites_are(run, sites, tmp_path):
    names = [f"HN{patient:02d}-{slice}" for patient in range(3) for slice in range(4)]
    words = ("--site", f"north={sites['north']}", "--test", drawn(tmp_path / "others", names, 4))
    done = asyndgan("evaluate", run.path, *words, "--out", tmp_path / "out", "--steps", 1)
    said = " ".join(done.split())
    assert "north: 3 patients, 12 pictures" in said
    assert "test set: 12 patients, 12 pictures. 12 cases look like 3 patients" in said
    assert r'in dataset.json: "patient_pattern": "(.+)\\-\\d+$"' in said

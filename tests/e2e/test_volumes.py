"""Whole volumes, from the files of sites to files of painted ones."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from asyndgan.api import Run
from asyndgan.errors import AsyndganError, DataError, RecipeError, RunError
from asyndgan.export.arrays import from_arrays
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.synthesise import chosen_masks, released_masks, synthesise
from asyndgan.painting.writing import Storage
from asyndgan.privacy.measured_recipes import outside
from asyndgan.runs import load_recipe, mask_learning
from asyndgan.runs.kept_masks import MaskBank
from asyndgan.runs.train import train
from asyndgan.store.prepare import invert, invert_mask
from commands import asyndgan
from small import SMALL

LABELS = {"background": 0, "organ": 1, "lesion": 2}
VOLUMES = ("image.size=32x32x32", "training.steps=2", "training.batch=2")


def balls(
    folder: Path, name: str, patients: int, *, shape=(20, 24, 18), modalities=("T1",)
) -> Path:
    """A site of volumes: a ball in a ball, elsewhere in each, and brighter to the right."""
    random = np.random.default_rng([*name.encode()])
    images, masks = [], []
    for _ in range(patients):
        places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
        away = np.sqrt(((places - random.uniform(-0.2, 0.2, (3, 1, 1, 1))) ** 2).sum(0))
        mask = (away < 0.8).astype(int) + (away < 0.4)
        shown = 60 * mask + 20 * places[0] + random.normal(30, 5, (len(modalities), *shape))
        images.append(shown.clip(0, 255))
        masks.append(mask)
    people = [f"{name}{number}" for number in range(patients)]
    return from_arrays(
        folder / name, images, masks, people, modalities=modalities, labels=LABELS,
        spacing=(2, 2, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    return {name: balls(folder, name, 4) for name in ("north", "south")}


@pytest.fixture(scope="module")
def run(sites, tiny, tmp_path_factory):
    return train(tiny(*VOLUMES), sites, tmp_path_factory.mktemp("trained") / "run")


@pytest.mark.parametrize(
    "changes", [(), ("image.axis=sagittal", "training.flip=false"), ("image.spacing=3",)]
)
def test_a_volume_is_prepared_whole_and_brought_back(sites, tiny, changes):
    data, image = DataSet(sites["north"]), tiny(*VOLUMES, *changes).image
    for case, files in zip(data.cases(image), data.files, strict=True):
        (raw,) = data.raw(files, image)
        assert case.image.shape[1:] == case.mask.shape == (32, 32, 32)
        mask = invert_mask(case.mask, case.preparation)
        agree = (mask == raw.mask).mean()
        assert agree > (0.9 if changes == ("image.spacing=3",) else 0.95)
        back = invert(case.image, case.preparation)[0]
        assert back.shape == raw.channels["T1"].shape
        assert np.corrcoef(back.ravel(), raw.channels["T1"].ravel())[0, 1] > 0.95


def test_painted_volumes_lie_as_the_sites_do(run, sites, tmp_path):
    like = ("--like", sites["north"])
    asyndgan("generate", run.path, *like, "--draws", 1, "--out", tmp_path / "set")
    like = nib.load(min((sites["north"] / "imagesTr").iterdir()))
    for path in (tmp_path / "set" / "imagesTr").iterdir():
        painted = nib.load(path)
        assert painted.shape == (32, 32, 32)
        assert nib.aff2axcodes(painted.affine) == nib.aff2axcodes(like.affine)
        sides = np.array(painted.shape) * painted.header.get_zooms()
        assert sides.max() == pytest.approx(max(np.array(like.shape) * [2, 2, 3]), rel=0.03)
    image = run.recipe().image
    read = [case.mask for case in DataSet(tmp_path / "set").cases(image, synthetic=True)]
    assert {mask.numpy().tobytes() for mask in read} == {
        mask.numpy().tobytes() for _, mask in released_masks(run)
    }


def test_volumes_are_judged_audited_and_reported(run, sites, tmp_path):
    test = balls(tmp_path, "test", 4)
    named = [f"--site={name}={folder}" for name, folder in sites.items()]
    judged = [*named, "--test", test, "--out", tmp_path / "evaluation", "--steps", 1]
    for words in (
        ("evaluate", run.path, *judged),
        ("audit", run.path, *named, "--holdout", test, "--out", tmp_path / "audit"),
        ("report", run.path, "--evaluation", tmp_path / "evaluation", "--audit",
         tmp_path / "audit", *named, "--out", tmp_path / "report.html"),
        ("augment", run.path, "--site", sites["north"], "--out", tmp_path / "more"),
    ):  # fmt: skip
        asyndgan(*words)
    rows = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["rows"]
    assert {row["patients"] for row in rows} == {4}
    attacks = json.loads((tmp_path / "audit" / "audit.json").read_text())["attacks"]
    assert {"painting", "nearest", "mask", "picture"} <= {attack["name"] for attack in attacks}
    page = (tmp_path / "report.html").read_text()
    assert "slices of the synthetic T1" in page and "slices of the real T1" in page


def test_python_paints_one_volume_or_several(run):
    (_, mask), (_, other), *_ = released_masks(run)
    painter = Run(run.path)
    assert painter.paint(mask).shape == (1, 32, 32, 32)
    assert painter.paint(torch.stack([mask, other])).shape == (2, 1, 32, 32, 32)
    with pytest.raises(RunError, match="32, 32, 32"):
        painter.paint(mask[0])


def test_masks_of_volumes_are_learned_first(sites, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mask_learning, "FEWEST", 8 * 16)  # as many slices as 16 volumes have
    painted, keep = [], MaskBank.keep

    def kept(bank, site, masks):  # equal ones are kept once
        painted.extend(masks)
        keep(bank, site, masks)

    monkeypatch.setattr(MaskBank, "keep", kept)
    recipe = tiny(*VOLUMES, "masks.source=given", "masks.release=false")
    masks = mask_learning.learned_masks(recipe, sites, tmp_path / "run")
    assert len(painted) == 16
    run = train(recipe, sites, tmp_path / "run", masks=masks)
    assert {tuple(mask.shape) for _, mask in released_masks(run)} == {(32, 32, 32)}


SLICES = ("image.size=32", "training.steps=2", "training.batch=2")


@pytest.fixture(scope="module")
def slices(sites, tiny, tmp_path_factory):
    return train(
        tiny(*SLICES, "generator.noise=2"), sites, tmp_path_factory.mktemp("slices") / "run"
    )


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Two volumes of each of two patients, oblique and stored from left to right."""
    folder = balls(tmp_path_factory.mktemp("given"), "masks", 2)
    shutil.rmtree(folder / "imagesTr")
    affine = np.array([[-1.9, -0.6, 0, 11], [-0.6, 1.9, 0, -7], [0, 0, 3, 30], [0, 0, 0, 1]])
    for path in [*(folder / "labelsTr").iterdir()]:
        drawn = np.asarray(nib.load(path).dataobj)
        for visit in "12":
            named = path.with_name(path.name.replace("_s001", f"_s00{visit}"))
            nib.save(nib.Nifti1Image(np.roll(drawn, int(visit)), affine), named)
    return folder


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_painted_from_volumes_overlays_them(whole, run, slices, masks, sites, tmp_path):
    painting, out = run if whole else slices, tmp_path / "set"
    said = asyndgan("generate", painting.path, "--masks", masks, "--out", out)
    assert ("single slices are painted" in said) is not whole
    assert ("single slices are painted" in (out / "MODEL_CARD.md").read_text()) is not whole
    given = sorted((masks / "labelsTr").iterdir())
    for number, path in enumerate(given, 1):
        mask = nib.load(path)
        found = {
            name: nib.load(out / f"{part}/mask-{number:05d}{name}.nii.gz")
            for part, names in (("labelsTr", ("", "_d0", "_d1")), ("imagesTr", ("_0000",)))
            for name in names
        }
        for each in found.values():
            assert each.shape == mask.shape and each.affine == pytest.approx(mask.affine)
        assert (np.asarray(found[""].dataobj) == np.asarray(mask.dataobj)).mean() > 0.95
        # A moved mask is moved as a whole: its neighbouring slices fit as those of the mask do.
        steps = [
            (np.diff(np.asarray(each.dataobj).astype(int), axis=2) != 0).mean()
            for each in (mask, found["_d0"])
        ]
        assert steps[1] < 1.5 * steps[0]
    folds = json.loads((out / "splits_final.json").read_text())
    assert {tuple(sorted({name[:10] for name in fold["val"]})) for fold in folds} == {
        ("mask-00001", "mask-00002"), ("mask-00003", "mask-00004")
    }  # fmt: skip
    image = painting.recipe().image
    read = DataSet(out).cases(image, synthetic=True)
    assert len(read) == 3 * len(DataSet(masks).mask_cases(image))
    asyndgan("generate", painting.path, "--masks", masks, "--like", sites["north"],
             "--draws", 1, "--out", tmp_path / "like")  # fmt: skip
    like = nib.load(tmp_path / "like/imagesTr/mask-00001_0000.nii.gz")
    assert like.affine == pytest.approx(nib.load(given[0]).affine)


def test_a_slice_keeps_the_number_of_its_volume_and_its_own(slices, masks, phantoms, tmp_path):
    out = tmp_path / "set"
    asyndgan("generate", slices.path, "--masks", masks, "--like", phantoms["north"],
             "--draws", 1, "--out", out)  # fmt: skip
    names = sorted(path.name for path in (out / "labelsTr").iterdir())
    assert names == [f"mask-{n:05d}_z{z:04d}.png" for n in range(1, 5) for z in range(18)]
    for fold in json.loads((out / "splits_final.json").read_text()):
        assert len({name[:10] for name in fold["val"]}) == 2  # the volumes of one patient


def test_slices_that_are_not_painted_stay_dark(slices, masks):
    named, origin = chosen_masks(slices, masks)
    painted = synthesise(slices, named[9:10])
    (volume,) = Storage.plain(slices.recipe().image, origin.grids).stored(painted)
    shown = volume.channels["T1"]
    assert shown.shape == volume.mask.shape == (18, 24, 20)
    assert [plane.any() for plane in shown] == [number == 9 for number in range(18)]


def test_slices_of_a_volume_have_one_noise_and_one_look(slices):
    mask = torch.zeros(32, 32, dtype=torch.int64)
    names = ["a_z0001", "a_z0002", "b_z0001", "c", "d"]
    painted = [case.image for case in synthesise(slices, [(name, mask) for name in names])]
    assert torch.equal(painted[0], painted[1])
    assert all(not torch.equal(one, painted[0]) for one in painted[2:])
    moved = synthesise(slices, [(name, mask + 1) for name in names], move=True, draws=2)
    at = {case.name: case.mask for case in moved}
    assert torch.equal(at["a_z0001_d0"], at["a_z0002_d0"])
    assert not torch.equal(at["a_z0001_d0"], at["a_z0001_d1"])
    assert not torch.equal(at["a_z0001_d0"], at["b_z0001_d0"])


def test_a_run_of_slices_of_volumes_says_so(sites, tmp_path):
    out = tmp_path / "study"
    said = asyndgan("init", *sites.values(), "--out", out / "study.toml")
    assert "single slices are painted" in " ".join(said.split())
    said = asyndgan(
        "train", "demo", *(f"--site={name}={path}" for name, path in sites.items()),
        "--out", tmp_path / "run", *(f"--set={key}" for key in SMALL), "--set=training.steps=1",
        "--set=masks.source=own",
        "--set=image.intensity={default={kind=\"percentiles\",low=0,high=100}}",
    )  # fmt: skip
    assert "single slices are painted" in " ".join(said.split())


def test_what_cannot_be_done_with_volumes_is_refused(sites, phantoms, tiny, tmp_path):
    with pytest.raises(RecipeError, match="knows pictures"):
        load_recipe("default", ["image.size=32x32x32"])
    with pytest.raises(RecipeError, match="one for each side"):
        tiny(*VOLUMES, "image.spacing=1,1")
    volumes = load_recipe("default", [VOLUMES[0], "discriminator.kind=patch_segmentation"])
    assert "image.size" in {each.key for each in outside(volumes)}  # of the measured recipes
    image = tiny(*VOLUMES).image
    picture = next(iter(phantoms.values()))
    with pytest.raises(DataError, match="is a picture"):
        DataSet(picture).cases(image)
    assert any(
        "is a picture" in fault.reason for fault in check_folder(picture, image=image).faults
    )
    flat = balls(tmp_path, "flat", 4, shape=(20, 24, 4))
    with pytest.raises(AsyndganError, match="4 x 24 x 20 pixels"):
        train(tiny(*VOLUMES), {"flat": flat}, tmp_path / "run")

"""Modalities that a case lacks, painted where the others are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from asyndgan.errors import DataError
from asyndgan.export.copying import write_completed, write_extended
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.models.budgets import TranslationBudget
from asyndgan.painting.completion import MOST_MASKS, drawn_masks, own_masks
from asyndgan.painting.translation import (
    Incomplete,
    Regression,
    Translator,
    train_translator,
    translated,
)
from asyndgan.recipe import ImageSection
from asyndgan.store import Case
from asyndgan.store.fitting import levels_of, shared_modalities
from asyndgan.store.prepare import blanked
from lab.completion_scores import nearness
from reading import read_cases

NAMES = ("T1", "T2")


def cases(count: int, seed: int = 0) -> list[Case]:
    """Smooth T1; T2 is its negative, and bright within the label."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        coarse = torch.rand(1, 1, 4, 4, generator=random) - 0.5
        first = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")[0, 0]
        mask = torch.zeros(32, 32, dtype=torch.int64)
        mask[8:24, 8:24] = 1
        second = -first + 0.4 * mask
        image = torch.stack([first, second])
        case = Case.drawn(f"c{number}", image, mask, NAMES)
        made.append(replace(case, patient=f"p{number % 3}"))
    return made


def without(case: Case, modality: str) -> Case:
    return blanked(case, [modality])


def untrained() -> Translator:
    learned = Regression.of(cases(3, seed=5), 2)
    return Translator(learned, channels=2, labels=2, width=4, space=(32, 32)).eval()


def test_what_was_acquired_is_never_replaced_and_what_is_absent_not_looked_at():
    translator, judged = untrained(), cases(2)
    hidden = [Incomplete(without(judged[n], name), True) for n, name in enumerate(NAMES)]
    first, second = translated(translator, hidden)
    assert torch.equal(first[1], judged[0].image[1])
    assert torch.equal(second[0], judged[1].image[0])
    strange = torch.stack([torch.rand(32, 32), judged[0].image[1]])
    (again,) = translated(translator, [Incomplete(replace(hidden[0].case, image=strange), True)])
    torch.testing.assert_close(first, again)


def test_a_translator_learns_from_no_masks_that_the_generator_never_saw():
    def labelled(case):  # as its mask is stored
        levels = levels_of(np.zeros((32, 32)), 1.0, 0.0, np.eye(32, dtype=np.int64))
        return replace(case, preparation=replace(case.preparation, levels=(levels,)))

    known = [Incomplete(labelled(without(case, "T2")), True) for case in cases(3)]
    empty = Incomplete(without(cases(3)[1], "T2"), True)
    whole = Incomplete(labelled(cases(1)[0]), True)
    slices = [known[0], empty, replace(known[2], masked=False), whole]
    found = {
        which: [name for name, _ in own_masks(slices, ImageSection(size=(32, 32), slices=which))]
        for which in ("all", "labelled")
    }
    assert found == {
        "all": ["own-00000", "own-00001", "own-00003"], "labelled": ["own-00000", "own-00003"],
    }  # fmt: skip


def test_the_masks_that_a_translator_learns_from_do_not_grow_with_the_site():
    masks = [(str(number), torch.tensor([[number]])) for number in range(MOST_MASKS + 500)]
    drawn = drawn_masks(masks)
    assert len({name for name, _ in drawn}) == MOST_MASKS
    assert drawn == drawn_masks(masks) != drawn_masks(masks, seed=1)
    assert drawn_masks(masks[:20]) == masks[:20]
    large = [(name, torch.zeros(128, 128, dtype=torch.int64)) for name, _ in masks[:MOST_MASKS]]
    assert len(drawn_masks(large)) == MOST_MASKS // 4


def test_a_translator_learns_every_pattern_of_what_cases_lack():
    """With the first of two patterns alone, T1 is as it began: 4.8 times as far off as the mean."""
    budget = TranslationBudget(steps=60, batch=8, width=8, rate=1e-2)
    patterns = [(True, False), (False, True)]
    translator = train_translator(cases(24), patterns, labels=2, budget=budget)
    judged = cases(6, seed=1)
    for place, modality in enumerate(NAMES):
        hidden = [Incomplete(without(case, modality), True) for case in judged]
        found = torch.stack([one[place] for one in translated(translator, hidden, regressed=0)])
        truth = torch.stack([case.image[place] for case in judged])
        middle = torch.stack([case.image[place] for case in cases(24)]).mean(0)
        assert (found - truth).abs().mean() < 1.5 * (middle - truth).abs().mean()


def test_a_perfect_completion_scores_as_one_within_labels():
    judged = cases(6)
    worse = [case.image + torch.tensor([0.0, 0.2])[:, None, None] for case in judged]
    outside = [torch.where(case.mask == 0, 0.9, case.image) for case in judged]
    ways = {"off": worse, "same": [case.image for case in judged], "outside": outside}
    off, same, beside = nearness(ways, judged, ["T2"], best="same")
    assert (same["patients"], same["ahead"]) == (3, 0)
    assert same["ssim"] == pytest.approx(1) and min(same["psnr"], beside["psnr"]) > 100
    assert off["psnr"] == pytest.approx(20.0, abs=1e-3)  # 10 log10(2^2 / 0.2^2)
    assert off["ahead"] == pytest.approx(1 - off["ssim"]) and off["ahead_low"] > 0


def test_one_fit_predicts_any_modality_from_those_that_are_there():
    """As least squares over the same pixels do."""
    random = torch.Generator().manual_seed(0)
    real = [
        replace(case, image=torch.rand(3, 32, 32, generator=random), modalities=(*NAMES, "FLAIR"))
        for case in cases(4)
    ]
    fitted = Regression.of(real, 3)  # of the third label no pixel is there
    for absent in (["T2"], ["T1", "FLAIR"]):
        case = blanked(real[0], absent)
        kept = torch.tensor(case.present)
        for label in (0, 1, None):
            own = [one.mask.flatten() == label if label is not None else slice(None)
                   for one in real]  # fmt: skip
            outputs = [one.image.flatten(1).T[place] for one, place in zip(real, own, strict=True)]
            inputs = [torch.cat([one[:, kept], torch.ones(len(one), 1)], 1) for one in outputs]
            weights = torch.linalg.lstsq(torch.cat(inputs), torch.cat(outputs)).solution
            found = fitted.predicted(case, masked=label is not None).flatten(1).T[own[0]]
            torch.testing.assert_close(found, inputs[0] @ weights, rtol=0, atol=1e-4)
    few = replace(real[0], mask=real[0].mask.index_fill(0, torch.tensor([0]), 2))
    for learned, label in ((fitted, 2), (fitted, 7), (Regression.of([*real, few], 3), 2)):
        unseen = replace(blanked(real[0], ["T1"]), mask=torch.full((32, 32), label))
        torch.testing.assert_close(
            learned.predicted(unseen, masked=True), learned.predicted(unseen, masked=False)
        )


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(1)
    for case in ("ann_s01", "bob_s02"):
        grey = random.integers(1, 255, (20, 24), dtype=np.uint8)
        Image.fromarray(grey).save(folder / "imagesTr" / f"{case}_0000.png")
        Image.fromarray((grey > 100).astype(np.uint8)).save(folder / "labelsTr" / f"{case}.png")
    about = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 1}, "numTraining": 2,
        "file_ending": ".png", "licence": "mine",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def completed(data: Path, out: Path, planes: Any, *, axis: Any = "axial", **more: Any) -> int:
    about = {"made_from": {}, "provenance": {}} | more
    return write_completed(DataSet(data), out, planes, axis=axis, **about)


def test_no_painted_modality_can_be_taken_for_an_acquired_one(pictures, tmp_path):
    out = tmp_path / "out"
    plane = np.arange(480.0, dtype=np.float32).reshape(20, 24) % 200
    planes = {name: {"T1c": [plane]} for name in ("ann_s01", "bob_s02")}
    about = {"made_from": {"ann_s01": "x"}, "provenance": {"run": "abc"}}
    assert completed(pictures, out, planes, **about) == 2
    info = describe(out)
    assert info.modalities == ("T1", "synthetic T1c")
    assert info.painted == {"synthetic T1c"}
    assert info.extra["licence"] == "mine"
    assert not check_folder(out).faults
    with Image.open(out / "imagesTr" / "ann_s01_0001.png") as picture:
        assert picture.text["synthetic"] == "synthetic: painted by asyndgan, not acquired"
        assert np.array(picture)[3, 4] == 76
    for path in pictures.rglob("*.png"):
        assert (out / path.relative_to(pictures)).read_bytes() == path.read_bytes()
    listed = json.loads((out / "provenance.json").read_text())
    assert listed["run"] == "abc"
    assert listed["files"] == {
        f"imagesTr/{name}_0001.png": {"modality": "T1c", "acquired": False, "made_from": made_from}
        for name, made_from in (("ann_s01", "x"), ("bob_s02", ""))
    }
    # A training takes what was acquired, and whoever asks for T1c finds none.
    assert shared_modalities(info, ImageSection()) == ("T1",)
    assert DataSet(out).cases(ImageSection(size=(32, 32)))[0].modalities == ("T1",)
    with pytest.raises(DataError, match=r"none of which is in the recipe's"):
        DataSet(out).cases(ImageSection(size=(32, 32), modalities=("T1c",)))
    with pytest.raises(DataError, match="is there already"):
        completed(pictures, out, planes)


def test_bright_painted_pictures_are_stored_in_sixteen_bits_and_a_set_may_be_incomplete(
    pictures, tmp_path
):
    completed(pictures, tmp_path / "out", {"ann_s01": {"CT": [np.full((20, 24), 1000.0)]}})
    (first, *_) = read_cases(tmp_path / "out")
    assert (first.channels["synthetic CT"] == 1000).all()
    assert describe(tmp_path / "out").incomplete
    assert not check_folder(tmp_path / "out").faults


def described_volumes(folder: Path, files: dict[str, nib.Nifti1Image]) -> None:
    for name, image in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, folder / f"{name}.nii.gz")
    about = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(about))


def placed_alike(ours: nib.Nifti1Image, theirs: nib.Nifti1Image) -> None:
    """Voxel by voxel as stored, for readers that do not turn."""
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.get_data_dtype() == theirs.get_data_dtype()
    for placed in ("qform", "sform"):
        one, other = (getattr(image, f"get_{placed}")(coded=True) for image in (ours, theirs))
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]
    assert ours.header.get_xyzt_units() == theirs.header.get_xyzt_units()
    assert bytes(ours.header["descrip"]).startswith(b"synthetic: painted by asyndgan")


@pytest.mark.parametrize("axis", ["coronal", "sagittal"])
def test_a_painted_volume_lies_where_the_acquired_ones_do(tmp_path, axis):
    """However it was turned; qform and sform may differ, and readers in which they prefer."""
    folder = tmp_path / "volumes"
    voxels = np.random.default_rng(2).random((5, 6, 7), dtype=np.float32)
    turned = np.array([[0, -2, 0, 9], [1.5, 0, 0, -4], [0, 0, 3, 2], [0, 0, 0, 1]], float)
    scanner = np.array([[0, 0, 3, -90], [0.9, -1.6, 0, 12], [1.2, 1.2, 0, 3], [0, 0, 0, 1]], float)
    image = nib.Nifti1Image(voxels, turned)
    image.set_sform(turned, 4)
    image.set_qform(scanner, 1, update_affine=False)
    image.header.set_xyzt_units("mm", "sec")
    described_volumes(folder, {"imagesTr/ann_0000": image})
    planes = {"ann": {"T2": [raw.channels["T1"] for raw in read_cases(folder, axis=axis)]}}
    completed(folder, tmp_path / "out", planes, axis=axis)
    for raw in read_cases(tmp_path / "out", axis=axis):
        np.testing.assert_array_equal(raw.channels["T1"], raw.channels["synthetic T2"])
    acquired, painted = (
        nib.load(tmp_path / f"out/imagesTr/ann_000{number}.nii.gz") for number in (0, 1)
    )
    placed_alike(painted, acquired)
    assert not np.allclose(acquired.get_qform(), acquired.get_sform())
    assert not check_folder(tmp_path / "out").faults


LPS = np.diag([-1.0, -1.5, 5.0, 1.0])
SAGITTAL = np.diag([5.0, 1.0, 2.0, 1.0])
OBLIQUE = np.array(  # stored as superior, right, anterior, and tilted by 16 degrees
    [[0, 0.96, -0.84, 7], [0, 0.28, 2.88, -3], [2, 0, 0, 4], [0, 0, 0, 1]], float
)


@pytest.mark.parametrize(
    ("axis", "affine", "shape"),
    [
        ("axial", LPS, (30, 20)),
        ("sagittal", SAGITTAL, (1, 30, 20)),
        ("coronal", OBLIQUE, (30, 20, 1)),
    ],
)
def test_a_synthetic_case_lies_on_the_grid_of_the_real_one_that_it_is_like(
    tmp_path, axis, affine, shape
):
    """What is read of a real case and written as a synthetic one is the same files again."""
    folder = tmp_path / "slices"
    voxels = np.random.default_rng(4).random(shape, dtype=np.float32)
    files = {}
    for name, content in (
        ("imagesTr/ann_0000", voxels), ("labelsTr/ann", (voxels > 0.5).astype(np.uint8))
    ):  # fmt: skip
        image = files[name] = nib.Nifti1Image(content, affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units("mm")
    described_volumes(folder, files)
    (real,) = read_cases(folder, axis=axis)
    like = (replace(real, name="synthetic-1"), "ann")
    write_extended(DataSet(folder), tmp_path / "out", [like], axis=axis, provenance={})
    one, other = read_cases(tmp_path / "out", axis=axis)
    assert (other.name, other.spacing) == ("synthetic-1", one.spacing)
    np.testing.assert_array_equal(other.channels["T1"], one.channels["T1"])
    np.testing.assert_array_equal(other.mask, one.mask)
    for name in ("imagesTr/{}_0000", "labelsTr/{}"):
        theirs, ours = (
            nib.load(tmp_path / "out" / f"{name.format(case)}.nii.gz")
            for case in ("ann", "synthetic-1")
        )
        placed_alike(ours, theirs)
    assert not check_folder(tmp_path / "out").faults

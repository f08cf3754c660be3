"""What one site gets: its own patients' missing modality, and more cases, as a person types it."""

import json
import re
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image, ImageOps
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import AsyndganError, DataError, RunError
from asyndgan.export.lists import SPLITS_FILE
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.intake.patients import patient_of
from asyndgan.judging.real import load_real
from asyndgan.models.budgets import TranslationBudget
from asyndgan.painting import augmenting, completion, translation
from asyndgan.painting.synthesise import (
    RELEASED,
    chosen_masks,
    digests_of,
    released_masks,
    synthesise,
)
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import Participation, RunSites
from asyndgan.runs.train import train
from asyndgan.store import derived_seed
from asyndgan.store.prepare import invert
from asyndgan.store.splits import held_out_by
from asyndgan.training.scope import SHARED_LOOK, generator_inputs
from small import copied, declare
from volumes import write_volumes


@pytest.fixture(scope="module")
def run(tiny, phantoms, tmp_path_factory):
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2")
    return train(recipe, phantoms, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def lacking(tiny, phantoms, tmp_path_factory):
    """A run of several looks, whose site north has no T2."""
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2", "generator.style=8")
    out = tmp_path_factory.mktemp("lacking") / "run"
    return train(recipe, phantoms, out, without={"north": ["T2"]})


@pytest.fixture(scope="module")
def lacks_t2(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lacks") / "without"
    copied(phantoms["north"], folder, channel_names={"0": "T1", "1": "FLAIR"})
    for path in sorted((folder / "imagesTr").glob("*_0001.png")):
        path.unlink()
    for path in sorted((folder / "imagesTr").glob("*_0002.png")):
        path.rename(path.with_name(path.name.replace("_0002", "_0001")))
    return folder


@pytest.fixture
def without_t2(lacks_t2, tmp_path):
    """A copy, to be changed."""
    return copied(lacks_t2, tmp_path / "without")


@pytest.fixture(scope="module")
def completed(run, lacks_t2, tmp_path_factory):
    """A completed set, and what was said."""
    out = tmp_path_factory.mktemp("completed") / "out"
    more = ("--steps", 2, "--seed", 2**64)  # larger than torch's own generators take
    return out, command("complete", run.path, "--site", lacks_t2, "--out", out, *more)


@pytest.fixture(scope="module")
def painted(run, phantoms, tmp_path_factory):
    """A set that was painted."""
    out = tmp_path_factory.mktemp("painted") / "painted"
    command("generate", run.path, "--masks", phantoms["south"], "--draws", 1, "--out", out)
    return out


def augmented(run: RunFolder, site: Path, out: Path, *more: object) -> dict[str, Any]:
    """The provenance of an augmented set."""
    command("augment", run.path, "--site", site, "--out", out, *more)
    return json.loads((out / "provenance.json").read_text())


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "labelsTr").iterdir())


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def evaluated(run: RunFolder, phantoms: dict[str, Path], out: Path, *more: object) -> str:
    sites = (f"--site={name}={path}" for name, path in phantoms.items())
    return command("evaluate", run.path, *sites, "--out", out, "--steps", 1, *more)


def test_a_case_gets_the_modality_that_it_lacks(run, lacks_t2, completed):
    (out, said), cases = completed, len(pictures(lacks_t2))
    assert f"{cases} files of synthetic T2 in" in said
    info = describe(out)
    assert info.modalities == ("T1", "FLAIR", "synthetic T2")
    assert not check_folder(out).faults
    assert imread(out / "gallery.png").shape[0] > 100
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["generator_sha256"] == run.facts().generator_sha256
    assert len(provenance["files"]) == cases
    told = {about["made_from"] for about in provenance["files"].values()}
    assert told == {"the acquired modalities and the mask"}
    # The recipe's range is fixed, so painted channels are in the units of acquired ones.
    assert provenance["intensity"] == {"T2": {"black": 0, "white": 255, "units": "as acquired"}}
    others = released_masks(run)
    own = [case.mask for case in DataSet(lacks_t2).cases(run.recipe().image)]
    assert provenance["translator"] == {
        "masks": f"{len(own) + len(others)} out of {len(own)} of the site's own and {len(others)} "
        f"others ({RELEASED}), moved at random",
        "masks_sha256": digests_of([*own, *(mask for _, mask in others)]),
        "budget": asdict(TranslationBudget(steps=2)),
        "regressed": 0.5,
    }


def test_a_channel_says_if_its_numbers_are_not_those_of_acquired_ones(
    tiny, phantoms, without_t2, tmp_path
):
    """Percentiles and deviations are a case's own, so a painted channel has none."""
    recipe = tiny(
        "image.size=32", "training.steps=1", "image.intensity.T1.kind=range",
        "image.intensity.T1.low=-100", "image.intensity.T1.high=300",
        "image.intensity.default.kind=percentiles", "image.intensity.default.low=1",
        "image.intensity.default.high=99",
    )  # fmt: skip
    run = train(recipe, phantoms, tmp_path / "run")
    declare(without_t2, channel_names={"0": "FLAIR"})
    for path in (without_t2 / "imagesTr").glob("*_0001.png"):
        path.unlink()
    words = ("--site", without_t2, "--out", tmp_path / "out", "--steps", 1)
    command("complete", run.path, *words)
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["intensity"] == {
        "T1": {"black": -100, "white": 300, "units": "as acquired"},
        "T2": {"black": 0, "white": 255, "units": "its own"},
    }


def test_a_painted_file_on_its_own_is_not_taken_for_an_acquired_one(
    run, without_t2, completed, painted, tmp_path
):
    mixed = declare(without_t2, channel_names={"0": "T1", "1": "FLAIR", "2": "T2"})
    for path in (completed[0] / "imagesTr").glob("*_0002.png"):
        shutil.copyfile(path, mixed / "imagesTr" / path.name)
    with pytest.raises(AsyndganError, match="was painted, not acquired"):
        DataSet(mixed).cases(run.recipe().image)
    assert any("painted, not acquired" in fault for fault in map(str, check_folder(mixed).faults))
    undeclared = copied(painted, tmp_path / "undeclared", synthetic=False)
    with pytest.raises(AsyndganError, match="was painted, not acquired"):
        DataSet(undeclared).cases(run.recipe().image)


def test_a_translator_learns_from_images_all_of_whose_modalities_are_of_one_look(
    lacking, lacks_t2, tmp_path, monkeypatch
):
    """What one modality says of another is learned from images that some site has judged whole."""
    used: list[str] = []

    def painted(*arguments, looks=(), **options):
        used.extend(looks)
        return synthesise(*arguments, looks=looks, **options)

    monkeypatch.setattr(translation, "synthesise", painted)
    out = tmp_path / "out"
    command("complete", lacking.path, "--site", lacks_t2, "--out", out, "--steps", 2)
    assert set(used) == {"south"}
    assert json.loads((out / "provenance.json").read_text())["looks"] == {"T2": ["south"]}


def test_images_that_the_recipe_turns_white_are_not_augmented(run, without_t2, tmp_path):
    for path in (without_t2 / "imagesTr").glob("*.png"):
        stored = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(stored * 40 + 600).save(path)
    with pytest.raises(AsyndganError, match=r"without: modality T1 does not fit image.intensity"):
        command("augment", run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_a_picture_of_which_the_run_paints_a_part_only_is_not_augmented(
    tiny, phantoms, without_t2, tmp_path
):
    """The rest of a painted file would be black, beside tissue."""
    recipe = tiny("image.size=32", "training.steps=1", "image.fit=crop")
    cropping = train(recipe, phantoms, tmp_path / "run")
    command("augment", cropping.path, "--site", without_t2, "--out", tmp_path / "fits")
    for folder in ("imagesTr", "labelsTr"):
        for path in (without_t2 / folder).iterdir():
            stored = np.asarray(Image.open(path))
            Image.fromarray(np.concatenate([stored, stored], axis=1)).save(path)
    for which in ("augment", "complete"):
        with pytest.raises(AsyndganError, match=r"lies beyond the 32 x 32 pixels .* image.fit"):
            command(which, cropping.path, "--site", without_t2, "--out", tmp_path / which)


def test_a_label_that_no_run_knows_is_found_before_anything_is_trained(
    run, without_t2, tmp_path, monkeypatch
):
    # One mask is drawn to train with, so that most of a site's are seen at the end alone.
    monkeypatch.setattr(completion, "MOST_MASKS", 0)
    monkeypatch.setattr(completion, "translator_of", lambda *_, **__: pytest.fail("trained"))
    declare(without_t2, labels=describe(without_t2).labels | {"of nobody else": 7})
    *_, last = pictures(without_t2)
    Image.fromarray(np.full_like(np.asarray(Image.open(last)), 7)).save(last)
    with pytest.raises(AsyndganError, match="hold label 7; this generator knows 0, 1, 2, 3"):
        command("complete", run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_nothing_is_left_of_a_completion_that_fails_as_of_images_too_small_for_a_translator(
    tiny, run, phantoms, lacks_t2, tmp_path
):
    small, out = train(tiny("image.size=16"), phantoms, tmp_path / "run"), tmp_path / "out"
    with pytest.raises(AsyndganError, match=r"every case in .* has T1, T2, FLAIR already"):
        command("complete", run.path, "--site", phantoms["north"], "--out", out)
    with pytest.raises(AsyndganError, match=r"measure \(16, 16\).*another image.size"):
        command("complete", small.path, "--site", lacks_t2, "--out", out, "--steps", 2)
    assert not out.exists()


def test_a_synthetic_set_is_no_sites_and_judges_nothing(run, painted, tiny, phantoms, tmp_path):
    assert any("refused as a site's data" in note for note in check_folder(painted).notes)
    with pytest.raises(AsyndganError, match="is a synthetic data set, and patients are wanted"):
        train(tiny("image.size=32"), {**phantoms, "south": painted}, tmp_path / "again")
    with pytest.raises(AsyndganError, match="is a synthetic data set, and patients are wanted"):
        evaluated(run, phantoms, tmp_path / "judged", "--test", painted)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FLAIR", "flair", "holds flair, which this run does not paint"),
        ("lesion", "tumour", "is 'tumour' here"),
    ],
)
def test_modalities_and_labels_that_the_run_does_not_paint_are_refused(
    run, without_t2, tmp_path, old, new, said
):
    path = without_t2 / "dataset.json"
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    with pytest.raises(AsyndganError, match=said):
        command("augment", run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_cases_without_masks_are_translated(run, without_t2, tmp_path):
    shutil.rmtree(without_t2 / "labelsTr")
    words = ("--site", without_t2, "--out", tmp_path / "out", "--steps", 2)
    command("complete", run.path, *words)
    assert not (tmp_path / "out" / "labelsTr").exists()
    files = json.loads((tmp_path / "out" / "provenance.json").read_text())["files"].values()
    assert {about["made_from"] for about in files} == {"the acquired modalities"}


def test_a_set_is_augmented_and_never_taken_for_patients(run, phantoms, tmp_path):
    out, folder = tmp_path / "augmented", phantoms["north"]
    real = len(pictures(folder))
    wanted = round(1.5 * real)
    said = command("augment", run.path, "--site", folder, "--out", out, "--ratio", 1.5)
    assert f"{real} real and {wanted} synthetic cases in" in said
    assert not check_folder(out).faults
    table = json.loads((out / "dataset.json").read_text())
    assert table["synthetic_cases"] == [f"synthetic-{n:05d}" for n in range(1, wanted + 1)]
    for path in folder.rglob("*.png"):
        assert (out / path.relative_to(folder)).read_bytes() == path.read_bytes()
    with Image.open(out / "imagesTr" / "synthetic-00001_0002.png") as picture:
        assert picture.text["synthetic"] == "synthetic: painted by asyndgan, not acquired"
    assert ("synthetic cases", f"{wanted} of them; counted among all others") in (
        check_folder(out).rows
    )
    provenance = json.loads((out / "provenance.json").read_text())
    names = {path.stem for path in pictures(folder)}
    assert list(provenance["mask_of"]) == table["synthetic_cases"]
    assert set(provenance["mask_of"].values()) == names
    for fold in json.loads((out / SPLITS_FILE).read_text()):
        train, val = (
            {patient_of(provenance["mask_of"].get(name, name)) for name in fold[part]}
            for part in ("train", "val")
        )
        assert train and val and not train & val
    refused = "synthetic cases beside real ones"
    with pytest.raises(AsyndganError, match=refused):
        load_cohort(SiteSetup("north", out, tmp_path), run.recipe())
    with pytest.raises(AsyndganError, match="holds synthetic cases, which nobody acquired"):
        command("augment", run.path, "--site", out, "--out", tmp_path / "twice")
    with pytest.raises(AsyndganError, match=refused):
        command(
            "evaluate", run.path, f"--site=north={out}", "--test", folder.parent / "test",
            "--out", tmp_path / "no", "--steps", 2,
        )  # fmt: skip


def test_sites_that_lack_a_modality_are_judged_in_all_that_test_patients_have(
    run, phantoms, lacks_t2, tmp_path
):
    sites = phantoms | {"north": lacks_t2}
    test = phantoms["north"].parent / "test"
    facts, recipe = run.facts(), run.recipe()
    opened, every = RunSites.opened(run, sites).data, RunSites.opened(run, phantoms).data
    both, seen = ["T2", "T1"], DataSet(test)
    real, judged = load_real(opened, seen, recipe, modalities=both, labels=facts.labels)
    whole, _ = load_real(every, seen, recipe, modalities=both, labels=facts.labels)
    for black, case in zip(real["north"], whole["north"], strict=True):
        assert black.modalities == ("T2", "T1") and black.absent == ("T2",)
        assert black.image[0].unique().tolist() == [-1]
        assert torch.equal(black.image[1], case.image[1])
        assert invert(black.image, black.preparation)[0].max() == 0
    assert not any(case.absent for case in (*real["south"], *judged))
    said = evaluated(run, sites, tmp_path / "judged", "--test", test)
    assert "Judged in T1, T2, FLAIR; north has no T2" in said


def test_no_network_sees_mirrored_images_if_sides_are_no_mirror_images(
    tiny, phantoms, lacks_t2, tmp_path, monkeypatch
):
    recipe = tiny("image.size=32", "training.steps=1", "training.flip=false")
    run = train(recipe, phantoms, tmp_path / "run")
    seen = []
    moved = translation.moved
    monkeypatch.setattr(
        translation, "moved", lambda *args: seen.append(args[2].flips) or moved(*args)
    )
    words = ("--site", lacks_t2, "--out", tmp_path / "completed", "--steps", 2)
    command("complete", run.path, *words)
    evaluated(run, phantoms, tmp_path / "judged", "--test", phantoms["north"].parent / "test")
    judged = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert seen and not any(seen)
    assert judged["budget"]["flips"] == []


def test_a_sites_own_mask_among_others_counts_as_its_own(run, phantoms, tmp_path):
    mirrored = copied(phantoms["north"], tmp_path / "mirrored")
    for file in pictures(mirrored):
        ImageOps.mirror(Image.open(file)).save(file)
    for flags in ([], ["--no-own"]):
        words = ("--masks", mirrored, *flags)
        told = augmented(run, phantoms["north"], tmp_path / f"out{len(flags)}", *words)
        names = [path.stem for path in pictures(mirrored)]
        assert sorted(told["mask_of"].values()) == names  # each of them once


def test_a_real_case_with_the_name_of_a_synthetic_one_is_found_before_anything_is_painted(
    run, phantoms, tmp_path, monkeypatch
):
    monkeypatch.setattr(augmenting, "synthesise", None)
    folder = copied(phantoms["north"], tmp_path / "site")
    name = pictures(folder)[0].stem
    for file in (*folder.glob(f"imagesTr/{name}*"), *folder.glob(f"labelsTr/{name}*")):
        file.rename(file.with_name(file.name.replace(name, "synthetic-00001")))
    with pytest.raises(AsyndganError, match="site has a real case 'synthetic-00001'"):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "out")


def test_a_set_that_cannot_be_written_is_refused_before_anything_is_painted(
    run, phantoms, tmp_path, monkeypatch
):
    def painted(*_, **__):
        raise AssertionError("painted already")

    monkeypatch.setattr("asyndgan.api.synthesise", painted)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out in ("full", "full/file/out"):
        with pytest.raises(AsyndganError, match=r"is there already|cannot be written"):
            command("generate", run.path, "--masks", phantoms["north"], "--out", tmp_path / out)


def test_patients_whom_a_run_held_out_are_those_that_it_is_judged_on(tiny, phantoms, tmp_path):
    """Also where judging can use fewer of a site's cases than training did."""
    folder = copied(phantoms["north"], tmp_path / "some", incomplete=True)
    files = sorted((folder / "imagesTr").glob("*_0000.png"))
    patients = sorted({patient_of(file.name[: -len("_0000.png")]) for file in files})
    for file in files:  # a third of the patients lacks the first modality
        if patient_of(file.name[: -len("_0000.png")]) in patients[::3]:
            file.unlink()
    recipe = tiny("image.size=32", "training.hold_out=0.4", "masks.release=false")
    trained = load_cohort(SiteSetup("north", folder, tmp_path), recipe)
    first = describe(folder).modalities[0]
    data = DataSet(folder)
    every = data.cases(recipe.image, data.info.modalities, unmasked=False, incomplete=True)
    _, judged = load_real(
        {"north": data}, None, recipe, modalities=[first], labels={}, incomplete=True,
        participation=Participation(trained={"north": every}),
    )  # fmt: skip
    assert judged
    for case in judged:
        assert not any(torch.equal(case.mask, mask) for mask in trained.conditions)


def test_a_set_that_lost_cases_since_it_trained_judges_nobody_also_if_it_is_incomplete(
    tiny, phantoms, tmp_path
):
    """Who is held out depends on all patients: another would be judged who has taught."""
    whole = copied(phantoms["north"], tmp_path / "whole", incomplete=True)
    next((whole / "imagesTr").glob("*_0001.png")).unlink()
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.4")
    run = train(recipe, phantoms | {"north": whole}, tmp_path / "run")
    fewer = copied(whole, tmp_path / "fewer")
    patient = patient_of(pictures(fewer)[0].stem)
    for file in [*(fewer / "imagesTr").iterdir(), *(fewer / "labelsTr").iterdir()]:
        if patient_of(file.stem).startswith(patient):
            file.unlink()
    declare(fewer, numTraining=len(pictures(fewer)))
    with pytest.raises(AsyndganError, match=r"site north trained with .* and here are"):
        evaluated(run, phantoms | {"north": fewer}, tmp_path / "no")
    evaluated(run, phantoms | {"north": whole}, tmp_path / "judged")


def test_cases_without_a_mask_are_no_masks_to_paint_from(run, phantoms, tmp_path):
    folder = copied(phantoms["north"], tmp_path / "some")
    masks = pictures(folder)
    for path in masks[1:]:
        path.unlink()
    told = augmented(run, folder, tmp_path / "out")
    assert set(told["mask_of"].values()) == {masks[0].stem}
    masks[0].unlink()
    with pytest.raises(AsyndganError, match="so there is none to store synthetic cases like"):
        augmented(run, folder, tmp_path / "no", "--masks", phantoms["south"])


def test_volumes_are_cut_beside_the_slices_that_are_painted(tiny, run, tmp_path):
    affine = np.array([[-1.9, -0.6, 0, 11], [-0.6, 1.9, 0, -7], [0, 0, 3, 30], [0, 0, 0, 1]])
    image = (255 * np.random.default_rng(1).random((32, 30, 4))).astype(np.uint8)
    mask = np.ones((32, 30, 4), np.uint8)
    folder = write_volumes(
        tmp_path / "volumes",
        {f"{name}_v{visit}": (*[image] * 3, mask, affine) for name in "ab" for visit in (1, 2)},
        channels=("T1", "T2", "FLAIR"), patient_pattern="([ab])_",
        labels={name: int(number) for number, name in run.facts().labels.items()},
    )  # fmt: skip
    out = tmp_path / "out"
    like = augmented(run, folder, out, "--ratio", 0.25)["mask_of"]
    real = sorted(path.name for path in (out / "imagesTr").glob("a_v1_*_0001.nii.gz"))
    assert real == [f"a_v1_z{index:04d}_0001.nii.gz" for index in range(4)]
    for index, name in enumerate(real):
        cut = nib.load(out / "imagesTr" / name)
        assert (np.asarray(cut.dataobj)[..., 0] == image[..., index]).all()
        assert cut.affine @ [0, 0, 0, 1] == pytest.approx(affine @ [0, 0, index, 1])
        assert cut.affine[:3, :3] == pytest.approx(affine[:3, :3])
    assert not check_folder(out).faults
    assert len(like) == 4
    for name, of in like.items():
        images = [nib.load(out / f"imagesTr/{each}_0000.nii.gz") for each in (name, of)]
        assert images[0].affine == pytest.approx(images[1].affine)
    for fold in json.loads((out / "splits_final.json").read_text()):
        assert len({like.get(name, name)[0] for name in fold["val"]}) == 1  # a patient's
    declare(folder, patient_pattern="(.*)")
    with pytest.raises(AsyndganError, match="takes slices of a volume for patients"):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "no")


def test_masks_of_a_label_are_painted_and_labels_are_faded(run, phantoms, tmp_path):
    north, lesion, out = phantoms["north"], ("--label", "lesion"), tmp_path / "out"
    told = augmented(run, north, out, "--ratio", 2, *lesion, "--released")
    masks = sorted((out / "labelsTr").glob("synthetic-*.png"))
    with_lesion = [np.array(Image.open(path)).max() == 3 for path in masks]
    assert sum(with_lesion) > 0.8 * len(masks)  # a small one may be moved off the image
    assert re.fullmatch(
        r"\d+ of the site's own and \d+ kept during training as the sites allowed, moved at random",
        told["masks"],
    )
    own = DataSet(north).cases(run.recipe().image)
    having = {case.name for case in own if bool((case.mask == 3).any())}
    assert having < {case.name for case in own}
    told = augmented(run, north, tmp_path / "of", *lesion)
    assert set(told["mask_of"].values()) == having
    assert told["masks"] == f"{len(having)} of the site's own, moved at random"
    faded = augmented(run, north, tmp_path / "faded", *lesion, "--fade", "lesion")
    assert (faded["faded"], faded["contrasts"]) == ([3], [0.5, 1.1])
    plain = {path.name: path.read_bytes() for path in (tmp_path / "of/imagesTr").iterdir()}
    other = [
        path.name for path in (tmp_path / "faded/imagesTr").iterdir()
        if plain[path.name] != path.read_bytes()
    ]  # fmt: skip
    assert other and all(name.startswith("synthetic-") for name in other)
    for words, said in (
        (("--label", "tumour"), "has no label 'tumour' that masks can be chosen"),
        (("--label", "background"), "has no label 'background' that masks can be chosen"),
        (("--ratio", 0.01), "Take a larger --ratio"),
        (("--no-own",), "there is nothing to paint"),
    ):
        with pytest.raises(AsyndganError, match=said):
            augmented(run, north, tmp_path / "no", *words)


def test_who_is_held_out_does_not_come_back_by_his_mask(tiny, phantoms, tmp_path):
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.5")
    held, north = train(recipe, phantoms, tmp_path / "run"), phantoms["north"]
    free, kept_back = held_out_by(recipe, DataSet(north).cases(recipe.image))
    assert kept_back
    told = augmented(held, north, tmp_path / "o", "--ratio", 3)
    assert set(told["mask_of"].values()) == {case.name for case in free}
    # Nor does it come back from a folder that has it.
    told = augmented(held, north, tmp_path / "again", "--masks", north)
    assert set(told["mask_of"].values()) == {case.name for case in free}
    assert (told["masks_sha256"], told["masks_left_out"]) == (
        [], {"of held-out patients": len(kept_back)},
    )  # fmt: skip
    facts = held.facts()
    facts.patient_patterns["south"] = "(.+)_"
    held.write_facts(facts)
    of_south = DataSet(north)
    of_south.info.extra["patient_pattern"] = "(.+)_"
    for data, state, said in (
        (of_south, None, "Name the states of the site"),
        (of_south, held.site_state("north"), "patients of north by another pattern"),
        (DataSet(north), held.site_state("south"), "patients of south by another"),
    ):
        with pytest.raises(RunError, match=said):
            augmenting.augment_folder(held, data, tmp_path / "no", ratio=1, state=state)
    data, state = DataSet(north), held.site_state("north")
    assert augmenting.augment_folder(held, data, tmp_path / "of north", ratio=1, state=state)[1]


def test_a_mask_from_elsewhere_is_stored_like_a_case_that_has_room_for_it(run, phantoms, tmp_path):
    """A narrow picture is padded to the recipe's grid; nothing on the padding is stored."""
    folder = copied(phantoms["north"], tmp_path / "site")
    names = [path.stem for path in pictures(folder)]
    for path in folder.rglob("*.png"):
        if not path.stem.startswith(names[0]):
            with Image.open(path) as picture:
                picture.crop((10, 0, 20, picture.height)).save(path)
    out, words = tmp_path / "out", ("--masks", phantoms["south"], "--no-own")
    command("augment", run.path, "--site", folder, "--out", out, *words)
    sizes = {Image.open(path).size for path in (out / "labelsTr").glob("synthetic-*")}
    assert sizes == {Image.open(folder / "labelsTr" / f"{names[0]}.png").size}
    for path in folder.rglob(f"{names[0]}*"):
        path.unlink()
    declare(folder, numTraining=len(pictures(folder)))
    said = command(
        "augment", run.path, "--site", folder, "--out", tmp_path / "own", "--masks", words[1]
    )
    masks = len(pictures(phantoms["south"]))
    without = f"left out: {masks} masks for which no real case has room"
    assert f"Further masks {without}." in said
    told = json.loads((tmp_path / "own" / "provenance.json").read_text())
    assert told["masks_left_out"] == {"for which no real case has room": masks}
    with pytest.raises(DataError, match=rf"no mask can be used \({without}\)"):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "none", *words)


def in_look(run: RunFolder, masks: list[tuple[str, torch.Tensor]], look: str) -> torch.Tensor:
    return torch.stack([case.image for case in synthesise(run, masks, looks=[look] * len(masks))])


def test_what_a_site_does_not_hold_is_painted_in_the_look_of_one_that_does(lacking, phantoms):
    """Nobody has judged it in the other look, so what would be painted there means nothing."""
    masks = chosen_masks(lacking, phantoms["north"])[0]
    north, south = (in_look(lacking, masks, look) for look in ("north", "south"))
    place = lacking.facts().scope.modalities.index("T2")
    assert north[:, place].equal(south[:, place])
    others = [channel for channel in range(north.shape[1]) if channel != place]
    assert not north[:, others].allclose(south[:, others])
    assert len(others) == 2


def test_sites_that_lack_a_modality_share_one_look_in_which_all_that_they_hold_is_painted_at_once(
    tiny, phantoms, tmp_path
):
    """What is painted in one pass goes together."""
    recipe = tiny("image.size=32", "training.steps=2", "generator.style=8", "generator.noise=2")
    for place, name in enumerate(("whole", "west")):
        shutil.copytree(phantoms["north"], tmp_path / name)
        for case in (tmp_path / name / "labelsTr").iterdir():  # names are patients'
            for path in (*(tmp_path / name / "imagesTr").glob(f"{case.stem}_*"), case):
                path.rename(path.with_name(f"{place}-{path.name}"))
    sites = phantoms | {"west": tmp_path / "west", "whole": tmp_path / "whole"}
    lacking = {"north": ["T2"], "south": ["T1"], "west": ["FLAIR"]}
    run = train(recipe, sites, tmp_path / "run", without=lacking)
    masks, scope = chosen_masks(run, phantoms["north"])[0], run.facts().scope
    painted = partial(in_look, run, masks)
    shared = painted("north")
    assert shared.equal(painted("south")) and shared.equal(painted("west"))
    assert not shared.allclose(painted("whole"))
    random = torch.Generator().manual_seed(derived_seed(0, "synthesise"))
    conditions = torch.stack([mask for _, mask in masks])
    looks = [SHARED_LOOK] * len(masks)
    with torch.no_grad():
        once = run.generator()(*generator_inputs(recipe, scope, conditions, looks, random))
    assert shared.equal(once)

"""What one site gets: its own patients' missing modality, and more cases, as a person types it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
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
from asyndgan.errors import AsyndganError, DataError
from asyndgan.export.folds import SPLITS_FILE
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.intake.nnunet import patient_of
from asyndgan.judging.real import load_real
from asyndgan.painting import augmenting, completion, translation
from asyndgan.painting.budget import TranslationBudget
from asyndgan.painting.synthesise import (
    RELEASED,
    digests_of,
    masks_in,
    released_masks,
    synthesise,
)
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import Participation, RunSites
from asyndgan.runs.train import train
from asyndgan.store import derived_seed
from asyndgan.store.prepare import blanked, invert
from asyndgan.store.splits import held_out_by
from asyndgan.training import SHARED_LOOK, generator_inputs
from lab.completion_scores import completions
from reading import read_cases

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(
    tiny: MakeRecipe,
    phantoms: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunFolder:
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2")
    return train(recipe, phantoms, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def without_t2(phantoms: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "without"
    shutil.copytree(phantoms["north"], folder)
    about = json.loads((folder / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "T1", "1": "T2", "2": "FLAIR"}
    about["channel_names"] = {"0": "T1", "1": "FLAIR"}
    (folder / "dataset.json").write_text(json.dumps(about))
    for path in sorted((folder / "imagesTr").glob("*_0001.png")):
        path.unlink()
    for path in sorted((folder / "imagesTr").glob("*_0002.png")):
        path.rename(path.with_name(path.name.replace("_0002", "_0001")))
    return folder


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def count_cases(folder: Path) -> None:
    """Writes the number of cases that are left."""
    about = json.loads((folder / "dataset.json").read_text())
    about["numTraining"] = len(list((folder / "labelsTr").iterdir()))
    (folder / "dataset.json").write_text(json.dumps(about))


def complete(*arguments: object) -> str:
    return command("complete", *arguments)


def evaluated(run: RunFolder, phantoms: dict[str, Path], out: Path, *more: object) -> str:
    """Judged on the phantoms' test patients."""
    sites = (f"--site={name}={path}" for name, path in phantoms.items())
    test = phantoms["north"].parent / "test"
    return command("evaluate", run.path, *sites, "--test", test, "--out", out, "--steps", 2, *more)


@pytest.mark.parametrize("way", ["translated", "painted"])
def test_a_case_gets_the_modality_that_it_lacks(
    run: RunFolder, without_t2: Path, tmp_path: Path, way: str
) -> None:
    out = tmp_path / "out"
    steps = ("--steps", 2) if way == "translated" else ()
    more = (*steps, "--seed", 2**64)  # larger than torch's own generators take
    said = complete(run.path, "--site", without_t2, "--out", out, "--way", way, *more)
    cases = len(list((without_t2 / "labelsTr").iterdir()))
    assert f"{cases} files of synthetic T2 in" in said
    info = describe(out)
    assert info.modalities == ("T1", "FLAIR", "synthetic T2")
    assert not check_folder(out).faults
    assert imread(out / "gallery.png").shape[0] > 100
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["way"] == way
    assert provenance["generator_sha256"] == run.facts().generator_sha256
    assert len(provenance["files"]) == cases
    told = {about["made_from"] for about in provenance["files"].values()}
    acquired = "the acquired modalities and the mask"
    assert told == {"the mask" if way == "painted" else acquired}
    # The recipe's range is fixed, so painted channels are in the units of acquired ones.
    assert provenance["intensity"] == {"T2": {"black": 0, "white": 255, "units": "as acquired"}}
    assert not provenance["hide_masks"]
    if way == "painted":
        assert provenance["translator"] is None


@pytest.mark.parametrize("given", [False, True])
def test_a_completed_set_says_what_its_translator_learned_from(
    run: RunFolder, without_t2: Path, phantoms: dict[str, Path], tmp_path: Path, given: bool
) -> None:
    own = [case.mask for case in DataSet(without_t2).cases(run.recipe().image)]
    others = masks_in(phantoms["south"], run) if given else released_masks(run)
    more = ["--masks", phantoms["south"], "--hide-masks"] if given else []
    complete(run.path, "--site", without_t2, "--out", tmp_path / "out", "--steps", 2, *more)
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["hide_masks"] == given
    source = "a folder of masks" if given else RELEASED
    assert provenance["translator"] == {
        "masks": f"{len(own) + len(others)} out of {len(own)} of the site's own and {len(others)} "
        f"others ({source}), moved at random",
        "masks_sha256": digests_of([*own, *(mask for _, mask in others)]),
        "budget": asdict(TranslationBudget(steps=2)),
        "regressed": 0.5,
    }


def test_a_translator_learns_from_masks_that_were_moved(
    run: RunFolder, phantoms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Any] = []
    trained = translation.train_translator

    def noting(cases: Any, *others: Any, **keys: Any) -> Any:
        taught.extend(cases)
        return trained(cases, *others, **keys)

    monkeypatch.setattr(translation, "train_translator", noting)
    masks = [(name, mask) for name, mask in released_masks(run) if bool(mask.any())][:4]
    own = [mask for _, mask in masks]
    whole, *_ = DataSet(phantoms["north"]).cases(run.recipe().image)
    lacking = translation.Incomplete(blanked(whole, ["T2"]), True)
    budget = TranslationBudget(steps=1, images=3)
    translation.translator_of(run, [lacking], masks, budget=budget)
    assert len(taught) == 12
    assert sum(any(torch.equal(case.mask, mask) for mask in own) for case in taught) < 6


def test_a_channel_says_if_its_numbers_are_not_those_of_acquired_ones(
    tiny: MakeRecipe, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path
) -> None:
    """Percentiles and deviations are a case's own, so a painted channel has none."""
    recipe = tiny(
        "image.size=32", "training.steps=1", "image.intensity.T1.kind=range",
        "image.intensity.T1.low=-100", "image.intensity.T1.high=300",
        "image.intensity.default.kind=percentiles", "image.intensity.default.low=1",
        "image.intensity.default.high=99",
    )  # fmt: skip
    run = train(recipe, phantoms, tmp_path / "run")
    about = json.loads((without_t2 / "dataset.json").read_text())
    about["channel_names"] = {"0": "FLAIR"}
    (without_t2 / "dataset.json").write_text(json.dumps(about))
    for path in (without_t2 / "imagesTr").glob("*_0001.png"):
        path.unlink()
    complete(run.path, "--site", without_t2, "--out", tmp_path / "out", "--way", "painted")
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["intensity"] == {
        "T1": {"black": -100, "white": 300, "units": "as acquired"},
        "T2": {"black": 0, "white": 255, "units": "its own"},
    }


def test_a_painted_file_on_its_own_is_not_taken_for_an_acquired_one(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    out, mixed = tmp_path / "out", tmp_path / "mixed"
    complete(run.path, "--site", without_t2, "--out", out, "--steps", 2)
    shutil.copytree(without_t2, mixed)
    about = json.loads((mixed / "dataset.json").read_text())
    about["channel_names"]["2"] = "T2"
    (mixed / "dataset.json").write_text(json.dumps(about))
    for path in (out / "imagesTr").glob("*_0002.png"):
        shutil.copyfile(path, mixed / "imagesTr" / path.name)
    with pytest.raises(AsyndganError, match="was painted, not acquired"):
        DataSet(mixed).cases(run.recipe().image)
    assert any("painted, not acquired" in fault for fault in map(str, check_folder(mixed).faults))
    painted = tmp_path / "painted"
    command("generate", run.path, "--masks", without_t2, "--out", painted)
    table = json.loads((painted / "dataset.json").read_text())
    (painted / "dataset.json").write_text(json.dumps({**table, "synthetic": False}))
    with pytest.raises(AsyndganError, match="was painted, not acquired"):
        DataSet(painted).cases(run.recipe().image)


def test_masks_can_be_hidden_from_what_is_completed(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    complete(
        run.path, "--site", without_t2, "--out", out, "--steps", 2, "--hide-masks"
    )  # fmt: skip
    provenance = json.loads((out / "provenance.json").read_text())
    assert {a["made_from"] for a in provenance["files"].values()} == {"the acquired modalities"}
    assert (provenance["look"], provenance["looks"]) == (None, {"T2": []})
    for look, said in (
        ("nobody", "nobody is no site that this run learned from"),
        ("north", "has no looks"),
    ):
        with pytest.raises(AsyndganError, match=said):
            complete(run.path, "--site", without_t2, "--out", tmp_path / "no", "--look", look)


@pytest.mark.parametrize(
    "way", [("painted",), ("translated", "--steps", 2)], ids=lambda way: way[0]
)
def test_a_look_changes_what_is_completed(
    way: tuple[object, ...],
    tiny: MakeRecipe,
    phantoms: dict[str, Path],
    without_t2: Path,
    tmp_path: Path,
) -> None:
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2", "generator.style=4")
    styled = train(recipe, phantoms, tmp_path / "styled")
    painted = []
    for number, look in enumerate(("north", "south", "north")):
        out = tmp_path / f"completed-{number}"
        complete(
            styled.path, "--site", without_t2, "--out", out, "--way", *way, "--look", look
        )  # fmt: skip
        provenance = json.loads((out / "provenance.json").read_text())
        assert (provenance["look"], provenance["looks"]) == (look, {"T2": [look]})
        painted.append([(out / name).read_bytes() for name in provenance["files"]])
    assert painted[0] == painted[2] != painted[1]


def test_a_translator_learns_from_images_all_of_whose_modalities_are_of_one_look(
    tiny: MakeRecipe, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What one modality says of another is learned from images that some site has judged whole."""
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=2", "generator.style=4")
    styled = train(recipe, phantoms, tmp_path / "styled", without={"north": ["T2"]})
    used: list[str] = []

    def painted(*arguments: Any, looks: Any = (), **options: Any) -> Any:
        used.extend(looks)
        return synthesise(*arguments, looks=looks, **options)

    monkeypatch.setattr(translation, "synthesise", painted)
    out = tmp_path / "out"
    complete(styled.path, "--site", without_t2, "--out", out, "--steps", 2)
    assert set(used) == {"south"}
    assert json.loads((out / "provenance.json").read_text())["looks"] == {"T2": ["south"]}
    with pytest.raises(AsyndganError, match=r"no site of north's look .* does \(south\)"):
        complete(
            styled.path, "--site", without_t2, "--out", tmp_path / "no", "--steps", 2,
            "--look", "north",
        )  # fmt: skip


@pytest.mark.parametrize("look", [(), ("--look", "west")], ids=["drawn", "of-a-site-without"])
def test_all_slices_of_a_patient_are_painted_in_one_look_however_they_are_named(
    look: tuple[str, ...],
    tiny: MakeRecipe,
    phantoms: dict[str, Path],
    without_t2: Path,
    tmp_path: Path,
) -> None:
    recipe = tiny("image.size=32", "training.steps=2", "generator.noise=0", "generator.style=4")
    shutil.copytree(without_t2, tmp_path / "west")
    run = train(recipe, phantoms | {"west": tmp_path / "west"}, tmp_path / "run")
    first, *others = sorted((without_t2 / "labelsTr").iterdir())
    for other in others:
        shutil.copyfile(first, other)  # without noise, what differs is the look
    patients: dict[str, list[str]] = {}
    for number, mask in enumerate([first, *others]):
        name = f"p{number % 3:02d}-{number:02d}"
        patients.setdefault(name[:3], []).append(name)
        for path in (*(without_t2 / "imagesTr").glob(f"{mask.stem}_*"), mask):
            path.rename(path.with_name(path.name.replace(mask.stem, name)))
    found = []
    for number, pattern in enumerate(([], ["--patient-pattern", r"(p\d+)-\d+"])):
        out = tmp_path / f"out{number}"
        complete(run.path, "--site", without_t2, "--out", out, "--way", "painted", *pattern, *look)
        provenance = json.loads((out / "provenance.json").read_text())
        assert provenance["looks"] == {"T2": ["north", "south"]}  # west has no T2
        looks = [
            {(out / "imagesTr" / f"{name}_0002.png").read_bytes() for name in names}
            for names in patients.values()
        ]
        found.append([len(of_patient) for of_patient in looks])
    assert max(found[0]) == 2
    assert found[1] == [1, 1, 1]


def test_a_run_that_paints_from_nothing_neither_completes_nor_augments(
    tiny: MakeRecipe, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path
) -> None:
    recipe = tiny(
        "image.size=32", "training.steps=1", "condition.kind=none", "masks.release=false",
        "generator.kind=dcgan", "generator.latent=4", "generator.noise=0",
    )  # fmt: skip
    none = train(recipe, phantoms, tmp_path / "none")
    for which in ("augment", "complete"):
        with pytest.raises(AsyndganError, match="does not paint images from masks"):
            command(which, none.path, "--site", without_t2, "--out", tmp_path / "out")


def test_images_that_the_recipe_turns_white_are_neither_completed_nor_augmented(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    for path in (without_t2 / "imagesTr").glob("*.png"):
        stored = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(stored * 40 + 600).save(path)
    with pytest.raises(AsyndganError, match=r"without: modality T1 does not fit image.intensity"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "out")
    with pytest.raises(AsyndganError, match=r"without: modality T1 does not fit image.intensity"):
        command("augment", run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_a_picture_of_which_the_run_paints_a_part_only_is_neither_completed_nor_augmented(
    tiny: MakeRecipe, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path
) -> None:
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
    run: RunFolder, without_t2: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    # One mask is drawn to train with, so that most of a site's are seen at the end alone.
    monkeypatch.setattr(completion, "MOST_MASKS", 0)
    monkeypatch.setattr(completion, "translator_of", lambda *_, **__: pytest.fail("trained"))
    about = json.loads((without_t2 / "dataset.json").read_text())
    about["labels"]["of nobody else"] = 7
    (without_t2 / "dataset.json").write_text(json.dumps(about))
    *_, last = sorted((without_t2 / "labelsTr").iterdir())
    Image.fromarray(np.full_like(np.asarray(Image.open(last)), 7)).save(last)
    with pytest.raises(AsyndganError, match="hold label 7; this generator knows 0, 1, 2, 3"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_nothing_is_left_of_a_completion_that_fails(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(AsyndganError, match=r"every case in .* has T1, T2, FLAIR already"):
        complete(run.path, "--site", phantoms["north"], "--out", out)
    assert not out.exists()


def test_images_too_small_for_a_translator_are_refused_before_anything_is_painted(
    tiny: MakeRecipe, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path
) -> None:
    run = train(tiny("image.size=16"), phantoms, tmp_path / "run")
    with pytest.raises(AsyndganError, match=r"measure \(16, 16\).*--way painted"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "out", "--steps", 2)
    complete(run.path, "--site", without_t2, "--out", tmp_path / "out", "--way", "painted")


def test_a_synthetic_set_is_no_sites_and_judges_nothing(
    run: RunFolder, tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    painted = tmp_path / "painted"
    command("generate", run.path, "--masks", phantoms["south"], "--out", painted)
    assert any("refused as a site's data" in note for note in check_folder(painted).notes)
    with pytest.raises(AsyndganError, match="is a synthetic data set, and patients are wanted"):
        train(tiny("image.size=32"), {**phantoms, "south": painted}, tmp_path / "again")
    with pytest.raises(AsyndganError, match="is a synthetic data set, and patients are wanted"):
        evaluated(run, phantoms, tmp_path / "judged", "--test", painted)


def test_a_modality_that_the_run_does_not_paint_is_refused(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    path = without_t2 / "dataset.json"
    path.write_text(path.read_text().replace('"FLAIR"', '"flair"'))
    with pytest.raises(AsyndganError, match="holds flair, which this run does not paint"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_cases_without_masks_are_translated_and_not_painted(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    shutil.rmtree(without_t2 / "labelsTr")
    with pytest.raises(AsyndganError, match="has no mask to paint from"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "painted", "--way", "painted")
    complete(run.path, "--site", without_t2, "--out", tmp_path / "out", "--steps", 2)
    assert not (tmp_path / "out" / "labelsTr").exists()


# More cases


def test_a_set_is_augmented_judged_and_never_taken_for_patients(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    out, folder = tmp_path / "augmented", phantoms["north"]
    real = len(list((folder / "labelsTr").iterdir()))
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
    names = {path.stem for path in (folder / "labelsTr").iterdir()}
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
    for again in ("augment", "complete"):
        with pytest.raises(AsyndganError, match="holds synthetic cases, which nobody acquired"):
            command(again, run.path, "--site", out, "--out", tmp_path / "twice")
    with pytest.raises(AsyndganError, match=refused):
        command(
            "evaluate", run.path, f"--site=north={out}", "--test", folder.parent / "test",
            "--out", tmp_path / "no", "--steps", 2,
        )  # fmt: skip
    told = evaluated(
        run, phantoms, tmp_path / "judged", "--label", "lesion", "--augmented", f"north={out}"
    )
    assert "lesion: real:north+augmented" in told
    stored = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    (gain,) = stored["gains"]
    assert (gain["model"], gain["over"]) == ("real:north+augmented", "real:north")
    by_model = {row["model"]: row for row in stored["rows"]}
    assert by_model["real:north+augmented"]["cases"] == real + wanted
    assert gain["difference"] == pytest.approx(
        by_model["real:north+augmented"]["dice_mean"] - by_model["real:north"]["dice_mean"]
    )
    others = tmp_path / "from-the-test-set"
    command(
        "augment", run.path, "--site", folder, "--out", others,
        "--masks", folder.parent / "test", "--no-own",
    )  # fmt: skip
    with pytest.raises(AsyndganError, match="masks of cases that are judged on"):
        evaluated(run, phantoms, tmp_path / "leaking", "--augmented", f"north={others}")
    mirrored, turned = tmp_path / "mirrored", tmp_path / "from-the-mirrored-test-set"
    shutil.copytree(folder.parent / "test", mirrored)
    for file in (mirrored / "labelsTr").iterdir():
        Image.fromarray(np.fliplr(np.asarray(Image.open(file)))).save(file)
    command(
        "augment", run.path, "--site", folder, "--out", turned, "--masks", mirrored, "--no-own",
    )  # fmt: skip
    with pytest.raises(AsyndganError, match="masks of cases that are judged on"):
        evaluated(run, phantoms, tmp_path / "leaking", "--augmented", f"north={turned}")
    with pytest.raises(AsyndganError, match="it was made from another set"):
        evaluated(run, phantoms, tmp_path / "other", "--augmented", f"south={out}")


def test_sites_that_lack_a_modality_are_judged_in_all_that_test_patients_have(
    run: RunFolder, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path
) -> None:
    sites = phantoms | {"north": without_t2}
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
    args = [f"--site={name}={path}" for name, path in sites.items()]
    said = command(
        "evaluate", run.path, *args, "--test", test, "--out", tmp_path / "judged", "--steps", 2
    )
    assert "Judged in T1, T2, FLAIR; north has no T2" in said


def test_a_set_of_another_generator_is_not_judged_by(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """It may have been taught by the very patients who are judged on."""
    out = tmp_path / "out"
    command("augment", run.path, "--site", phantoms["north"], "--out", out)
    provenance = json.loads((out / "provenance.json").read_text())
    (out / "provenance.json").write_text(json.dumps({**provenance, "generator_sha256": "0" * 64}))
    with pytest.raises(AsyndganError, match="was painted by another generator"):
        evaluated(run, phantoms, tmp_path / "judged", "--augmented", f"north={out}")
    damaged = ("{nojson", "[1, 2]", json.dumps({**provenance, "masks_sha256": [[1]]}), None)
    (out / "provenance.json").write_text(json.dumps({**provenance, "mask_of": {}}))
    with pytest.raises(AsyndganError, match="does not train on here"):
        evaluated(run, phantoms, tmp_path / "judged", "--augmented", f"north={out}")
    for text in damaged:
        (out / "provenance.json").unlink()
        if text is not None:
            (out / "provenance.json").write_text(text)
        with pytest.raises(AsyndganError, match=r"painted from\. Make the set anew"):
            evaluated(run, phantoms, tmp_path / "judged", "--augmented", f"north={out}")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_site_that_changed_its_cases_since_is_not_judged_by_the_set_made_before(
    part: str, run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """What the change does would count as an effect of the synthetic cases."""
    out = tmp_path / "out"
    command("augment", run.path, "--site", phantoms["north"], "--out", out)
    changed, *_ = sorted((phantoms["north"] / part).iterdir())
    stored = np.asarray(Image.open(out / part / changed.name))
    Image.fromarray(stored.max() - stored).save(out / part / changed.name)
    with pytest.raises(AsyndganError, match="other images or masks of 1 real case than site north"):
        evaluated(run, phantoms, tmp_path / "judged", "--augmented", f"north={out}")


@pytest.mark.parametrize("flip", [True, False])
def test_no_network_sees_mirrored_images_if_sides_are_no_mirror_images(
    flip: bool,
    tiny: MakeRecipe,
    phantoms: dict[str, Path],
    without_t2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny("image.size=32", "training.steps=1", f"training.flip={str(flip).lower()}")
    run = train(recipe, phantoms, tmp_path / "run")
    seen = []
    moved = translation.moved
    monkeypatch.setattr(
        translation, "moved", lambda *args: seen.append(args[2].flips) or moved(*args)
    )
    complete(run.path, "--site", without_t2, "--out", tmp_path / "completed", "--steps", 2)
    evaluated(run, phantoms, tmp_path / "judged")
    judged = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert any(seen) == flip
    assert judged["budget"]["flips"] == [-1] * flip


def test_a_set_from_the_masks_of_those_who_are_judged_is_refused_even_if_they_were_the_sites_own(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    more, out = tmp_path / "more", tmp_path / "out"
    shutil.copytree(phantoms["north"], more)
    test = phantoms["north"].parent / "test"
    for file in (*(test / "imagesTr").iterdir(), *(test / "labelsTr").iterdir()):
        shutil.copy(file, more / file.parent.name)
    count_cases(more)
    command("augment", run.path, "--site", more, "--out", out)
    with pytest.raises(AsyndganError, match="site north does not train on here"):
        evaluated(run, phantoms, tmp_path / "judged", "--augmented", f"north={out}")


def test_a_sites_own_mask_among_others_counts_as_its_own(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    names = sorted(path.stem for path in (phantoms["north"] / "labelsTr").iterdir())
    mirrored = tmp_path / "mirrored"
    shutil.copytree(phantoms["north"], mirrored)
    for file in (mirrored / "labelsTr").iterdir():
        ImageOps.mirror(Image.open(file)).save(file)
    for flags in ([], ["--no-own"]):
        out = tmp_path / f"out{len(flags)}"
        command(
            "augment", run.path, "--site", phantoms["north"], "--out", out, "--masks", mirrored,
            *flags,
        )  # fmt: skip
        of = json.loads((out / "provenance.json").read_text())["mask_of"].values()
        assert sorted(of) == names  # each of them once


def test_a_real_case_with_the_name_of_a_synthetic_one_is_found_before_anything_is_painted(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmenting, "synthesise", None)
    folder = tmp_path / "site"
    shutil.copytree(phantoms["north"], folder)
    name = next((folder / "labelsTr").iterdir()).stem
    for file in (*folder.glob(f"imagesTr/{name}*"), *folder.glob(f"labelsTr/{name}*")):
        file.rename(file.with_name(file.name.replace(name, "synthetic-00001")))
    with pytest.raises(AsyndganError, match="site has a real case 'synthetic-00001'"):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "out")


def test_a_set_that_cannot_be_written_is_refused_before_anything_is_painted(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def painted(*_: object, **__: object) -> None:
        raise AssertionError("painted already")

    monkeypatch.setattr("asyndgan.api.synthesise", painted)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out in ("full", "full/file/out"):
        with pytest.raises(AsyndganError, match=r"is there already|cannot be written"):
            command("generate", run.path, "--masks", phantoms["north"], "--out", tmp_path / out)
    for more in ("--hide-masks", "--steps=3"):
        with pytest.raises(AsyndganError, match="--way painted"):
            complete(
                run.path, "--site", phantoms["north"], "--out", tmp_path / "out", "--way",
                "painted", more,
            )  # fmt: skip


def test_patients_whom_a_run_held_out_are_those_that_it_is_judged_on(
    tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """Also where judging can use fewer of a site's cases than training did."""
    folder = tmp_path / "some"
    shutil.copytree(phantoms["north"], folder)
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**info, "incomplete": True}))
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
    tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """Who is held out depends on all patients: another would be judged who has taught."""
    whole, fewer = tmp_path / "whole", tmp_path / "fewer"
    shutil.copytree(phantoms["north"], whole)
    next((whole / "imagesTr").glob("*_0001.png")).unlink()
    about = json.loads((whole / "dataset.json").read_text())
    (whole / "dataset.json").write_text(json.dumps({**about, "incomplete": True}))
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.4")
    run = train(recipe, {"north": whole, "south": phantoms["south"]}, tmp_path / "run")
    shutil.copytree(whole, fewer)
    patient = patient_of(min(path.stem for path in (fewer / "labelsTr").iterdir()))
    for file in [*(fewer / "imagesTr").iterdir(), *(fewer / "labelsTr").iterdir()]:
        if patient_of(file.stem).startswith(patient):
            file.unlink()
    count_cases(fewer)

    def judge(north: Path, out: Path) -> str:
        return command(
            "evaluate", run.path, "--site", f"north={north}", "--site",
            f"south={phantoms['south']}", "--out", out, "--steps", "2", "--seeds", "1",
        )  # fmt: skip

    with pytest.raises(AsyndganError, match=r"site north trained with .* and here are"):
        judge(fewer, tmp_path / "no")
    judge(whole, tmp_path / "judged")


def test_what_augment_wants_of_an_incomplete_set_is_not_that_it_says_so(
    run: RunFolder, phantoms: dict[str, Path], without_t2: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(phantoms["north"], folder)
    next((folder / "imagesTr").glob("*_0001.png")).unlink()
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "incomplete": True}))
    wanted = "has no modality T2; .* augment want every modality of every case"
    with pytest.raises(AsyndganError, match=wanted):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "out")
    # Nor does it help to complete the set, since a painted channel is a modality of its own.
    completed = tmp_path / "completed"
    complete(run.path, "--site", folder, "--out", completed, "--way", "painted")
    with pytest.raises(AsyndganError, match="holds synthetic T2, which this run does not paint"):
        command("augment", run.path, "--site", completed, "--out", tmp_path / "out")


def test_cases_without_a_mask_are_no_masks_to_paint_from(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(phantoms["north"], folder)
    masks = sorted((folder / "labelsTr").iterdir())
    for path in masks[1:]:
        path.unlink()
    out = tmp_path / "out"
    command("augment", run.path, "--site", folder, "--out", out)
    provenance = json.loads((out / "provenance.json").read_text())
    assert set(provenance["mask_of"].values()) == {masks[0].stem}
    masks[0].unlink()
    with pytest.raises(AsyndganError, match="so there is none to store synthetic cases like"):
        command(
            "augment", run.path, "--site", folder, "--out", tmp_path / "no",
            "--masks", phantoms["south"],
        )  # fmt: skip


def test_labels_that_mean_something_else_are_not_painted(
    run: RunFolder, without_t2: Path, tmp_path: Path
) -> None:
    path = without_t2 / "dataset.json"
    path.write_text(path.read_text().replace('"lesion"', '"tumour"'))
    with pytest.raises(AsyndganError, match="is 'tumour' here"):
        complete(run.path, "--site", without_t2, "--out", tmp_path / "out")


def test_volumes_are_not_augmented_by_slices(
    tiny: MakeRecipe, run: RunFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "volumes"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    grid = np.diag([1.0, 1.0, 3.0, 1.0])
    for number in range(3):
        image = nib.Nifti1Image(np.random.default_rng(1).random((32, 32, 4)), grid)
        nib.save(image, folder / "imagesTr" / f"ann_000{number}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((32, 32, 4), np.uint8), grid), folder / "labelsTr/ann.nii.gz")
    about = {
        "channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}, "labels": run.facts().labels,
        "numTraining": 1, "file_ending": ".nii.gz",
    }  # fmt: skip
    about["labels"] = {name: int(number) for number, name in run.facts().labels.items()}
    (folder / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(AsyndganError, match="holds volumes, and a run paints slices"):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "out")


def test_synthetic_cases_are_stored_as_the_real_ones_are(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """On the grid of the real case whose mask was painted, whatever the recipe's grid is."""
    folder = tmp_path / "large"
    shutil.copytree(phantoms["north"], folder)
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.resize((48, 40), Image.Resampling.NEAREST).save(path)
    out = tmp_path / "out"
    command("augment", run.path, "--site", folder, "--out", out, "--ratio", 0.5)
    with Image.open(out / "imagesTr" / "synthetic-00001_0000.png") as picture:
        assert picture.size == (48, 40)
    report = check_folder(out)
    assert not report.faults
    assert ("size", "40 x 48") in report.rows


def test_synthetic_slices_of_a_scanner_lie_where_the_real_ones_do(
    tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny("image.size=32", "image.axis=sagittal", "training.flip=false", "training.steps=1")
    run = train(recipe, phantoms, tmp_path / "run")
    folder, affine = tmp_path / "scanner", np.diag([5.0, 1.0, 2.0, 1.0])
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    voxels = 255 * np.random.default_rng(1).random((1, 30, 20), np.float32)
    for number in range(3):
        path = folder / "imagesTr" / f"ann_000{number}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, affine), path)
    mask = nib.Nifti1Image((voxels > 127).astype(np.uint8), affine)
    nib.save(mask, folder / "labelsTr" / "ann.nii.gz")
    about = json.loads((phantoms["north"] / "dataset.json").read_text())
    about |= {"numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))
    command("augment", run.path, "--site", folder, "--out", tmp_path / "out")
    real, synthetic = read_cases(tmp_path / "out", axis="sagittal")
    assert synthetic.name == "synthetic-00001"
    assert synthetic.channels["T1"].shape == real.channels["T1"].shape == (20, 30)
    stored = nib.load(tmp_path / "out/imagesTr/synthetic-00001_0000.nii.gz")
    assert stored.shape == voxels.shape
    np.testing.assert_array_equal(stored.affine, affine)


def test_masks_of_a_label_are_painted_and_rare_ones_more_often(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command(
        "augment", run.path, "--site", phantoms["north"], "--out", out, "--ratio", 2,
        "--label", "lesion", "--rare-first", "--released",
    )  # fmt: skip
    masks = sorted((out / "labelsTr").glob("synthetic-*.png"))
    with_lesion = [np.array(Image.open(path)).max() == 3 for path in masks]
    assert sum(with_lesion) > 0.8 * len(masks)  # a small one may be moved off the image
    told = json.loads((out / "provenance.json").read_text())
    assert re.fullmatch(
        r"\d+ of the site's own and \d+ kept during training as the sites allowed, moved at random",
        told["masks"],
    )
    own = DataSet(phantoms["north"]).cases(run.recipe().image)
    having = {case.name for case in own if bool((case.mask == 3).any())}
    assert having < {case.name for case in own}
    command(
        "augment", run.path, "--site", phantoms["north"], "--out", tmp_path / "of", "--ratio", 1,
        "--label", "lesion",
    )  # fmt: skip
    told = json.loads((tmp_path / "of" / "provenance.json").read_text())
    assert set(told["mask_of"].values()) == having
    assert told["masks"] == f"{len(having)} of the site's own, moved at random"
    rare = augmenting.rarity(torch.stack([case.mask for case in own]))
    weight = {case.name: float(value) for case, value in zip(own, rare, strict=True)}
    drawn = []
    for flags in ([], ["--rare-first"]):
        more = tmp_path / f"more{len(flags)}"
        command(
            "augment", run.path, "--site", phantoms["north"], "--out", more, "--ratio", 5, *flags
        )
        of = json.loads((more / "provenance.json").read_text())["mask_of"].values()
        drawn.append(sum(weight[name] for name in of) / len(of))
    assert drawn[0] == pytest.approx(float(rare.mean()))
    expected = float((rare**2).sum() / rare.sum())
    assert expected > 1.1 * drawn[0]
    assert drawn[1] > (drawn[0] + expected) / 2
    faded = tmp_path / "faded"
    command(
        "augment", run.path, "--site", phantoms["north"], "--out", faded, "--ratio", 5,
        "--fade", "lesion",
    )  # fmt: skip
    provenance = json.loads((faded / "provenance.json").read_text())
    assert (provenance["faded"], provenance["contrasts"]) == ([3], [0.5, 1.1])
    plain = {path.name: path.read_bytes() for path in (tmp_path / "more0/imagesTr").iterdir()}
    other = [
        path for path in (faded / "imagesTr").iterdir() if plain[path.name] != path.read_bytes()
    ]
    assert other and all(path.name.startswith("synthetic-") for path in other)
    for label in ("tumour", "background"):
        with pytest.raises(AsyndganError, match=f"has no label '{label}' that masks can be chosen"):
            command(
                "augment", run.path, "--site", phantoms["north"], "--out", tmp_path / "no",
                "--label", label,
            )  # fmt: skip
    with pytest.raises(AsyndganError, match="there is nothing to paint"):
        command(
            "augment", run.path, "--site", phantoms["north"], "--out", tmp_path / "no", "--no-own"
        )


def test_who_is_held_out_does_not_come_back_by_his_mask(
    tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.5")
    held = train(recipe, phantoms, tmp_path / "run")
    seen: list[int] = []
    paint = augmenting.synthesise

    def painting(run: RunFolder, named: Any, **keys: Any) -> Any:
        seen.append(len({mask.numpy().tobytes() for _, mask in named}))
        return paint(run, named, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmenting, "synthesise", painting)
        command(
            "augment", held.path, "--site", phantoms["north"], "--out", tmp_path / "o", "--ratio", 3
        )
    cases = DataSet(phantoms["north"]).cases(recipe.image)
    free, kept_back = held_out_by(recipe, cases)
    assert kept_back
    assert seen == [len({case.mask.numpy().tobytes() for case in free})]
    command(  # nor does his mask come back from a folder that has it
        "augment", held.path, "--site", phantoms["north"], "--out", tmp_path / "again",
        "--masks", phantoms["north"],
    )  # fmt: skip
    told = json.loads((tmp_path / "again" / "provenance.json").read_text())
    assert set(told["mask_of"].values()) == {case.name for case in free}
    assert (told["masks_sha256"], told["masks_left_out"]) == (
        [], {"of held-out patients": len(kept_back)},
    )  # fmt: skip
    sites = [f"--site={name}={path}" for name, path in phantoms.items()]
    said = command(
        "evaluate", held.path, *sites, "--out", tmp_path / "judged", "--steps", 2,
        "--label", "lesion", "--augmented", f"north={tmp_path / 'again'}",
    )  # fmt: skip
    assert "lesion: real:north+augmented" in said


def test_a_mask_from_elsewhere_is_stored_like_a_case_that_has_room_for_it(
    run: RunFolder, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """A narrow picture is padded to the recipe's grid; nothing on the padding is stored."""
    folder = tmp_path / "site"
    shutil.copytree(phantoms["north"], folder)
    names = sorted(path.stem for path in (folder / "labelsTr").iterdir())
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
    count_cases(folder)
    said = command(
        "augment", run.path, "--site", folder, "--out", tmp_path / "own", "--masks", words[1]
    )
    masks = len(list((phantoms["south"] / "labelsTr").iterdir()))
    without = f"left out: {masks} masks for which no real case has room"
    assert f"Further masks {without}." in said
    told = json.loads((tmp_path / "own" / "provenance.json").read_text())
    assert told["masks_left_out"] == {"for which no real case has room": masks}
    with pytest.raises(DataError, match=rf"0 masks can be used \({without}\)"):
        command("augment", run.path, "--site", folder, "--out", tmp_path / "none", *words)


def test_completions_are_the_same_whatever_the_order_of_the_sets_modalities(
    run: RunFolder, phantoms: dict[str, Path]
) -> None:
    image, found = run.recipe().image, []
    for order in (("T1", "T2", "FLAIR"), ("FLAIR", "T1", "T2")):
        sites = {name: DataSet(folder).cases(image, order)[:3] for name, folder in phantoms.items()}
        completed = completions(
            run, sites, sites["north"], ["T2"], budget=TranslationBudget(steps=1, images=1)
        )
        t2 = order.index("T2")
        found.append({way: [image[t2] for image in own] for way, own in completed.items()})
    for way, images in found[0].items():
        for one, other in zip(images, found[1][way], strict=True):
            assert torch.allclose(one, other, atol=1e-4), way
    short = [
        replace(case, image=case.image[:2], modalities=("T1", "T2")) for case in sites["south"]
    ]
    with pytest.raises(AsyndganError, match="they have to be the same"):
        completions(run, sites, short, ["T2"], budget=TranslationBudget(steps=1))


def test_what_a_site_does_not_hold_is_painted_in_the_look_of_one_that_does(
    tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    """Nobody has judged it in the other look, so what would be painted there means nothing."""
    recipe = tiny("image.size=32", "training.steps=2", "generator.style=8", "generator.noise=2")
    run = train(recipe, phantoms, tmp_path / "run", without={"north": ["T2"]})
    masks = masks_in(phantoms["north"], run)

    def painted(look: str) -> torch.Tensor:
        cases = list(synthesise(run, masks, looks=[look] * len(masks)))
        return torch.stack([case.image for case in cases])

    north, south = painted("north"), painted("south")
    place = run.facts().scope.modalities.index("T2")
    assert north[:, place].equal(south[:, place])
    others = [channel for channel in range(north.shape[1]) if channel != place]
    assert not north[:, others].allclose(south[:, others])
    assert len(others) == 2


def test_sites_that_lack_a_modality_share_one_look_in_which_all_that_they_hold_is_painted_at_once(
    tiny: MakeRecipe, phantoms: dict[str, Path], tmp_path: Path
) -> None:
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
    masks = masks_in(phantoms["north"], run)
    scope = run.facts().scope

    def painted(look: str) -> torch.Tensor:
        cases = list(synthesise(run, masks, looks=[look] * len(masks)))
        return torch.stack([case.image for case in cases])

    shared = painted("north")
    assert shared.equal(painted("south")) and shared.equal(painted("west"))
    assert not shared.allclose(painted("whole"))
    assert completion._sites_of_look(run, "T2", "north", "painted") == ["south", "west"]
    random = torch.Generator().manual_seed(derived_seed(0, "synthesise"))
    conditions = torch.stack([mask for _, mask in masks])
    looks = [SHARED_LOOK] * len(masks)
    with torch.no_grad():
        once = run.generator()(*generator_inputs(recipe, scope, conditions, looks, random))
    assert shared.equal(once)

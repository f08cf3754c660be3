"""A suite from its file to its tables, as a person runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import AsyndganError, DataError, RecipeError, RunError
from asyndgan.export.writing import write_dataset
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.judging.real import load_real
from asyndgan.painting.sets import masks_of, painted_once
from asyndgan.painting.synthesise import Origin
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.store import Cohort, RawCase
from asyndgan.texts import without_nan
from lab import completion_scores, running
from lab.__main__ import app
from lab.evidence import replace_block, to_markdown
from lab.real import Real
from lab.running import run_suite
from lab.scores import by_key, read_scores
from lab.suite import PaintingSection, Suite
from lab.trainings import train_all, trainings_of
from lab.views import views
from reading import told_by
from small import declare
from waiting import until

ROOT = Path(__file__).parents[2]

SUITE = """
name = "tiny"
seeds = 2
segmentation_steps = 2
random_contrast = true
networks = ["segresnet"]

[[sets]]
name = "heads"
folder = "heads"
sites = ["north", "south"]
label = "lesion"
further_labels = ["ventricle"]
faded = ["lesion"]
apart = { "the first patient" = ".*p000" }

[[models]]
name = "small"
recipe = "RECIPE"
fedgan = true
augmented = true
pooled = true
paintings = [{ contrasts = [1.0, 1.0] }]

[[models]]
name = "paired"
recipe = "RECIPE"
overrides = ["loss.paired_l1=10"]
on = { heads = ["training.steps=3"] }
"""


SMALL = """
name = "small"
judged_on = "test"
segmentation_steps = 2
single_sites = false

[[sets]]
name = "heads"
folder = "heads"
sites = ["north", "south"]
label = "lesion"

[[models]]
name = "small"
recipe = "RECIPE"
overrides = ["training.steps=2"]
"""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """To train in another imports torch for seconds; `train_all` is tested below."""

    def trained(trainings, *_):
        for each in trainings:
            if not each.finished():
                each.run()

    monkeypatch.setattr(running, "train_all", trained)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "heads", size=32, sites=DEFAULT_SITES[:2], patients_scale=0.12)
    return folder


def write_recipe(folder: Path, tiny: Callable[..., Recipe]) -> Path:
    recipe = folder / "recipe.toml"
    recipe.write_text(tiny("image.size=32", "training.steps=4").to_toml())
    return recipe


def small(folder: Path, tiny: Callable[..., Recipe]) -> str:
    return SMALL.replace("RECIPE", str(write_recipe(folder, tiny)))


def run(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_a_suite_trains_everything_once_and_writes_its_tables(data, tiny, tmp_path):
    suite = tmp_path / "suite.toml"
    text = SUITE.replace("RECIPE", str(write_recipe(tmp_path, tiny)))
    suite.write_text(text.replace('networks = ["segresnet"]', ""))
    document = tmp_path / "evidence.md"
    document.write_text("before\n<!-- suite: tiny -->\nold\n<!-- end of suite: tiny -->\nafter\n")
    out = tmp_path / "out"
    first = run(suite, "--data", data, "--out", out, "--document", document)
    result = json.loads((out / "suite.json").read_text())
    scores = by_key(read_scores(out / "scores.csv.gz"))
    computed = views(Suite.from_toml(suite.read_text()), scores, result["groups"], result["costs"])
    assert without_nan(computed) == {name: result[name] for name in computed}
    lesions = [row for row in result["rows"] if row["label"] == "lesion"]
    assert len(result["rows"]) == 2 * len(lesions)
    assert [(row["recipe"], row["model"]) for row in lesions] == [
        ("", "real-all"), ("small", "synthetic"), ("small", "fedgan-synthetic"),
        ("", "random-contrast"), ("", "real:north"), ("", "real:south"),
        ("small", "real:north+synthetic"), ("small", "real:south+synthetic"),
        ("small", "synthetic, all seeds"), ("paired", "synthetic"),
    ]  # fmt: skip
    pooled = next(row for row in lesions if row["model"] == "synthetic, all seeds")
    assert pooled["cases"] == 2 * lesions[1]["cases"]
    contrasts = lesions[3]
    assert contrasts["cases"] == lesions[1]["cases"]
    assert (contrasts["seeds"], contrasts["bytes"]) == (2, None)
    assert [row["model"] for row in lesions if "trainings_low" in row] == ["synthetic"] * 2
    synthetic, fedgan = lesions[1:3]
    assert all(row["dice_least"] <= row["dice_mean"] <= row["dice_most"] for row in lesions)
    assert (synthetic["seeds"], synthetic["label"]) == (2, "lesion")
    assert json.loads((out / "runs/heads/paired-1/run.json").read_text())["steps"] == 3
    small = result["traffic"][0]
    assert synthetic["bytes"] == pytest.approx(4 * (small["sent"] + small["received"]))
    assert fedgan["bytes"] == small["fedgan_round"]  # four steps are one round
    assert small["break_even"] == pytest.approx(fedgan["bytes"] / synthetic["bytes"] * 4)
    assert {row["apart"] for row in result["apart"]} == {"the first patient"}
    assert [(row["recipe"], row["model"]) for row in result["kids"]] == [
        ("small", "synthetic"), ("small", "fedgan-synthetic"), ("paired", "synthetic"),
    ]  # fmt: skip
    assert set(result["kids"][0]["of_sites"]) == {"north", "south"}
    faded, as_painted = result["paintings"]
    assert faded["cases"] == as_painted["cases"]
    assert (faded["faded"], as_painted["faded"]) == (["lesion"], [])
    assert faded["dice_mean"] != as_painted["dice_mean"]
    compared = {(row["model"], row["over"]) for row in result["differences"]}
    assert ("synthetic", "fedgan-synthetic") in compared
    assert ("every real:NAME+synthetic", "real:NAME") in compared
    between, apart = [row for row in result["differences"] if row["over"] == "synthetic of small"]
    assert (between["apart"], apart["apart"]) == ("", "the first patient")
    assert {row["patients"] for row in result["apart"]} == {apart["patients"]}
    assert (between["recipe"], between["model"]) == ("paired", "synthetic")
    difference = lesions[-1]["dice_mean"] - synthetic["dice_mean"]
    assert between["difference"] == pytest.approx(difference)
    text = document.read_text()
    assert text.startswith("before\n<!-- suite: tiny -->")
    assert text.endswith("<!-- end of suite: tiny -->\nafter\n")
    assert "| **synthetic images alone (small)** |" in text
    assert "old" not in text
    assert (out / "suite.md").read_text().strip() in text
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    cached = sorted((out / "cache").iterdir())
    assert run(suite, "--data", data, "--out", out)[-30:] == first[-30:]
    assert before == {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.safetensors")}
    assert cached == sorted((out / "cache").iterdir())
    assert len([*(out / "random-contrast/heads").iterdir()]) == 2  # a set for each seed


@pytest.fixture(scope="module")
def finished(data, tiny, tmp_path_factory):
    """Text, data and result of a small suite; south lacks FLAIR, and a pattern tells patients."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(data / "heads", folder / "heads")
    south = declare(folder / "heads/south", channel_names={"0": "T1", "1": "T2"})
    for path in south.glob("imagesTr/*_0002.*"):
        path.unlink()
    text = small(folder, tiny)
    for name in ("north", "south", "test"):
        told_by(folder / "heads" / name, "[a-z]+")
    return text, folder, run_suite(text, folder, folder / "out")


def test_what_was_trained_from_other_data_or_painted_otherwise_is_not_taken(finished):
    text, data, _ = finished
    suite, out = Suite.from_toml(text), data / "out"
    (training,) = trainings_of(suite, data, out, "cpu")
    assert training.finished()
    fewer = Suite.from_toml(text.replace('"north", "south"', '"north"'))
    with pytest.raises(RunError, match="other sites or images"):
        run_suite(text.replace('"north", "south"', '"north"'), data, out)
    (other,) = trainings_of(fewer, data, out, "cpu")
    with pytest.raises(RunError, match="other sites or images"):
        other.finished()
    image = training.recipe.image
    both = {name: DataSet(data / "heads" / name).cases(image) for name in ("north", "south")}
    synthetic = training.out / PaintingSection().folder(suite.sets[0])
    with pytest.raises(RunError, match="other masks"):
        masks = masks_of({"north": both["north"]})
        painted_once(training.folder, masks, Origin(""), synthetic)
    with pytest.raises(RunError, match="in another way"):
        painted_once(training.folder, masks_of(both), Origin(""), synthetic, moved=1)


def test_sites_are_judged_by_the_modalities_that_all_hold_and_patients_are_as_the_set_says(
    finished,
):
    text, data, result = finished
    facts = json.loads((data / "out/runs/heads/small-0/run.json").read_text())
    assert facts["modalities"] == ["T1", "T2", "FLAIR"]  # the generator paints all of them
    assert facts["sites"]["south"]["modalities"] == ["T1", "T2"]
    suite = Suite.from_toml(text)
    real = Real(suite, suite.sets[0], data)
    assert real.modalities == ["T1", "T2"]
    assert {row["model"] for row in result.rows} == {"real-all", "synthetic"}
    assert {case.patient for case in real.judged} == {"test"}
    assert {row["patients"] for row in result.rows} == {1}


def test_on_validation_no_training_sees_a_patient_that_judges(data, tiny, tmp_path):
    """And a suite without a test folder can be judged; with folds, by all patients."""
    shutil.copytree(data / "heads", tmp_path / "heads", ignore=lambda *_: ["test"])
    once = small(tmp_path, tiny).replace('"test"', '"validation"')
    once = once.replace("single_sites = false", "")
    once = once.replace('label = "lesion"', 'label = "lesion"\nby_site = true')
    text = once.replace("segmentation_steps = 2", "segmentation_steps = 2\nfolds = 2")
    out = tmp_path / "out"
    everybody = {
        f"{name}/{patient}"
        for name in ("north", "south")
        for patient in DataSet(tmp_path / "heads" / name).patients.values()
    }
    for suite in map(Suite.from_toml, (once, text)):
        reals = [Real(suite, suite.sets[0], tmp_path, fold) for fold in range(suite.folds)]
        judged = [{*real.patients} for real in reals]
        assert (set.union(*judged) == everybody) == (suite.folds > 1)
        assert {patient.split("/")[0] for patient in judged[-1]} == {"north", "south"}
        trainings, cases = trainings_of(suite, tmp_path, out, "cpu"), dict[str, int]()
        for people, training in zip(judged, trainings, strict=True):
            for name in ("north", "south"):
                folder = tmp_path / "heads" / name
                every = DataSet(folder).cases(training.recipe.image)
                kept = [case for case in every if f"{name}/{case.patient}" not in people]
                wanted = Cohort.from_cases(kept, labels=describe(folder).labels)
                trained = load_cohort(SiteSetup(name, folder, tmp_path), training.recipe)
                assert trained.digest == wanted.digest and len(kept) < len(every)
                cases.setdefault(name, len(kept))
    result = run_suite(text, tmp_path, out)
    assert (result.judged_on, result.folds) == ("validation", 2)
    assert "in 2 folds" in to_markdown(result.to_tables())
    rows = {row["model"]: row for row in result.rows}
    assert all(rows[f"real:{name}"]["cases"] == count for name, count in cases.items())
    assert read_scores(out / "scores.csv.gz")["patient"].nunique() == len(everybody)
    of_sites = {
        row["apart"]: row["patients"] for row in result.apart if row["model"] == "synthetic"
    }
    assert set(of_sites) == {"of north", "of south"}
    assert sum(of_sites.values()) == rows["synthetic"]["patients"]
    with pytest.raises(RecipeError, match="too few patients for 20 folds"):
        run_suite(text.replace("folds = 2", "folds = 20"), tmp_path, out)


def test_slices_that_train_nobody_are_judged_all_the_same(tiny, tmp_path):
    """Which of them hold a label is what is to be found."""
    for site, image in (("north", np.eye(16) * 200.0), ("test", np.eye(16) * 190.0)):
        cases = [
            RawCase(f"{site}{patient}_z{z}", f"{site}{patient}", {"T1": image}, mask)
            for patient in "abcd"
            for z, mask in enumerate((np.eye(16, dtype=np.int64), np.zeros((16, 16), np.int64)))
        ]
        labels = {"background": 0, "x": 1}
        write_dataset(tmp_path / site, cases, modalities=["T1"], labels=labels, name=site)
        told_by(tmp_path / site, "([a-z]+)_")
    for changes, wanted in ((["training.hold_out=0.25"], 2), ([], 8)):
        recipe = tiny("image.slices=labelled", "image.size=16", *changes)
        real, judged = load_real(
            {"north": DataSet(tmp_path / "north")},
            None if changes else DataSet(tmp_path / "test"), recipe,
            modalities=["T1"], labels={"0": "background", "1": "x"},
        )  # fmt: skip
        assert len(judged) == wanted
        assert sum(bool(case.mask.any()) for case in judged) == wanted // 2
        assert len(real["north"]) == (3 if changes else 4)
        assert all(case.mask.any() for case in real["north"])
        train = {f"north/{case.patient}" for case in real["north"]}
        assert not train & {case.patient for case in judged}


def test_where_no_site_has_a_patient_to_spare_nobody_judges(tiny, tmp_path):
    case = RawCase("a", "a", {"T1": np.eye(16) * 200.0}, np.eye(16, dtype=np.int64))
    labels = {"background": 0, "x": 1}
    write_dataset(tmp_path / "north", [case], modalities=["T1"], labels=labels, name="north")
    with pytest.raises(DataError, match=r"no site has a patient to spare.* Judge on test patients"):
        load_real(
            {"north": DataSet(tmp_path / "north")}, None,
            tiny("image.size=16", "training.hold_out=0.25"), modalities=["T1"],
            labels={"0": "background", "1": "x"},
        )  # fmt: skip


def test_a_training_that_fails_does_not_keep_the_others_from_theirs(data, tiny, tmp_path):
    text = small(tmp_path, tiny)
    (good,) = trainings_of(Suite.from_toml(text), data, tmp_path / "out", "cpu")
    bad = replace(good, out=tmp_path / "bad", sites={"north": tmp_path / "nowhere"})
    with pytest.raises(RunError, match=r"/bad: .*1 of 2 trainings ended well"):
        train_all([bad, good], 1, None)
    assert good.finished()


def test_a_suite_that_is_killed_leaves_no_training_behind(data, tiny, tmp_path):
    suite = tmp_path / "long.toml"
    text = small(tmp_path, tiny)
    suite.write_text(text.replace("training.steps=2", "training.steps=1000000"))
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", suite, "--data", data, "--out", out],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    training = RunFolder(out / "runs" / "heads" / "small-0")
    try:
        until(lambda: training.metrics() and training.busy())
        process.kill()
        process.wait()
        until(lambda: not training.busy())
        assert training.facts().state == "interrupted"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('label = "lesion"', 'label = "lesoin"', "no label 'lesoin'"),
        ('label = "lesion"', 'label = "background"', "no label 'background' to be judged by"),
        ('label = "lesion"', 'label = "lesion"\napart = { x = "*" }', "not a regular expression"),
        ('label = "lesion"', 'label = "lesion"\napart = { x = "y" }', "no test patient's name"),
        ('label = "lesion"', 'label = "lesion"\ntest = "north"', "of site north's patients"),
        (
            'label = "lesion"', 'label = "lesion"\nfaded = ["head", "lesion", "ventricle"]',
            "no generator learns what",
        ),
    ],
)  # fmt: skip
def test_what_a_suite_asks_of_its_data_is_looked_at_before_anything_is_trained(
    data, tiny, tmp_path, old, new, said
):
    text = small(tmp_path, tiny)
    assert old in text
    with pytest.raises(AsyndganError, match=said):
        run_suite(text.replace(old, new), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("random_contrast = true", "fedavrg = true", "Did you mean fedavg"),
        ('label = "lesion"\n', "", "sets.0.label is missing"),
        ('name = "paired"', 'name = "small"', "two of models are called 'small'"),
        ("seeds = 2\nseg", "seeds = 1\nseg", "model small: pooled needs several seeds"),
        ("loss.paired_l1=10", "training.flip=false", "small and paired prepare or mirror"),
        ("loss.paired_l1=10", "loss.pared_l1=10", "loss.paired_l1"),
        ("on = { heads", "on = { haeds", "set on 'haeds', which is no set"),
        (
            "loss.paired_l1=10",
            'condition.kind=none", "masks.release=false", "loss.segmentation=0", '
            '"discriminator.kind=patch',
            "model paired paints without masks",
        ),
        ("[1.0, 1.0]", "[1.1, 0.3]", "two numbers from 0 to 2, the lower one first"),
        ("segresnet", "resnet", "no segmentation network 'resnet'"),
        ('["ventricle"]', '["ventricle", "lesion"]', "further_labels name something twice"),
        ("random_contrast = true", "single_sites = false", "is augmented, which has nothing"),
        (
            'overrides = ["loss.paired_l1=10"]',
            'local = true\noverrides = ["integrity.bound=2"]',
            "no other sites, so integrity would not be",
        ),
        ("on = { heads", "completion = true\non = { heads", "needs both"),
        ('name = "tiny"', 'name = "tiny"\njudged_on = "validation"', "apart names test patients"),
        ('name = "tiny"', 'name = "tiny"\nfolds = 2', "folds are of validation patients"),
        ("loss.paired_l1=10", "training.seed=7", "training.seed is the suite's own"),
        ("augmented = true", "overrides = ['shares.by=modality']", "so shares would not be"),
    ],
)
def test_a_suite_that_cannot_run_is_refused_before_anything_is_trained(
    tiny, tmp_path, old, new, said
):
    text = SUITE.replace("RECIPE", str(write_recipe(tmp_path, tiny)))
    assert old in text
    with pytest.raises(AsyndganError, match=said):
        Suite.from_toml(text.replace(old, new))


def test_a_document_without_the_place_is_left_alone():
    with pytest.raises(RunError, match="end of suite: tiny"):
        replace_block("nothing here", "tiny", "table")


def test_a_suite_has_sites_go_without_modalities(data, tiny, tmp_path):
    text = small(tmp_path, tiny).replace(
        "single_sites = false",
        "single_sites = false\nfedavg = true\nconsistency = true\ndiagnosis = true\n"
        "check_budget = true",
    )
    text += """
[[models]]
name = "misaligned"
recipe = "RECIPE"
overrides = ["training.steps=2", "shares.by=modality"]
without = { north = ["T1"], south = ["T2"] }
local = true
""".replace("RECIPE", str(tmp_path / "recipe.toml"))
    result = run_suite(text, data, tmp_path / "out")
    facts = json.loads((tmp_path / "out/runs/heads/misaligned-0/run.json").read_text())
    held = {site: about["modalities"] for site, about in facts["sites"].items()}
    assert held == {"north": ["T2", "FLAIR"], "south": ["T1", "FLAIR"]}
    (diagnosed, *_) = result.diagnoses
    assert len(diagnosed["spectrum"]) == 4
    assert {"lesion", "border"} <= set(diagnosed["told_at"])
    by_model = {row["model"]: row for row in result.rows if row["label"] == "lesion"}
    assert by_model["fedavg-without"]["dice_mean"] != by_model["fedavg"]["dice_mean"]
    assert by_model["fedavg"]["bytes"] > 0
    assert [(row["label"], row["seeds"]) for row in result.levelling] == [("lesion", 1)]
    alone = RunFolder(tmp_path / "out/runs/heads/misaligned+only-north-0").facts()
    assert alone.modalities == ["T2", "FLAIR"]
    apart = by_model["local-synthetic"]
    assert apart["cases"] == by_model["synthetic"]["cases"]
    assert apart["seconds"] > 0 and apart["bytes"] > 0
    for site in ("north", "south"):
        name = f"heads/misaligned+only-{site}-0"
        assert list(RunFolder(tmp_path / "out/runs" / name).facts().sites) == [site]
        assert name in result.trainings
    markdown = to_markdown(result.to_tables())
    assert "| **a generator for each site, sets pooled (misaligned)** |" in markdown
    assert [(row["recipe"], row["label"], row["pair"]) for row in result.consistency][:3] == [
        ("small", "head", "T1 and T2"),
        ("small", "head", "T1 and FLAIR"),
        ("small", "head", "T2 and FLAIR"),
    ]
    with pytest.raises(RecipeError, match="without names 'west', which is no site of heads"):
        Suite.from_toml(text.replace("north = [", "west = ["))
    other = text.replace('{ north = ["T1"]', '{ north = ["FLAIR"]')
    with pytest.raises(RunError, match="was trained from other sites or images"):
        run_suite(other, data, tmp_path / "out")


def test_a_suite_completes_cases_and_says_how_near_they_come(data, tiny, tmp_path):
    heads = tmp_path / "data" / "heads"
    shutil.copytree(data / "heads", heads)
    lacking = heads / "missing"
    shutil.copytree(heads / "test", lacking)
    (lacking / "truth").mkdir()
    for path in sorted((lacking / "imagesTr").glob("*_0002.png")):
        path.rename(lacking / "truth" / path.name)
    declare(lacking, channel_names={"0": "T1", "1": "T2"})
    text = small(tmp_path, tiny)
    text = text.replace('name = "small"\nrecipe', 'name = "small"\ncompletion = true\nrecipe')
    text = text.replace(
        'label = "lesion"',
        'label = "lesion"\ncompletion = { folder = "missing", modality = "FLAIR", steps = 2 }',
    )
    result = run_suite(text, tmp_path / "data", tmp_path / "out")
    ways = [row["way"] for row in result.completions]
    assert ways == [
        "mean of each label", "painted from the mask", "linear regression",
        "linear regression, mask hidden", "translated", "translated, mask hidden",
        "T1 as it is, mask hidden", "T2 as it is, mask hidden",
        "left as it is", "acquired", "left out, and no network knows it",
    ]  # fmt: skip
    by_way = {row["way"]: row for row in result.completions}
    assert by_way["left out, and no network knows it"]["gain"] == 0
    # Who was shown the mask is not judged by finding it.
    judged = {way for way, row in by_way.items() if "dice" in row}
    assert not judged & {"translated", "linear regression", "painted from the mask"}
    assert by_way["translated"]["ahead"] == by_way["translated"]["psnr_ahead"] == 0
    assert by_way["translated, mask hidden"]["ahead"] == 0
    assert by_way["left as it is"]["filled"] == 0
    assert "ssim" not in by_way["acquired"]
    assert by_way["linear regression"]["ssim"] > by_way["painted from the mask"]["ssim"]
    markdown = to_markdown(result.to_tables())
    assert "heads: FLAIR completed" in markdown
    assert "\N{EN DASH} to" not in markdown
    assert (tmp_path / "out/evaluations/heads/small/main/completion.png").stat().st_size > 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion_scores, "translator_of", lambda *_, **__: pytest.fail("again"))
        assert (
            run_suite(text, tmp_path / "data", tmp_path / "out").completions == result.completions
        )
    first, *_ = sorted((lacking / "truth").iterdir())
    with pytest.MonkeyPatch.context() as patch:  # what is kept is of these images, and no others
        patch.setattr(completion_scores, "translator_of", lambda *_, **__: 1 / 0)
        with Image.open(first) as picture:
            picture.point(lambda value: value // 2).save(first)
        with pytest.raises(ZeroDivisionError):
            run_suite(text, tmp_path / "data", tmp_path / "out")
    first.unlink()
    with pytest.raises(RecipeError, match="set heads: there is no truth of case"):
        run_suite(text, tmp_path / "data", tmp_path / "out")
    shutil.rmtree(lacking / "truth")
    with pytest.raises(RecipeError, match=r"no folder .*truth with the real FLAIR"):
        run_suite(text, tmp_path / "data", tmp_path / "out")

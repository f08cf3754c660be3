"""Commands as a person types them, one after the other on one tiny run."""

import json
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from asyndgan.auditing.record import read_audit
from asyndgan.cli import app
from asyndgan.demo.phantoms import write_phantoms
from asyndgan.intake.check import check_folder
from asyndgan.intake.description import describe
from asyndgan.reports.words import counted
from commands import command
from small import SMALL, named

TINY = [*SMALL, "image.size=32", "training.steps=4", "training.batch=2"]
SET = [word for override in TINY for word in ("--set", override)]


def asyndgan(*words: object) -> subprocess.CompletedProcess[str]:
    return command(*words, COLUMNS="100")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, size=32, patients_scale=0.1)
    return folder


@pytest.fixture(scope="module")
def sites(data):
    return named({name: data / name for name in ("north", "west")})


@pytest.fixture(scope="module")
def run(data, sites, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    released = ["--set", "masks.source=own", "--set", "masks.release=true"]
    done = asyndgan("train", "default", *sites, "--out", out, *SET, *released)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout
    assert "site   cases  share  declares  lacks" in done.stdout  # nobody is asked
    assert "\nwest: " in done.stdout and " patients, " in done.stdout
    return out


def test_the_demo_leaves_everything_that_it_promises(few_masks, tmp_path, monkeypatch):
    monkeypatch.setattr("asyndgan.cli.demo.MASK_STEPS", 4)
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), *SET, "--patients", "0.1", "--segmentation-steps", "1"]

    def again():
        done = CliRunner().invoke(app, words, env={"COLUMNS": "100"}, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = again()
    assert "report.html" in said and "all-real" in said
    sets = ("north", "south", "east", "west", "test")
    stores = (f".{name}.store" for name in sets)
    assert {path.name for path in (out / "sites").iterdir()} == {*sets, *stores}
    assert describe(out / "synthetic").synthetic
    page = (out / "report.html").read_text("utf-8")
    assert "<html" in page and "the masks were given" in page
    assert {*read_audit(out / "audit").confirmed.values()} == {True}
    rows = json.loads((out / "evaluation" / "evaluation.json").read_text())["rows"]
    models = {row["model"] for row in rows}
    assert models == {"real-all", "synthetic", *(f"real:{name}" for name in
                      ("north", "south", "east", "west"))}  # fmt: skip
    wanted = {"model", "label", "seeds", "patients", "dice_mean", "dice_low", "dice_high"}
    assert all(wanted | {"hd95_mean", "assd_mean"} <= set(row) for row in rows)
    again()
    other = asyndgan(*words, "--set", "training.steps=5")
    assert other.returncode == 1 and "a demo of other settings" in other.stderr


def test_a_finished_run_is_painted_from_the_masks_that_the_sites_released(run, tmp_path):
    out = tmp_path / "synthetic"
    done = asyndgan("generate", run, "--out", out)
    assert done.returncode == 0, done.stderr
    info = describe(out)
    facts = json.loads((run / "run.json").read_text())
    assert info.synthetic and info.modalities == ("T1", "T2", "FLAIR")
    assert info.training == 3 * len(list((run / "masks" / "labelsTr").glob("*.png")))
    assert info.extra["provenance"]["generator_sha256"] == facts["generator_sha256"]
    assert set(info.extra["provenance"]["shares"]) == {"north", "west"}
    assert not check_folder(out).faults
    assert "synthetic" in (out / "MODEL_CARD.md").read_text("utf-8")


def test_without_released_masks_the_error_names_the_remedies_and_a_folder_serves(
    data, sites, tmp_path
):
    out = tmp_path / "run"
    own = ("--set", "masks.source=own")
    assert asyndgan("train", "default", *sites, "--out", out, *SET, *own).returncode == 0
    assert not (out / "masks").exists() and not (out / "samples").exists()
    without = asyndgan("generate", out, "--out", tmp_path / "a")
    assert without.returncode == 1
    assert "--masks" in without.stderr and "masks.source=given" in without.stderr
    given = asyndgan("generate", out, "--out", tmp_path / "b", "--masks", data / "test")
    assert given.returncode == 0, given.stderr
    assert describe(tmp_path / "b").training == 3 * describe(data / "test").training
    # The set will be passed on; names of cases may be names of patients.
    names = {path.name for path in (tmp_path / "b" / "labelsTr").iterdir()}
    assert all(name.startswith("mask-0") for name in names)


def test_an_evaluation_paints_its_own_set_and_refuses_that_of_another_generator(
    run, data, sites, tmp_path
):
    words = ["--test", data / "test", "--out", tmp_path / "e", "--steps", 1, "--label", "lesion"]
    done = asyndgan("evaluate", run, *sites, *words)
    assert done.returncode == 0, done.stderr
    assert describe(tmp_path / "e" / "synthetic").synthetic
    other = asyndgan("evaluate", run, *sites, *words, "--synthetic", data / "north")
    assert other.returncode == 1 and "not painted by" in other.stderr
    shown = asyndgan("report", run, "--synthetic", data / "north", "--out", tmp_path / "r.html")
    assert shown.returncode == 1 and "not painted by" in shown.stderr
    unknown = asyndgan("evaluate", run, "--site", f"North={data / 'north'}", *words)
    assert "the run has no site North; its sites are north, west" in unknown.stderr
    (tmp_path / "e/synthetic").rename(tmp_path / "kept")
    words[3] = tmp_path / "one"
    one = asyndgan("evaluate", run, *sites[:2], *words, "--synthetic", tmp_path / "kept")
    assert one.returncode == 0, one.stderr
    assert "mean north alone; the generator was taught by north, west." in one.stdout
    (tmp_path / "kept").rename(tmp_path / "e/synthetic")
    words[3] = tmp_path / "e"
    next((run / "masks" / "labelsTr").glob("*.png")).rename(tmp_path / "away.png")
    stale = asyndgan("evaluate", run, *sites, *words)
    assert stale.returncode == 1 and "painted from other masks" in stale.stderr


def test_a_test_set_with_a_sites_images_under_other_names_is_refused(run, data, sites, tmp_path):
    for path in (data / "north").rglob("*.*"):
        part = tmp_path / "t" / path.parent.relative_to(data / "north")
        part.mkdir(parents=True, exist_ok=True)
        stem = f"other-{path.stem}" if path.suffix == ".png" else path.stem
        shutil.copy(path, part / f"{stem}{path.suffix}")
    done = asyndgan("evaluate", run, *sites, "--test", tmp_path / "t", "--out", tmp_path / "e")
    assert done.returncode == 1 and "in the test set as well" in done.stderr
    checked = asyndgan("check", data / "north", "--test", tmp_path / "t")
    assert checked.returncode == 1 and "results will look better" in checked.stdout


def test_a_sites_ledger_shows_what_left_and_finds_what_was_changed(run, tmp_path):
    ledger = run / "sites/north/ledger.jsonl"
    shown = asyndgan("ledger", "show", ledger)
    assert shown.returncode == 0
    assert "judgement: four messages" in shown.stdout
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    masks = [line["masks"] for line in lines]
    assert masks == [2 if line["kind"] in ("card", "judgement") else 0 for line in lines]
    assert f"{counted(sum(masks), 'mask')} (or classes) of patients" in shown.stdout
    whole = asyndgan("ledger", "verify", ledger)
    assert whole.returncode == 0
    noted = whole.stdout.split("line ")[1].strip()
    assert asyndgan("ledger", "verify", ledger, "--expect", noted).returncode == 0
    other = asyndgan("ledger", "verify", ledger, "--expect", f"3:{'0' * 64}")
    assert other.returncode == 1 and "written anew" in other.stderr
    changed = tmp_path / "ledger.jsonl"
    changed.write_text(ledger.read_text().replace('"step":2', '"step":1'))
    shutil.copy(ledger.with_suffix(".head"), tmp_path)
    found = asyndgan("ledger", "verify", changed)
    assert found.returncode == 1 and "was changed" in found.stderr

"""Commands as a person types them, one after the other on one tiny run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyndgan.auditing.record import read_audit
from asyndgan.cli import COMMANDS, app
from asyndgan.demo.phantoms import write_phantoms
from asyndgan.intake.check import check_folder
from asyndgan.intake.description import describe
from asyndgan.reports.words import counted
from commands import command
from small import SMALL

TINY = [*SMALL, "image.size=32", "training.steps=4", "training.batch=2"]
SET = [word for override in TINY for word in ("--set", override)]


def asyndgan(*words: object) -> subprocess.CompletedProcess[str]:
    return command(*words, COLUMNS="100")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, size=32, patients_scale=0.1)
    return folder


@pytest.fixture(scope="module")
def sites(data: Path) -> list[str]:
    return [word for name in ("north", "west") for word in ("--site", f"{name}={data / name}")]


@pytest.fixture(scope="module")
def run(data: Path, sites: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    parts = ("noise", "latent", "diversity", "diversity_bound")
    without_noise = [word for part in parts for word in ("--set", f"generator.{part}=0")]
    released = ["--set", "masks.source=own", "--set", "masks.release=true"]
    # Several draws of a mask are equal.
    done = asyndgan("train", "default", *sites, "--out", out, *SET, *released, *without_noise)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout
    assert "site   cases  share  declares  lacks" in done.stdout  # nobody is asked
    assert "\nwest: " in done.stdout and " patients, " in done.stdout
    return out


def test_the_demo_leaves_everything_that_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyndgan.cli.demo.MASK_STEPS", 4)
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), *SET, "--patients", "0.1", "--segmentation-steps", "2"]

    def again() -> str:
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


def test_a_finished_run_is_painted_from_the_masks_that_the_sites_released(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "synthetic"
    done = asyndgan("generate", run, "--out", out)
    assert done.returncode == 0, done.stderr
    info = describe(out)
    facts = json.loads((run / "run.json").read_text())
    assert info.synthetic and info.modalities == ("T1", "T2", "FLAIR")
    assert info.extra["provenance"]["generator_sha256"] == facts["generator_sha256"]
    assert set(info.extra["provenance"]["shares"]) == {"north", "west"}
    assert not check_folder(out).faults
    assert "synthetic" in (out / "MODEL_CARD.md").read_text("utf-8")


def test_moved_masks_make_a_larger_set_and_several_equal_draws_are_refused(
    run: Path, tmp_path: Path
) -> None:
    plain = asyndgan("generate", run, "--out", tmp_path / "plain", "--draws", 2)
    moved = asyndgan("generate", run, "--out", tmp_path / "moved", "--draws", 2, "--augment")
    assert plain.returncode == 1 and "--augment" in plain.stderr
    assert moved.returncode == 0, moved.stderr
    once = len(list((run / "masks" / "labelsTr").glob("*.png")))
    assert describe(tmp_path / "moved").training == 2 * once


def test_without_released_masks_the_error_names_the_remedies_and_a_folder_serves(
    data: Path, sites: list[str], tmp_path: Path
) -> None:
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
    run: Path, data: Path, sites: list[str], tmp_path: Path
) -> None:
    words = ["--test", data / "test", "--out", tmp_path / "e", "--steps", 2, "--label", "lesion"]
    done = asyndgan("evaluate", run, *sites, *words)
    assert done.returncode == 0, done.stderr
    assert describe(tmp_path / "e" / "synthetic").synthetic
    once = len(list((run / "masks" / "labelsTr").glob("*.png")))
    assert describe(tmp_path / "e" / "synthetic").training == 3 * once
    other = asyndgan("evaluate", run, *sites, *words, "--synthetic", data / "north")
    assert other.returncode == 1 and "not painted by" in other.stderr
    shown = asyndgan("report", run, "--synthetic", data / "north", "--out", tmp_path / "r.html")
    assert shown.returncode == 1 and "not painted by" in shown.stderr
    swapped = ["--site", f"north={data / 'west'}"]
    wrong = asyndgan("evaluate", run, *swapped, "--test", data / "test", "--out", tmp_path / "w")
    assert wrong.returncode == 1 and "site north trained with" in wrong.stderr
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


def test_a_run_without_conditions_paints_from_noise_alone(sites: list[str], tmp_path: Path) -> None:
    none = [
        "--set",
        "condition.kind=none",
        "--set",
        "loss.segmentation=0",
        "--set",
        "discriminator.kind=patch",
    ]
    done = asyndgan("train", "default", *sites, "--out", tmp_path / "run", *SET, *none)
    assert done.returncode == 0, done.stderr
    painted = asyndgan("generate", tmp_path / "run", "--out", tmp_path / "s", "--draws", 5)
    assert painted.returncode == 0, painted.stderr
    assert describe(tmp_path / "s").training == 5


@pytest.mark.parametrize("name", ["site_1", "North"])
def test_a_site_that_the_run_does_not_know_is_not_judged(
    name: str, run: Path, data: Path, tmp_path: Path
) -> None:
    words = ["--test", data / "test", "--out", tmp_path / "e"]
    done = asyndgan("evaluate", run, "--site", f"{name}={data / 'north'}", *words)
    assert done.returncode == 1
    assert f"the run has no site {name}; its sites are north, west" in done.stderr


@pytest.mark.parametrize("renamed", [lambda name: f"other-{name}", str.upper])
def test_a_test_set_with_a_sites_images_under_other_names_is_refused(
    renamed: Callable[[str], str], run: Path, data: Path, sites: list[str], tmp_path: Path
) -> None:
    for path in (data / "north").rglob("*.*"):
        part = tmp_path / "t" / path.parent.relative_to(data / "north")
        part.mkdir(parents=True, exist_ok=True)
        stem = renamed(path.stem) if path.suffix == ".png" else path.stem
        shutil.copy(path, part / f"{stem}{path.suffix}")
    done = asyndgan("evaluate", run, *sites, "--test", tmp_path / "t", "--out", tmp_path / "e")
    assert done.returncode == 1 and "in the test set as well" in done.stderr
    checked = asyndgan("check", data / "north", "--test", tmp_path / "t")
    assert checked.returncode == 1 and "results will look better" in checked.stdout


def test_a_test_set_that_shares_patients_with_a_site_is_refused(
    run: Path, data: Path, sites: list[str], tmp_path: Path
) -> None:
    done = asyndgan("evaluate", run, *sites, "--test", data / "north", "--out", tmp_path / "e")
    assert done.returncode == 1
    assert "are in the test set as well" in done.stderr


def test_help_names_every_command_as_its_own_help_does_and_imports_none_of_them() -> None:
    code = """
import sys
from typer.testing import CliRunner
from asyndgan.cli import app
print(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output)
sys.exit("torch" in sys.modules or "pydantic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, says in COMMANDS.items():
        assert f"{name} " in done.stdout and says in done.stdout, done.stdout
        its_own = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
        assert its_own.exit_code == 0 and says.removesuffix(".") in its_own.output, its_own.output


def test_a_wrong_key_is_answered_with_the_nearest_one_and_no_traceback(tmp_path: Path) -> None:
    done = asyndgan("recipe", "show", "default", "--set", "image.sise=64")
    assert done.returncode == 1
    assert "Did you mean image.size?" in done.stderr and "Traceback" not in done.stderr


def test_a_recipe_that_is_shown_can_be_used(tmp_path: Path) -> None:
    shown = asyndgan("recipe", "show", "paper", "--set", "image.size=128")
    file = tmp_path / "mine.toml"
    file.write_text(shown.stdout)
    assert asyndgan("recipe", "show", file).stdout == shown.stdout
    assert "size = [128, 128]" in shown.stdout


def test_a_folder_that_is_no_data_set_ends_training_with_a_remedy(tmp_path: Path) -> None:
    done = asyndgan("train", "default", "--site", f"a={tmp_path}", "--out", tmp_path / "run", *SET)
    assert done.returncode == 1
    assert "dataset.json" in done.stderr and "Traceback" not in done.stderr


def test_a_run_folder_that_cannot_be_made_ends_training_without_a_traceback(
    sites: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = asyndgan("train", "default", *sites, "--out", tmp_path / "file" / "run", *SET)
    assert done.returncode == 1
    assert "error:" in done.stderr and "Traceback" not in done.stderr


def test_a_policy_says_what_it_would_refuse_and_a_training_under_it_does_not_begin(
    sites: list[str], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(asyndgan("policy", "show").stdout)
    refused = asyndgan("policy", "check", policy, "paper")
    assert refused.returncode == 1
    assert "gives real pixels away" in refused.stdout
    allowed = asyndgan("policy", "check", policy, "default")
    assert allowed.returncode == 0 and "takes part in 'default'" in allowed.stdout
    under = ["--policy", f"north={policy}", "--out", tmp_path / "run"]
    done = asyndgan("train", "paper", *sites, *under, *SET)
    assert done.returncode == 1
    assert "policy 'default' refuses recipe 'paper'" in done.stderr
    assert not (tmp_path / "run").exists()
    unknown = asyndgan("train", "default", *sites, "--policy", f"nroth={policy}", *under[2:])
    assert unknown.returncode == 1 and "nroth, which is no site" in unknown.stderr


def test_a_sites_ledger_shows_what_left_and_finds_what_was_changed(
    run: Path, tmp_path: Path
) -> None:
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
    found = asyndgan("ledger", "verify", changed)
    assert found.returncode == 1 and "no ledger.head" in found.stderr
    shutil.copy(ledger.with_suffix(".head"), tmp_path)
    found = asyndgan("ledger", "verify", changed)
    assert found.returncode == 1 and "was changed" in found.stderr

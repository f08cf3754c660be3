"""What a stranger's run or audit of records says is read, or refused by an error of ours."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyndgan
from asyndgan.tables.planning import plan_tables
from asyndgan.tables.schema import SCHEMA_FILE
from commands import AS_OPTIONS
from spoiling import asked, changes, fuzz, spoiled

rarely = settings(fuzz, max_examples=settings.default.max_examples // 2)
SCHEMA = {
    "target": "bad",
    "columns": {
        "age": {"kind": "numeric"},
        "bad": {"kind": "categorical", "categories": ["no", "yes"]},
    },
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A table, a run of it, and an audit of the run."""
    folder, random = tmp_path_factory.mktemp("bank"), np.random.default_rng(0)
    (folder / "bank").mkdir()
    (folder / "bank" / SCHEMA_FILE).write_text(json.dumps(SCHEMA))
    with (folder / "bank" / "records.csv").open("w", newline="") as file:
        rows = [["age", "bad"], *zip(random.normal(50, 9, 240), ["no", "yes"] * 120, strict=True)]
        csv.writer(file).writerows(rows)
    sites = {"bank": folder / "bank"}
    recipe = plan_tables(
        sites,
        ["training.steps=2", "training.batch=8", "generator.width=8", "training.hold_out=0.4"],
    )
    assert recipe is not None
    run = asyndgan.train(recipe, sites, folder / "run", threads=1)
    asyndgan.audit(run, sites, folder / "audit")
    return folder / "bank", folder / "run", folder / "audit"


def told(command: int, run: Path, audit: Path, bank: Path, out: Path) -> str:
    """What one of four commands says that read a run of records or its audit."""
    shutil.rmtree(out, ignore_errors=True)
    words = (
        ("report", run, "--audit", audit, "--out", out / "page.html"),
        ("generate", run, "--out", out / "made"),
        ("release", run, "--out", out / "released", "--audit", audit, *AS_OPTIONS),
        ("train", run / "recipe.toml", "--resume", "--out", run, "--site", f"bank={bank}"),
    )
    return asked(*words[command])


def test_a_run_and_its_audit_as_they_were_are_read(audited, tmp_path):
    bank, run, audit = audited
    report, made, released, trained = (
        told(command, run, audit, bank, tmp_path / "out") for command in range(4)
    )
    assert "page.html" in report and "synthetic records" in made
    assert "croissant.json" in released and "has finished" in trained


@pytest.mark.parametrize("command", [1, 2])
def test_a_run_of_records_with_a_size_that_its_recipe_lacks_is_refused(audited, tmp_path, command):
    bank, run, audit = audited
    for space in ([7], [3, 3], [1, 1, 1]):
        changed = partial(dict, space=space)
        mine = spoiled(run, tmp_path / "copy", "run.json", lambda facts, of=changed: of(facts))
        assert "run.json says images of" in told(command, mine, audit, bank, tmp_path / "out")


@rarely
@given(changes(), st.integers(0, 3))
def test_what_a_stranger_says_of_a_run_of_records_is_read_or_refused_by_our_error(
    audited, tmp_path, change, command
):
    bank, run, audit = audited
    mine = spoiled(run, tmp_path / "copy", "run.json", change)
    told(command, mine, audit, bank, tmp_path / "out")


@rarely
@given(changes(), st.sampled_from(["report", "release"]))
def test_what_a_stranger_says_in_an_audit_of_records_is_read_or_refused_by_our_error(
    audited, tmp_path, change, kind
):
    _, run, audit = audited
    mine, out = spoiled(audit, tmp_path / "copy", "audit.json", change), tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    if kind == "report":
        asked("report", run, "--audit", mine, "--out", out / "page.html")
    else:
        asked("release", run, "--out", out, "--audit", mine, *AS_OPTIONS)


@pytest.fixture(scope="module")
def judged(audited):
    """An evaluation of the run."""
    bank, run, audit = audited
    asyndgan.evaluate(run, {"bank": bank}, audit.with_name("evaluation"))
    return audit.with_name("evaluation")


@rarely
@given(changes())
def test_what_a_stranger_says_in_an_evaluation_of_records_is_read_or_refused_by_our_error(
    audited, judged, tmp_path, change
):
    mine = spoiled(judged, tmp_path / "copy", "evaluation.json", change)
    asked("report", audited[1], "--evaluation", mine, "--out", tmp_path / "page.html")


def test_an_evaluation_that_does_not_say_what_was_judged_is_refused(audited, judged, tmp_path):
    words = ("report", audited[1], "--evaluation", tmp_path, "--out", tmp_path / "page.html")
    whole = json.loads((judged / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps(whole))
    assert "page.html" in asked(*words)
    for key in whole["about"]:
        about = {name: told for name, told in whole["about"].items() if name != key}
        (tmp_path / "evaluation.json").write_text(json.dumps(whole | {"about": about}))
        assert "is no result for a run of records" in asked(*words)


@pytest.mark.parametrize("kind", ["audit", "evaluation"])
def test_a_link_in_place_of_a_result_of_records_is_refused(audited, judged, tmp_path, kind):
    (tmp_path / f"{kind}.json").symlink_to(judged.with_name(kind) / f"{kind}.json")
    out = tmp_path / "page.html"
    said = asked("report", audited[1], f"--{kind}", tmp_path, "--out", out)
    assert "is no result for a run of records" in said and not out.exists()

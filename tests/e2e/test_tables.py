"""All commands on records, as a person types them, one after the other on one tiny run."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from asyndgan import Run, audit, evaluate, generate, release
from asyndgan.auditing import asking
from asyndgan.auditing.answering import answered
from asyndgan.auditing.records import RecordsAudit
from asyndgan.engines import InProcess, SiteSetup
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.setup import answering
from asyndgan.errors import RunError
from asyndgan.judging.asked import evaluated_at_sites, set_digest
from asyndgan.judging.bench import Bench
from asyndgan.painting.records import make_records
from asyndgan.privacy.ledger import read as read_ledger
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.order import Order
from asyndgan.tables.encoding import Encoder
from asyndgan.tables.schema import schema_of
from asyndgan.tables.summary import loaded
from asyndgan.tables.table import Table
from commands import PUBLISHER, command
from small import named
from waiting import until

SCHEMA = {
    "target": "bad",
    "positive": "yes",
    "columns": {
        "income": {"kind": "numeric"},
        "delay": {"kind": "integer", "missing": True},
        "home": {"kind": "categorical", "categories": ["own", "rent"]},
        "bad": {"kind": "categorical", "categories": ["no", "yes"]},
    },
}
SMALL = ["training.steps=4", "training.batch=8", "generator.width=8", "training.hold_out=0.3"]


COMMAND = [sys.executable, "-c", "from asyndgan.cli import main; main()"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "150"}


def asyndgan(*words: object, typed: str = "") -> subprocess.CompletedProcess[str]:
    return command(*words, typed=typed, COLUMNS="150")


def said(*words: object, typed: str = "") -> str:
    done = asyndgan(*words, typed=typed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def service(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, *map(str, words)], env=ALONE, stdout=subprocess.DEVNULL)


def drawn(folder: Path, seed: int, count: int = 240) -> Path:
    random = np.random.default_rng(seed)
    income = np.round(random.lognormal(10, 1, count), 2)
    delay = pd.Series(random.poisson(3, count), dtype="Int64").mask(random.random(count) < 0.3)
    bad = random.random(count) < 1 / (
        1 + np.exp(income / 2e4 - delay.fillna(0).to_numpy(float) / 3)
    )
    folder.mkdir(parents=True)
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    pd.DataFrame(
        {
            "income": income,
            "delay": delay,
            "home": random.choice(["own", "rent"], count),
            "bad": np.where(bad, "yes", "no"),
        }
    ).to_csv(folder / "records.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("banks")
    for seed, name in enumerate(("north", "south", "test")):
        drawn(folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def sites(data):
    return named({name: data / name for name in ("north", "south")})


@pytest.fixture(scope="module")
def run(data, sites):
    place = data / "north.json"
    told = said("fingerprint", data / "north", "--out", place)
    assert "Each mean is of 10 records or more" in told
    assert loaded(place).target == "bad"
    recipe = data / "recipe.toml"
    told = said("plan", place, data / "south", "--out", recipe)
    assert "Planned for a table of 3 columns (1 numeric, 1 integer, 1 categorical)." in told
    changes = [word for key in SMALL for word in ("--set", key)]
    told = said("train", recipe, *sites, "--out", data / "run", *changes)
    assert "step 4/4" in told
    assert "paints      'record', 6 numbers" in told
    return data / "run"


def test_check_tells_facts_and_names_faults(data, tmp_path):
    assert "No faults." in said("check", data / "north", data / "south", "--test", data / "test")
    same = asyndgan("check", data / "north", data / "south", "--test", data / "south")
    assert same.returncode == 1
    assert "240 test records are also at a site" in same.stdout
    broken = drawn(tmp_path / "broken", 3)
    with (broken / "records.csv").open("a") as file:
        file.write("1,2,=1+1,yes\n")
    done = asyndgan("check", data / "north", broken)
    assert done.returncode == 1
    assert (
        "column 'home': the value in line 242 is not among the column's categories" in done.stdout
    )
    assert "1+1" not in done.stdout


def test_generate_makes_a_table_with_its_schema_and_card(run, tmp_path):
    assert "960 synthetic records" in said("generate", run, "--out", tmp_path / "a")
    table = Table.read(tmp_path / "a")
    assert list(table.records.columns) == ["income", "delay", "home", "bad"]
    assert table.schema.synthetic
    assert "Every record in this folder is synthetic" in (tmp_path / "a/MODEL_CARD.md").read_text()
    about = json.loads((tmp_path / "a" / "schema.json").read_text())["provenance"]
    assert about["generator_sha256"] == Run(run).facts.generator_sha256
    shares = Run(run).recipe.table.classes
    found = table.records["bad"].value_counts(normalize=True)
    assert found["yes"] == pytest.approx(shares["yes"], abs=0.01)
    assert generate(run, tmp_path / "b") == 960
    pd.testing.assert_frame_equal(Table.read(tmp_path / "b").records, table.records)
    refused = asyndgan("generate", run, "--out", tmp_path / "c", "--fade", "lesion")
    assert refused.returncode == 1
    assert "--fade: this is for images" in refused.stderr


@pytest.fixture(scope="module")
def audited(run, sites):
    """What the audit of all sites prints."""
    return said("audit", run, *sites, "--out", run / "audit")


def test_evaluate_audit_and_report(run, data, sites, audited):
    told = said("evaluate", run, *sites, "--test", data / "test", "--out", run / "evaluation")
    assert "real, all sites" in told and "regression" in told
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    boosted = {one["records"]: one for one in found["scores"] if one["model"] == "boosting"}
    assert set(boosted) == {"real, all sites", "real, north", "real, south", "synthetic"}
    assert boosted["real, all sites"]["auc"] > 0.6
    assert boosted["real, all sites"]["count"] == 336
    assert set(found["columns"]) == {"income", "delay", "home"}
    assert "all sites: " in audited and "0.5 is guessing" in audited
    assert re.search("release: (not permitted, because TOO FEW|permitted)", audited)
    page = said("report", run)
    assert "report.html" in page or page == ""
    text = (run / "report.html").read_text()
    assert "real, all sites" in text and "all sites" in text and "Not audited" not in text
    assert "Only differential privacy bounds every attacker, and this run has none." in text
    assert audited.strip().split("release: ")[1].splitlines()[0] in text


def test_python_judges_held_out_records(run, data, tmp_path):
    named = {name: data / name for name in ("north", "south")}
    found = evaluate(run, named, tmp_path / "e")
    assert found.about["judged_on"] == "144 held-out records"
    assert audit(run, named, tmp_path / "a").attacks[-1].others == 144
    schema = schema_of(tmp_path / "e" / "synthetic" / "schema.json")
    assert schema.classes == ("no", "yes")


def test_nothing_is_judged_or_audited_as_held_out_unless_the_sites_states_say_who_was(
    run, sites, tmp_path
):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("sites"))
    for name in ("evaluate", "audit"):
        refused = asyndgan(name, tmp_path / "run", *sites, "--out", tmp_path / "out")
        assert refused.returncode == 1
        assert "holds no states of" in refused.stderr and "--state" in refused.stderr
    states = [
        word
        for name in ("north", "south")
        for word in ("--state", f"{name}={run / 'sites' / name}")
    ]
    said("evaluate", tmp_path / "run", *sites, *states, "--out", tmp_path / "out")


def test_a_site_is_not_given_the_table_or_the_states_of_another(run, data, sites, tmp_path):
    swapped = {"north": data / "south", "south": data / "north"}
    for test in (None, data / "test"):
        with pytest.raises(RunError, match=r"north, .*, are those that south was trained on"):
            evaluate(run, swapped, tmp_path / "e", test=test)
    for name in ("evaluate", "audit"):
        refused = asyndgan(name, run, *sites, "--state", "nort=x", "--out", tmp_path / "out")
        assert refused.returncode == 1
        assert "--state names nort, which --site does not." in refused.stderr


def test_records_are_not_judged_as_held_out_if_the_table_is_not_that_of_the_training(
    run, data, tmp_path
):
    folder = shutil.copytree(data / "north", tmp_path / "north")
    records = pd.read_csv(folder / "records.csv", dtype=str)
    records.iloc[::-1].to_csv(folder / "records.csv", index=False)
    named = {"north": folder, "south": data / "south"}
    with pytest.raises(RunError, match=r"does not hold the records that north was trained on, in"):
        evaluate(run, named, tmp_path / "e")
    found = evaluate(run, named, tmp_path / "e", test=data / "test")
    assert "not those that the run was trained on" in found.about["note"]


def test_all_real_says_which_sites_it_is_of_if_some_are_not_there(run, data, tmp_path):
    out = tmp_path / "evaluation"
    told = said("evaluate", run, "--site", f"north={data / 'north'}", "--out", out)
    note = "'All real' and 'all sites' mean north alone; the generator was taught by north, south."
    assert note in " ".join(told.split())
    said("report", run, "--evaluation", out, "--out", tmp_path / "report.html")
    assert "mean north alone" in (tmp_path / "report.html").read_text()


def test_a_copy_is_found_however_many_digits_the_encoding_leaves_of_it(
    run, data, tmp_path, monkeypatch
):
    encoder = Encoder(Run(run).recipe.table)
    north = Table.read(data / "north").records
    copies = encoder.decode(encoder.encode(north), encoder.encode_classes(north))
    monkeypatch.setattr("asyndgan.auditing.records.make_records", lambda run: copies)
    found = audit(run, {"north": data / "north"}, tmp_path / "audit")
    assert isinstance(found, RecordsAudit)
    within = pd.Series(True, north.index)  # beyond knots nothing is made, so nothing is copied
    for column in encoder.table.columns[:2]:
        values = north[column.name]
        within &= values.isna() | values.between(column.knots[0], column.knots[-1])
    assert found.copies[0] + found.matches == within.sum() > 220


def test_sites_judge_a_regression_of_synthetic_records_on_those_that_they_held_out(
    run, data, tmp_path, monkeypatch
):
    """Over FLARE such questions go as those of images do: test_services.py."""
    copied, told = RunFolder(shutil.copytree(run, tmp_path / "run")), {}
    with ExitStack() as ends:
        lines = {}
        for site in ("north", "south"):
            place = tmp_path / site
            shutil.copytree(run / "sites" / site, place / "runs" / "one")
            (place / "policy.toml").write_text("[leaves]\nevaluations = 1\n")
            setup = SiteSetup(
                site, data / site, place / "runs" / "evaluation", policy=place / "policy.toml",
                records=place,
            )  # fmt: skip
            lines[site] = answering(setup, answered)
            ends.callback(lines[site].close)
        monkeypatch.setattr(asking, "connected", lambda *_: nullcontext(InProcess(lines)))
        bench = Bench(tmp_path / "bench")
        assert not asking.ask_evaluations(None, copied, bench, tell=told.__setitem__)
        with pytest.raises(RunError, match="--masks: this is for images"):
            asking.ask_evaluations(None, copied, bench, masks=data, tell=told.__setitem__)
    for site in ("north", "south"):
        here = evaluate(run, {site: data / site}, tmp_path / f"of {site}")
        (row,) = (o for o in here.scores if (o.model, o.records) == ("regression", "synthetic"))
        (one,) = told[site].scores
        assert one.name == "yes" and 5 <= one.patients < 72
        for found, exact in ((one.score, row.auc), (one.low, row.low), (one.high, row.high)):
            assert found == pytest.approx(exact, abs=0.02)
    said("report", copied.path, "--out", tmp_path / "report.html")
    assert (
        "AUC of a regression fitted to synthetic records" in (tmp_path / "report.html").read_text()
    )
    assert evaluated_at_sites(copied, set_digest(copied)).count("yes 0.") == 2


@pytest.fixture(scope="module")
def other_run(data, sites):
    changes = [word for key in (*SMALL, "training.seed=7") for word in ("--set", key)]
    said("train", data / "recipe.toml", *sites, "--out", data / "other", *changes)
    return data / "other"


@pytest.mark.parametrize("kind", ["another generator's", "edited"])
def test_a_table_that_this_run_did_not_make_is_not_judged_as_its_own(
    run, other_run, data, sites, tmp_path, kind
):
    out = tmp_path / "evaluation"
    made = out / "synthetic"
    said("generate", run if kind == "edited" else other_run, "--out", made)
    if kind == "edited":
        schema = json.loads((made / "schema.json").read_text())
        (made / "schema.json").write_text(json.dumps(schema | {"provenance": {}}))
    for more in ([], ["--synthetic", made]):  # found, and named
        refused = asyndgan("evaluate", run, *sites, "--out", out, *more)
        assert refused.returncode == 1
        assert "was not made by the generator of" in refused.stderr


def test_records_of_sites_and_synthetic_ones_are_no_strangers(run, data, sites, tmp_path):
    said("generate", run, "--out", tmp_path / "made")
    for words, why in {
        ("evaluate", "--test", data / "north"): "are records of these sites",
        ("evaluate", "--test", tmp_path / "made"): "the test set: its table is synthetic",
        ("audit", "--holdout", data / "south"): "are records of these sites",
        ("audit", "--holdout", tmp_path / "made"): "the holdout: its table is synthetic",
        ("train", "--site", f"a={tmp_path / 'made'}"): "site a: its table is synthetic",
    }.items():
        command, *rest = words
        what = data / "recipe.toml" if command == "train" else run
        refused = asyndgan(command, what, *sites, *rest, "--out", tmp_path / "out")
        assert refused.returncode == 1 and why in " ".join(refused.stderr.split())


def of_many_records(folder: Path) -> Path:
    """An audit as if of many of them."""
    audited = json.loads((folder / "audit.json").read_text())
    for attack in audited["attacks"]:
        attack.update(auc=0.5, low=0.48, high=0.52, p_value=0.5, corrected=1.0)
    (folder / "audit.json").write_text(json.dumps(audited))
    return folder


def test_audits_of_a_site_each_permit_a_release_together_unless_their_others_may_be_members(
    run, data, tmp_path
):
    folders = [tmp_path / site for site in ("north", "south")]
    for folder, other in zip(folders, ("south", "north"), strict=True):
        site = ("--site", f"{folder.name}={data / folder.name}")
        told = said("audit", run, *site, "--holdout", data / other, "--out", folder)
        assert f"others: they were not compared with the members of {other}" in told
        of_many_records(folder)
    with pytest.raises(RunError, match="were not compared with the members of south, who may be"):
        release(run, tmp_path / "made", folders, **PUBLISHER)
    for folder in folders:
        audit(run, {folder.name: data / folder.name}, folder)
        of_many_records(folder)
    said("report", run, "--audit", folders[0], "--out", tmp_path / "one.html")
    assert "no audit covers south" in (tmp_path / "one.html").read_text()
    both = [word for folder in folders for word in ("--audit", folder)]
    said("report", run, *both, "--out", tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert page.count("<b>Release:</b> permitted.") == 2 and "no audit covers" not in page
    assert release(run, tmp_path / "made", folders, **PUBLISHER) == 960


@pytest.mark.parametrize("words", ["audit --masks x", "evaluate --workers 2"])
def test_options_of_images_are_refused_at_tables(run, sites, tmp_path, words):
    command, option, value = words.split()
    refused = asyndgan(command, run, *sites, option, value, "--out", tmp_path / "out")
    assert refused.returncode == 1
    assert f"{option}: this is for images" in refused.stderr


def test_a_run_whose_sites_tell_no_number_of_records_makes_enough_to_be_audited(run, tmp_path):
    facts = shutil.copytree(run, tmp_path / "run") / "run.json"
    # As cards are if policies have leaves.cases = false.
    facts.write_text(re.sub(r'"cases": \d+', '"cases": 1', facts.read_text()))
    assert {about["cases"] for about in Run(facts.parent).facts.sites.values()} == {1}
    assert len(make_records(RunFolder(facts.parent))) == 2000
    assert generate(facts.parent, tmp_path / "made") == 2000
    provenance = Table.read(tmp_path / "made").schema.provenance
    assert provenance["records"] == 2000 and "draws" not in provenance
    with pytest.raises(RunError, match="Leave --draws out: 2,000 records are made"):
        make_records(RunFolder(facts.parent), draws=3)


def test_a_table_is_released_only_as_audits_of_all_sites_permit(run, data, audited, tmp_path):
    shutil.copy(run / "audit" / "audit.json", tmp_path)
    file = of_many_records(tmp_path) / "audit.json"
    found = json.loads(file.read_text())
    member = {**found["attacks"][0], "auc": 0.6, "low": 0.55, "p_value": 0.001}
    stranger = [found["attacks"][0] | {"name": "<b>"}, *found["attacks"][1:]]
    denied = {
        "may not be released: .* says north: undecided": {
            "attacks": [member, *found["attacks"][1:]]
        },
        "north: 90 of 168 members are copied": {"copies": [90, 0, 90]},
        "too few to know whether chance does that": {"copies": [1, 0, 1]},
        "no audit covers south": {"attacks": found["attacks"][:1], "copies": [0]},
        "without knowing whether they took part": {"confirmed": {"north": True, "south": False}},
        "is of another generator": {"generator_sha256": "0" * 64},
        "is no audit of a table": {"kind": "images"},
        "no audit of a table;": {"copies": [1000, 0, 1000]},
        "no audit of a table; make it a": {"matches": 3, "near": 2},
        "not compared with the members of south": {"uncompared": ["south"]},
        "no audit of a table; make it": {"attacks": stranger},
        "is of another generator than": {
            "attacks": [found["attacks"][0] | {"name": "west"}, *found["attacks"][1:]],
            "confirmed": {"west": True, "south": True},
        },
    }
    for place, (why, change) in enumerate(denied.items()):
        file.write_text(json.dumps(found | change))
        with pytest.raises(RunError, match=why):
            release(run, tmp_path / str(place), [file.parent], **PUBLISHER)
    file.write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"are records of these\s+sites"):
        audit(run, {"north": data / "north"}, tmp_path / "same", holdout=data / "north")
    with pytest.raises(RunError, match="does not hold the records that north was trained on"):
        audit(run, {"north": data / "test"}, tmp_path / "other", holdout=data / "south")
    release(run, tmp_path / "a", [file.parent], **PUBLISHER)
    assert "Audited: north: no sign of membership" in (tmp_path / "a/MODEL_CARD.md").read_text()
    again = make_records(RunFolder(run))
    pd.testing.assert_frame_equal(Table.read(tmp_path / "a").records, again, check_dtype=False)


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_federation_plans_a_run_of_records_and_trains_it_once_policies_approve(data, tmp_path):
    kit, table = tmp_path / "north", data / "north" / "records.csv"
    place, policy = federation_here(tmp_path / "f", kit), kit / "policy.toml"
    started = [service("federation", "start", place.path)]
    try:
        init = ("site", "init", kit, place.kit("north"), "--policy", "measured", "--data")
        refused = asyndgan(*init, Path(__file__))
        assert refused.returncode == 1 and "and no table (CSV)" in refused.stderr
        said(*init, table)
        said("fingerprint", table, "--out", kit / "seen.json")
        changed(kit / "site.toml", "# fingerprint =", "fingerprint = 'seen.json'")
        changed(policy, "fingerprint = false", "fingerprint = true")
        changed(policy, 'masks = "learned"', 'masks = "transient"')
        checked = json.loads(asyndgan("site", "check", kit, "--json").stdout)
        found = {one["subject"]: one for one in checked}
        assert found["data"]["fine"] and "records 240; bad no" in found["data"]["text"]
        started.append(service("site", "start", kit))
        recipe = tmp_path / "planned.toml"
        changes = [word for key in SMALL for word in ("--set", key)]
        told = said("federation", "plan", place.path, "--out", recipe, *changes)
        assert "Planned for a table of 3 columns" in told
        refused = asyndgan("policy", "check", policy, recipe)
        digest = Recipe.from_toml(recipe.read_text()).digest()
        assert refused.returncode == 1 and digest in refused.stdout
        changed(policy, "approved = []", f"approved = ['{digest}']")
        said("federation", "submit", place.path, recipe, "--run", "one")
        order = Order.named(place, "one")
        until(lambda: order.said("proposal"))
        shown = said("federation", "confirm", place.path, "--run", "one", typed="y\n")
        assert "Cases are records." in shown and "0 'no', 1 'yes'" in shown
        until(lambda: order.state() in ("finished", "failed"), 120)
        assert order.state() == "finished", order.said("failed")
    finally:
        for one in reversed(started):
            one.terminate()
        ends = [one.wait(60) for one in started]
    assert ends == [0, 0]
    said("federation", "fetch", place.path, "--out", tmp_path / "fetched")
    assert "synthetic records" in said("generate", tmp_path / "fetched", "--out", tmp_path / "made")
    kinds = [line.kind for line in read_ledger(kit / "records" / "ledger.jsonl")]
    assert kinds.count("described") == 1 and kinds.count("judgement") == 4


def test_privacy_is_charged_and_recorded(data, tmp_path):
    schema = json.loads(json.dumps(SCHEMA)) | {"shares": {"no": 0.6, "yes": 0.4}}
    schema["columns"]["income"]["knots"] = [0, 10_000, 30_000, 1_000_000]
    schema["columns"]["delay"]["knots"] = [0, 3, 20]
    sites = []
    for name in ("north", "south"):
        folder = shutil.copytree(data / name, tmp_path / name)
        (folder / "schema.json").write_text(json.dumps(schema))
        sites += ["--site", f"{name}={folder}"]
    private = ["privacy.kind=discriminator", "privacy.noise=1", "training.steps=3"]
    changes = [word for key in (*SMALL[1:], *private) for word in ("--set", key)]
    said("train", *sites, "--out", tmp_path / "run", *changes)
    entries = list(read_ledger(tmp_path / "run" / "sites" / "north" / "ledger.jsonl"))
    assert entries[-1].epsilon is not None and 0 < entries[-1].epsilon < 50
    assert all(entry.masks == 0 for entry in entries)  # classes are drawn, not the customers'
    said("report", tmp_path / "run")
    bounds = "What bounds every attacker is differential privacy; each site's ledger says how much"
    assert f"{bounds} epsilon" in html.unescape((tmp_path / "run" / "report.html").read_text())

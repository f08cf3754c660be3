"""What an audit says: no more than it found, what to do first, and what may be released."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyndgan.auditing.audit import Audit
from asyndgan.auditing.copies import NearCopies
from asyndgan.auditing.groups import Groups
from asyndgan.auditing.membership import ATTACKS, Attack
from asyndgan.auditing.record import AuditRecord
from asyndgan.auditing.release import check_released, release_by
from asyndgan.auditing.remedies import remedies
from asyndgan.cli.audit import tell_audit
from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import Interrupted, RunError
from asyndgan.painting.fading import AS_PAINTED
from asyndgan.painting.sets import OF_SITES
from asyndgan.painting.synthesise import PAINTING_VERSION, RELEASED
from asyndgan.runs import RunFacts, RunFolder, load_recipe

GENERATOR = b"a generator"
QUIET = Attack("nearest", 0.5, 0.4, 0.6, 0.5, 60, 60, 0.0, 0.5, explained=False)
ALARM = replace(QUIET, auc=0.8, low=0.7, high=0.9, p_value=0.001, corrected=0.003, epsilon=0.2)
ALIKE = Groups({"north": 30, "south": 30}, {"north": 30, "south": 30}, "mean of T1", 0.55, 0.6)
MIXED = replace(ALIKE, others={"north": 16, "": 44})
BRIGHT = replace(ALIKE, auc=0.7, p_value=0.001)
APART = NearCopies(0, 0.6, 0.7, 0.4, 60, 60)
COPIED = replace(APART, found=1, nearest=0.1, p_value=0.001)
QUIETLY = Audit(ALIKE, [replace(QUIET, name=name) for name in ATTACKS], APART, [])
BY_ITS_MASK = replace(ALARM, name="mask")


def run_of(path: Path, *overrides: str, steps: int = 9000) -> RunFolder:
    """A finished run of two sites; of fewer steps than its recipe has it is a trial."""
    recipe = load_recipe("default", ("image.size=32", *overrides))
    run = RunFolder.create(path, recipe)
    run.generator_file.write_bytes(GENERATOR)
    about = {"cases": 60, "share": 0.5, "modalities": ["T1"]}
    run.write_facts(
        RunFacts(
            run="ab12", version="0.1.0", recipe_digest=recipe.digest(), engine="inprocess",
            state="finished", steps=steps, seconds=9.0, modalities=["T1"],
            labels={"0": "background", "1": "lesion"}, space=[32, 32],
            sites={"north": about, "south": about},
            generator_sha256=hashlib.sha256(GENERATOR).hexdigest(),
        )
    )  # fmt: skip
    return run


def record_of(run: RunFolder, found: Audit = QUIETLY, **more: Any) -> AuditRecord:
    """What `asyndgan audit` stored of both sites, or of those in `confirmed`."""
    sites = more.setdefault("confirmed", {"north": True, "south": True})
    if len(sites) == 1:
        alone = dict.fromkeys(sites, 60)
        found = replace(found, groups=replace(found.groups, members=alone, others=alone))
    record = AuditRecord(
        found, [], run.generator_digest(), "ef", AS_PAINTED.told(), PAINTING_VERSION,
        frozenset({"T1"}), "", more["confirmed"],
    )  # fmt: skip
    return replace(record, **more)


def told(run: RunFolder, record: AuditRecord) -> list[str]:
    """The lines that `asyndgan audit` prints."""
    out = io.StringIO()
    tell_audit(Terminal(file=out, width=100), run, record)
    return out.getvalue().splitlines()


def test_a_trial_runs_audit_has_no_capitals_and_begins_with_a_finished_training(tmp_path):
    run = run_of(tmp_path / "run", steps=60)
    found = replace(QUIETLY, attacks=[ALARM], copies=COPIED)
    record = record_of(run, found, trial="Trial run: 60 of 3,000 steps")
    lines = told(run, record)
    assert not any("MEMBERS" in line or "NEAR COPIES" in line for line in lines)
    assert "NEAR" not in repr(record) and "decides nothing" in repr(record)
    advice = [line for line in lines if line.startswith("to do: ")]
    assert advice[0].startswith("to do: Audit a finished training of ")
    assert not any("Train with" in line for line in advice)
    assert lines[-1].startswith("release: not permitted, because of a trial run")


def test_the_first_thing_to_do_is_to_audit_with_others_who_are_like_the_members(tmp_path):
    run = run_of(tmp_path / "run")
    unlike = replace(QUIETLY, attacks=[ALARM], groups=MIXED)
    first, *_, last = remedies(run, unlike)
    assert "leave out the 44 patients of other hospitals and add patients of south" in first
    assert last.startswith("If the alarm stays, release nothing of this run: train with more")
    assert len([line for line in remedies(run, unlike) if "elease nothing" in line]) == 1


def test_who_has_no_further_patients_holds_some_out(tmp_path):
    unlike = replace(QUIETLY, groups=BRIGHT)
    (advice,) = remedies(run_of(tmp_path / "a"), unlike)
    assert "train with --set training.hold_out=0.2" in advice
    held = run_of(tmp_path / "b", "training.hold_out=0.2")
    for found, leave in ((unlike, True), (replace(unlike, given=False), False)):
        (advice,) = remedies(held, found)
        assert ("leave out --holdout" in advice) is leave and "hold_out=" not in advice


@pytest.mark.parametrize(
    ("found", "more", "words"),
    [
        (QUIETLY, {}, ""),
        (replace(QUIETLY, attacks=[ALARM]), {}, "nearest: MEMBERS CAN BE TOLD"),
        (replace(QUIETLY, attacks=[BY_ITS_MASK]), {}, "mask: MEMBERS CAN BE TOLD"),
        (replace(QUIETLY, attacks=[BY_ITS_MASK]), {"source": RELEASED}, "the members' anatomy"),
        (replace(QUIETLY, attacks=[QUIET]), {}, "lacks the attacks painting, density, mask, pict"),
        (replace(QUIETLY, copies=COPIED), {}, "NEAR COPIES of 1 of 60"),
        (replace(QUIETLY, copies=replace(APART, found=7)), {}, "NEAR COPIES of 7 of 60"),
        (replace(QUIETLY, groups=BRIGHT), {}, "groups not alike"),
        (QUIETLY, {"canaries": "can"}, "compares canaries alone"),
        (QUIETLY, {"confirmed": {"north": True}}, "no audit covers south (T1)"),
        (QUIETLY, {"modalities": frozenset()}, "no audit covers north (T1), south (T1)"),
        (replace(QUIETLY, groups=MIXED), {}, "not alike, the others are of another mix"),
        (replace(QUIETLY, attacks=[replace(QUIET, p_value=0.04)]), {}, "a weak sign of membership"),
        (QUIETLY, {"confirmed": {"west": True}}, "compares 60 members of west, more than"),
        (QUIETLY, {"confirmed": {"north": True, "south": False}}, "compares members of south"),
        (QUIETLY, {"generator": "0" * 64}, "is of another generator"),
        (QUIETLY, {"painting_version": 1}, "another version painted"),
        (replace(QUIETLY, own_masks=3), {"source": "a folder of masks"}, "the members' anatomy"),
        (QUIETLY, {"source": RELEASED}, "the members' anatomy"),  # each of them moved
    ],
)
def test_the_last_line_says_what_the_release_says(found, more, words, tmp_path, monkeypatch):
    run = run_of(tmp_path / "run")
    record = record_of(run, found, **more)
    monkeypatch.setattr("asyndgan.auditing.release.read_audit", lambda folder: record)
    line = told(run, record)[-1]
    if words:
        assert line.startswith("release: not permitted, because ") and words in line
        with pytest.raises(RunError) as raised:
            check_released(run, "ef", [tmp_path])
        assert words in str(raised.value)
    else:
        assert line == "release: permitted"
        assert check_released(run, "ef", [tmp_path]).startswith("north, south: painting: no sign")


def test_a_run_that_started_from_one_of_other_sites_is_not_released(tmp_path):
    run = run_of(tmp_path / "run")
    start = {"run": "old", "generator_sha256": "", "steps": 9, "sites": ["south", "west"]}
    run.write_facts(replace(run.facts(), start={**start, "took": ""}))
    assert "began with that of old, which learned from west" in release_by(run, record_of(run))


def test_audits_of_two_sites_permit_together_what_neither_permits_alone(tmp_path):
    run = run_of(tmp_path / "run")
    north, south = (record_of(run, confirmed={site: True}) for site in ("north", "south"))
    assert "no audit covers south" in release_by(run, north)
    assert release_by(run, north, [south]) == release_by(run, south, [north]) == "permitted"
    alarming = record_of(run, replace(QUIETLY, attacks=[ALARM]), confirmed={"south": True})
    assert "the audit of south says nearest: MEMBERS CAN" in release_by(run, north, [alarming])
    other = record_of(run, confirmed={"south": True}, masks="gh")
    assert "painted in different ways" in release_by(run, north, [other])


def test_no_release_is_promised_of_masks_that_only_the_audit_had_or_without_a_generator(tmp_path):
    run = run_of(tmp_path / "run")
    line = release_by(run, record_of(run, source=f"{OF_SITES}, some of them moved at random"))
    assert "Audit with --masks OTHER" in line and line.startswith("not permitted, because ")
    record = record_of(run)
    run.generator_file.unlink()
    assert "cannot be read" in release_by(run, record)


@pytest.mark.parametrize(
    ("stopped", "said"),
    [({}, "nothing was written; the same command begins anew"), ({"stopped": "kept."}, "kept.")],
)
def test_after_ctrl_c_a_sentence_says_what_is_left(stopped, said):
    for fault, told in ((KeyboardInterrupt(), Interrupted), (ValueError("another"), ValueError)):
        with (
            pytest.raises(told, match=said if told is Interrupted else "another"),
            EvaluationDisplay(Terminal(file=io.StringIO()), "paint cases", **stopped),
        ):
            raise fault

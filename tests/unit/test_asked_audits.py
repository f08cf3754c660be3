"""Audits and evaluations as messages: what a coordinator asks of a site, and what it is told."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from typer.testing import CliRunner

from asyndgan import release
from asyndgan.auditing import asking
from asyndgan.auditing.answering import RECEIVED, answered
from asyndgan.auditing.asking import answered_audits, ask_audits, ask_evaluations
from asyndgan.auditing.copies import NearCopies
from asyndgan.auditing.membership import ATTACKS, Attack
from asyndgan.auditing.record import read_audit
from asyndgan.auditing.release import release_by
from asyndgan.auditing.run import audit_run
from asyndgan.cli import app
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import InProcess, SiteSetup
from asyndgan.engines.setup import Finder, answering
from asyndgan.errors import PolicyError, RunError
from asyndgan.judging.asked import (
    SiteEvaluation,
    evaluated_at_sites,
    keep_evaluation,
    set_digest,
    site_evaluations,
    weights_of,
)
from asyndgan.judging.bench import Bench
from asyndgan.judging.of_run import evaluate_run
from asyndgan.judging.table import SYNTHETIC
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.models.segmenters import build_segmenter
from asyndgan.painting.synthesise import chosen_masks
from asyndgan.privacy import Policy
from asyndgan.privacy.door import open_release
from asyndgan.privacy.ledger import read
from asyndgan.protocol import ASKED_LIMIT, Endpoint, Transport
from asyndgan.reports.of_run import report_run
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.runs.train import train
from asyndgan.training import checkpoint
from asyndgan.wire.audited import (
    LEAST_FOR_INTERVAL,
    AttackFigures,
    AuditFigures,
    CopyFigures,
    EvaluationFigures,
    GroupFigures,
    ScoreFigures,
)
from asyndgan.wire.messages import (
    ANSWERS,
    Audit,
    Audited,
    Evaluate,
    Evaluated,
    Message,
    Refusal,
    pack,
    unpack,
)
from commands import PUBLISHER
from small import ask_little

SITES = [site.name for site in DEFAULT_SITES[:2]]
NORTH = SITES[0]
ALLOWED = "[leaves]\naudits = 2\nevaluations = 2\n[allows]\nfewest_patients = 2\n"


@dataclass(frozen=True)
class Hospitals:
    """Two sites of a finished run that held patients out, and the coordinator's folder of it."""

    folder: Path
    run: RunFolder
    states: Path  # folder of the sites' states of the run, by site
    data: dict[str, Path]

    def setup(self, site: str = NORTH, policy: str = ALLOWED) -> SiteSetup:
        """A site as in a federation: its states lie beside the log of questions."""
        place = self.folder / site
        if not place.exists():
            shutil.copytree(self.states / site, place / "runs" / "one")
        (place / "policy.toml").write_text(policy)
        return SiteSetup(
            site, self.data[site], place / "runs" / "audit", policy=place / "policy.toml",
            records=place / "records",
        )  # fmt: skip

    def request(self, site: str = NORTH, **changes: Any) -> Audit:
        named, _ = chosen_masks(self.run, None)
        return asking._asked(self.run, site, named, ()).model_copy(update=changes)

    def network(self, site: str = NORTH, width: int = 4, **changes: Any) -> Evaluate:
        """A question about a network that nobody has trained."""
        facts = self.run.facts()
        modalities, labels = len(facts.sites[site]["modalities"]), max(map(int, facts.labels))
        model = build_segmenter(modalities, labels + 1, width=width, space=(32, 32))
        return Evaluate(
            **asking._about(self.run, site), network="unet", width=width, weights=weights_of(model)
        ).model_copy(update=changes)

    def opened(self, site: str) -> RunSites:
        """As in the hospital itself."""
        return RunSites.opened(self.run, {site: self.data[site]}, states={site: self.states / site})

    def ask(
        self, monkeypatch, endpoints: Mapping[str, Endpoint], bench: Bench | None = None, **how: Any
    ) -> dict[str, Any]:
        """What a coordinator is told of each site's audit or, with a bench, evaluation."""

        @contextmanager
        def connected(*_: object) -> Iterator[Transport]:
            yield InProcess(endpoints)

        told: dict[str, Any] = {}
        monkeypatch.setattr(asking, "connected", connected)
        ask = partial(ask_evaluations, None, self.run, bench) if bench else None
        ask = ask or partial(ask_audits, None, self.run)
        missed = ask(tell=told.__setitem__, **how)
        assert missed == [site for site, one in told.items() if isinstance(one, Exception)]
        return told


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:2], patients_scale=0.3)
    write_phantoms(folder / "public", size=32, sites=DEFAULT_SITES[2:3], patients_scale=0.05)
    data = {site: folder / site for site in SITES}
    given = "masks.source=given", "masks.release=false"
    recipe = tiny("image.size=32", "training.steps=2", "training.hold_out=0.4", *given)
    return train(
        recipe, data, folder / "run", masks=folder / "public" / DEFAULT_SITES[2].name
    ), data


@pytest.fixture
def hospitals(trained, tmp_path):
    run, data = trained
    apart = shutil.ignore_patterns("sites", "checkpoints")
    there = shutil.copytree(run.path, tmp_path / "run", ignore=apart)
    return Hospitals(tmp_path, RunFolder(there), run.path / "sites", data)


def said(setup: SiteSetup, *requests: Message, find: Finder = answered) -> list[Message]:
    with closing(answering(setup, find)) as endpoint:
        return [
            unpack(endpoint.answer(pack(each, {})), ANSWERS, limit=ASKED_LIMIT) for each in requests
        ]


def booked(setup: SiteSetup) -> list[tuple[str, str]]:
    """Kind and uncovered content of each line of a site's ledger."""
    assert setup.records
    return [(entry.kind, entry.bare) for entry in read(setup.records / "ledger.jsonl")]


def told_of_all(hospitals, monkeypatch, bench: Bench | None = None) -> dict[str, Any]:
    with ExitStack() as ends:
        endpoints = {site: answering(hospitals.setup(site), answered) for site in SITES}
        for endpoint in endpoints.values():
            ends.callback(endpoint.close)
        return hospitals.ask(monkeypatch, endpoints, bench)


def test_sites_answer_with_the_figures_of_their_own_audits_and_release_and_report_find_them(
    hospitals, monkeypatch, tmp_path
):
    ask_little(monkeypatch)
    told = told_of_all(hospitals, monkeypatch)
    kept = answered_audits(hospitals.run)
    assert kept == [hospitals.run.path / "audits" / site for site in SITES]
    for site, folder in zip(SITES, kept, strict=True):
        setup = hospitals.setup(site)
        at_site = setup.state.parent / "one" / "audit"
        assert (at_site / "nearest.png").exists()
        own, found = read_audit(at_site), read_audit(folder)
        assert told[site] == found
        assert replace(found, audit=own.audit, source=own.source) == own
        for ours, theirs in zip(own.audit.attacks, found.audit.attacks, strict=True):
            assert theirs.auc == pytest.approx(ours.auc, abs=0.01)
            assert (theirs.name, theirs.explained) == (ours.name, ours.explained)
        assert found.audit.groups.members == own.audit.groups.members
        assert found.audit.copies.found == own.audit.copies.found
        assert booked(setup) == [("audited", "audit")]
        assert not [*setup.state.iterdir()]
    opened = hospitals.opened(SITES[1])
    assert replace(audit_run(opened, tmp_path / "audit", asked=()), source=own.source) == own
    with pytest.raises(RunError, match="may not be released: "):
        release(hospitals.run.path, tmp_path / "set", **PUBLISHER)
    report_run(hospitals.run, tmp_path / "page.html", tell=lambda _: None)
    assert "Is a synthetic image a copy" in (tmp_path / "page.html").read_text()


def test_sites_judge_a_network_of_the_synthetic_set_alone_on_their_held_out_patients(
    hospitals, monkeypatch, tmp_path
):
    bench = Bench(tmp_path / "bench", SegmentationBudget(steps=6, width=4), workers=1)
    told = told_of_all(hospitals, monkeypatch, bench)
    assert site_evaluations(hospitals.run) == told and [*told] == SITES
    here = evaluate_run(hospitals.opened(NORTH), None, None, replace(bench, out=tmp_path / "here"))
    rows = {row.label: row for row in here.rows if row.model == SYNTHETIC}
    assert any(row.dice_mean > 0.01 for row in rows.values())
    for one in told[NORTH].scores:
        row = rows.pop(one.name)
        assert one.patients == row.patients >= 2
        assert one.score == pytest.approx(row.dice_mean, abs=0.0051)
        assert (one.low is None) == (row.patients < LEAST_FOR_INTERVAL)
    assert all(row.patients < 2 for row in rows.values())
    for site in SITES:
        assert booked(hospitals.setup(site)) == [("evaluated", "evaluation")]
        assert not [*hospitals.setup(site).state.iterdir()]
    page = reported(hospitals.run, tmp_path / "page.html", "with the evaluations of two sites")
    assert "Dice of a network trained on the synthetic set alone" in page
    masks, _ = chosen_masks(hospitals.run, None)
    card = evaluated_at_sites(hospitals.run, set_digest(hospitals.run, masks))
    assert card == "; ".join(f"{site}: {told[site]}" for site in SITES)
    assert not evaluated_at_sites(hospitals.run, set_digest(hospitals.run, masks[1:]))


def reported(run: RunFolder, page: Path, with_what: str) -> str:
    """The page of a run, of which the command says what it shows."""
    told = CliRunner().invoke(app, ["report", str(run.path), "--out", str(page)])
    assert f"{with_what}, without an audit" in " ".join(told.output.split()), told.output
    return page.read_text()


def test_a_report_shows_answers_on_the_newest_model_and_counts_those_on_earlier_ones(
    hospitals, tmp_path
):
    run, page = hospitals.run, tmp_path / "page.html"
    (label, *_) = run.facts().labels.values()

    def answers(site: str, score: float, **about: Any) -> None:
        one = ScoreFigures(name=label, patients=6, score=score, low=None, high=None)
        found = EvaluationFigures(scores=[one])
        answer = Evaluated(run=run.facts().run, asked="0" * 64, found=found)
        newest = SiteEvaluation(run.facts().generator_sha256, "ab", 6, [], 20.0)
        keep_evaluation(run, replace(newest, **about), site, answer, run.path / "audits" / site)

    answers(NORTH, 0.31, asked=10.0)  # of the same model, asked about earlier
    answers(SITES[1], 0.47)
    both = reported(run, page, "with the evaluations of two sites")
    assert "0.31" in both and "0.47" in both and "an earlier model" not in both
    for other in ({"set_sha256": "cd"}, {"steps": 1}):
        answers(NORTH, 0.31, asked=10.0, **other)
        text = reported(run, page, "with the evaluations of one site")
        assert "0.31" not in text and "0.47" in text and "One site judged an earlier model" in text
    answers(NORTH, 0.31, asked=30.0, steps=1)
    text = reported(run, page, "with the evaluations of one site")
    assert "0.31" in text and "0.47" not in text


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("", r"leaves\.fingerprint.*leaves\.audits"),
        ("[leaves]\naudits = 1\n[privacy]\nepsilon = 1.0\n", "covers no audit"),
        ("[leaves]\naudits = 1\ncases = false\n", "withholds its number of cases"),
        ("[leaves]\nevaluations = 1\ncases = false\n", "which evaluations tell"),
        ("", r"leaves\.evaluations"),
    ],
)
def test_a_policy_that_lets_no_audit_out_refuses_the_whole_job(policy, reason, hospitals):
    setup = hospitals.setup(policy=policy)
    with pytest.raises(PolicyError, match=reason):
        answering(setup, answered)
    assert not setup.records.exists()


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("audits = 0\nfingerprint = true\n", "lets no audit out (leaves.audits)"),
        ("audits = 1\n[allows]\nfewest_patients = 1000\n", "allows.fewest_patients"),
        ("audits = 1\n", "lets no evaluation out (leaves.evaluations)"),
        ("evaluations = 1\n[allows]\nfewest_patients = 31\n", "allows.fewest_patients"),
    ],
)
def test_nothing_leaves_but_a_refusal_that_names_the_key(policy, reason, hospitals):
    setup = hospitals.setup(policy=f"[leaves]\n{policy}")
    setup = replace(setup, fingerprint=hospitals.folder / "seen.json")
    asked, figures = hospitals.request(), FIGURES
    if "evaluation" in policy + reason:
        asked, figures = hospitals.network(), SCORES
    (answer,) = said(setup, asked, find=lambda *_: figures)
    assert isinstance(answer, Refusal) and answer.code == "policy" and reason in answer.reason
    assert booked(setup) == [("refusal", "")]


def test_a_site_answers_each_kind_as_often_as_its_policy_allows_and_the_same_once_more(hospitals):
    setup, asked = hospitals.setup(), hospitals.request()
    other, third = (asked.model_copy(update={"faded": [name]}) for name in ("a", "b"))
    answers = said(setup, asked, asked, other, third, find=lambda *_: FIGURES)
    assert all(isinstance(one, Audited) for one in answers[:3]) and answers[0] == answers[1]
    (after,) = said(setup, asked)  # the ledger outlives the process
    for one in (answers[3], after):
        assert isinstance(one, Refusal) and "all audits that leaves.audits allows" in one.reason
    widths = [hospitals.network().model_copy(update={"width": width}) for width in (4, 5, 6)]
    answers = said(setup, *widths, find=lambda *_: SCORES)
    assert [answer.kind for answer in answers] == ["evaluated", "evaluated", "refusal"]
    assert "all evaluations that leaves.evaluations allows" in answers[2].reason
    kinds = ["audited"] * 3 + ["refusal"] * 2 + ["evaluated"] * 2 + ["refusal"]
    assert [kind for kind, _ in booked(setup)] == kinds


def test_a_steward_who_lowers_the_number_of_audits_stops_the_one_at_work(hospitals):
    def lowered(setup, request):
        setup.policy.write_text("[leaves]\naudits = 0\nfingerprint = true\n")
        return FIGURES

    setup, begun = hospitals.setup(), []
    (answer,) = said(setup, hospitals.request(), find=lowered)
    assert isinstance(answer, Refusal) and "leaves.audits" in answer.reason
    setup.policy.write_text(ALLOWED)
    with closing(answering(setup, lambda *_: begun.append(1))) as endpoint:
        lowered(setup, None)
        endpoint.answer(pack(hospitals.request(), {}))
    assert not begun and "audited" not in [kind for kind, _ in booked(setup)]


def test_a_steward_who_raises_the_number_of_audits_need_not_start_the_site_again(hospitals):
    def raised(setup, request):
        setup.policy.write_text(ALLOWED.replace("audits = 2", f"audits = {len(request.faded) + 1}"))
        return FIGURES

    setup = hospitals.setup(policy=ALLOWED.replace("audits = 2", "audits = 1"))
    asked = hospitals.request()
    more = [asked.model_copy(update={"faded": ["a", "b"][:number]}) for number in (1, 2, 0)]
    answers = said(setup, *more, find=raised)
    assert [answer.kind for answer in answers] == ["audited", "audited", "refusal"]
    entries = [*read(setup.records / "ledger.jsonl")]
    assert len({entry.policy for entry in entries}) == 3
    kept = {path.stem for path in (setup.records / "policies").iterdir()}
    assert {entry.policy for entry in entries} <= kept


def test_answers_are_booked_under_a_policy_that_was_kept_although_once_it_could_not(
    hospitals, monkeypatch
):
    release = answering(hospitals.setup(), answered).handler.release
    before, other = release.ledger.policy, Policy.from_toml(ALLOWED.replace("2", "9", 1))
    with closing(release):
        with monkeypatch.context() as full, pytest.raises(PolicyError, match="no space"):
            full.setattr(Policy, "keep", Mock(side_effect=PolicyError("no space")))
            release.adopt(other)
        assert release.ledger.policy == before == release.policy.digest()
        release.adopt(other)
        assert release.ledger.policy == other.digest() == release.policy.digest()


def test_a_later_limit_on_epsilon_counts_the_audits_that_left(hospitals, tiny):
    setup = hospitals.setup()
    (answer,) = said(setup, hospitals.request(), find=lambda *_: FIGURES)
    assert isinstance(answer, Audited)
    limited = Policy.from_toml("[privacy]\nepsilon = 1000.0\n")
    with pytest.raises(PolicyError, match="1 messages with audit"):
        open_release(None, limited, setup.records, NORTH, 0)


def facts_with(hospitals: Hospitals, **changes: Any) -> str:
    return json.dumps(json.loads(hospitals.request().facts) | changes)


def refused_quietly(setup: SiteSetup, request: Message, code: str, folder: Path) -> None:
    (answer,) = said(setup, request)
    assert isinstance(answer, Refusal) and answer.code == code, answer
    assert str(folder) not in answer.reason
    assert booked(setup) == [("refusal", "")]
    assert not (setup.state / RECEIVED).exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda h: {"run": "ab12"}, "order"),
        (lambda h: {"run": "ab12", "facts": facts_with(h, run="ab12")}, "order"),
        (lambda h: {"painting": 0}, "order"),
        (lambda h: {"names": ["a"]}, "order"),
        (lambda h: {"masks": torch.zeros(1, 8, 8, dtype=torch.int64), "names": ["a"]}, "order"),
        (lambda h: {"masks": torch.full((1, 32, 32), 9), "names": ["a"]}, "data"),
        (lambda h: {"generator": torch.zeros(64, dtype=torch.uint8)}, "data"),
        (lambda h: {"facts": "[" * 10**4}, "data"),
        (lambda h: {"facts": facts_with(h, sites={})}, "data"),
        (lambda h: {"recipe": h.request().recipe.replace("batch = 2", "batch = 1")}, "data"),
        (lambda h: {"faded": ["nothing"]}, "data"),
    ],
)
def test_a_request_that_does_not_fit_the_sites_own_state_is_refused_in_words_without_its_folders(
    change, code, hospitals
):
    request = hospitals.request(**change(hospitals))
    refused_quietly(hospitals.setup(), request, code, hospitals.folder)


def spoiled(request: Evaluate, spoil: Callable[[dict[str, torch.Tensor], str], Any]) -> Any:
    """The weights of a question, after their tensors were changed."""
    tensors = load(request.weights.numpy().tobytes())
    spoil(tensors, min(tensors))
    with TemporaryDirectory() as place:
        checkpoint.write(Path(place) / "weights", tensors, {})
        content = bytearray((Path(place) / "weights").read_bytes())
    return {"weights": torch.frombuffer(content, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda h, r: {"run": "ab12"}, "order"),
        (lambda h, r: {"width": 5}, "order"),
        (lambda h, r: {"network": "mine"}, "order"),
        (lambda h, r: {"network": "regression"}, "order"),
        (lambda h, r: {"weights": r.weights[:-1]}, "order"),
        (lambda h, r: {"weights": torch.zeros(2**24, dtype=torch.uint8)}, "order"),
        (lambda h, r: spoiled(r, lambda t, at: t.update({at: torch.zeros(2**16)})), "order"),
        (lambda h, r: spoiled(r, lambda t, at: t[at].fill_(math.nan)), "order"),
        (lambda h, r: spoiled(r, lambda t, at: t.pop(at)), "order"),
        (lambda h, r: {"facts": facts_with(h, labels={"0": "background"})}, "order"),
        (
            lambda h, r: {
                "facts": facts_with(h, labels=json.loads(r.facts)["labels"] | {"9999": "a"})
            },
            "order",
        ),
        (lambda h, r: {"recipe": r.recipe.replace("batch = 2", "batch = 1")}, "data"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_and_the_reason_logged(
    change, code, hospitals, caplog
):
    request = hospitals.network()
    request = request.model_copy(update=change(hospitals, request))
    refused_quietly(hospitals.setup(), request, code, hospitals.folder)
    assert "refused a request" in caplog.text


def test_patients_other_than_those_in_training_are_neither_attacked_nor_judged(hospitals):
    setup = replace(hospitals.setup(), data=hospitals.data[SITES[1]])
    for answer in said(setup, hospitals.request(), hospitals.network()):
        assert isinstance(answer, Refusal) and answer.code == "data"


def test_other_sites_numbers_are_not_sent_along(hospitals):
    told = json.loads(hospitals.request().facts)
    known = hospitals.run.facts().sites
    assert told["sites"][NORTH] == known[NORTH]
    assert told["sites"][SITES[1]] == known[SITES[1]] | {"cases": 1}
    assert not told["left_sites"] and not told["came_to_sites"]


FIGURES = AuditFigures(
    members=30, others=30,
    groups=GroupFigures(measure="brightness of T1", auc=0.5, p_value=0.7),
    attacks=[
        AttackFigures(
            name=name, auc=0.5, low=0.4, high=0.6, p_value=0.5, epsilon=0.0, corrected=1.0,
            explained=False,
        )
        for name in ATTACKS
    ],
    copies=CopyFigures(found=0, nearest=0.6, nearest_other=0.6, p_value=0.5),
    own_masks=0,
)  # fmt: skip


SCORES = EvaluationFigures(
    scores=[ScoreFigures(name="lesion", patients=30, score=0.512, low=0.404, high=0.637)]
)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (FIGURES, "it is no evaluation"),
        (EvaluationFigures(scores=[SCORES.scores[0].model_copy(update={"name": "mine"})]),
         "labels that the run has not"),
        (EvaluationFigures(scores=2 * SCORES.scores), "labels that the run has not"),
    ],
)  # fmt: skip
def test_scores_of_what_was_not_asked_are_not_kept(found, reason, hospitals):
    message = Audited if found is FIGURES else Evaluated
    answer = message(run="ab", asked="0" * 64, found=found)
    about = SiteEvaluation("ab", "ab", 6, [])
    with pytest.raises(ValueError, match=reason):
        keep_evaluation(hospitals.run, about, NORTH, answer, hospitals.folder)
    assert not (hospitals.folder / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"members": 0, "others": 0, "attacks": []}, "more are found"),
        (
            {"groups": FIGURES.groups.model_copy(update={"measure": "\u202e"})},
            "no audit that can be read",
        ),
        ({"copies": FIGURES.copies.model_copy(update={"found": 31})}, "more are found"),
        ({"attacks": [FIGURES.attacks[0].model_copy(update={"name": "mine"})]}, "not known"),
    ],
)
def test_figures_that_contradict_themselves_are_not_kept(change, reason, hospitals, monkeypatch):
    found = FIGURES.model_copy(update=change)
    lying = answering(hospitals.setup(), lambda *_: found)
    lying.handler.release.policy = Policy.from_toml("[leaves]\naudits = 9\n")
    monkeypatch.setattr(AuditFigures, "bounded", lambda self, _: self)
    with closing(lying):
        told = hospitals.ask(monkeypatch, {NORTH: lying}, sites=[NORTH])
    assert reason in str(told[NORTH])
    assert not answered_audits(hospitals.run)


def test_a_site_cannot_speak_of_more_patients_than_it_brought(hospitals, monkeypatch):
    found = FIGURES.model_copy(update={"members": 5000})
    with closing(answering(hospitals.setup(), lambda *_: found)) as lying:
        told = hospitals.ask(monkeypatch, {NORTH: lying}, sites=[NORTH])
    assert "more than" in release_by(hospitals.run, told[NORTH])


@pytest.mark.parametrize(
    ("overrides", "audit", "evaluation"),
    [
        (["masks.source=given", "training.hold_out=0"], "held out no patients",
         "cannot evaluate it by themselves: its sites held out"),
        (["masks.source=own"], "patients' masks", ""),
        (["condition.kind=none"], "", "no images of masks"),
    ],
)  # fmt: skip
def test_a_run_that_sites_cannot_audit_or_judge_is_refused_with_a_remedy(
    overrides, audit, evaluation, tiny, tmp_path
):
    recipe = tiny("image.size=32", "masks.release=false", *overrides)
    run = RunFolder.create(tmp_path / "run", recipe)
    if audit:
        with pytest.raises(RunError, match=audit):
            ask_audits(None, run, tell=lambda *_: None)
    if evaluation:
        with pytest.raises(RunError, match=evaluation):
            ask_evaluations(None, run, Bench(tmp_path), tell=lambda *_: None)


parts = st.floats(0, 1)


@given(parts, parts, parts, parts, parts, st.booleans())
def test_rounding_makes_no_verdict_milder(auc, low, high, p_value, corrected, explained):
    low, auc, high = sorted((low, auc, high))
    exact = AttackFigures(
        name="nearest", auc=auc, low=low, high=high, p_value=p_value, epsilon=0.0,
        corrected=corrected, explained=explained,
    )  # fmt: skip
    true, told = (
        Attack(
            one.name, one.auc, one.low, one.high, one.p_value, 9, 9, 0.0, one.corrected,
            one.explained,
        )
        for one in (exact, exact.rounded())
    )  # fmt: skip
    assert true.passes or not told.passes
    assert told.alarms or not true.alarms
    assert (true.tells, true.comparable) == (told.tells, told.comparable)


@given(st.lists(st.tuples(st.integers(0, 40), parts, parts, parts), min_size=1), st.integers(1, 9))
def test_a_score_is_of_several_patients_and_rounded(found, fewest):
    exact = EvaluationFigures(
        scores=[
            ScoreFigures(name=f"l{place}", patients=n, score=score, low=min(ends), high=max(ends))
            for place, (n, score, *ends) in enumerate(found)
        ]
    )
    told = exact.bounded(fewest)
    kept = {one.name: one for one in told.scores} if told else {}
    for true in exact.scores:
        one = kept.pop(true.name, None)
        assert (one is None) == (true.patients < max(fewest, 2))
        if one:
            assert one.score == round(true.score, 2)
            assert (one.low is None) == (one.high is None) == (true.patients < LEAST_FOR_INTERVAL)
    assert not kept


@pytest.mark.parametrize("ends", [(0.1, None), (None, 0.1), (0.6, 0.4)])
def test_an_interval_without_two_ordered_ends_is_no_answer(ends):
    with pytest.raises(ValueError, match="two ends, the lower one first"):
        ScoreFigures(name="head", patients=6, score=0.5, low=ends[0], high=ends[1])


@given(parts, parts, parts)
def test_rounding_makes_no_copy_farther(nearest, other, p_value):
    exact = CopyFigures(found=0, nearest=nearest, nearest_other=other, p_value=p_value)
    true, told = (
        NearCopies(one.found, one.nearest, one.nearest_other, one.p_value, 9, 9)
        for one in (exact, exact.rounded())
    )
    assert true.passes == told.passes

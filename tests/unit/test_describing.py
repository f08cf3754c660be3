"""The fingerprint as a message: what leaves a site before there is a recipe, and what does not."""

import json
import re
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from asyndgan.auditing.answering import answered
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines import SiteSetup, set_up
from asyndgan.engines.setup import answering
from asyndgan.errors import AsyndganError, PolicyError, ProtocolError, WireError
from asyndgan.intake.fingerprint import measured
from asyndgan.privacy.ledger import read
from asyndgan.protocol.limits import FRAME_SLACK
from asyndgan.recipe.fingerprint import Fingerprint
from asyndgan.wire.messages import (
    ANSWERS,
    Closed,
    Describe,
    Described,
    Judge,
    Message,
    Open,
    Refusal,
    pack,
    unpack,
)

RUN = "ab12"
ALLOWED = "[leaves]\nfingerprint = true\n"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, size=32, sites=DEFAULT_SITES[:1], patients_scale=0.4)
    return folder / DEFAULT_SITES[0].name


@cache
def fingerprint_of(hospital: Path) -> Fingerprint:
    return measured(hospital)


def site(hospital: Path, folder: Path, policy: str = ALLOWED) -> SiteSetup:
    """A site whose steward has measured a fingerprint and named it."""
    file = folder / "north.json"
    file.write_text(fingerprint_of(hospital).model_dump_json())
    (folder / "policy.toml").write_text(policy)
    return SiteSetup(
        "north", hospital, folder / "runs" / "plan", policy=folder / "policy.toml",
        records=folder / "records", fingerprint=file,
    )  # fmt: skip


def said(payload: bytes) -> Message:
    return unpack(payload, ANSWERS, limit=FRAME_SLACK)


def asked(setup: SiteSetup, request: Message) -> Message:
    with closing(answering(setup, answered)) as endpoint:
        codings = {"images": "uint8"} if isinstance(request, Judge) else {}
        return said(endpoint.answer(pack(request, codings)))


def test_a_site_sends_what_its_steward_saw_and_books_it(hospital, tmp_path):
    answer = asked(site(hospital, tmp_path), Describe(run=RUN))
    assert isinstance(answer, Described)
    assert answer.fingerprint == fingerprint_of(hospital).bounded(5)
    (entry,) = read(tmp_path / "records" / "ledger.jsonl")
    assert (entry.kind, entry.run, entry.step) == ("described", RUN, None)
    assert (entry.bare, entry.masks) == ("fingerprint", 0)


def test_what_tells_of_few_patients_stays(hospital, tmp_path):
    many = f"{ALLOWED}[allows]\nfewest_patients = 1000\n"
    answer = asked(site(hospital, tmp_path, many), Describe(run=RUN))
    assert isinstance(answer, Described)
    found = answer.fingerprint
    assert (found.patients, found.axes) == (None, ())
    assert [one.whole for one in found.modalities] == [None] * len(found.modalities)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [("", "leaves.fingerprint"), (f"{ALLOWED}[privacy]\nepsilon = 1.0\n", "epsilon")],
)
def test_a_policy_that_does_not_let_it_out_has_the_last_word(policy, reason, hospital, tmp_path):
    setup = site(hospital, tmp_path, policy)
    with pytest.raises(PolicyError, match=reason):
        answering(setup, answered)
    assert not (tmp_path / "records").exists()


def test_a_site_that_names_no_fingerprint_sends_none(hospital, tmp_path, caplog):
    setup = site(hospital, tmp_path)
    answer = asked(replace(setup, fingerprint=None), Describe(run=RUN))
    assert isinstance(answer, Refusal) and answer.code == "data"
    assert re.search(r"'asyndgan fingerprint'.*site\.toml", caplog.text)


@pytest.mark.parametrize(
    "request_", [Open(run=RUN, recipe="0" * 64, step=0),
                 Judge(run=RUN, step=0, batch=0, images=torch.zeros(1, 1, 8, 8))],
)  # fmt: skip
def test_before_there_is_a_recipe_nothing_else_is_answered(request_, hospital, tmp_path):
    answer = asked(site(hospital, tmp_path), request_)
    assert isinstance(answer, Refusal) and answer.code == "order"


def test_the_door_itself_lets_nothing_else_out(hospital, tmp_path):
    release = answering(site(hospital, tmp_path), answered).handler.release
    said = "only a fingerprint, an audit or an evaluation may leave"
    with closing(release), pytest.raises(ProtocolError, match=said):
        release.let_out(Closed(run=RUN))


@pytest.mark.parametrize("text", ["", "[]", '{"patients": -1}', "no such file"])
def test_a_file_that_is_no_fingerprint_is_not_told_of(text, hospital, tmp_path):
    setup = site(hospital, tmp_path)
    assert setup.fingerprint
    setup.fingerprint.write_text(text)
    if text == "no such file":
        setup.fingerprint.unlink()
    answer = asked(setup, Describe(run=RUN))
    assert isinstance(answer, Refusal) and answer.code == "data"
    assert str(tmp_path) not in answer.reason and "north.json" not in answer.reason


@pytest.mark.parametrize(
    "fingerprint",
    [{"patients": -1}, {"modalities": [{"name": "x" * 10**5}]}, {"labels": [{}]}, [], "x", None],
)
def test_a_strangers_fingerprint_is_bounded_like_any_message(fingerprint):
    few = Fingerprint.model_validate({"spaced": False, "modalities": [{"name": "T1"}]})
    told = pack(Described(run=RUN, fingerprint=few), {})
    assert said(told) == Described(run=RUN, fingerprint=few)
    header = json.loads(told[told.index(b"{") :])
    header["fields"]["fingerprint"] = fingerprint
    text = json.dumps(header).encode()
    with pytest.raises(WireError):
        said(told[:4] + len(text).to_bytes(4, "little") + text)


def test_a_run_goes_on_with_the_same_books_and_a_later_epsilon_counts_the_fingerprint(
    hospital, tmp_path, tiny
):
    sent = "masks = 'transient'\n"
    setup = site(hospital, tmp_path, f"{ALLOWED}{sent}[allows]\nunmeasured = true\n")
    assert isinstance(asked(setup, Describe(run=RUN)), Described)
    recipe = tiny("image.size=32", "masks.release=false")
    set_up(setup, recipe).close()
    private = tiny(
        "image.size=32", "masks.release=false", "privacy.kind=discriminator",
        "privacy.noise=4", "privacy.conditions=unprotected",
    )  # fmt: skip
    assert setup.policy
    setup.policy.write_text(
        f"[privacy]\nepsilon = 1000.0\nunprotected_masks = true\n[leaves]\n{sent}"
    )
    with pytest.raises(AsyndganError, match="1 messages with fingerprint"):
        set_up(setup, private)

"""The book of what left: written first, and every later change shows."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyndgan.errors import LedgerError
from asyndgan.privacy import Policy
from asyndgan.privacy.ledger import FIRST, Ledger, read
from asyndgan.protocol import Endpoint
from asyndgan.training import Site
from asyndgan.wire.messages import ANSWERS, Judge, Judgement, Open, pack, unpack

POLICY = "ab" * 32


def written(path: Path, count: int = 4) -> Path:
    ledger = Ledger(path, POLICY)
    for number in range(count):
        kind = "card" if number == 0 else "judgement"
        ledger.append(run="1f", kind=kind, step=number, payload=b"x" * number, norm=0.1 * number)
    ledger.close()
    return path


def test_each_message_has_a_line_that_says_what_left(tmp_path):
    entries = list(read(written(tmp_path / "ledger.jsonl")))
    assert [(e.number, e.kind, e.step, e.size) for e in entries] == [
        (1, "card", 0, 0), (2, "judgement", 1, 1), (3, "judgement", 2, 2), (4, "judgement", 3, 3),
    ]  # fmt: skip
    assert entries[0].previous == FIRST
    assert [e.previous for e in entries[1:]] == [e.digest for e in entries[:-1]]
    assert {e.policy for e in entries} == {POLICY}
    assert entries[0].time.endswith("Z")


def test_a_ledger_goes_on_where_it_stopped(tmp_path):
    path = written(tmp_path / "ledger.jsonl")
    again = Ledger(path, POLICY)
    assert (again.number, again.tally.answers) == (4, 3)
    again.append(run="1f", kind="judgement", step=4, payload=b"")
    again.close()
    again = Ledger(path, POLICY)
    again.append(run="1f", kind="card", step=0, payload=b"", bare="masks", uses=7)
    assert (again.tally.answers, again.tally.uses) == (5, 7)
    again.append(run="1f", kind="card", step=0, payload=b"", bare="masks")  # the same card again
    again.append(run="1f", kind="card", step=0, payload=b"x", bare="masks")
    assert again.tally.answers == 6
    assert len(list(read(path))) == 8


@given(st.data())
def test_any_change_of_a_ledger_is_found(tmp_path_factory, data):
    path = written(tmp_path_factory.mktemp("site") / "ledger.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 1))
    match data.draw(st.sampled_from(["byte", "out", "twice", "swapped", "cut", "put in"])):
        case "byte":
            index = data.draw(st.integers(0, len(lines[place]) - 2))
            line = bytearray(lines[place])
            line[index] ^= 1 << data.draw(st.integers(0, 6))
            lines[place] = bytes(line)
        case "out":
            del lines[place]
        case "twice":
            lines.insert(place, lines[place])
        case "swapped":
            lines[place - 1], lines[place] = lines[place], lines[place - 1]
        case "cut":
            lines = lines[:place]
        case "put in":
            other = json.loads(lines[place])
            lines.insert(place, json.dumps(other | {"size": 7}, separators=(",", ":")).encode())
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError):
        list(read(path))


@pytest.mark.parametrize("count", [4, 5])
def test_lines_that_were_written_anew_or_added_do_not_pass_for_the_old_ones(tmp_path, count):
    """Whoever forges all lines and not the head: also one line more, as after a crash."""
    path, head = written(tmp_path / "ledger.jsonl"), tmp_path / "ledger.head"
    old = head.read_bytes()
    written(path, 3)  # three lines more than were written
    head.write_bytes(old)
    with pytest.raises(LedgerError, match="head file was changed"):
        list(read(path))
    path.unlink()
    head.unlink()
    ledger = Ledger(path, POLICY)
    for number in range(count):
        ledger.append(run="1f", kind="refusal", step=number, payload=b"")
    ledger.close()
    head.write_bytes(old)
    with pytest.raises(LedgerError, match="head file was changed"):
        list(read(path))
    head.unlink()
    with pytest.raises(LedgerError, match="it was taken away"):
        list(read(path))


def test_a_ledger_that_cannot_be_opened_says_so_without_its_path(tmp_path):
    (tmp_path / "secret").write_text("no folder")
    with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be opened") as caught:
        Ledger(tmp_path / "secret" / "ledger.jsonl", POLICY)
    assert "secret" not in str(caught.value)


def test_a_site_that_stopped_in_a_line_or_between_line_and_head_goes_on(tmp_path):
    path = written(tmp_path / "ledger.jsonl", 3)
    head, whole = (tmp_path / "ledger.head").read_bytes(), path.read_bytes()
    path.write_bytes(whole + b'{"number":4,"time":"2026')
    assert len(list(read(path))) == 3  # it is no fault of the books
    ledger = Ledger(path, POLICY)
    assert path.read_bytes() == whole
    ledger.append(run="1f", kind="judgement", step=3, payload=b"")
    ledger.close()
    (tmp_path / "ledger.head").write_bytes(head)
    assert len(list(read(path))) == 4
    Ledger(path, POLICY).close()  # and the head is brought up to the line
    path.write_bytes(whole)
    with pytest.raises(LedgerError, match="cut off the end"):
        list(read(path))


def test_a_ledger_can_be_read_while_its_site_writes_on(tmp_path):
    path = written(tmp_path / "ledger.jsonl", 3)
    ledger = Ledger(path, POLICY)
    reading = read(path)
    assert next(reading).number == 1
    for step in range(3, 300):
        ledger.append(run="1f", kind="judgement", step=step, payload=bytes(step))
    assert list(reading)[-1].number > 4
    reading = read(path)
    assert next(reading).number == 1
    ledger.close()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:200]))
    with pytest.raises(LedgerError, match="cut off the end"):
        list(reading)
    with pytest.raises(LedgerError, match="ends with line 200, but 300 were written"):
        list(read(path))


def test_a_ledger_has_one_writer_and_once_closed_writes_nothing_into_whatever_has_its_place(
    tmp_path,
):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, POLICY)
    with pytest.raises(LedgerError, match="started twice"):
        Ledger(path, POLICY)
    ledger.append(run="1f", kind="card", step=0, payload=b"")
    ledger.close()
    with (tmp_path / "other").open("wb"):  # the system gives it the number that is free now
        with pytest.raises(LedgerError, match=r"ledger\.jsonl was closed"):
            ledger.append(run="1f", kind="judgement", step=0, payload=b"")
        assert not (tmp_path / "other").stat().st_size
    Ledger(path, POLICY).close()
    assert [entry.kind for entry in read(path)] == ["card"]


def test_when_the_ledger_cannot_be_written_nothing_is_promised(tmp_path, monkeypatch):
    ledger, write = Ledger(tmp_path / "ledger.jsonl", POLICY), os.write

    def full(*_):
        raise OSError(28, "No space left on device")

    for place, fails, said in (
        ("os.write", full, "No space left on device.*nothing may leave"),
        ("os.write", lambda file, line: write(file, line[:7]), "the disk is full"),
        ("asyndgan.privacy.ledger._write_head", full, "nothing may leave"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, fails)
            with pytest.raises(LedgerError, match=said):
                ledger.append(run="1f", kind="card", step=0, payload=b"")
    ledger.append(run="1f", kind="card", step=0, payload=b"")  # somebody made room
    ledger.close()
    assert len(list(read(tmp_path / "ledger.jsonl"))) == 1


def test_many_callers_at_once_get_one_answer_and_each_has_a_line(tiny, make_cohort, tmp_path):
    recipe = tiny("masks.release=false", "training.steps=4")
    policy = Policy.from_toml(
        "[allows]\nmost_answers = 5\nunmeasured = true\nfewest_patients = 1\n"
        "[leaves]\nmasks = 'transient'"
    )
    site = Site("north", make_cohort(recipe, cases=6), recipe, folder=tmp_path, policy=policy)
    endpoint = Endpoint(site, limit=2**20)
    endpoint.answer(pack(Open(run="1f", recipe=recipe.digest(), step=0), {}))
    judge = Judge(run="1f", step=0, batch=0, images=torch.zeros(2, 1, *recipe.space))
    with ThreadPoolExecutor(8) as callers:
        answers = {*callers.map(endpoint.answer, [pack(judge, {"images": "uint8"})] * 16)}
    endpoint.close()
    (answer,) = answers
    assert isinstance(unpack(answer, ANSWERS, limit=2**20), Judgement)
    assert site.release.ledger and site.release.ledger.tally.answers == 2  # the card brought masks
    lines = list(read(tmp_path / "ledger.jsonl"))
    assert [one.kind for one in lines] == ["card"] + ["judgement"] * 16

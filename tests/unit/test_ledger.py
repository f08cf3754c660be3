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
from asyndgan.wire import ANSWERS, Card, Judge, Judgement, Open, pack, unpack

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


def test_lines_that_were_written_anew_do_not_pass_for_the_old_ones(tmp_path):
    """Whoever forges all lines and not the head: also one line more, as after a crash."""
    path = written(tmp_path / "ledger.jsonl")
    head = (tmp_path / "ledger.head").read_bytes()
    for count in (4, 5):
        path.unlink()
        (tmp_path / "ledger.head").unlink()
        ledger = Ledger(path, POLICY)
        for number in range(count):
            ledger.append(run="1f", kind="refusal", step=number, payload=b"")
        ledger.close()
        (tmp_path / "ledger.head").write_bytes(head)
        with pytest.raises(LedgerError, match="head file was changed"):
            list(read(path))
    (tmp_path / "ledger.head").unlink()
    with pytest.raises(LedgerError, match="it was taken away"):
        list(read(path))


def test_a_ledger_that_cannot_be_opened_says_so_without_its_path(tmp_path):
    (tmp_path / "secret").write_text("no folder")
    with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be opened") as caught:
        Ledger(tmp_path / "secret" / "ledger.jsonl", POLICY)
    assert "secret" not in str(caught.value)


def test_a_line_that_was_being_written_when_the_site_stopped_is_dropped(tmp_path):
    path = written(tmp_path / "ledger.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number":5,"time":"2026')
    assert len(list(read(path))) == 4  # it is no fault of the books
    ledger = Ledger(path, POLICY)
    ledger.close()
    assert path.read_bytes() == whole


def test_a_site_that_stopped_between_line_and_head_goes_on(tmp_path):
    path = written(tmp_path / "ledger.jsonl", 3)
    head = (tmp_path / "ledger.head").read_bytes()
    ledger = Ledger(path, POLICY)
    ledger.append(run="1f", kind="judgement", step=3, payload=b"")
    ledger.close()
    (tmp_path / "ledger.head").write_bytes(head)
    assert len(list(read(path))) == 4
    Ledger(path, POLICY).close()  # and the head is brought up to the line
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
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


def test_lines_that_were_added_at_the_end_are_found(tmp_path):
    path = written(tmp_path / "ledger.jsonl", 2)
    head = (tmp_path / "ledger.head").read_bytes()
    written(path, 3)
    (tmp_path / "ledger.head").write_bytes(head)
    with pytest.raises(LedgerError, match="its head file was changed"):
        list(read(path))


def test_a_site_that_is_started_twice_is_told_so(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", POLICY)
    with pytest.raises(LedgerError, match="started twice"):
        Ledger(tmp_path / "ledger.jsonl", POLICY)
    ledger.close()
    Ledger(tmp_path / "ledger.jsonl", POLICY).close()


def test_a_closed_ledger_writes_nothing_into_whatever_file_has_its_place_now(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", POLICY)
    ledger.append(run="1f", kind="card", step=0, payload=b"")
    ledger.close()
    with (tmp_path / "other").open("wb"):  # the system gives it the number that is free now
        with pytest.raises(LedgerError, match=r"ledger\.jsonl was closed"):
            ledger.append(run="1f", kind="judgement", step=0, payload=b"")
        assert not (tmp_path / "other").stat().st_size
    assert [entry.kind for entry in read(tmp_path / "ledger.jsonl")] == ["card"]


def test_when_the_ledger_cannot_be_written_nothing_is_promised(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.jsonl", POLICY)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(LedgerError, match=r"No space left on device.*nothing may leave"):
        ledger.append(run="1f", kind="card", step=0, payload=b"")
    monkeypatch.undo()
    write = os.write

    def nearly_full(file, line):
        return write(file, line[:7])

    monkeypatch.setattr("os.write", nearly_full)
    with pytest.raises(LedgerError, match="the disk is full"):
        ledger.append(run="1f", kind="card", step=0, payload=b"")
    monkeypatch.undo()

    def no_head(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asyndgan.privacy.ledger._write_head", no_head)
    with pytest.raises(LedgerError, match="nothing may leave"):
        ledger.append(run="1f", kind="card", step=0, payload=b"")
    monkeypatch.undo()
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

    def ask(message):
        return unpack(endpoint.answer(pack(message, {"images": "uint8"})), ANSWERS, limit=2**20)

    card = ask(Open(run="1f", recipe=recipe.digest(), step=0))
    assert isinstance(card, Card)
    images = torch.zeros(2, 1, *recipe.space)
    judge = Judge(run="1f", step=0, batch=card.batch, images=images)
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, [judge] * 16))
    endpoint.close()
    judged = [one for one in answers if isinstance(one, Judgement)]
    assert len(judged) == 16
    assert len({one.feedback.numpy().tobytes() for one in judged}) == 1
    assert site.release.ledger and site.release.ledger.tally.answers == 2  # the card brought masks
    lines = list(read(tmp_path / "ledger.jsonl"))
    assert [one.kind for one in lines] == ["card"] + ["judgement"] * 16

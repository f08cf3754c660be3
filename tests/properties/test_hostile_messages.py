"""Whatever arrives, each half of the protocol answers with one of our errors, or a right answer.

Mutations start from real messages, so that they get past the first checks: flipped bits, inserted
and missing bytes, swapped and foreign header fields, announced sizes that no machine holds,
compression bombs, nested JSON, replays.
"""

import json
import math
import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyndgan.engines.framing import FRAME, Frames
from asyndgan.errors import (
    CohortError,
    NotFiniteError,
    ProtocolError,
    QuorumError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.protocol import Exchange, Transport
from asyndgan.training import Coordinator
from asyndgan.wire.audited import EvaluationFigures, ScoreFigures
from asyndgan.wire.messages import (
    ANSWERS,
    HEADER_LIMIT,
    MAGIC,
    PREFIX,
    VERSION,
    Card,
    Evaluate,
    Evaluated,
    Judge,
    Judgement,
    Message,
    Open,
    Refusal,
    Save,
    pack,
    unpack,
)
from spoiling import fuzz, places

RUN = "abc123"
LIMIT = 2**17


def split(payload: bytes) -> tuple[Any, bytes]:
    """Header and body of a message."""
    _, _, size = PREFIX.unpack_from(payload)
    start = PREFIX.size + size
    return json.loads(payload[PREFIX.size : start]), payload[start:]


def joined(header: object, body: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return PREFIX.pack(MAGIC, VERSION, len(encoded)) + encoded + body


def judge_of(step: int = 0, batch: int = 0, value: float = 0.1) -> Judge:
    images = torch.full((2, 1, 16, 16), value)
    return Judge(run=RUN, step=step, batch=batch, images=images)


def card_of() -> Card:
    return Card(
        run=RUN, step=0, cases=3, share=3.0, modalities=["T1"], parts=[1.0],
        labels={"0": "background", "1": "organ", "2": "lesion"}, space=[16, 16], batch=0,
        conditions=torch.ones(2, 16, 16, dtype=torch.int64), keep=True,
    )  # fmt: skip


def judgement_of(**changes: object) -> Judgement:
    fields: dict[str, Any] = {
        "run": RUN, "step": 0, "losses": {"adversarial": 0.7},
        "feedback": torch.full((2, 1, 16, 16), 1e-3), "batch": 1,
        "conditions": torch.ones(2, 16, 16, dtype=torch.int64),
    }  # fmt: skip
    return Judgement(**{**fields, **changes})


def with_array(payload: bytes, name: str, body: bytes | None = None, **changes: object) -> bytes:
    """A message whose header, and bytes, say something else of one of its arrays."""
    header, rest = split(payload)
    start = 0
    for field, array in header["arrays"].items():
        end = start + array["size"]
        if field == name:
            if body is not None:
                rest = rest[:start] + body + rest[end:]
                array["size"] = len(body)
            array.update(changes)
        start = end
    return joined(header, rest)


def packed(message: Message) -> bytes:
    codings: dict[str, Any] = {"images": "float16", "feedback": "float16", "conditions": "label8"}
    return pack(message, codings)


GOOD_REQUESTS = [
    packed(Open(run=RUN, recipe="0" * 64, step=0)),
    packed(judge_of()),
    packed(Save(run=RUN, step=0)),
    packed(
        Evaluate(
            run=RUN, recipe="", facts="", network="unet", width=4,
            weights=torch.arange(64, dtype=torch.uint8),
        )
    ),
]  # fmt: skip
SCORE = ScoreFigures(name="organ", patients=9, score=0.5, low=0.4, high=0.6)
GOOD_ANSWERS = [
    packed(card_of()),
    packed(judgement_of()),
    packed(Refusal(run=RUN, code="order", reason="no")),
    packed(Evaluated(run=RUN, asked="0" * 64, found=EvaluationFigures(scores=[SCORE]))),
]
NOTHING = zstandard.ZstdCompressor().compress(b"")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["judge", "card", "float32", "label16", "images", RUN, "\ud800", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, good: list[bytes]) -> bytes:
    payload = draw(st.sampled_from(good))
    if draw(st.booleans()):
        header, body = split(payload)
        for _ in range(draw(st.integers(1, 3))):
            *path, last = draw(st.sampled_from(list(places(header))))
            table = header
            for key in path:
                table = table[key]
            change = draw(st.sampled_from(["replace", "remove", "add", "swap"]))
            if change == "remove":
                del table[last]
            elif change == "add" and isinstance(table, dict):
                table[draw(st.text(max_size=4))] = draw(json_values)
            elif change == "swap":
                *elsewhere, key = draw(st.sampled_from(list(places(header))))
                other = header
                for step in elsewhere:
                    other = other[step]
                if not isinstance(table[last], (dict, list)):
                    other[key] = table[last]
            else:
                table[last] = draw(json_values)
            if not list(places(header)):
                break
        return joined(header, body)
    raw = bytearray(payload)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        change = draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
        if change == "flip" and at < len(raw):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "insert":
            raw[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif change == "delete":
            del raw[at : at + draw(st.integers(1, 8))]
        elif change == "cut":
            del raw[at:]
    return bytes(raw)


@pytest.fixture(scope="module")
def federation(tiny, make_sites):
    return make_sites(tiny())


def opening(federation: Any) -> bytes:
    return packed(Open(run=RUN, recipe=federation.recipe.digest(), step=0))


def answered(federation: Any, payload: bytes) -> Message:
    """A site's answer, which must be a valid message whatever was asked."""
    answer = federation.endpoint("north").answer(payload)
    return unpack(answer, ANSWERS, limit=federation.exchange.limit)


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# A site


@fuzz
@given(mutated(GOOD_REQUESTS))
def test_a_site_answers_any_bytes_with_a_valid_message(federation, payload):
    answered(federation, opening(federation))
    answer = answered(federation, payload)
    assert answer.run in (RUN, "0") or isinstance(answer, Refusal)


@fuzz
@given(st.binary(max_size=64) | st.binary(max_size=64).map(joined))
@example(b"")
@example(b"ADG")
@example(PREFIX.pack(MAGIC, VERSION, 2**32 - 1))
@example(PREFIX.pack(MAGIC, VERSION + 1, 2) + b"{}")
@example(joined(b"[" * HEADER_LIMIT))
@example(joined(b'{"a":' * (HEADER_LIMIT // 5)))
@example(joined(b'{"kind":"open","arrays":{},"fields":' + b"[" * 900 + b"]" * 900 + b"}"))
@example(joined(b'{"kind":"save","arrays":{},"fields":{"run":"a","step":' + b"9" * 5000 + b"}}"))
@example(joined(b'{"kind":"save","arrays":{},"fields":{"run":"a","step":NaN}}'))
@example(joined(b'{"kind":"save","arrays":{},"fields":{"run":"a","step":true}}'))
@example(joined(b'{"kind":"\\ud800","arrays":{},"fields":{}}'))
@example(joined(b'{"kind":"save","arrays":{},"fields":{"run":"\\ud800","step":1,"\\udfff":2}}'))
@example(joined('{"kind":"close","arrays":{},"fields":{"run":"def"}}'.encode("utf-16")))
def test_a_site_refuses_bytes_that_are_no_request(federation, payload):
    assert isinstance(answered(federation, payload), Refusal)


def array_header(**changes: object) -> bytes:
    return with_array(packed(judge_of()), "images", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [2**30, 2**30, 2**30, 2**30]}, {"shape": [2**31 - 1] * 5},
        {"shape": [2, 1, 16, 17]}, {"shape": [0, 1, 16, 16]}, {"shape": [2, -1, 16, -16]},
        {"shape": [2.0, 1, 16, 16]}, {"shape": [2] * 600}, {"shape": []}, {"coding": "float64"},
        {"coding": "int8"}, {"coding": "label8"}, {"coding": "x" * 60000}, {"size": 0},
        {"size": 2**39}, {"size": -1}, {"size": 2**70},
    ],
)  # fmt: skip
def test_an_array_that_is_not_as_announced_is_refused_before_it_is_allocated(federation, changes):
    answered(federation, opening(federation))
    with little_memory(2_000_000):
        assert isinstance(answered(federation, array_header(**changes)), Refusal)


@pytest.mark.parametrize("announced", [True, False])
def test_a_bomb_in_a_message_is_refused_within_the_announced_size(federation, announced):
    compressor = zstandard.ZstdCompressor(write_content_size=announced)
    bomb = compressor.compress(bytes(100_000_000))
    with little_memory(2_000_000):
        assert isinstance(answered(federation, array_header(body=bomb)), Refusal)


def test_a_refusal_repeats_no_control_character_of_what_came(federation):
    for text in ("\x1b[2J", "\x9b2J", "\r\n", "\x00"):
        answer = answered(federation, array_header(coding=text))
        assert isinstance(answer, Refusal)
        assert answer.reason.isprintable()
        header, body = split(packed(Refusal(run=RUN, code="order", reason="no")))
        header["fields"]["reason"] = text
        with pytest.raises(WireError):
            unpack(joined(header, body), ANSWERS, limit=LIMIT)


def test_a_site_that_was_attacked_goes_on_as_if_nothing_had_been(tiny, make_sites):
    quiet, attacked = make_sites(tiny()), make_sites(tiny())
    attacks = [GOOD_REQUESTS[1][:-1], b"", array_header(shape=[2, 1, 16, 17]), GOOD_ANSWERS[0]]
    answers = []
    for federation, noise in ((quiet, []), (attacked, attacks)):
        endpoint = federation.endpoint("north")
        own = [endpoint.answer(opening(federation))]
        for step in range(3):
            for attack in noise:
                assert isinstance(answered(federation, attack), Refusal)
            own.append(endpoint.answer(packed(judge_of(step, step))))
        answers.append(own)
    assert answers[0] == answers[1]


@settings(fuzz, max_examples=settings.default.max_examples // 2)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_replayed_and_reordered_requests_train_each_step_once_at_most(tiny, make_sites, order):
    federation = make_sites(tiny())
    site, endpoint = federation.sites["north"], federation.endpoint("north")
    requests = [
        opening(federation),
        *[packed(judge_of(step, step)) for step in range(3)],
        packed(judge_of(0, 0, value=0.9)),
        packed(Save(run=RUN, step=0)),
    ]
    last: dict[int, bytes] = {}
    trained = 0
    before: int | None = None
    for number in order:
        at = site.step
        answer = endpoint.answer(requests[number])
        message = unpack(answer, ANSWERS, limit=federation.exchange.limit)
        if isinstance(message, Judgement):
            if number == before:
                assert answer == last[number]
            else:
                trained += 1
                assert site.next_batch == message.batch
            last[number] = answer
            before = number
        elif not isinstance(message, Refusal):
            before = None
        assert site.step >= (0 if number == 0 else at)
    moments = site.objective.discriminator_optimiser.state_dict()["state"]
    updates = {int(state["step"]) for state in moments.values()} or {0}
    assert updates <= {site.next_batch}
    assert site.next_batch <= trained


# The coordinator


@pytest.mark.parametrize("coding", ["float32", "int4"])
def test_an_array_with_an_empty_axis_is_refused_however_long_the_others_are(coding):
    shape = [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]
    hostile = with_array(GOOD_ANSWERS[1], "feedback", NOTHING, shape=shape, coding=coding)
    with pytest.raises(WireError, match="no axis may be empty"):
        unpack(hostile, ANSWERS, limit=LIMIT)


class Hostile(Transport):
    """A site that answers with whatever it likes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        return self.answer

    def sites(self) -> tuple[str, ...]:
        return ("north",)


@fuzz
@given(mutated(GOOD_ANSWERS) | st.binary(max_size=64) | st.binary(max_size=64).map(joined))
@example(joined(b"[" * HEADER_LIMIT))
@example(b"")
def test_an_exchange_with_a_hostile_site_ends_in_an_answer_or_one_of_our_errors(
    federation, payload
):
    exchange = federation.exchange
    exchange.transport = Hostile(payload)
    try:
        result = exchange.ask({"north": judge_of()})
    finally:
        exchange.transport = federation.line
    assert len(result.answers) + len(result.missed) == 1


@fuzz
@given(payload=mutated(GOOD_ANSWERS[:1]))
@example(packed(card_of().model_copy(update={"space": [4096] * 3})))
@example(packed(card_of().model_copy(update={"labels": {"65536": "lesion"}})))
@example(packed(card_of().model_copy(update={"modalities": ["T1", "T1"]})))
@example(packed(card_of().model_copy(update={"labels": {"9" * 5000: "lesion"}})))
@example(packed(card_of().model_copy(update={"conditions": torch.full((2, 16, 16), 3)})))
@example(packed(card_of().model_copy(update={"conditions": torch.zeros(2, 16, 15).long()})))
@example(with_array(GOOD_ANSWERS[0], "conditions", NOTHING, shape=[0, 16, 16]))
def test_a_run_begins_with_a_hostile_card_or_says_why_not(tiny, payload):
    recipe = tiny()
    exchange = Exchange(Hostile(payload), recipe)
    try:
        coordinator = Coordinator.begin(recipe, exchange, run=RUN)
    except (CohortError, QuorumError, WireError):
        return
    finally:
        exchange.close()
    assert coordinator.scope.space == (16, 16)
    assert len(coordinator.scope.modalities) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (None, "did not answer step 0"),  # but with a card
        ({"step": 1}, "did not answer step 0"),
        ({"feedback": torch.zeros(1, 1, 16, 16)}, "feedback of shape"),
        ({"feedback": torch.zeros(2, 1, 256)}, "feedback of shape"),
        ({"conditions": torch.zeros(2).long()}, "conditions of shape"),
        ({"conditions": torch.full((2, 16, 16), 3)}, "a label above 2"),
        ({"run": "def"}, "answered for another run"),
    ],
)
def test_a_judgement_that_does_not_fit_is_missed_and_moves_nothing(
    tiny, make_sites, changes, reason
):
    federation = make_sites(tiny())
    coordinator = federation.begin()
    hostile = packed(card_of() if changes is None else judgement_of(**changes))
    federation.line.tap = lambda site, answer: hostile if site == "south" else answer
    report = coordinator.step()
    assert reason in report.missed["south"]
    assert report.shares == {"north": 1.0}
    assert list(coordinator.members) == ["north"]


def test_a_narrow_coding_announces_what_it_becomes_in_memory():
    feedback, narrow = torch.zeros(2, 1, 64, 64), 2**12 * 3  # half a byte a number, then four
    payload = pack(judgement_of(feedback=feedback), {"feedback": "int4", "conditions": "label8"})
    with pytest.raises(WireError, match="the limit is"):
        unpack(payload, ANSWERS, limit=narrow)
    unpack(payload, ANSWERS, limit=4 * feedback.numel() + 8 * 2 * 16 * 16)


@pytest.mark.parametrize(
    ("coding", "value"),
    [("float32", math.nan), ("float16", math.inf), ("int8", -math.inf), ("int4", math.nan)],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_feedback_that_is_not_finite_counts_as_missed_and_spoils_nothing(
    tiny, make_sites, coding, value
):
    federation = make_sites(tiny())
    coordinator = federation.begin()
    feedback = torch.full((2, 1, 16, 16), 0.1)
    feedback[1, 0, 2, 2] = value
    hostile = pack(judgement_of(feedback=feedback), {"feedback": coding, "conditions": "label8"})
    federation.line.tap = lambda site, answer: hostile if site == "south" else answer
    report = coordinator.step()
    assert "site south, step 0: feedback is not finite" in report.missed["south"]
    assert set(report.shares) == {"north"}
    assert all(parameter.isfinite().all() for parameter in coordinator.generator.parameters())
    later = judgement_of(feedback=feedback, step=1)
    every = pack(later, {"feedback": coding, "conditions": "label8"})
    federation.line.tap = lambda site, answer: every
    before = [p.clone() for p in coordinator.generator.parameters()]
    with pytest.raises(NotFiniteError, match="site north, step 1"):
        coordinator.step()
    after = list(coordinator.generator.parameters())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, after, strict=True))


@pytest.mark.parametrize("value", [1.01, -1.01, math.nan, math.inf])
def test_a_site_judges_no_images_that_no_generator_paints(tiny, make_sites, value):
    """With ever brighter ones a coordinator could find where this site's numbers overflow."""
    federation = make_sites(tiny())
    federation.begin()
    site = federation.sites["north"]
    images = torch.ones(2, 1, 16, 16)
    images[1, 0, 3, 3] = value
    before = [p.clone() for p in site.objective.discriminator.parameters()]
    asked = Judge(run=site.run, step=0, batch=0, images=images)
    with pytest.raises((ProtocolError, NotFiniteError), match=r"outside -1 to 1|are not finite"):
        site.handle(asked)
    after = list(site.objective.discriminator.parameters())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, after, strict=True))
    fine = images.nan_to_num().clamp(-1, 1)
    site.handle(asked.model_copy(update={"images": fine}))


def test_one_site_that_is_not_finite_while_others_are_silent_ends_no_run(tiny, make_sites):
    federation = make_sites(tiny("quorum.least=0.5"))
    coordinator = federation.begin()
    feedback = torch.full((2, 1, 16, 16), math.nan)
    hostile = pack(judgement_of(feedback=feedback), {"feedback": "int4", "conditions": "label8"})
    federation.line.tap = lambda site, answer: hostile if site == "south" else b""
    report = coordinator.step()
    assert set(report.missed) == {"north", "south"}
    assert not report.updated


# Frames


@pytest.fixture
def line():
    ours, theirs = socket.socketpair()
    frames = Frames(ours, limit=1000)
    yield frames, theirs
    frames.close()
    theirs.close()


@pytest.mark.parametrize("size", [1001, 2**64 - 1])
def test_a_frame_that_announces_too_much_is_refused_before_it_is_read(line, size):
    frames, other = line
    other.sendall(FRAME.pack(1, size))
    with little_memory(100_000), pytest.raises(WireError, match="1000 are allowed"):
        frames.receive(1.0)


def test_half_a_frame_is_waited_for_and_then_read_on(line):
    frames, other = line
    whole = FRAME.pack(7, 4) + b"abcd"
    other.sendall(FRAME.pack(3, 0))
    assert frames.receive(1.0) == (3, b"")
    for part in (whole[:5], whole[5:18]):
        other.sendall(part)
        with pytest.raises(SiteUnreachableError, match="no answer in time"):
            frames.receive(0.01)
    other.sendall(whole[18:])
    assert frames.receive(1.0) == (7, b"abcd")


def test_what_was_begun_is_sent_first_and_nothing_piles_up_behind_it():
    ours, theirs = socket.socketpair()
    sender, receiver = Frames(ours, limit=2**24), Frames(theirs, limit=2**24)
    large = bytes(range(256)) * 2**13  # two megabytes: more than a socket holds
    with pytest.raises(SiteUnreachableError):
        sender.send(1, large, timeout=0.05)
    with pytest.raises(SiteUnreachableError):
        sender.send(2, b"never begun", timeout=0.05)
    received: list[tuple[int, bytes]] = []
    reader = threading.Thread(target=lambda: received.extend(receiver.receive(10) for _ in "12"))
    reader.start()
    sender.send(3, b"last", timeout=10)
    reader.join()
    assert received == [(1, large), (3, b"last")]
    sender.close()
    receiver.close()


@given(st.binary(min_size=16, max_size=64))
def test_any_bytes_on_a_connection_are_a_frame_or_one_of_our_errors(raw):
    ours, theirs = socket.socketpair()
    frames = Frames(ours, limit=32)
    theirs.sendall(raw)
    theirs.close()
    _, size = struct.unpack_from("<QQ", raw)
    try:
        _, payload = frames.receive(1.0)
        assert len(payload) == size <= 32
    except (SiteUnreachableError, WireError):
        assert size > min(32, len(raw) - 16)
    frames.close()

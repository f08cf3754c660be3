import math
from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from asyndgan.errors import WireError
from asyndgan.recipe import QuorumSection
from asyndgan.texts import LARGEST_NUMBER
from asyndgan.training.quorum import Quorum, normalised
from asyndgan.wire.codec import LABEL_CODINGS, Coding, decode, encode, through
from asyndgan.wire.messages import (
    ANSWERS,
    LEAST_SHARE,
    REQUESTS,
    Card,
    Close,
    Closed,
    Judge,
    Judgement,
    Open,
    Refusal,
    Save,
    Saved,
    array_schemas,
    pack,
    unpack,
)

LIMIT = 2**16
FLOATS = sorted({*get_args(Coding)} - {*LABEL_CODINGS})

shapes = st.lists(st.integers(1, 6), min_size=3, max_size=5).map(tuple)
finite = st.floats(-(2.0**60), 2.0**60, width=32)
pixels = st.floats(-1, 1, width=32)


def tensors(elements: st.SearchStrategy, shape: st.SearchStrategy = shapes) -> st.SearchStrategy:
    return arrays.arrays("f4", shape, elements=elements).map(torch.from_numpy)


def labels(shape: st.SearchStrategy, highest: int) -> st.SearchStrategy:
    elements = st.integers(0, highest)
    return arrays.arrays("i8", shape, elements=elements).map(torch.from_numpy)


def peaks(array: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each image, beside every pixel of it."""
    return array.abs().flatten(1).amax(1).reshape(-1, *[1] * (array.ndim - 1))


@pytest.mark.parametrize(
    ("coding", "error"), [("float16", 2**-11), ("int8", 0.5 / 127), ("int4", 0.5 / 7)]
)
@given(array=tensors(finite))
def test_feedback_arrives_within_the_codings_error(coding, error, array):
    arrived = decode(encode(array, coding), tuple(array.shape), coding)
    assert arrived.shape == array.shape
    # Below the smallest float32s a scale has no digits left to be exact with.
    assert ((arrived - array).abs() <= error * 1.001 * peaks(array) + 1e-37).all()


@pytest.mark.parametrize("coding", FLOATS)
@given(array=tensors(pixels))
def test_images_arrive_as_the_coding_keeps_them(coding, array):
    arrived = decode(encode(array, coding), tuple(array.shape), coding)
    assert torch.equal(arrived, through(array, coding))


runs = st.text("0123456789abcdef", min_size=1, max_size=64)
counts = st.integers(0, 2**53 - 1)
text = st.characters(exclude_categories=["C", "Zl", "Zp"])
names = st.text(text, min_size=1, max_size=64)
masks = labels(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)), 300)
parts = st.floats(LEAST_SHARE, 1)
numbers = st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
messages = st.one_of(
    st.builds(Open, run=runs, recipe=digests, step=counts),
    st.builds(
        Card, run=runs, step=counts, cases=st.integers(1, 2**53 - 1),
        share=st.floats(LEAST_SHARE, 2.0**52), modalities=st.lists(names, min_size=1, max_size=4),
        parts=st.lists(parts, min_size=1, max_size=4),
        labels=st.dictionaries(st.integers(0, 99999).map(str), names, min_size=1, max_size=4),
        space=st.lists(st.integers(1, 4096), min_size=1, max_size=3), batch=counts,
        conditions=masks, keep=st.booleans(),
    ),
    st.builds(Judge, run=runs, step=counts, batch=counts, images=tensors(pixels)),
    st.builds(
        Judgement, run=runs, step=counts, losses=st.dictionaries(names, numbers, max_size=3),
        feedback=tensors(finite), batch=counts, conditions=masks,
    ),
    st.builds(Save, run=runs, step=counts), st.builds(Saved, run=runs, step=counts),
    st.builds(Close, run=runs), st.builds(Closed, run=runs),
    st.builds(
        Refusal, run=runs, code=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=32),
        reason=st.text(text, max_size=500),
    ),
)  # fmt: skip
CODINGS: Mapping[str, Coding] = {
    "images": "float32",
    "feedback": "float32",
    "conditions": "label16",
}


@given(messages)
def test_a_message_arrives_as_it_was_sent(message):
    arrived = unpack(pack(message, CODINGS), {**REQUESTS, **ANSWERS}, limit=LIMIT)
    assert type(arrived) is type(message)
    for name in type(message).model_fields:
        sent, came = getattr(message, name), getattr(arrived, name)
        assert torch.equal(came, sent) if name in array_schemas(type(message)) else came == sent


@given(messages)
def test_a_party_takes_only_the_messages_that_are_for_it(message):
    payload = pack(message, CODINGS)
    wrong = ANSWERS if message.kind in REQUESTS else REQUESTS
    with pytest.raises(WireError):
        unpack(payload, wrong, limit=LIMIT)


@given(messages, st.data())
def test_a_part_of_a_message_is_no_message(message, data):
    payload = pack(message, CODINGS)
    end = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(WireError):
        unpack(payload[:end], {message.kind: type(message)}, limit=LIMIT)
    with pytest.raises(WireError):
        unpack(payload + b"\0", {message.kind: type(message)}, limit=LIMIT)


@given(st.dictionaries(st.text(max_size=3), st.floats(1e-3, 1e9), min_size=1, max_size=8))
def test_shares_sum_to_one_and_keep_their_proportions(declared):
    shares = normalised(declared)
    assert list(shares) == list(declared)
    assert math.isclose(sum(shares.values()), 1, rel_tol=1e-9)
    first, *others = declared
    assert all(
        math.isclose(shares[other] * declared[first], shares[first] * declared[other], rel_tol=1e-9)
        for other in others
    )


@given(
    st.dictionaries(st.text(max_size=3), st.floats(LEAST_SHARE, 2.0**53), min_size=1, max_size=8),
    st.floats(0.01, 1),
)
def test_no_share_is_above_what_the_recipe_lets_and_the_order_stays(declared, most):
    assert normalised({}, most) == {}  # nobody answered
    shares = normalised(declared, most)
    assert list(shares) == list(declared)
    assert math.isclose(sum(shares.values()), 1, rel_tol=1e-9)
    assert max(shares.values()) <= max(most, 1 / len(shares)) * (1 + 1e-9)
    for one in declared:
        for other in declared:
            if declared[one] <= declared[other]:
                assert shares[one] <= shares[other] * (1 + 1e-9)


@given(st.floats(0.001, 1), st.integers(1, 50))
def test_a_quorum_is_met_by_all_and_by_its_least_but_never_by_nobody(least, known):
    sites = [str(site) for site in range(known)]
    quorum = Quorum(QuorumSection(least=least), sites)
    assert 1 <= quorum.least <= known
    assert quorum.met_by(sites)
    assert quorum.met_by(sites[: quorum.least])
    assert not quorum.met_by(sites[: quorum.least - 1])
    assert quorum.least >= least * known - 1e-6

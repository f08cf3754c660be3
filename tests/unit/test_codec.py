from typing import get_args

import pytest
import torch

from asyndgan.errors import WireError
from asyndgan.wire.codec import LABEL_CODINGS, Coding, decode, encode, label_coding, through

CODINGS = get_args(Coding)


def gradient(scale: float = 1e-7) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return scale * torch.randn(3, 2, 8, 8, generator=random)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coding_applied_twice_changes_nothing_more(coding):
    # A site codes its real images; if they were coded before, they must stay as they are.
    array = gradient(0.3).clamp(-1, 1)
    if coding in LABEL_CODINGS:
        array = (array.abs() * 100).long()
    once = through(array, coding)
    assert torch.allclose(through(once, coding).float(), once.float(), rtol=1e-6, atol=0)


def test_labels_take_the_narrowest_coding_and_arrive_exactly():
    assert label_coding(torch.tensor([255])) == "label8"
    assert label_coding(torch.tensor([0, 256])) == "label16"
    for highest in (255, 65535):
        mask = torch.tensor([0, 1, highest])
        assert torch.equal(through(mask, label_coding(mask)), mask)


@pytest.mark.parametrize("coding", CODINGS)
def test_bytes_of_another_size_are_refused(coding):
    array = torch.ones(2, 1, 4, 4)
    payload = encode(array.long() if coding in LABEL_CODINGS else array, coding)
    for shape in [(2, 1, 4, 5), (2, 1, 4, 3), (0, 1, 4, 4), (2, 1, 4)]:
        with pytest.raises(WireError):
            decode(payload, shape, coding)


def test_what_follows_the_array_is_refused():
    payload = encode(torch.ones(1, 1, 2, 2), "float32")
    for more in (b"\0", payload):
        with pytest.raises(WireError):
            decode(payload + more, (1, 1, 2, 2), "float32")


@pytest.mark.parametrize("size", [2**40, 2**62, 2**64 - 3])
def test_a_frame_that_announces_what_no_machine_holds_is_refused(size):
    # Magic number, a header with an eight-byte content size, an empty last block.
    frame = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(WireError):
        decode(frame, (1, 1, 4, 4), "float32")


def framed(window_log: int, content: bytes) -> bytes:
    """A zstd frame that announces a window, and no content size; one block, not compressed."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00" + bytes([window_log - 10 << 3]) + block + content


def test_a_frame_that_announces_a_window_larger_than_its_array_is_refused():
    assert not decode(framed(10, bytes(64)), (1, 1, 4, 4), "float32").any()
    for window_log in (11, 27, 31):
        with pytest.raises(WireError):
            decode(framed(window_log, bytes(64)), (1, 1, 4, 4), "float32")


@pytest.mark.parametrize("side", [16, 1024])
def test_a_large_or_small_array_needs_no_larger_window_than_it_is_granted(side):
    labels = torch.arange(side * side).reshape(1, side, side) % 251
    for coding in LABEL_CODINGS:
        assert torch.equal(decode(encode(labels, coding), labels.shape, coding), labels)

import tracemalloc
from typing import get_args

import pytest
import torch
import zstandard

from asyndgan.errors import WireError
from asyndgan.wire import Coding, label_coding, through
from asyndgan.wire.codec import LABEL_CODINGS, decode, encode, raw_size

CODINGS = get_args(Coding)


def gradient(scale: float = 1e-7) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return scale * torch.randn(3, 2, 8, 8, generator=random)


@pytest.mark.parametrize(
    ("coding", "cosine"), [("float32", 1), ("float16", 0.999999), ("int8", 0.9998), ("int4", 0.98)]
)
def test_a_coding_keeps_the_direction_of_even_the_smallest_feedback(
    coding: Coding, cosine: float
) -> None:
    feedback = gradient(1e-20)
    arrived = decode(encode(feedback, coding), feedback.shape, coding)
    alike = torch.cosine_similarity(1e20 * feedback.flatten(1), 1e20 * arrived.flatten(1), dim=1)
    assert (alike >= cosine - 1e-6).all()


@pytest.mark.parametrize("coding", ["int8", "int4", "float16"])
def test_an_image_is_scaled_by_itself(coding: Coding) -> None:
    feedback = gradient()
    feedback[1] *= 1e6
    arrived = through(feedback, coding)
    assert torch.equal(arrived[0], through(feedback[:1], coding)[0])
    assert arrived[0].abs().max() > 0


@pytest.mark.parametrize("coding", ["float32", "float16", "int8", "int4"])
def test_zeros_arrive_as_zeros(coding: Coding) -> None:
    assert not through(torch.zeros(2, 1, 3, 3), coding).any()


@pytest.mark.parametrize("coding", ["float32", "float16", "int8", "int4"])
def test_an_odd_number_of_pixels_arrives_whole(coding: Coding) -> None:
    feedback = gradient()[:1, :1, :3, :3]
    assert through(feedback, coding).shape == (1, 1, 3, 3)
    assert through(feedback, coding)[0, 0, 2, 2].sign() == feedback[0, 0, 2, 2].sign()


def test_grey_values_are_rounded_to_the_nearest_of_256_and_clipped() -> None:
    image = torch.tensor([[-1.0, 1.0, 0.0, 7.0, -3.0, 0.005]])
    arrived = through(image, "uint8")
    assert (arrived - image.clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6
    assert arrived[0, :2].tolist() == [-1, 1]


@pytest.mark.parametrize("coding", CODINGS)
def test_a_coding_applied_twice_changes_nothing_more(coding: Coding) -> None:
    # A site codes its real images; if they were coded before, they must stay as they are.
    array = gradient(0.3).clamp(-1, 1)
    if coding in LABEL_CODINGS:
        array = (array.abs() * 100).long()
    once = through(array, coding)
    assert torch.allclose(through(once, coding).float(), once.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_travels_equals_what_through_says(coding: Coding) -> None:
    array = gradient(0.3)
    if coding in LABEL_CODINGS:
        array = (array.abs() * 100).long()
    arrived = decode(encode(array, coding), array.shape, coding)
    assert torch.equal(arrived, through(array, coding))
    assert arrived.dtype == (torch.int64 if coding in LABEL_CODINGS else torch.float32)


def test_labels_take_the_narrowest_coding_and_arrive_exactly() -> None:
    assert label_coding(torch.tensor([255])) == "label8"
    assert label_coding(torch.tensor([0, 256])) == "label16"
    for highest in (255, 65535):
        mask = torch.tensor([0, 1, highest])
        assert torch.equal(through(mask, label_coding(mask)), mask)


def test_the_integer_codings_are_a_quarter_and_an_eighth_of_float32() -> None:
    shape = (4, 1, 64, 64)
    full = raw_size(shape, "float32")
    assert raw_size(shape, "int8") == full / 4 + 16
    assert raw_size(shape, "int4") == full / 8 + 16


@pytest.mark.parametrize("coding", CODINGS)
def test_bytes_of_another_size_are_refused(coding: Coding) -> None:
    array = torch.ones(2, 1, 4, 4)
    payload = encode(array.long() if coding in LABEL_CODINGS else array, coding)
    for shape in [(2, 1, 4, 5), (2, 1, 4, 3), (0, 1, 4, 4), (2, 1, 4)]:
        with pytest.raises(WireError):
            decode(payload, shape, coding)


@pytest.mark.parametrize("payload", [b"", b"\0", b"nonsense", bytes(100)])
def test_what_is_no_zstd_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode(payload, (1, 1, 2, 2), "float32")


def test_what_follows_the_array_is_refused() -> None:
    payload = encode(torch.ones(1, 1, 2, 2), "float32")
    for more in (b"\0", payload):
        with pytest.raises(WireError):
            decode(payload + more, (1, 1, 2, 2), "float32")


@pytest.mark.parametrize("announced", [True, False])
def test_a_bomb_is_never_unpacked(announced: bool) -> None:
    writer = zstandard.ZstdCompressor(level=19, write_content_size=announced)
    bomb = writer.compress(bytes(100_000_000))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(bomb, (1, 1, 4, 4), "float32")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("size", [2**40, 2**62, 2**64 - 3])
def test_a_frame_that_announces_what_no_machine_holds_is_refused(size: int) -> None:
    # Magic number, a header with an eight-byte content size, an empty last block.
    frame = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(WireError):
        decode(frame, (1, 1, 4, 4), "float32")


def framed(window_log: int, content: bytes) -> bytes:
    """A zstd frame that announces a window, and no content size; one block, not compressed."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00" + bytes([window_log - 10 << 3]) + block + content


def test_a_frame_that_announces_a_window_larger_than_its_array_is_refused() -> None:
    assert not decode(framed(10, bytes(64)), (1, 1, 4, 4), "float32").any()
    for window_log in (11, 27, 31):
        with pytest.raises(WireError):
            decode(framed(window_log, bytes(64)), (1, 1, 4, 4), "float32")


@pytest.mark.parametrize("level", [1, 19])
@pytest.mark.parametrize("side", [16, 1024])
def test_a_large_or_small_array_needs_no_larger_window_than_it_is_granted(
    level: int, side: int
) -> None:
    labels = torch.arange(side * side).reshape(1, side, side) % 251
    for coding in LABEL_CODINGS:
        assert torch.equal(decode(encode(labels, coding, level), labels.shape, coding), labels)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_shape_that_no_array_can_have_is_refused(coding: Coding) -> None:
    nothing = zstandard.ZstdCompressor().compress(b"")
    for shape in [(0, 2**31 - 1, 2**31 - 1, 2**31 - 1), (2**31 - 1,) * 5]:
        with pytest.raises(WireError):
            decode(nothing, shape, coding)


def test_numbers_that_are_not_finite_arrive_as_such_and_are_the_receivers_to_refuse() -> None:
    feedback = torch.tensor([[[float("nan"), 1.0]], [[float("inf"), 1.0]]])
    assert not torch.isfinite(through(feedback, "float32")).all()

"""Arrays as bytes: a coding, which sets their precision, then zstd compression.

The recipe chooses the coding; the receiver reads it from the message. `float16`, `int8` and `int4`
keep one scale per image. There is no error feedback (adding the rounding residual to the next
gradient): the next gradient belongs to other images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
import zstandard
from torch import Tensor

from asyndgan.errors import WireError

Coding = Literal["float32", "float16", "uint8", "int8", "int4", "label8", "label16", "bytes"]
LABEL_CODINGS: tuple[Coding, ...] = ("label8", "label16")


@final
@dataclass(frozen=True)
class _Coder:
    """Turns an array into raw bytes and back, as float32, int64 or uint8."""

    size: Callable[[tuple[int, ...]], int]  # raw bytes of a shape
    write: Callable[[np.ndarray], bytes]
    read: Callable[[bytes, tuple[int, ...]], np.ndarray]


def encode(array: Tensor, coding: Coding) -> bytes:
    """Encodes and compresses an array: integers for labels, uint8 for `bytes`, else float.

    `uint8` is for images in [-1, 1], and clips what is outside.
    """
    raw = _CODERS[coding].write(array.detach().cpu().numpy())
    return zstandard.ZstdCompressor(level=1).compress(raw)


def decode(payload: bytes, shape: tuple[int, ...], coding: Coding) -> Tensor:
    """Restores an array that `encode` was given, as precisely as the coding keeps it.

    Never allocates more than they require; raises `WireError` for bytes that do not match.
    """
    size = _CODERS[coding].size(shape)
    try:
        # zstandard allocates what a frame announces, whatever max_output_size says. `encode` never
        # uses a window larger than its input; zstd sets the bounds of the limit itself.
        if zstandard.frame_content_size(payload) > size:
            raise WireError(f"an array of shape {shape} in {coding} announces over {size} bytes.")
        window = min(max(size, 2**zstandard.WINDOWLOG_MIN), 2**zstandard.WINDOWLOG_MAX)
        raw = zstandard.ZstdDecompressor(max_window_size=window).decompress(
            payload, max_output_size=max(size, 1), allow_extra_data=False
        )
        if len(raw) != size:
            raise WireError(
                f"an array of shape {shape} in {coding} takes {size} bytes; {len(raw)} came."
            )
        return torch.from_numpy(_CODERS[coding].read(raw, shape))
    except (zstandard.ZstdError, ValueError, OverflowError) as error:
        raise WireError(
            f"what came is no array of shape {shape} in {coding}, which takes {size} bytes."
        ) from error


def raw_size(shape: tuple[int, ...], coding: Coding) -> int:
    """Bytes of an array before compression."""
    return _CODERS[coding].size(shape)


def decoded_size(shape: tuple[int, ...], coding: Coding) -> int:
    """Bytes that an array takes once decoded, which may be many times those of its coding."""
    item = 8 if coding in LABEL_CODINGS else 1 if coding == "bytes" else 4
    return max(item * math.prod(shape), raw_size(shape, coding))


def through(array: Tensor, coding: Coding) -> Tensor:
    """The array as the receiver would decode it.

    Real images are passed through the coding of synthetic ones: otherwise a discriminator would
    learn to tell them apart by the rounding.
    """
    coder = _CODERS[coding]
    shape = tuple(array.shape)
    return torch.from_numpy(coder.read(coder.write(array.detach().cpu().numpy()), shape))


def label_coding(labels: Tensor) -> Coding:
    """The narrowest coding that holds these labels, 0 or more."""
    return "label8" if not labels.numel() or int(labels.max()) < 256 else "label16"


def _typed(dtype: str, result: type) -> _Coder:
    kind = np.dtype(dtype)

    def read(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(raw, kind).reshape(shape).astype(result)

    return _Coder(
        size=lambda shape: math.prod(shape) * kind.itemsize,
        write=lambda array: array.astype(kind).tobytes(),
        read=read,
    )


def _read_uint8(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    grey = np.frombuffer(raw, np.uint8).reshape(shape).astype(np.float32)
    return grey / np.float32(127.5) - np.float32(1)


def _scaled(array: np.ndarray, steps: int) -> tuple[bytes, np.ndarray]:
    """One float32 scale per image, as bytes, and the images divided by it, in -steps to steps."""
    rows = array.reshape(array.shape[0], math.prod(array.shape[1:])).astype(np.float32)
    scale = np.abs(rows).max(axis=1, initial=0).astype(np.float32) / np.float32(steps)
    safe = np.where(scale > 0, scale, np.float32(1))
    return scale.astype("<f4").tobytes(), rows / safe[:, None]


def _whole(rows: np.ndarray, steps: int) -> np.ndarray:
    return np.clip(np.rint(rows), -steps, steps).astype(np.int8)


def _reads(dtype: str) -> Callable[[bytes, tuple[int, ...]], np.ndarray]:
    return lambda raw, shape: _unscaled(raw, np.frombuffer(raw[4 * shape[0] :], dtype), shape)


def _unscaled(raw: bytes, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    scale = np.frombuffer(raw[: 4 * shape[0]], "<f4").astype(np.float32)
    rows = rows.reshape(shape[0], math.prod(shape[1:])).astype(np.float32)
    return (rows * scale[:, None]).reshape(shape)


def _write_float16(array: np.ndarray) -> bytes:
    # Gradients of a mean over pixels are far below the smallest normal float16.
    scale, rows = _scaled(array, 1)
    return scale + rows.astype("<f2").tobytes()


def _write_int8(array: np.ndarray) -> bytes:
    scale, rows = _scaled(array, 127)
    return scale + _whole(rows, 127).tobytes()


def _write_int4(array: np.ndarray) -> bytes:
    scale, rows = _scaled(array, 7)
    nibbles = (_whole(rows, 7).reshape(-1) + 8).astype(np.uint8)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(8))
    return scale + (nibbles[0::2] << 4 | nibbles[1::2]).tobytes()


def _read_int4(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    packed = np.frombuffer(raw[4 * shape[0] :], np.uint8)
    nibbles = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: math.prod(shape)]
    return _unscaled(raw, nibbles.astype(np.int8) - 8, shape)


_CODERS: dict[str, _Coder] = {
    "float32": _typed("<f4", np.float32),
    "float16": _Coder(
        lambda shape: 4 * shape[0] + 2 * math.prod(shape), _write_float16, _reads("<f2")
    ),
    "label8": _typed("u1", np.int64),
    "label16": _typed("<u2", np.int64),
    "bytes": _typed("u1", np.uint8),
    "uint8": _Coder(
        math.prod,
        lambda array: np.rint((np.clip(array, -1, 1) + 1) * 127.5).astype(np.uint8).tobytes(),
        _read_uint8,
    ),
    "int8": _Coder(lambda shape: 4 * shape[0] + math.prod(shape), _write_int8, _reads("i1")),
    "int4": _Coder(
        lambda shape: 4 * shape[0] + (math.prod(shape) + 1) // 2, _write_int4, _read_int4
    ),
}

"""Bounded reading of untrusted text files, and atomic writing of files."""

import json
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from asyndgan.errors import StorageError

NAME_LENGTH: Final = 64
Title = Annotated[str, Field(max_length=NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Name of a recipe or policy, without control characters: other parties' terminals print it."""
Name = Annotated[
    str, Field(min_length=1, max_length=NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")
]
"""Name of a modality, label or site, likewise without control characters."""

LONGEST_LINE: Final = 8192
"""Longest TOML line, in characters: the time to parse a key is quadratic in its number of dots."""

MOST_BYTES: Final = 2**20
"""Largest size of a recipe, a policy, a suite or a run's description of itself, in bytes."""


def bounded_text(path: Path, most: int = MOST_BYTES) -> str:
    """Reads a UTF-8 text file of limited size, without the mark that some editors begin it with.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is longer than `most` bytes or not valid UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"longer than {most} bytes")
    return content.decode("utf-8-sig")


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Writes a file atomically: after a crash or with a full disk, the old file remains.

    Args:
        path: the file.
        text: its new content.
        mode: permission bits of the file, before the process's umask is applied.
    """
    half = half_of(path)
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(text.encode("utf-8"))
    put_in_place(half, path)


def half_of(path: Path) -> Path:
    """Path of the temporary file that is written before it replaces `path` atomically."""
    return path.with_name(f".{path.name}.half")


def put_in_place(half: Path, path: Path) -> None:
    """Gives a written file its final name; after a power cut the old or the new one is there.

    File and folder are both synced, so that files that are put in place later do not survive a
    power cut that an earlier one does not.
    """
    _sync(half)
    half.replace(path)
    if sys.platform != "win32":
        _sync(path.parent)


@contextmanager
def stored_whole(path: Path) -> Iterator[Path]:
    """Yields the temporary file that becomes `path`, atomically; a failure leaves neither behind.

    Raises:
        StorageError: if it cannot be written: an `OSError` came.
    """
    half = half_of(path)
    try:
        yield half
        put_in_place(half, path)
    except OSError as error:
        with suppress(OSError):
            half.unlink(missing_ok=True)
        raise StorageError(
            f"{path.name} cannot be written to its folder: {error}. Make room, then resume."
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parsed_toml(text: str) -> dict[str, Any]:
    """Parses a TOML document; raises `ValueError` if it is invalid or would parse too slowly."""
    if any(len(line) > LONGEST_LINE for line in text.splitlines()):
        raise ValueError(f"a line of more than {LONGEST_LINE} characters")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parsed_json(text: str) -> Any:
    """Parses a JSON document; raises `ValueError` if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error

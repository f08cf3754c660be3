"""Bounded reading of untrusted text files, and atomic writing of files."""

import errno
import hashlib
import json
import math
import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final
from unicodedata import category

from pydantic import Field

from asyndgan.errors import RecipeError, StorageError, not_written
from asyndgan.received import contents

_SHOWN: Final = r"^[^\p{C}\p{Zl}\p{Zp}]"
NAME_LENGTH: Final = 64
Title = Annotated[str, Field(max_length=NAME_LENGTH, pattern=f"{_SHOWN}*$")]
"""Name of a recipe or policy, in printable characters: other parties' terminals print it."""
Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH, pattern=f"{_SHOWN}+$")]
"""Name of a modality, label or site, likewise in printable characters."""

Line = Annotated[str, Field(max_length=2**12, pattern=f"{_SHOWN}*$")]
"""One line of printable characters, such as a sentence of another party."""

SiteName = Annotated[str, Field(max_length=NAME_LENGTH, pattern=r"^[^\W_][\w.-]*$")]
"""Name of a site in a file: one word, since folders and commands bear it too."""

_OWN_SITE: Final = re.compile(rf"[^\W_][\w-]{{0,{NAME_LENGTH - 1}}}")

LARGEST_NUMBER: Final = 1e39
"""Largest loss or distance: beyond all that float32 can hold; charts add and multiply them."""

LONGEST_NEWS: Final = 2**12
"""Longest event of a run, in characters."""

LONGEST_LINE: Final = 8192
"""Longest TOML line, in characters."""

MOST_DOTS: Final = 32
"""Most dots in a TOML line: the time to parse a key is quadratic in their number."""

BACKSLASH: Final = "in double quotes a backslash is an escape; write / in its place"

LONGEST_TOML: Final = 2**18
"""Longest recipe, policy or suite, in characters."""

MOST_NESTED: Final = 64
"""Most tables and lists around a value of a TOML or JSON document."""

MOST_BYTES: Final = 2**20
"""Largest size of a text that a person writes, or of a run's description of itself, in bytes."""


def bounded_text(path: Path, most: int = MOST_BYTES, *, links: bool = False) -> str:
    """Reads a UTF-8 text file of at most so many bytes, without a mark of its byte order.

    Raises `OSError` or `ValueError` as `received.contents`, or if it is not valid UTF-8.
    """
    return contents(path, most, links=links).decode("utf-8-sig")


def check_site_names(names: Iterable[str]) -> None:
    """Raises `RecipeError` for a name that is not valid, or is there twice."""
    seen: set[str] = set()
    for name in names:
        if not _OWN_SITE.fullmatch(name):
            raise RecipeError(
                f"site {name}: a name has letters, digits, '-' and '_' only, at most "
                f"{NAME_LENGTH}, and begins with a letter or digit."
            )
        if name.casefold() in seen:
            raise RecipeError(f"site {name}: each name once (capitals do not tell two apart).")
        seen.add(name.casefold())


def printable(text: str) -> str:
    """A text with the replacement character for what no terminal should be sent."""
    return "\n".join(
        line
        if line.isprintable()
        else "".join("\ufffd" if category(letter) in _UNPRINTABLE else letter for letter in line)
        for line in text.split("\n")
    )


_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Writes a file atomically, or raises `StorageError`: the old file remains."""
    with (
        stored_whole(path) as half,
        os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file,
    ):
        file.write(text.encode("utf-8"))


def append(path: Path, content: bytes) -> None:
    """Adds bytes to the end of a file, all, or none and raises `StorageError`."""
    with storing(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def half_of(path: Path) -> Path:
    """Path of the temporary file that is written before it replaces `path` atomically."""
    return path.with_name(f".{path.name}.half")


def put_in_place(half: Path, path: Path) -> None:
    """Gives a written file its final name; file and folder are synced."""
    _sync(half)
    half.replace(path)
    if sys.platform != "win32":
        _sync(path.parent)


@contextmanager
def stored_whole(path: Path) -> Iterator[Path]:
    """Yields the temporary file that becomes `path`, atomically; raises `StorageError`."""
    half = half_of(path)
    with storing(path):
        half.unlink(missing_ok=True)
        try:
            yield half
            put_in_place(half, path)
        except BaseException:
            with suppress(OSError):
                half.unlink(missing_ok=True)
            raise


@contextmanager
def without_empty(folder: Path) -> Iterator[None]:
    """Removes a folder after a failure, unless it was there before or a file is in it.

    The same holds for those around it, and for those inside a folder that was not there.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    except BaseException:
        inside = [Path(place) for place, _, _ in os.walk(folder, topdown=False)] if made else []
        for one in (*inside, *made):
            with suppress(OSError):
                one.rmdir()
        raise


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns an `OSError` while a file or folder is written into a `StorageError` that names it."""
    try:
        yield
    except StorageError:  # it names what could not be written
        raise
    except OSError as error:
        named = StorageError(not_written(path, error))
        named.errno, named.strerror = error.errno, error.strerror
        raise named from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parsed_toml(text: str) -> dict[str, Any]:
    """Parses a TOML document; raises `ValueError` if it is invalid or would parse too slowly."""
    if len(text) > LONGEST_TOML:
        raise ValueError(f"longer than {LONGEST_TOML} characters")
    for line in text.split("\n"):  # a quoted key may hold any other sign of a new line
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} characters")
        if line.count(".") > MOST_DOTS and not line.lstrip().startswith("#"):
            raise ValueError(f"a line of more than {MOST_DOTS} dots")
    try:
        return dict(_flat_enough(tomllib.loads(text)))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(_toml_fault(text, str(error))) from error


def _toml_fault(text: str, fault: str) -> str:
    """What the parser of TOML says, in plain words."""
    lines = text.rstrip().split("\n")
    found = re.search(r"at line (\d+)", fault)  # else at the end
    number = min(int(found[1]) if found else len(lines), len(lines))
    line = lines[number - 1].strip()
    if "\\" in line.partition("#")[0] and '"' in line:
        return f"line {number}: {BACKSLASH}."
    twice = re.search("inline table key '(.*)'", fault)
    key = twice[1] if twice else line.partition("=")[0].strip()
    if fault.startswith(("Cannot", "Duplicate")):
        return f"line {number}: {ascii(key)[1:-1]} is there already. Keep one of the two."
    return f"line {number}, {line[:80]!a}: write KEY = VALUE, with text in quotes."


def named_alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that only capitals, spaces, dots or dashes tell apart: T1 and t1.

    Other signs count, and so do these between two digits: T2 and T2*, 1.1 and 11.
    """
    first: dict[str, str] = {}
    pairs = []
    for name in dict.fromkeys(names):
        plain = re.sub(r"(?<!\d)[\s_.-]|[\s_.-](?!\d)", "", name).casefold()
        known = first.setdefault(plain, name) if plain else name
        if known != name:
            pairs.append((known, name))
    return pairs


def parsed_json(text: str) -> Any:
    """Parses JSON; raises `ValueError` if it is invalid, too deep, or has a key twice."""
    try:
        return _flat_enough(json.loads(text, object_pairs_hook=_each_once))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:NAME_LENGTH]!a} is there twice")
    return table


def _flat_enough(parsed: Any) -> Any:
    """The same, unless whoever prints or compares it would go too deep."""
    level: list[Any] = [[parsed]]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return parsed
    raise ValueError("nested too deeply")


def without_nan(value: Any) -> Any:
    """The same value with None in place of nan, which JSON lacks; tuples become lists."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def sentence(text: str) -> str:
    """The text with its first letter capitalised, unless a key or a file's name comes first."""
    first = text.partition(" ")[0]
    return text if "_" in first or "." in first else text[:1].upper() + text[1:]


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 patient, 21 patients."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown_shape(shape: Iterable[object]) -> str:
    """Formats a shape for display: (128, 96) becomes '128 x 96'."""
    return " x ".join(map(str, shape))


def sha256_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def lacking(path: Path, command: str) -> str:
    """What is wrong if a command, such as "asyndgan audit", has not written `path`, its last file.

    Returns a sentence and the remedy; empty if the file is there.
    """
    if path.exists():
        return ""
    return (
        f"{path.parent} holds no {path.name}: '{command}' has not finished in it, or never wrote "
        "to it. Run it again, or name another folder."
    )

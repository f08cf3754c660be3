"""A copy of a data set's cases as arrays, to be mapped into memory: its store.

A store lies beside its folder as `.NAME.store`, or in the user's cache where nothing can be written
there. It holds parts: the cases as stored, and those that a recipe prepared. Each part is named
after all that it was made from, so that one of changed files or of another recipe is never taken.

    .NAME.store/
        KIND-STATE-KEY/     STATE: of the data set's files; KEY: of all else that it is made from
            items.json      a digest, then of each item what is known and where its arrays lie
            arrays.bin      all arrays, one after the other
"""

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar, final

import numpy as np

from asyndgan import __version__
from asyndgan.errors import BusyError
from asyndgan.locks import held
from asyndgan.texts import sha256_of

log = logging.getLogger(__name__)

VERSION: Final = 1
"""Of what is written; parts of another version are made anew."""

MOST_PARTS: Final = {"cases": 1, "prepared": 4}
"""How many parts of a kind are kept; the one that was not used for longest goes first."""

YOUNG_S: Final = 60.0
"""Seconds for which a part that is one too many, or half, is left to whoever is at work on it."""

_ALIGNED: Final = 64
_AT_ONCE: Final = 2**20
_TYPES: Final = ("|u1", "<i2", "<u2", "<f4")
_DAMAGED: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

Made = TypeVar("Made")


@final
@dataclass(frozen=True)
class Item:
    """One entry of a part."""

    about: dict[str, Any]  # in types of JSON
    arrays: dict[str, np.ndarray] = field(repr=False)  # uint8, int16, uint16 or float32


@final
class Store:
    """The store of a data set's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    @property
    def places(self) -> Iterator[Path]:
        """Where the store may lie, the best place first."""
        name = self._folder.name or "root"
        if self._folder.name:
            yield self._folder.with_name(f".{name}.store")
        with suppress(RuntimeError):  # there is no home
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            known = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
            yield cache / "asyndgan" / f"{name}-{known}.store"

    @cached_property
    def _place(self) -> Path | None:
        return next((place for place in self.places if _is_own(place)), None)

    def part(
        self,
        kind: str,
        state: object,
        made_from: object,
        make: Callable[[], Iterable[Item]],
        read: Callable[[list[Item]], Made],
    ) -> Made | None:
        """A part of the store, which is made unless it is there and whole.

        Args:
            kind: one of `MOST_PARTS`.
            state: of the data set's files, in types of JSON; parts of another state are removed.
            made_from: all else that the part depends on, in types of JSON.
            make: returns the items, one after the other; what it raises is raised.
            read: makes of the items what is wanted; what it cannot read is made anew.

        Returns:
            What `read` makes of items whose arrays are mapped; None: nothing can be kept.
        """
        if (place := self._place) is None:
            return None
        now, key = (
            sha256_of(json.dumps(one, sort_keys=True))
            for one in ([VERSION, __version__, state], made_from)
        )
        part = place / f"{kind}-{now[:16]}-{key[:16]}"
        with suppress(*_DAMAGED):
            found = read(_mapped(part))
            os.utime(part)
            _tidy(place, now[:16])
            return found
        try:
            _write(part, make())
        except OSError as error:
            log.warning("%s cannot be kept (%s); files are read anew.", part, error.strerror)
            return None
        finally:
            _tidy(place, now[:16])
        try:
            return read(_mapped(part))
        except _DAMAGED:  # it cannot be replaced, or another process has removed it
            log.warning("%s cannot be read; files are read anew.", part)
            return None

    def size(self) -> dict[Path, int]:
        """Bytes in each place where there is a store."""
        found = [place for place in self.places if _is_store(place)]
        return {
            place: sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())
            for place in found
        }

    def remove(self) -> list[Path]:
        """Removes the store, wherever it lies; returns what was removed."""
        found = [*self.size()]
        for place in found:
            shutil.rmtree(place)
        return found


def compact(values: np.ndarray) -> np.ndarray:
    """Float32 in the smallest type that gives the same bits back."""
    if np.isfinite(values).all():
        low, high = values.min(), values.max()
        for kind in (np.uint8, np.int16, np.uint16):
            ends = np.iinfo(kind)
            if ends.min <= low and high <= ends.max:
                small = values.astype(kind)
                same = small.astype(np.float32).view(np.uint32) == values.view(np.uint32)
                return small if same.all() else values
    return values


def _sum(arrays: Path) -> int:
    """CRC-32 of a file, which shows what a disk spoils."""
    found = 0
    with arrays.open("rb") as file:
        while some := file.read(_AT_ONCE):
            found = zlib.crc32(some, found)
    return found


def _is_store(place: Path) -> bool:
    """Whether a folder holds parts and nothing else, so that it may be removed."""
    try:
        known = {*MOST_PARTS, "new"}
        parts = place.is_dir() and not place.is_symlink()
        return parts and all(path.name.partition("-")[0] in known for path in place.iterdir())
    except OSError:  # such as a name that is too long
        return False


def _is_own(place: Path) -> bool:
    """Whether a folder that only its user can open is there, or could be made."""
    try:
        place.mkdir(mode=0o700, parents=place.parent.name == "asyndgan", exist_ok=True)
        found = place.lstat()
        if place.is_symlink() or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            return False
        if found.st_mode & 0o777 != 0o700:
            place.chmod(0o700)
        return os.access(place, os.W_OK)
    except OSError:
        return False


def _mapped(part: Path) -> list[Item]:
    """The items of a part; raises one of `_DAMAGED` unless it is whole."""
    digest, _, text = (part / "items.json").read_text().partition("\n")
    if digest != sha256_of(text):
        raise ValueError("what it says is not what was written")
    content = json.loads(text)
    size = (part / "arrays.bin").stat().st_size
    if size != content["bytes"] or _sum(part / "arrays.bin") != content["sum"]:
        raise ValueError("its arrays are not those that were written")
    # A private map: who writes into an array changes his own memory alone.
    data = np.memmap(part / "arrays.bin", np.uint8, "c") if size else np.zeros(0, np.uint8)
    return [
        Item(about, {name: _array(data, *where) for name, where in arrays.items()})
        for about, arrays in content["items"]
    ]


def _array(data: np.ndarray, kind: str, shape: list[int], offset: int) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError("it has a type that no part holds")
    return np.ndarray(tuple(shape), kind, data.data, offset)


def _write(part: Path, items: Iterable[Item]) -> None:
    """Writes a part as a whole or not at all; another process may do the same."""
    with TemporaryDirectory(prefix="new-", dir=part.parent) as name, held(Path(name), "is new"):
        made, listed, found = Path(name), [], 0
        with (made / "arrays.bin").open("wb") as file:
            for item in items:
                arrays = {}
                for key, values in item.arrays.items():
                    offset = file.tell() + -file.tell() % _ALIGNED
                    for some in (bytes(offset - file.tell()), values.tobytes()):
                        file.write(some)
                        found = zlib.crc32(some, found)
                    arrays[key] = values.dtype.str, values.shape, offset
                listed.append((item.about, arrays))
            size = file.tell()
            _sync(file)
        text = json.dumps({"bytes": size, "sum": found, "items": listed})
        with (made / "items.json").open("w") as listing:
            listing.write(f"{sha256_of(text)}\n{text}")
            _sync(listing)
        shutil.rmtree(part, ignore_errors=True)  # it was not whole
        try:
            made.rename(part)
        except OSError:
            if not part.is_dir():  # else another process was quicker
                raise


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _tidy(place: Path, state: str) -> None:
    """Removes parts of another state, and what is too many or half and older than `YOUNG_S`."""
    found: dict[str, list[tuple[float, Path]]] = {kind: [] for kind in MOST_PARTS}
    for path in place.glob("*-*"):
        kind, _, rest = path.name.partition("-")
        with suppress(OSError, BusyError):  # another process tidies as well
            if kind == "new" and time.time() - path.stat().st_mtime > YOUNG_S:
                with held(path, "is being written"):
                    shutil.rmtree(path, ignore_errors=True)
            elif kind in found and not rest.startswith(f"{state}-"):
                shutil.rmtree(path, ignore_errors=True)
            elif kind in found:
                found[kind].append((path.stat().st_mtime, path))
    for kind, parts in found.items():
        for used, path in sorted(parts, reverse=True)[MOST_PARTS[kind] :]:
            if time.time() - used > YOUNG_S:
                shutil.rmtree(path, ignore_errors=True)

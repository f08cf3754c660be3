"""Record of what left a site: one line per message, written before it leaves, chained by hashes.

Each line holds the SHA-256 of the line before, so that no line can be changed, removed or inserted
without changing all later ones; a second file, the head, holds the number and hash of the last
line, so that no line can be cut off the end. Anyone who can rewrite both files can forge both: note
the last hash somewhere else (`asyndgan ledger verify` prints it) and pass it with `--expect`.
"""

import hashlib
import json
import os
import sys
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

from asyndgan.errors import LedgerError
from asyndgan.received import opened
from asyndgan.texts import MOST_BYTES, bounded_text, parsed_json, replace_text

if sys.platform != "win32":
    import fcntl

FIRST = "0" * 64  # Stands for the previous hash in the first line

ANSWER: Final = "judgement"  # counts as an answer, like any message with patients' masks

FEEDBACK: Final = "feedback"
MASKS: Final = "masks"  # feedback and masks or classes: no limit on epsilon covers them


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message that left, or was about to leave when the site stopped."""

    number: int  # from 1
    time: str  # UTC, as in 2026-11-20T15:04:05.678Z
    run: str  # identity of the run, hexadecimal
    kind: str  # of the message
    step: int | None = None  # that it answered; None where there is none
    size: int  # bytes
    payload: str  # SHA-256 of the bytes
    norm: float | None = None  # L2 norm of the feedback before its coding; None where there is none
    # standard deviation of the noise, in units of what one patient changes; 0: none
    noise: float = 0.0
    # spent in all, with `delta`; None: no differential privacy was promised
    epsilon: float | None = None
    delta: float | None = None  # of that epsilon
    # of differentially private mechanisms that the site's account had charged by then
    uses: int = 0
    masks: int = 0  # number of patients' label maps (or classes) in it
    # its contents that no limit on epsilon covers, separated by spaces: `feedback`, also with noise
    # if the policy sets no limit, `masks` (or classes) of patients, a `fingerprint`, an `audit`,
    # an `evaluation`; empty: none
    bare: str = ""
    policy: str  # SHA-256 of the policy in force
    recipe: str  # SHA-256 of the recipe that was agreed on; empty before there is one
    # number of images of the request that had come before, equal to the bit and in another step,
    # since the site started; a generator in training hardly paints one twice
    repeated: int = 0
    previous: str  # hash of the line before
    digest: str = ""  # hash of this line without this field

    def line(self) -> bytes:
        """The entry as a line of the file."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    def sealed(self) -> "Entry":
        """The same entry with its hash."""
        plain = {key: value for key, value in asdict(self).items() if key != "digest"}
        text = json.dumps(plain, separators=(",", ":"))
        return replace(self, digest=hashlib.sha256(text.encode()).hexdigest())


@final
class Tally:
    """What the lines of a ledger come to; `name` is its file's.

    `answers`, and `of_kind` of each kind of message, are of all runs; the same bytes once more tell
    nothing new, and are not counted. `repeated` counts images that came again in another step.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = self.repeated = 0
        self.of_kind: Counter[str] = Counter()
        self.bare: Counter[str] = Counter()  # messages with contents that no epsilon covers
        self.charged = 0  # those with feedback whose noise the account was charged for
        self.uses = 0  # of private mechanisms, the most in any line
        self.recipes: set[str] = set()  # under which messages left
        # digest of what was counted last, by kind, of answers and of others
        self._newest: dict[tuple[str, bool], str] = {}

    def add(self, entry: Entry) -> None:
        """Counts another line."""
        answer = entry.kind == ANSWER or MASKS in entry.bare.split()
        if self._newest.get((entry.kind, answer)) != entry.payload:
            self.answers += answer
            self.of_kind[entry.kind] += 1
            self._newest[entry.kind, answer] = entry.payload
        self.bare.update(entry.bare.split())
        self.charged += FEEDBACK in entry.bare.split() and entry.epsilon is not None
        self.uses = max(self.uses, entry.uses)
        self.recipes |= {entry.recipe} - {""}
        self.repeated += entry.repeated


MOST_LEDGER: Final = 2**40  # Largest ledger in bytes; it is read line by line


@final
class Ledger:
    """The ledger file of one site, made if need be. It belongs to one process at a time.

    Policy and recipe (empty: none yet) are SHA-256 digests; `number` counts the lines, of which
    `last` is the newest's hash. Raises `LedgerError` if the file was changed or cut, or another
    process has it.
    """

    def __init__(self, path: Path, policy: str, recipe: str = "") -> None:
        self.path = path
        self.policy = policy
        self.recipe = recipe
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise LedgerError(
                f"{path.name} cannot be opened ({error.strerror or error}), so nothing may leave."
            ) from error
        self._closing = weakref.finalize(self, os.close, self._file)
        try:
            if sys.platform != "win32":
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise LedgerError(
                f"{path.name} belongs to another process; is this site started twice?"
            ) from error
        self._drop_torn_line()
        self.number, self.last = 0, FIRST
        self.tally = Tally(path.name)
        for entry in read(path):
            self._count(entry)
        # An empty ledger gets a head too: lines without a head are a sign of forgery.
        _write_head(path, self.number, self.last)

    def append(self, *, payload: bytes, **told: Any) -> None:
        """Writes a line (`Entry`), on disk when it returns; `LedgerError`: nothing may leave."""
        if not self._closing.alive:
            raise LedgerError(f"{self.path.name} was closed, so nothing may leave.")
        entry = Entry(
            number=self.number + 1,
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            size=len(payload),
            payload=hashlib.sha256(payload).hexdigest(),
            policy=self.policy,
            recipe=self.recipe,
            previous=self.last,
            **told,
        ).sealed()
        line, before = entry.line(), os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file)
            _write_head(self.path, entry.number, entry.digest)
        except OSError as error:
            # Whatever failed, the next line must follow the last one counted.
            os.ftruncate(self._file, before)
            raise LedgerError(
                f"{self.path.name} cannot be written ({error.strerror or error}), so nothing may "
                "leave. Free space, then start the site again."
            ) from error
        self._count(entry)

    def close(self) -> None:
        """Closes the file, as does the end of this object's life."""
        self._closing()

    def _count(self, entry: Entry) -> None:
        self.number, self.last = entry.number, entry.digest
        self.tally.add(entry)

    def _drop_torn_line(self) -> None:
        """Removes an incomplete last line: the site stopped while writing it, so nothing left."""
        try:
            with opened(self.path, MOST_LEDGER, links=True) as file:
                start = max(0, os.fstat(file.fileno()).st_size - MOST_BYTES)
                file.seek(start)
                content = file.read(MOST_BYTES)
        except (OSError, ValueError) as error:
            raise LedgerError(f"{self.path.name} is no ledger that can be read.") from error
        whole = content.rfind(b"\n") + 1
        if whole < len(content) and (whole or not start):
            os.ftruncate(self._file, start + whole)


def check_not_removed(path: Path, beside: Iterable[Path]) -> None:
    """Raises `LedgerError` if a site has books of those `beside`, and lost its ledger's head."""
    written = [other.name for other in beside if other.exists()]
    if written and not head_file(path).exists():
        raise LedgerError(
            f"{written[0]} is there, and {head_file(path).name} is not: the ledger was taken "
            "away. Put it back, or begin new books in another folder."
        )


def read(path: Path) -> Iterator[Entry]:
    """Yields all lines of a ledger, each checked; its site may go on writing meanwhile.

    An incomplete last line is passed over: nothing has left with it. Raises `LedgerError`, which
    names the line, if one was changed, removed, inserted or cut off.
    """
    number, last = 0, FIRST
    if path.is_dir():
        raise LedgerError(f"'{path}' is a folder; name the ledger.jsonl in it.")
    try:
        # The head comes first: the line that it names is checked on the way.
        head_number, head_digest = _read_head(path)
        found = FIRST
        with opened(path, MOST_LEDGER, links=True) as file:
            while line := file.readline(MOST_BYTES):
                if not line.endswith(b"\n"):
                    break
                entry = _entry(path, number + 1, line)
                if entry.number != number + 1 or entry.previous != last:
                    raise LedgerError(
                        f"{path.name}: line {number + 1} does not follow the one before it; lines "
                        "were changed, taken out or put in."
                    )
                number, last = entry.number, entry.digest
                if number == head_number:
                    found = last
                yield entry
        newest, _ = _read_head(path)
    except (OSError, ValueError) as error:
        why = "is no ledger that can be read"
        if not path.exists():
            why = "does not exist; a site's ledger begins when the first message leaves"
        raise LedgerError(f"'{path}' {why}.") from error
    # A line is written before the head, so a site that was stopped between the two may be one
    # ahead; a site that goes on writing has a newer head than the one that was read first.
    if not head_number <= number <= newest + 1 or found != head_digest:
        raise LedgerError(
            f"{path.name} ends with line {number}, but {newest} were written; lines were cut off "
            "the end, or its head file was changed."
        )


def summary(path: Path, last: int) -> tuple[list[Entry], dict[str, Any]]:
    """The last lines of a ledger, and totals of all; raises `LedgerError` as `read`."""
    entries: deque[Entry] = deque(maxlen=last)
    kinds: dict[str, Counter[str]] = {}
    policies: dict[str, dict[str, Any]] = {}
    tally, masks = Tally(path.name), 0
    for entry in read(path):
        masks += entry.masks
        entries.append(entry)
        tally.add(entry)
        first = {"digest": entry.policy, "lines": 0, "first": entry.number}
        row = policies.setdefault(entry.policy, first)
        row |= {"lines": row["lines"] + 1, "last": entry.number}
        kinds.setdefault(entry.kind, Counter()).update(messages=1, bytes=entry.size)
    return list(entries), {
        "kinds": dict(sorted(kinds.items())),
        "masks": masks,
        "bare": dict(tally.bare),
        "repeated": tally.repeated,
        "policies": list(policies.values()),
        "answers": tally.answers,
        "of_kind": dict(tally.of_kind),
    }


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = Entry(**parsed_json(line.decode("utf-8")))
    except (ValueError, TypeError) as error:
        raise LedgerError(
            f"{path.name}: line {number} is no line of a ledger of this version. Keep the file, "
            "and begin a new one in another folder."
        ) from error
    if entry.sealed().digest != entry.digest or entry.line() != line:
        raise LedgerError(f"{path.name}: line {number} was changed.")
    return entry


def head_file(path: Path) -> Path:
    """Path of the head of a ledger, beside it."""
    return path.with_suffix(".head")


def _write_head(path: Path, number: int, digest: str) -> None:
    replace_text(head_file(path), json.dumps({"number": number, "digest": digest}), mode=0o600)


def _read_head(path: Path) -> tuple[int, str]:
    head = head_file(path)
    if not head.exists():
        if path.stat().st_size:
            raise LedgerError(f"{path.name} has lines and no {head.name}; it was taken away.")
        return 0, FIRST
    try:
        content: dict[str, Any] = parsed_json(bounded_text(head))
        return int(content["number"]), str(content["digest"])
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{head.name} is no head of a ledger.") from error

"""A site's service, which keeps the compute process apart from FLARE's processes.

These come and go. The compute process outlives them, with the discriminator in memory.
"""

import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from shutil import which
from typing import Final, final

from pydantic import Field, ValidationError, field_validator

from asyndgan import children
from asyndgan.engines.federation import RUN_NAME
from asyndgan.engines.flare.member import KEY_FILE, KIT_FILE, read_key, read_kit
from asyndgan.engines.flare.requests import Request, keep
from asyndgan.engines.flare.sealing import Seal, read_letter
from asyndgan.engines.flare.sockets import Listener, Reply, reply_of, sockets_of
from asyndgan.engines.framing import Frames
from asyndgan.engines.processes import Processes
from asyndgan.engines.setup import SiteSetup, policy_of
from asyndgan.errors import (
    AsyndganError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    StorageError,
    WireError,
)
from asyndgan.recipe import Recipe, Section, explained
from asyndgan.texts import bounded_text, parsed_toml
from asyndgan.wire.messages import LEAST_SHARE

log = logging.getLogger(__name__)

SITE_FILE: Final = "site.toml"
READING: Final = 6  # requests that a compute may leave unanswered while it reads; doubled
TELLING_S: Final = 60.0  # seconds that the command of `notify` may take

KEY_BYTES: Final = 32
KEY: Final = re.compile(r"[0-9a-f]{64}")  # Matches the key of a line that a job itself brings
Line = tuple[str, str]  # The recipe and the run that a greeting names


@final
class SiteFile(Section):
    """Settings of a site's administrator. None of them are sent to the coordinator."""

    data: Path = Field(
        description="folder of the site's images and masks in nnU-Net's form, or file of a table"
    )
    policy: Path = Field(
        Path("policy.toml"),
        description="what may leave the site; 'asyndgan policy show' begins one",
    )
    share: float | None = Field(
        None, ge=LEAST_SHARE, lt=2**53,
        description="the site's weight; leave out: its number of cases",
    )  # fmt: skip
    without: tuple[str, ...] = Field(
        (), description="modalities that the folder has and that take no part"
    )
    device: str = Field(
        "cpu",
        description="where the networks compute: cpu, cuda, cuda:1, mps; the cases stay in "
        "main memory",
    )
    threads: int = Field(
        1, ge=1, le=1024,
        description="cores to compute on, if device is cpu; more than one changes "
        "the last digits of a run",
    )  # fmt: skip
    fingerprint: Path | None = Field(
        None,
        description="file of 'asyndgan fingerprint', sent for a plan if the policy's "
        "leaves.fingerprint is true",
    )
    wait_s: float = Field(
        600.0, gt=0,
        description="seconds that the compute may take to answer, and for which a run that asks "
        "nothing keeps it from another",
    )  # fmt: skip
    notify: tuple[str, ...] = Field(
        (),
        description="command and its words, started when a new recipe is asked for. Its input is "
        "a line with the number of the request, and nothing else of it",
    )
    runs: int = Field(
        20, ge=1,
        description="runs whose state may lie in the kit's folder 'runs'; a further one is refused "
        "until you delete an older one's folder there",
    )  # fmt: skip

    @field_validator("notify", mode="before")
    @classmethod
    def _is_there(cls, words: object) -> object:
        if isinstance(words, str) or (isinstance(words, list) and words and not which(words[0])):
            raise ValueError(
                'write a command that is there, as in ["mail", "-s", "new", "me@x.org"]'
            )
        return words

    @classmethod
    def of(cls, kit: Path) -> "SiteFile":
        """Reads a folder's `site.toml`, whose paths are relative to it; may raise `RunError`."""
        path = kit / SITE_FILE
        try:
            file = cls.model_validate(parsed_toml(bounded_text(path, links=True)))
        except FileNotFoundError as error:
            raise RunError(
                f"{path} does not exist; 'asyndgan site init {quote(str(kit))} KIT' writes one."
            ) from error
        except ValidationError as error:
            faults = explained(error, list(cls.model_fields))
            raise RunError(f"{path} cannot be used; correct it:\n{faults}") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be used: {error}. Correct it.") from error
        inside = {
            name: kit / value for name, value in file if isinstance(value, Path)
        }  # an absolute path stays as it is
        return file.model_copy(update=inside)

    def setup(self, kit: Path, run: str) -> SiteSetup:
        """The site's setup for a run; raises `RunError` if states of `runs` others are kept."""
        name, state = name_of(kit), kit / "runs" / run
        # Whoever names runs would otherwise decide how much of the site's disk they fill.
        if not state.exists() and len(list(state.parent.glob("*"))) >= self.runs:
            raise RunError(
                f"{name} keeps the state of {self.runs} runs already (runs in {SITE_FILE})"
                f". Delete the folders of those that are over from {state.parent}, or raise it."
            )
        settings = self.model_dump(exclude={"wait_s", "runs", "notify"})
        return SiteSetup(name, state=state, records=kit / "records", **settings)


def example(data: Path) -> str:
    """Returns a `site.toml` that lists every key, with the optional ones commented out."""
    lines = []
    for name, field in SiteFile.model_fields.items():
        given = {"data": str(data), "policy": "policy.toml"}.get(name)
        value = f" {json.dumps(given, ensure_ascii=False)}" if given else ""
        lines.append(f"{'' if given else '# '}{name} ={value}  # {field.description}")
    return "\n".join(lines) + "\n"


@final
@dataclass
class _Asker:
    """Whoever asks on a line, and whether the site takes part."""

    run: str
    recipe: str  # TOML; empty: only questions are asked
    seal: Seal | None = None  # of the line; None: it is not of the coordinator
    submitter: str = ""  # who leads the run
    refused: str | None = None  # why not, for the site's people; None: not checked yet
    keys: tuple[str, ...] = ()  # of the policy that refuse, for the coordinator


@final
class SiteService:
    """A site's data process, as FLARE's processes reach it.

    It answers only what is sealed with the key of the run's line, which the coordinator's letter
    gives. Beside a FLARE of others there are no letters: the job itself brings the key.
    """

    def __init__(
        self,
        kit: Path,
        setup_of: Callable[[str], SiteSetup],
        *,
        wait_s: float = 600.0,
        notify: Sequence[str] = (),
    ) -> None:
        self.kit, self.name = kit, name_of(kit)
        self.setup_of = setup_of
        self.wait_s, self.notify = wait_s, notify
        self._notifying = threading.Lock()
        self._worker: tuple[Line, Processes] | None = None
        # Id of the process that last answered; a newer one may still be reading its data.
        self._answered: int | None = None
        self._silences, self._patience = 0, READING
        # Open lines, and when the compute was last asked (monotonic time).
        self._lines: list[tuple[Line, Frames]] = []
        self._asked = 0.0
        self._lock = threading.Lock()
        self._closing = False
        self._listener = Listener(sockets_of(kit) / self.name, self._serve)

    def close(self) -> None:
        """Stops listening and ends the compute process; its last checkpoint is kept."""
        self._closing = True
        self._listener.close()
        with self._lock:
            for _, frames in self._lines:
                frames.close()
            if self._worker:
                self._worker[1].close()
            self._worker = None

    def pid(self) -> int | None:
        """Process id of the compute process, or None."""
        return self._worker[1].pid(self.name) if self._worker else None

    def _serve(self, greeting: dict[str, str], frames: Frames) -> None:
        asker = _Asker(greeting.get("run", ""), greeting.get("recipe", ""))
        line = ((asker.recipe, asker.run), frames)
        with self._lock:
            self._lines.append(line)
        try:
            self._check(asker, greeting)
            while True:
                number, sealed = frames.receive()
                # What it was refused for may have been corrected, or an approval been revoked.
                self._check(asker, greeting)
                if asker.seal and not asker.refused:
                    reply = self._answer(line[0], asker.seal, sealed)
                else:
                    keys = " ".join(asker.keys).encode()
                    reply = reply_of(
                        Reply.REFUSED, asker.seal.sealed(keys, sealed) if asker.seal else b""
                    )
                frames.send(number, reply, timeout=self.wait_s)
        except SiteUnreachableError as error:
            log.debug("run %s: %s", asker.run, error)  # it is over
        finally:
            with self._lock:
                self._lines.remove(line)

    def _check(self, asker: _Asker, greeting: dict[str, str]) -> None:
        """Checks that the site takes part in a run, by its settings and its policy."""
        before = asker.refused
        try:
            if asker.seal is None:
                asker.seal, asker.submitter = self._seal_of(greeting)
            recipe, setup = _recipe_of(asker.recipe), self.setup_of(asker.run)
            policy = policy_of(setup)
            policy.check_submitter(asker.submitter)
            if recipe:
                policy.check(recipe, setup.name)
            else:
                policy.check_asked()
            asker.refused, asker.keys = "", ()
        except AsyndganError as error:
            asker.refused, asker.keys = str(error), getattr(error, "keys", ())
        if asker.refused != before:
            if asker.refused:
                log.warning("run %.64r is refused: %s", asker.run, asker.refused)
            if asker.seal:
                self._note(asker)

    def _note(self, asker: _Asker) -> None:
        """Keeps the request for the steward; without space, the log alone has it."""
        refused = "" if asker.keys else asker.refused or ""
        with suppress(StorageError):
            number = keep(
                self.kit,
                Request(
                    run=asker.run, recipe=asker.recipe, submitter=asker.submitter, refused=refused
                ),
            )
            if number and self.notify:
                threading.Thread(target=self._tell, args=(number,), daemon=True).start()

    def _tell(self, number: int) -> None:
        """Has the steward told of a new request, one after the other."""
        line = f"Request {number} is new: asyndgan site console {quote(str(self.kit))}\n"
        with self._notifying:
            try:
                children.tell(self.notify, line, TELLING_S)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                log.warning("nobody was told of request %d (notify): %s", number, error)

    def _seal_of(self, greeting: dict[str, str]) -> tuple[Seal, str]:
        """The seal of a line, and who leads its run; raises `RunError`."""
        run, text, letter, submitter = (
            greeting.get(name, "") for name in ("run", "recipe", "letter", "submitter")
        )
        if not RUN_NAME.fullmatch(run):
            raise RunError("a run's name is of small letters, digits and hyphens")
        if has_kit(self.kit):
            root = read_kit(self.kit).root
            key, submitter = read_letter(letter, root, read_key(self.kit), self.name, run, text)
        else:
            key = bytes.fromhex(letter) if KEY.fullmatch(letter) else b""
        if len(key) != KEY_BYTES:
            raise RunError("it brings no key of a line")
        return Seal(key), submitter

    def _answer(self, line: Line, seal: Seal, sealed: bytes) -> bytes:
        try:
            payload = seal.opened(sealed)
        except WireError as error:
            log.warning("run %s: %s", line[1], error)
            return reply_of(Reply.UNREACHABLE)
        try:
            worker = self._worker_for(line)
            if worker is None:
                return reply_of(Reply.SILENT)  # who gets no answer asks again
            worker.sites()  # restarts it if it died
            answer = worker.send(self.name, payload, self.wait_s)
            self._answered = worker.pid(self.name)
            self._silences, self._patience = 0, READING
            return reply_of(Reply.ANSWER, seal.sealed(answer, sealed))
        except SiteSilentError:
            assert worker
            self._silences += 1
            given_up = self._silences >= self._patience
            if not line[0]:
                log.info("no answer in %g s; the compute goes on", self.wait_s)  # for hours
            elif given_up or self._answered == worker.pid(self.name):
                log.warning("no answer in %g s; the compute is started again", self.wait_s)
                worker.start(self.name)
                self._silences = 0
                self._patience *= 2 if given_up else 1
            else:
                log.warning("no answer in %g s; the compute reads its data still", self.wait_s)
            return reply_of(Reply.SILENT)
        except AsyndganError as error:
            log.warning("no answer: %s", error)
            return reply_of(Reply.UNREACHABLE)

    def _worker_for(self, line: Line) -> Processes | None:
        """The compute, begun anew for another run; None while another run has it.

        That is one which is connected, and has asked within `wait_s`.
        """
        with self._lock:
            if self._closing:
                raise SiteUnreachableError("the site ends.")
            if self._worker is None or self._worker[0] != line:
                if self._worker:
                    silent = time.monotonic() - self._asked > self.wait_s
                    if not silent and any(
                        own == self._worker[0] and not frames.ended() for own, frames in self._lines
                    ):
                        log.info("run %s waits: the compute is at work for another run", line[1])
                        return None
                    self._worker[1].close()
                    self._worker = None
                recipe, run = line
                log.info("compute begins for run %s", run)
                self._silences, self._patience = 0, READING
                self._worker = (line, Processes([self.setup_of(run)], _recipe_of(recipe)))
            self._asked = time.monotonic()
            return self._worker[1]


def name_of(kit: Path) -> str:
    """Name of the site of a folder: of its kit or, beside a FLARE of others, the folder's own."""
    return read_kit(kit).name if has_kit(kit) else kit.resolve().name


def has_kit(kit: Path) -> bool:
    """Whether a site is of a federation that this package has made; else FLARE is of others."""
    of_others = (kit / SITE_FILE).exists() and not (kit / KEY_FILE).exists()
    return (kit / KIT_FILE).exists() or not of_others


def _recipe_of(text: str) -> Recipe | None:
    """The recipe of a run; None: it only asks questions."""
    return Recipe.from_toml(text) if text else None

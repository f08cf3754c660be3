"""The coordinator's end: a sealed line to each site, through FLARE's server."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Final, final

from asyndgan.engines.flare.kits import Federation, key_of
from asyndgan.engines.flare.sealing import Seal, line_key, write_letter
from asyndgan.engines.flare.sockets import (
    GONE_S,
    GREET,
    PRESENT,
    REQUEST,
    SERVER,
    Reply,
    connect,
    reply_of,
    sockets_of,
    unsealed,
)
from asyndgan.errors import (
    AsyndganError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.protocol import Transport, frame_limit
from asyndgan.recipe import Recipe

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0  # seconds between two greetings of a site, and two looks at who is a member
GREET_S: Final = 2.0  # seconds that the answer to a greeting may take
AGAIN_S: Final = 0.5  # seconds before a request without an answer is repeated

Post = Callable[[str, str, str, bytes, float], bytes | None]
"""Sends to a site: its name, the topic, a line's name, bytes, and seconds for the answer."""


@final
@dataclass(frozen=True)
class Line:
    """A run's line to a site."""

    seal: Seal  # of what passes on it
    greeting: bytes  # what opens it at the site: the run, its recipe, and a letter with the key
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def of(cls, run: str, recipe: str, key: bytes, letter: str) -> "Line":
        """A line of a run; the recipe is TOML, empty if sites only answer questions."""
        return cls(Seal(key), json.dumps({"run": run, "recipe": recipe, "letter": letter}).encode())


@final
class Flare(Transport):
    """Carries requests over lines, which it reads again and again: sites may come and go.

    `limit`: most bytes of a message.
    """

    def __init__(self, post: Post, lines: Callable[[], Mapping[str, Line]], *, limit: int) -> None:
        self.limit = limit
        self._post, self._read = post, lines
        self._lines: Mapping[str, Line] = {}
        self._heard: dict[str, float] = {}  # when a line was last answered (monotonic time)
        self._closing = threading.Event()
        self._look()
        threading.Thread(target=self._keep, name="flare-lines", daemon=True).start()

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request, again if there is no answer, and returns the site's answer.

        Raises `WireError` if the request is too long, `RefusedError` if the site's settings do not
        allow this run, or `SiteUnreachableError`.
        """
        if len(payload) > self.limit:
            raise WireError(f"a request of {len(payload)} bytes; {self.limit} are allowed.")
        line, end = self._lines.get(site), time.monotonic() + timeout
        sealed = line.seal.sealed(payload) if line else b""
        while (left := end - time.monotonic()) > 0:
            if line is None or self._lines.get(site) is not line or site not in self.sites():
                raise SiteUnreachableError(f"site {site} is not connected.")
            # A third of the time, so that there is some to ask again.
            within = min(left, max(1.0, timeout / 3))
            reply = self._post(site, REQUEST, line.name, sealed, within)
            # A site that computes for another run says that it is silent.
            if reply not in (None, reply_of(Reply.SILENT)):
                if len(reply) > self.limit + Seal.BYTES:
                    raise SiteUnreachableError(f"site {site}: an answer of {len(reply)} bytes.")
                return unsealed(site, reply, line.seal, sealed)
            time.sleep(AGAIN_S)
        raise SiteSilentError(f"site {site}: there was no answer in time.")

    def sites(self) -> tuple[str, ...]:
        """Sites whose data process answers, sorted by name."""
        if self._closing.is_set():
            return ()
        since, heard = time.monotonic() - GONE_S, self._heard
        lines = self._lines.items()
        return tuple(sorted(site for site, x in lines if heard.get(x.name, -GONE_S) > since))

    def belongs(self, site: str) -> bool:
        """Whether there was a line to the site when they were last read."""
        return site in self._lines

    def close(self) -> None:
        """Stops greeting, so that the lines end."""
        self._closing.set()

    def _keep(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                self._look()
            except (AsyndganError, OSError, ValueError) as error:  # such as a key that is away
                log.warning("%s", error)

    def _look(self) -> None:
        before, self._lines = self._lines, self._read()
        for site, line in self._lines.items():
            if before.get(site) is not line:
                threading.Thread(target=self._greet, args=(site, line), daemon=True).start()

    def _greet(self, site: str, line: Line) -> None:
        """Asks for a sign of life as long as the line is used; FLARE just lets requests wait."""
        while not self._closing.is_set() and self._lines.get(site) is line:
            for greeting in (b"", line.greeting):  # the second opens a line that is not open
                if self._post(site, GREET, line.name, greeting, GREET_S) is not None:
                    if line.name not in self._heard:
                        log.info("site %s is connected", site)
                    self._heard[line.name] = time.monotonic()
                    break
            self._closing.wait(LOOK_S)


def flare_to(
    federation: Federation, recipe: Recipe | None, run: str, only: Collection[str]
) -> Flare:
    """Lines of a run to the members of a federation, or to those named; raises `RunError`."""
    kit, text = federation.admin_kit, recipe.to_toml() if recipe else ""
    known: dict[str, tuple[Any, Line]] = {}

    def lines() -> dict[str, Line]:
        sites = [site for site in Federation.of(federation.path).sites if not only or site in only]
        for site in sites:
            key = key_of(federation, site)
            if site not in known or known[site][0] != key:  # another may have taken its place
                letter = write_letter(kit, site, key, run, text)
                known[site] = key, Line.of(run, text, line_key(kit, site, key, run), letter)
        return {site: known[site][1] for site in sites}

    socket, limit = sockets_of(federation.server_kit) / SERVER, frame_limit(recipe)

    def post(site: str, topic: str, line: str, payload: bytes, within: float) -> bytes | None:
        asked = {"site": site, "topic": topic, "line": line, "within": str(within)}
        try:
            return _asked(socket, asked, payload, within, limit + Seal.BYTES) or None
        except (SiteUnreachableError, WireError) as error:
            log.debug("site %s: %s", site, error)
            return None

    return Flare(post, lines, limit=limit)


def present(federation: Federation) -> list[str]:
    """Sites that FLARE's server knows now, sorted; raises `SiteUnreachableError`."""
    socket = sockets_of(federation.server_kit) / SERVER
    names: list[str] = json.loads(_asked(socket, {"topic": PRESENT}, b"", GREET_S, 2**20))
    return names


def connected(federation: Federation) -> str:
    """A sentence on which sites are connected, or that the federation is not served."""
    try:
        there = present(federation)
    except SiteUnreachableError:
        start = f"asyndgan federation start {quote(str(federation.path))}"
        at = f"{federation.host}:{federation.port}"
        return f"{at} does not answer this account; '{start}' starts it."
    here = [site for site in federation.sites if site in there]
    away = [site for site in federation.sites if site not in there]
    gone = f"; not connected: {', '.join(away)}" if away else ""
    return f"connected: {', '.join(here) or 'nobody'}{gone}"


def _asked(
    socket: Path, asked: Mapping[str, str], payload: bytes, within: float, limit: int
) -> bytes:
    """What FLARE's server on this machine answers; raises `SiteUnreachableError` or `WireError`."""
    with closing(connect(socket, asked, limit=limit)) as frames:
        frames.send(0, payload, timeout=within)
        return frames.receive(timeout=within + GREET_S)[1]

"""Each site in an operating-system process of its own, behind a local socket pair.

A site that crashes takes nothing else down: it is missed, started again, and comes back with its
last checkpoint.
"""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

import torch

from asyndgan.engines.setup import SiteSetup, set_up
from asyndgan.errors import AsyndganError, SiteSilentError, SiteUnreachableError, WireError
from asyndgan.protocol import Transport, message_limit
from asyndgan.recipe import Recipe
from asyndgan.relay.framing import Frames, Requests

log = logging.getLogger(__name__)

FRAME_SLACK: Final = 2**17
"""Bytes of a frame beyond the arrays: header, compression of what cannot be compressed."""


HEALTHY_S: Final = 3600.0
"""Seconds after which a death is taken for a new misfortune, and not for one more of the same."""


@final
@dataclass
class _Process:
    setup: SiteSetup
    process: subprocess.Popen | None = None
    requests: Requests | None = None
    started: float = 0.0
    starts: int = 0

    @property
    def status(self) -> str:
        """How it ended, for people: an exit status, or the signal that killed it."""
        code = self.process.poll() if self.process else None
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@final
class Processes(Transport):
    """Starts a process for each site, and starts it again when it dies.

    Args:
        setups: the sites.
        recipe: of the run.
        restart_after_s: seconds to wait before a dead site is started again; it doubles with every
            start. None: only `start` does it.
    """

    def __init__(
        self, setups: Sequence[SiteSetup], recipe: Recipe, *, restart_after_s: float | None = 2.0
    ) -> None:
        self.recipe = recipe
        self.restart_after_s = restart_after_s
        self.limit = message_limit(recipe) + FRAME_SLACK
        self._sites = {setup.name: _Process(setup) for setup in setups}
        self._starting = threading.RLock()  # `sites` is called from every thread that asks
        for name in self._sites:
            self.start(name)

    def start(self, site: str) -> None:
        """Starts a site's process; the one it may still have is ended."""
        with self._starting:
            self._start(self._sites[site])

    def _start(self, entry: _Process) -> None:
        self._end(entry)
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "asyndgan.engines.site_process", str(theirs.fileno())]
            # A session of its own: Ctrl-C in the terminal reaches the coordinator alone, which
            # then writes a checkpoint that still needs the sites.
            entry.process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                command, pass_fds=[theirs.fileno()], start_new_session=True
            )
        frames = Frames(ours, limit=self.limit)
        entry.started = time.monotonic()
        entry.starts += 1
        setup = {"site": entry.setup.to_plain(), "recipe": self.recipe.to_tables()}
        frames.send(0, json.dumps(setup).encode(), timeout=10.0)
        entry.requests = Requests(frames)

    def pid(self, site: str) -> int | None:
        """The process of a site, if it lives."""
        entry = self._sites[site]
        return entry.process.pid if entry.process and entry.alive else None

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """The answer that carries the number of this request; older ones are dropped."""
        entry = self._sites.get(site)
        if entry is None:
            raise SiteUnreachableError(f"site {site} is not connected.")
        if len(payload) > self.limit:  # the process would end itself
            raise WireError(f"a request of {len(payload)} bytes; {self.limit} are allowed.")
        requests = entry.requests
        if requests is None or not entry.alive:
            raise SiteUnreachableError(
                f"site {site}: its process is not running; see its site.log."
            )
        try:
            return requests.ask(payload, timeout)
        except SiteSilentError as error:
            raise SiteSilentError(f"site {site}: {error}") from error
        except SiteUnreachableError as error:
            raise SiteUnreachableError(
                f"site {site}: its process has ended; see its site.log."
            ) from error
        except WireError:
            if entry.process:
                entry.process.kill()  # its stream cannot be read any further
            raise

    def sites(self) -> tuple[str, ...]:
        """Sites whose process lives. Starts dead ones again when their time has come."""
        with self._starting:
            for name, entry in self._sites.items():
                if not entry.alive and self.restart_after_s is not None:
                    lived = time.monotonic() - entry.started
                    entry.starts = 1 if lived > HEALTHY_S else entry.starts
                    wait = self.restart_after_s * 2 ** min(entry.starts - 1, 8)
                    if lived > wait and entry.requests is not None:
                        log.warning("site %s died (%s); starting it again", name, entry.status)
                        self._start(entry)
            return tuple(name for name, entry in self._sites.items() if entry.alive)

    def close(self) -> None:
        """Ends every process."""
        with self._starting:
            for entry in self._sites.values():
                if entry.requests:
                    entry.requests.frames.close()  # all first, so that they end at the same time
            for entry in self._sites.values():
                self._end(entry)
                entry.requests = None

    def _end(self, entry: _Process) -> None:
        if entry.requests:
            entry.requests.frames.close()  # the process ends when its socket does
        if entry.process:
            try:
                entry.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                entry.process.kill()
                with suppress(subprocess.TimeoutExpired):  # one that waits for a disk dies later
                    entry.process.wait(timeout=5)


def serve(connection: socket.socket) -> None:
    """A site's process: reads its setup, then answers requests until the connection closes."""
    torch.set_num_threads(1)  # one core a site; see traps in docs/architecture.md
    frames = Frames(connection, limit=2**24)
    _, payload = frames.receive()
    plain = json.loads(payload)
    recipe = Recipe.from_tables(plain["recipe"])
    setup = SiteSetup.from_plain(plain["site"])
    setup.state.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=setup.state / "site.log", format="%(asctime)s %(levelname)s %(message)s"
    )
    frames = Frames(connection, limit=message_limit(recipe) + FRAME_SLACK)
    try:
        endpoint = set_up(setup, recipe)
        while True:
            number, request = frames.receive()
            frames.send(number, endpoint.answer(request))
    except SiteUnreachableError:
        return  # the coordinator has closed the connection: the run is over
    except AsyndganError as error:
        log.error("site %s ends: %s", setup.name, error)
        sys.exit(1)  # the log has said why; the coordinator's terminal is not the site's
    except Exception:
        log.exception("site %s ends", setup.name)
        sys.exit(1)

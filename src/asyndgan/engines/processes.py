"""Runs each site in a process of its own, connected by a socket pair.

A site that crashes is restarted from its last checkpoint; the others go on meanwhile.
"""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, final

import torch

from asyndgan import children
from asyndgan.engines.framing import Frames, Requests
from asyndgan.engines.setup import SiteSetup, set_up
from asyndgan.errors import AsyndganError, SiteSilentError, SiteUnreachableError, WireError
from asyndgan.protocol import Endpoint, Transport, frame_limit
from asyndgan.recipe import Recipe

log = logging.getLogger(__name__)

TRAINS: Final = "asyndgan.engines.processes"
ANSWERS: Final = "asyndgan.auditing.answering"  # where there is no recipe

HEALTHY_S: Final = 3600.0  # seconds after which a crash is a new problem, so the delay restarts


@final
@dataclass
class _Process:
    setup: SiteSetup
    process: subprocess.Popen | None = None
    requests: Requests | None = None
    started: float = 0.0
    starts: int = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@final
class Processes(Transport):
    """Starts a process for each site and restarts it when it dies.

    Without a recipe sites answer questions. `restart_after_s` from its latest start a dead site
    may be restarted, doubled with every restart, at most eight times.
    """

    def __init__(
        self,
        setups: Sequence[SiteSetup],
        recipe: Recipe | None,
        *,
        restart_after_s: float = 2.0,
    ) -> None:
        self.recipe = recipe
        self.restart_after_s = restart_after_s
        self.limit = frame_limit(recipe)
        self._sites = {setup.name: _Process(setup) for setup in setups}
        self._starting = threading.RLock()  # `sites` is called from several threads
        for name in self._sites:
            self.start(name)

    def start(self, site: str) -> None:
        """Starts a site's process, ending its previous one if there is any."""
        with self._starting:
            self._start(self._sites[site])

    def _start(self, entry: _Process) -> None:
        self._end(entry)
        ours, theirs = socket.socketpair()
        with theirs:
            # Ctrl-C in the terminal reaches only the coordinator, which still needs the sites to
            # write a checkpoint.
            line = theirs.fileno()
            module = TRAINS if self.recipe else ANSWERS
            entry.process = children.start(module, line, pass_fds=[line])
        frames = Frames(ours, limit=self.limit)
        entry.started = time.monotonic()
        entry.starts += 1
        tables = self.recipe.to_tables() if self.recipe else None
        setup = {"site": entry.setup.to_plain(), "recipe": tables}
        try:
            frames.send(0, json.dumps(setup).encode(), timeout=10.0)
        except SiteUnreachableError:
            frames.close()
            raise
        entry.requests = Requests(frames)

    def pid(self, site: str) -> int | None:
        """Process id of a site, or None if its process is not alive."""
        entry = self._sites[site]
        return entry.process.pid if entry.process and entry.alive else None

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request and returns its answer; late answers to older requests are dropped."""
        entry = self._sites.get(site)
        if entry is None:
            raise SiteUnreachableError(f"site {site} is not connected.")
        if len(payload) > self.limit:  # the site's process would exit
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
                entry.process.kill()  # its stream is out of step and cannot be read on
            raise

    def sites(self) -> tuple[str, ...]:
        """Sites whose process is alive. Restarts dead ones whose delay has passed."""
        with self._starting:
            for name, entry in self._sites.items():
                if not entry.alive:
                    lived = time.monotonic() - entry.started
                    entry.starts = 1 if lived > HEALTHY_S else entry.starts
                    wait = self.restart_after_s * 2 ** min(entry.starts - 1, 8)
                    if lived > wait and entry.requests is not None:
                        code = entry.process.returncode if entry.process else None
                        log.warning("site %s died (%s); starting it again", name, code)
                        try:
                            self._start(entry)
                        except (OSError, SiteUnreachableError) as error:
                            # No memory, say: the other sites go on, and it is tried again.
                            entry.started = time.monotonic()
                            self._end(entry)
                            log.warning("site %s cannot be started: %s", name, error)
            return tuple(name for name, entry in self._sites.items() if entry.alive)

    def close(self) -> None:
        """Ends every process."""
        with self._starting:
            for entry in self._sites.values():
                if entry.requests:
                    entry.requests.frames.close()  # close all first, so that they exit in parallel
            for entry in self._sites.values():
                self._end(entry)
                entry.requests = None

    def _end(self, entry: _Process) -> None:
        if entry.requests:
            entry.requests.frames.close()  # the process exits when its socket closes
        if entry.process:
            try:
                entry.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                entry.process.kill()
                with suppress(subprocess.TimeoutExpired):  # if it waits for a disk, it dies later
                    entry.process.wait(timeout=5)


def serve(endpoint_of: Callable[[SiteSetup, Any], Endpoint]) -> None:
    """Runs a site's process: reads its setup, then answers requests until the connection closes.

    The command line names the connection; the endpoint is of a setup and a recipe, or None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides when a run ends
    connection = socket.socket(fileno=int(sys.argv[1]))
    frames = Frames(connection, limit=2**24)
    _, payload = frames.receive()
    plain = json.loads(payload)
    recipe = Recipe.from_tables(plain["recipe"]) if plain["recipe"] else None
    setup = SiteSetup.from_plain(plain["site"])
    torch.set_num_threads(setup.threads)  # see traps in docs/architecture.md
    setup.state.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=setup.state / "site.log", format="%(asctime)s %(levelname)s %(message)s"
    )
    frames = Frames(connection, limit=frame_limit(recipe))
    try:
        endpoint = endpoint_of(setup, recipe)
        while True:
            number, request = frames.receive()
            frames.send(number, endpoint.answer(request))
    except SiteUnreachableError:
        return  # the coordinator has closed the connection: the run is over
    except AsyndganError as error:
        log.error("site %s ends: %s", setup.name, error)
        sys.exit(1)  # the reason is in the site's log; the terminal is the coordinator's
    except Exception:
        log.exception("site %s ends", setup.name)
        sys.exit(1)


if __name__ == "__main__":
    serve(set_up)

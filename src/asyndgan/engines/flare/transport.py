"""The coordinator's end: a connection (line) to each site, each through a FLARE job of its own.

A job is submitted as soon as FLARE knows the site, and again whenever one ends. The coordinator is
part of no job: it loses nothing when FLARE's server is killed, and jobs reconnect to it.
"""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, final

from asyndgan.engines.flare.jobs import Office, digest_of
from asyndgan.engines.flare.sealing import Seal
from asyndgan.engines.flare.sockets import COORDINATOR, Listener, unsealed
from asyndgan.engines.framing import Frames, Requests
from asyndgan.errors import AsyndganError, SiteSilentError, SiteUnreachableError, WireError
from asyndgan.protocol import Transport

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # Seconds between two checks of which sites are connected
LATE_S: Final = 150.0  # seconds after which a job without a line is given up
LONGEST_S: Final = 60.0  # longest delay between a site's jobs without line; it doubles from 1 s
SWEEP_S: Final = 60.0  # Seconds between two searches for jobs that are no longer needed
CLOSING_S: Final = 20.0  # seconds that FLARE may take to end the jobs of a run


@dataclass
class _Link:
    """State of the connection to a site."""

    job: str  # id of the site's latest job
    since: float  # monotonic time when the job was submitted or its line came
    line: Requests | None = None  # connection to the site, while there is one
    spent: bool = False  # whether the job's line has ended, which makes the job useless


@final
class Flare(Transport):
    """Carries requests to the sites that an office submits jobs for."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self._members = frozenset(office.members())
        self._links: dict[str, _Link] = {}
        self._in_vain: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        limit = office.limit + Seal.BYTES
        self._listener = Listener(office.kit, COORDINATOR, self._welcome, limit=limit)
        self._keeper = threading.Thread(target=self._keep, name="flare-jobs", daemon=True)
        self._keeper.start()

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request and returns the site's answer.

        Raises `WireError` if the request is too long, `RefusedError` if the site's settings do not
        allow this run, or `SiteUnreachableError`.
        """
        if len(payload) > self.office.limit:
            raise WireError(f"a request of {len(payload)} bytes; {self.office.limit} are allowed.")
        _, line = self._live().get(site, ("", None))
        if line is None:
            raise SiteUnreachableError(f"site {site} is not connected.")
        seal = self.office.seal(site)
        sealed = seal.sealed(payload)
        try:
            reply = line.ask(sealed, timeout)
        except SiteSilentError as error:
            raise SiteSilentError(f"site {site}: {error}") from error
        except (SiteUnreachableError, WireError) as error:
            line.frames.close()
            raise SiteUnreachableError(
                f"site {site}: the connection through FLARE is gone."
            ) from error
        return unsealed(site, reply, seal, sealed)

    def sites(self) -> tuple[str, ...]:
        """Sites to which there is a line, sorted by name."""
        return tuple(sorted(self._live()))

    def belongs(self, site: str) -> bool:
        """Whether the federation's file named the site when it was last read."""
        return site in self._members

    def job(self, site: str) -> str:
        """Id of a site's latest job; empty if it has none."""
        with self._lock:
            return self._links[site].job if site in self._links else ""

    def close(self) -> None:
        """Closes all lines, ends all jobs if FLARE does so in time, and closes the office."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._listener.close()
        enough = threading.Timer(CLOSING_S, self.office.close)  # whoever asks it gets an error
        enough.start()
        self._keeper.join()
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
        for link in links:
            if link.line:
                link.line.frames.close()
            self.office.end(link.job)
        enough.cancel()
        self.office.close()

    def _live(self) -> dict[str, tuple[str, Requests]]:
        """Job and line of each site that has a line."""
        with self._lock:
            for link in self._links.values():
                if link.line and link.line.frames.ended():
                    link.line.frames.close()
                    link.line, link.spent = None, True
            return {site: (x.job, x.line) for site, x in self._links.items() if x.line}

    def _welcome(self, greeting: dict[str, str], frames: Frames) -> None:
        """Registers a job, whose site answers; its connection is the line until it ends."""
        site, job = greeting.get("site", ""), greeting.get("job", "")
        ours = {"run": self.office.run, "recipe": digest_of(self.office.recipe)}
        if any(greeting.get(name) != value for name, value in ours.items()):
            raise WireError(f"job {job} is of another run.")
        if not self.belongs(site):
            raise WireError(f"job {job} is of {site}, which is no site of this federation.")
        with self._lock:
            # After a restart of the coordinator, earlier jobs still run and are used.
            link = self._links.setdefault(site, _Link(job, time.monotonic()))
            if link.job != job:
                raise WireError(f"job {job} is not the one of site {site}.")
            link.line, link.since, link.spent = Requests(frames), time.monotonic(), False
            self._in_vain.pop(site, None)
        log.info("site %s is connected", site)
        while not frames.ended() and not self._closing.wait(LOOK_S):
            pass

    def _keep(self) -> None:
        """Keeps one job running for each member that FLARE knows; runs in its own thread."""
        swept, pause_s = -SWEEP_S, 0.0
        while not self._closing.wait(pause_s):
            pause_s = LOOK_S
            try:
                before, self._members = self._members, frozenset(self.office.members())
                if self._members != before or time.monotonic() - swept > SWEEP_S:
                    self.sweep()
                    swept = time.monotonic()
                lacking = self._members.difference(self._live())
                # FLARE writes a line into its audit log for each question, so it is seldom asked.
                there = self.office.administrator.present() if lacking else ()
                for site in sorted(lacking.intersection(there)):
                    try:
                        self._keep_job(site)
                    except AsyndganError as error:
                        log.warning("site %s: %s", site, error)
            except AsyndganError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("jobs cannot be kept now")  # tried again in the next round

    def sweep(self) -> None:
        """Takes over jobs that outlived an earlier coordinator; ends jobs not needed any more."""
        for site, jobs in self.office.sweep(self._members).items():
            with self._lock:
                link = self._links.setdefault(site, _Link(jobs[-1], time.monotonic()))
            for job in set(jobs) - {link.job}:
                self.office.end(job)

    def _keep_job(self, site: str) -> None:
        """Submits a job for a site without a line, unless its latest job may still bring one."""
        with self._lock:
            link = self._links.get(site)
        if link:
            age = time.monotonic() - link.since
            if not link.spent and age < LATE_S and self.office.lives(link.job):
                return
            if not link.spent and age < min(2.0 ** min(self._in_vain[site], 10), LONGEST_S):
                return
            self.office.end(link.job)
            with self._lock:
                if link.line:
                    return  # the line came just now and ends with its job
                self._links.pop(site)
            if not link.spent:
                self._in_vain[site] += 1
                log.warning("job %s for site %s brought no connection", link.job, site)
        submitted = self.office.submit(site)
        with self._lock:
            kept = self._links.setdefault(site, _Link(submitted, time.monotonic()))
        if kept.job != submitted:  # meanwhile an earlier job has connected
            self.office.end(submitted)
        else:
            log.info("job %s for site %s", submitted, site)

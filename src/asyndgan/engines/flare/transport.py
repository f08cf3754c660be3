"""The coordinator's end: a line to each site, through a FLARE job of its own.

A job that ends, for whatever reason, is submitted again as soon as FLARE knows the site; so is one
for a site that comes for the first time. Only FLARE's public interface for administrators is used
for that, which is why it survives FLARE's upgrades. The coordinator itself is no part of a job: it
loses nothing when FLARE's server is killed, and the jobs find it again when it is.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, final

from asyndgan.engines.flare.jobs import Office
from asyndgan.errors import (
    AsyndganError,
    RefusedError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.protocol import Transport
from asyndgan.relay.framing import Frames, Requests
from asyndgan.relay.local import REASONS, Listener, Reply, read_reply
from asyndgan.relay.traffic import COUNTS

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Seconds between two looks at who is there."""

LATE_S: Final = 60.0
"""A job that has brought no line by then is given up: longer than its relay waits for the site."""

LONGEST_S: Final = 60.0
"""Between two jobs of a site that bring no line; after the first it is a second, then doubled."""

KEPT_JOBS: Final = 2
"""Of a site, whose bytes are told: the latest, and the one before, which may just have ended."""

SWEEP_S: Final = 60.0
"""Between two looks for jobs that nobody needs."""


@dataclass
class _Link:
    """What is known of the way to a site.

    Attributes:
        job: the latest.
        since: when it was submitted, or its line came.
        line: to the site, while there is one.
        spent: the job had a line that has ended, and is of no more use.
    """

    job: str
    since: float
    line: Requests | None = None
    spent: bool = False


@final
class Flare(Transport):
    """Lines to sites through FLARE.

    Args:
        office: submits jobs; says for which startup kit relays come, and how long messages are.
    """

    def __init__(self, office: Office) -> None:
        self.office = office
        self._members = frozenset(office.members())
        self._links: dict[str, _Link] = {}
        self._in_vain: Counter[str] = Counter()
        self._carried: dict[str, dict[str, tuple[int, int]]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener = Listener(office.kit, self._welcome, limit=office.limit)
        self._keeper = threading.Thread(target=self._keep, name="flare-jobs", daemon=True)
        self._keeper.start()

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """The site's answer.

        Raises:
            WireError: the request is longer than the recipe's messages can be.
            RefusedError: the site's own settings do not allow this run.
            SiteUnreachableError: as every transport.
        """
        if len(payload) > self.office.limit:
            raise WireError(f"a request of {len(payload)} bytes; {self.office.limit} are allowed.")
        job, line = self._live().get(site, ("", None))
        if line is None:
            raise SiteUnreachableError(f"site {site} is not connected.")
        try:
            reply = line.ask(payload, timeout)
            self._count(site, job, reply[: COUNTS.size])
            status, answer = read_reply(reply[COUNTS.size :])
        except SiteSilentError as error:
            raise SiteSilentError(f"site {site}: {error}") from error
        except (SiteUnreachableError, WireError) as error:
            line.frames.close()
            raise SiteUnreachableError(
                f"site {site}: the connection through FLARE is gone."
            ) from error
        if status is Reply.ANSWER:
            return answer
        kind = {Reply.SILENT: SiteSilentError, Reply.REFUSED: RefusedError}
        raise kind.get(status, SiteUnreachableError)(f"site {site}: {REASONS[status]}.")

    def sites(self) -> tuple[str, ...]:
        """Sites to which there is a line, in the order of their names."""
        return tuple(sorted(self._live()))

    def belongs(self, site: str) -> bool:
        """Whether the federation's file named a site when it was last looked at."""
        return site in self._members

    def socket_bytes(self) -> dict[str, dict[str, tuple[int, int]]]:
        """As the kernels of the sites' machines counted them, a second or two ago, by job.

        Of the last jobs of each site; whoever wants a sum adds those of before.
        """
        with self._lock:
            return {site: dict(of_jobs) for site, of_jobs in self._carried.items()}

    def wait_for(self, sites: Collection[str], seconds: float) -> bool:
        """Waits until there are lines to all of these sites; returns whether there are."""
        deadline = time.monotonic() + seconds
        while set(sites) - set(self.sites()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return not set(sites) - set(self.sites())

    def job(self, site: str) -> str:
        """The latest job of a site; nothing if there is none."""
        with self._lock:
            return self._links[site].job if site in self._links else ""

    def close(self) -> None:
        """Ends all jobs."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._listener.close()
        self._keeper.join()
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
        for link in links:
            if link.line:
                link.line.frames.close()
            self.office.end(link.job)
        self.office.close()

    def _count(self, site: str, job: str, counts: bytes) -> None:
        if len(counts) == COUNTS.size:
            with self._lock:
                of_jobs = self._carried.setdefault(site, {})
                of_jobs[job] = COUNTS.unpack(counts)
                for old in list(of_jobs)[:-KEPT_JOBS]:
                    del of_jobs[old]

    def _live(self) -> dict[str, tuple[str, Requests]]:
        """Job and line of each site that has one."""
        with self._lock:
            for link in self._links.values():
                if link.line and link.line.frames.ended():
                    link.line.frames.close()
                    link.line, link.spent = None, True
            return {site: (x.job, x.line) for site, x in self._links.items() if x.line}

    def _welcome(self, greeting: dict[str, str], frames: Frames) -> None:
        """A relay has come whose site answers; its connection is a line until it ends."""
        site, job = greeting.get("site", ""), greeting.get("job", "")
        ours = {"run": self.office.run, "recipe": self.office.recipe.digest()}
        if any(greeting.get(name) != value for name, value in ours.items()):
            raise WireError(f"job {job} is of another run.")
        if not self.belongs(site):
            raise WireError(f"job {job} is of {site}, which is no site of this federation.")
        with self._lock:
            # After a restart of the coordinator, jobs of before are still there: they will do.
            link = self._links.setdefault(site, _Link(job, time.monotonic()))
            if link.job != job:
                raise WireError(f"job {job} is not the one of site {site}.")
            link.line, link.since, link.spent = Requests(frames), time.monotonic(), False
            self._in_vain.pop(site, None)
        log.info("site %s is connected", site)
        while not frames.ended() and not self._closing.wait(LOOK_S):
            pass

    def _keep(self) -> None:
        """Keeps one job for each site that FLARE knows."""
        swept = -SWEEP_S
        while not self._closing.wait(LOOK_S):
            try:
                before, self._members = self._members, frozenset(self.office.members())
                if self._members != before or time.monotonic() - swept > SWEEP_S:
                    self._sweep()
                    swept = time.monotonic()
                there = self._members.intersection(self.office.present())
                for site in sorted(there.difference(self._live())):
                    try:
                        self._keep_job(site)
                    except AsyndganError as error:
                        log.warning("site %s: %s", site, error)
            except AsyndganError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("jobs cannot be kept now")  # and are looked at again

    def _sweep(self) -> None:
        """Takes over jobs that have outlived a coordinator; ends those that nobody needs."""
        for site, jobs in self.office.sweep(self._members).items():
            with self._lock:
                link = self._links.setdefault(site, _Link(jobs[-1], time.monotonic()))
            for job in set(jobs) - {link.job}:
                self.office.end(job)

    def _keep_job(self, site: str) -> None:
        """Submits a job for a site without a line, unless its latest one may still bring one."""
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
                    return  # it came just now, and ends with its job
                self._links.pop(site)
            if not link.spent:
                self._in_vain[site] += 1
                log.warning("job %s for site %s brought no connection", link.job, site)
        submitted = self.office.submit(site)
        with self._lock:
            kept = self._links.setdefault(site, _Link(submitted, time.monotonic()))
        if kept.job != submitted:  # one of before has come meanwhile
            self.office.end(submitted)
        else:
            log.info("job %s for site %s", submitted, site)

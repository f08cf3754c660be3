"""The coordinator's end: a line to each site, through a FLARE job of its own.

A job that ends, for whatever reason, is submitted again as soon as FLARE knows the site; so is one
for a site that comes for the first time. Only FLARE's public interface for administrators is used
for that, which is why it survives FLARE's upgrades. The coordinator itself is no part of a job: it
loses nothing when FLARE's server is killed, and the jobs find it again when it is.
"""

import logging
import threading
import time
from collections.abc import Collection
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

LATE_S: Final = 45.0
"""A job that has brought no line by then is given up, and another one submitted."""


@final
class Flare(Transport):
    """Lines to sites through FLARE.

    Args:
        office: submits jobs; says for which startup kit relays come, and how long messages are.
    """

    def __init__(self, office: Office) -> None:
        self.office = office
        self._lines: dict[str, Requests] = {}
        self._jobs: dict[str, tuple[str, float]] = {}
        self._spent: set[str] = set()
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
        line = self._live().get(site)
        if line is None:
            raise SiteUnreachableError(f"site {site} is not connected.")
        try:
            reply = line.ask(payload, timeout)
            self._count(site, reply[: COUNTS.size])
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

    def socket_bytes(self) -> dict[str, tuple[int, int]]:
        """As the kernels of the sites' machines counted them, a second or two ago."""
        with self._lock:
            return {
                site: (
                    sum(left for left, _ in jobs.values()),
                    sum(came for _, came in jobs.values()),
                )
                for site, jobs in self._carried.items()
            }

    def _count(self, site: str, counts: bytes) -> None:
        if len(counts) == COUNTS.size:
            left, came = COUNTS.unpack(counts)
            with self._lock:
                self._carried.setdefault(site, {})[self._jobs[site][0]] = left, came

    def wait_for(self, sites: Collection[str], seconds: float) -> bool:
        """Waits until there are lines to all of these sites; returns whether there are."""
        deadline = time.monotonic() + seconds
        while set(sites) - set(self.sites()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return not set(sites) - set(self.sites())

    def close(self) -> None:
        """Ends all jobs."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._listener.close()
        self._keeper.join()
        with self._lock:
            for line in self._lines.values():
                line.frames.close()
            self._lines.clear()
        for job, _ in self._jobs.values():
            self.office.end(job)
        self.office.close()

    def _live(self) -> dict[str, Requests]:
        with self._lock:
            for site in [name for name, line in self._lines.items() if line.frames.ended()]:
                self._lines.pop(site).frames.close()
                self._spent.add(self._jobs[site][0])  # a job whose line ended is of no more use
            return dict(self._lines)

    def _welcome(self, greeting: dict[str, str], frames: Frames) -> None:
        """A relay has come whose site answers; its connection is a line until it ends."""
        site, line = greeting.get("site", ""), Requests(frames)
        with self._lock:
            job, _ = self._jobs.get(site, ("", 0.0))
            # After a restart of the coordinator, jobs of before are still there: they will do.
            if job and job != greeting.get("job"):
                raise WireError(f"job {greeting.get('job')} is not the one of site {site}.")
            self._jobs[site] = greeting.get("job", ""), time.monotonic()
            self._lines[site] = line
        log.info("site %s is connected", site)
        while not frames.ended() and not self._closing.wait(LOOK_S):
            pass

    def _keep(self) -> None:
        """Keeps one job for each site that FLARE knows."""
        while not self._closing.wait(LOOK_S):
            try:
                there = self.office.present()
                for site in set(there) - set(self._live()):
                    job, since = self._jobs.get(site, ("", 0.0))
                    late = job in self._spent or time.monotonic() - since > LATE_S
                    if job and not late and self.office.lives(job):
                        continue
                    if job:
                        self.office.end(job)
                    with self._lock:
                        self._jobs.pop(site, None)
                        self._spent.discard(job)
                    submitted = self.office.submit(site)
                    with self._lock:
                        self._jobs[site] = submitted, time.monotonic()
                    log.info("job %s for site %s", submitted, site)
            except AsyndganError as error:
                log.warning("%s", error)

"""The FLARE app: what its jobs run, by FLARE's public interface alone.

A site's end (`SiteLine`) holds no data and no key: it passes bytes between the coordinator and the
site's data process. The coordinator's end does the same to a coordinator outside FLARE
(`CoordinatorLine`, one job a site), or is the coordinator (`Messages`, one job a run,
`asyndgan.runs.coordination`). Bytes travel as auxiliary messages: tasks would be polled for.

Imports no torch, since FLARE starts such processes for every site.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from asyndgan.engines.flare.sealing import Seal
from asyndgan.engines.flare.sockets import (
    COORDINATOR,
    SOCKETS,
    Reply,
    connect,
    reply_of,
    unsealed,
)
from asyndgan.engines.framing import Frames, Requests
from asyndgan.errors import SiteSilentError, SiteUnreachableError, WireError
from asyndgan.protocol.transport import Transport

log = logging.getLogger(__name__)

GREET: Final = "asyndgan.greet"
REQUEST: Final = "asyndgan.request"
BYTES: Final = "bytes"

COMING_S: Final = 120.0  # Seconds within which the site's end of a job must appear, or the job ends
GONE_S: Final = 8.0  # seconds without contact to the site's end, after which a job ends

AGAIN_S: Final = 0.3
LONGEST_S: Final = 2.0
"""Shortest (`AGAIN_S`) and longest pause in seconds before reconnecting to the coordinator; it is
doubled while the coordinator is not there."""

LOOK_S: Final = 2.0  # seconds between two checks of the site's end, of a kilobyte each


@final
class SiteEnd:
    """The other end of a job, at one site, as FLARE's engine reaches it; answers have a limit."""

    def __init__(self, engine: Any, site: str, limit: int) -> None:
        self.engine = engine
        self.site = site
        self.limit = limit
        self.last_reached = 0.0

    def reached(self) -> bool:
        """Whether the site's end answers, and its data process is there."""
        return self._ask(GREET, b"", 2.0) is not None

    def gone(self) -> bool:
        """Whether it has not answered for `GONE_S`."""
        return time.monotonic() - self.last_reached > GONE_S

    def answered(self, payload: bytes, wait_s: float, ended: Callable[[], bool]) -> bytes:
        """The site's reply to a request, which is repeated while there is time.

        Raises `SiteUnreachableError` if the site's end of the job is gone.
        """
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0 and not ended():
            # Wait a third of the time, so that a lost answer can be requested again.
            reply = self._ask(REQUEST, payload, min(left, max(1.0, wait_s / 3)))
            if reply is not None and len(reply) > self.limit:
                log.warning("site %s: an answer of %d bytes is dropped", self.site, len(reply))
                return reply_of(Reply.UNREACHABLE)
            if reply is not None:
                return reply
            if self.gone():
                raise SiteUnreachableError(f"site {self.site} is not connected.")
            time.sleep(0.05)
        return reply_of(Reply.SILENT)

    def look_after(self, ended: Callable[[], bool]) -> None:
        """Asks for a sign of life until the job ends; FLARE just lets requests wait."""
        while not ended():
            self.reached()
            time.sleep(LOOK_S)

    def _ask(self, topic: str, payload: bytes, timeout: float) -> bytes | None:
        request = Shareable()
        request[BYTES] = payload
        with self.engine.new_context() as fl_ctx:
            replies = self.engine.send_aux_request(
                [self.site], topic, request, timeout, fl_ctx, optional=True
            )
        reply = (replies or {}).get(self.site)
        if not isinstance(reply, Shareable) or reply.get_return_code() != ReturnCode.OK:
            return None
        answer = reply.get(BYTES)
        if not isinstance(answer, bytes | bytearray | memoryview):
            return None
        self.last_reached = time.monotonic()
        return bytes(answer)


@final
class CoordinatorLine(Controller):
    """Passes requests of the coordinator on this machine to one site's job.

    `recipe` is its digest, `limit` most bytes of a message, `wait_s` for an answer.
    """

    def __init__(self, site: str, run: str, recipe: str, limit: int, wait_s: float) -> None:
        super().__init__()
        self.site = site
        self.greeting = {"site": site, "run": run, "recipe": recipe}
        self.limit = limit
        self.wait_s = wait_s

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to do."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to do."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Passes on until the job is aborted or its site's end is gone."""
        end = SiteEnd(fl_ctx.get_engine(), self.site, self.limit)
        coming = time.monotonic() + COMING_S
        while not abort_signal.triggered and not end.reached():
            if time.monotonic() > coming:
                return
            time.sleep(0.1)
        threading.Thread(
            target=end.look_after, args=(lambda: abort_signal.triggered or end.gone(),), daemon=True
        ).start()
        greeting, pause = self.greeting | {"job": fl_ctx.get_job_id()}, AGAIN_S
        while not abort_signal.triggered and not end.gone():
            begun = time.monotonic()
            with suppress(SiteUnreachableError, WireError):
                frames = connect(_sockets() / COORDINATOR, greeting, limit=self.limit)
                self._pass_on(frames, end, abort_signal)
            # The coordinator may be restarting, or may not want this job any more.
            pause = AGAIN_S if time.monotonic() - begun > LONGEST_S else min(2 * pause, LONGEST_S)
            time.sleep(pause)

    def _pass_on(self, frames: Frames, end: SiteEnd, abort_signal: Signal) -> None:
        try:  # when the frames are closed, the coordinator notices and submits another job
            while not abort_signal.triggered and not end.gone():
                try:
                    number, payload = frames.receive(timeout=0.5)
                except SiteSilentError:
                    continue
                reply = end.answered(payload, self.wait_s, lambda: abort_signal.triggered)
                frames.send(number, reply, timeout=self.wait_s)
        finally:
            frames.close()


@final
class SiteLine(Executor):
    """Passes requests to the site's data process on this machine; runs in a site's job process.

    `recipe` is TOML (empty: sites only answer questions), `letter` the key of this line, for the
    site's eyes alone, `limit` most bytes of a message, `wait_s` for an answer.
    """

    def __init__(self, recipe: str, run: str, letter: str, limit: int, wait_s: float) -> None:
        super().__init__()
        self.greeting = {"recipe": recipe, "run": run, "letter": letter}
        self.limit = limit
        self.wait_s = wait_s
        self.site = ""
        self._requests: Requests | None = None
        self._lock = threading.Lock()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Nothing to do: there are no tasks."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Registers the handlers of messages when the job starts."""
        if event_type == EventType.START_RUN:
            self.site = fl_ctx.get_identity_name()
            meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
            submitter = str(meta.get("submitter_name", ""))
            self.greeting |= {"job": fl_ctx.get_job_id(), "submitter": submitter}
            for topic in (GREET, REQUEST):
                fl_ctx.get_engine().register_aux_message_handler(topic, self.answer)
        elif event_type == EventType.END_RUN:
            self.disconnect()

    def answer(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """The data process's answer; it alone knows whether the request is the coordinator's."""
        payload = request.get(BYTES)
        if not isinstance(payload, bytes | bytearray | memoryview) or len(payload) > self.limit:
            log.warning("a message that is no request is refused")
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        reply = make_reply(ReturnCode.OK)
        try:
            requests = self._connected()
            reply[BYTES] = b"" if topic == GREET else requests.ask(bytes(payload), self.wait_s)
        except SiteSilentError:
            return make_reply(ReturnCode.COMMUNICATION_ERROR)
        except (SiteUnreachableError, WireError) as error:
            log.debug("%s", error)
            self.disconnect()
            return make_reply(ReturnCode.SERVICE_UNAVAILABLE)
        return reply

    def _connected(self) -> Requests:
        with self._lock:
            if self._requests is None or self._requests.frames.ended():
                path = _sockets() / self.site
                self._requests = Requests(connect(path, self.greeting, limit=self.limit))
            return self._requests

    def disconnect(self) -> None:
        """Ends the connection to the data process; the next request opens another."""
        with self._lock:
            if self._requests:
                self._requests.frames.close()
            self._requests = None


@final
class Messages(Transport):
    """Carries requests to the sites of one job, from within the server's job process.

    `keys` are of the line to each site, as hexadecimal digits, `limit` most bytes of a message.
    """

    def __init__(
        self, engine: Any, keys: Mapping[str, str], limit: int, ended: Callable[[], bool]
    ) -> None:
        self._seals = {site: Seal(bytes.fromhex(key)) for site, key in keys.items()}
        self._ends = {site: SiteEnd(engine, site, limit) for site in keys}
        self._closed = threading.Event()
        self._ended = lambda: self._closed.is_set() or ended()
        for end in self._ends.values():
            threading.Thread(target=end.look_after, args=(self._ended,), daemon=True).start()

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request and returns the site's answer."""
        if site not in self.sites():
            raise SiteUnreachableError(f"site {site} is not connected.")
        sealed = self._seals[site].sealed(payload)
        reply = self._ends[site].answered(sealed, timeout, self._ended)
        return unsealed(site, reply, self._seals[site], sealed)

    def sites(self) -> tuple[str, ...]:
        """Sites whose data process is connected."""
        if self._ended():
            return ()
        return tuple(sorted(site for site, end in self._ends.items() if not end.gone()))

    def close(self) -> None:
        """Stops asking."""
        self._closed.set()


def _sockets() -> Path:
    """Folder of the sockets, which whoever starts FLARE names to its processes."""
    folder = os.environ.get(SOCKETS)
    if not folder:
        log.warning("no data process is found: FLARE's environment does not name %s", SOCKETS)
        raise SiteUnreachableError("the process beside FLARE's is not known.")
    return Path(folder)

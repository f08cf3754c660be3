"""Runs inside FLARE's job processes and relays the coordinator's requests to one site, and back.

There is one job per site, so that a failure of one site's job affects no other. Neither end
interprets the bytes, holds data or imports torch. Messages use FLARE's `core_cell`, whose memory
stays flat, whereas tasks are polled for and streamed replies are kept for a minute.
"""

import hmac
import json
import logging
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message

from asyndgan.errors import SiteSilentError, SiteUnreachableError, WireError
from asyndgan.relay.framing import Frames, Requests
from asyndgan.relay.local import Reply, connect, reply_of
from asyndgan.relay.traffic import COUNTS, Carried

log = logging.getLogger(__name__)

CHANNEL: Final = "asyndgan"
MARK: Final = "asyndgan_job"
"""Header of every request and answer that holds the job's secret: besides the sender's name, which
certificates prove (`names.py`), only what the job brought counts."""

GREET: Final = "greet"
REQUEST: Final = "request"
COMING_S: Final = 40.0
"""Seconds within which the site's end of a job must appear, or the job ends."""

GONE_S: Final = 8.0
"""Seconds without contact to the site's end after which a job ends and another is submitted."""

AGAIN_S: Final = 0.3
LONGEST_S: Final = 2.0
"""Shortest (`AGAIN_S`) and longest pause in seconds before reconnecting to the coordinator; it is
doubled while the coordinator is not there."""

LOOK_S: Final = 2.0
"""Seconds between two checks that the site's end is there, each of more than a kilobyte."""


def kit_of(fl_ctx: FLContext) -> Path:
    """Folder in which the FLARE process of this job was started."""
    return Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())


def server_of(workspace: Path) -> str:
    """Returns HOST:PORT of the server, from what the site wrote for FLARE."""
    settings = json.loads((workspace / "startup" / "fed_client.json").read_text())
    return str(settings["servers"][0]["service"]["target"])


def of_this_job(message: Message, secret: str) -> bool:
    """Whether the sender of a message knows the job's secret."""
    return hmac.compare_digest(str(message.get_header(MARK, "")).encode(), secret.encode())


@final
class CoordinatorRelay(Controller):
    """Forwards the coordinator's requests to one site's job; runs in the server's job process.

    Args:
        site: site of this job.
        run: name of the run.
        recipe: digest of the run's recipe.
        secret: secret of this job.
        limit: most bytes of a message.
        wait_s: seconds the coordinator waits for an answer. A request is repeated within that
            time, since sites answer a repeated one with the same bytes.

    Attributes:
        last_reached: when the site's end answered last (monotonic time).
    """

    def __init__(
        self, site: str, run: str, recipe: str, secret: str, limit: int, wait_s: float
    ) -> None:
        super().__init__()
        self.site = site
        self.greeting = {"site": site, "run": run, "recipe": recipe}
        self.secret = secret
        self.limit = limit
        self.wait_s = wait_s
        self.cell: Any = None
        self.target = ""
        self._frames: Frames | None = None
        self._traffic = COUNTS.pack(0, 0)
        self.last_reached = 0.0

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Keeps FLARE from importing torch at the end of the job, to look for its own downloads."""
        sys.modules.setdefault("nvflare.app_opt.pt", None)  # type: ignore[arg-type]

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to do."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Relays until the job is aborted or its site's end is gone."""
        self.cell = fl_ctx.get_engine().get_cell().core_cell
        job = fl_ctx.get_job_id()
        self.target = f"{self.site}.{job}"
        coming = time.monotonic() + COMING_S
        while not abort_signal.triggered and not self._reached():
            if time.monotonic() > coming:
                return
            time.sleep(0.1)
        threading.Thread(target=self._look_after, args=(abort_signal,), daemon=True).start()
        greeting, pause = self.greeting | {"job": job}, AGAIN_S
        while not abort_signal.triggered and not self._gone():
            begun = time.monotonic()
            with suppress(SiteUnreachableError, WireError):
                self._frames = connect(kit_of(fl_ctx), greeting, limit=self.limit)
                self._relay(self._frames, abort_signal)
            # The coordinator may be restarting, or may not want this job any more.
            pause = AGAIN_S if time.monotonic() - begun > LONGEST_S else min(2 * pause, LONGEST_S)
            time.sleep(pause)

    def _relay(self, frames: Frames, abort_signal: Signal) -> None:
        try:
            while not abort_signal.triggered:
                try:
                    number, payload = frames.receive(timeout=0.5)
                except SiteSilentError:
                    continue
                reply = self.answered(payload, abort_signal)
                frames.send(number, self._traffic + reply, timeout=self.wait_s)
        finally:
            frames.close()

    def answered(self, payload: bytes, abort_signal: Signal) -> bytes:
        """The site's reply to a request, which is asked again while there is time.

        Raises:
            SiteUnreachableError: the site's end of the job is gone.
        """
        deadline = time.monotonic() + self.wait_s
        while (left := deadline - time.monotonic()) > 0 and not abort_signal.triggered:
            # Wait a third of the time, so that a lost answer can be requested again.
            reply = self._ask(REQUEST, payload, min(left, max(1.0, self.wait_s / 3)))
            if reply is not None and len(reply) > self.limit:
                log.warning("site %s: an answer of %d bytes is dropped", self.site, len(reply))
                return reply_of(Reply.UNREACHABLE)
            if reply is not None:
                return reply
            if self._gone():
                raise SiteUnreachableError("the site's end of this job is gone.")
            time.sleep(0.05)
        return reply_of(Reply.SILENT)

    def _look_after(self, abort_signal: Signal) -> None:
        """Detects that the site's end is gone: FLARE just lets requests to it wait."""
        while not abort_signal.triggered and not self._gone():
            self._reached()
            time.sleep(LOOK_S)
        if self._frames:
            self._frames.close()  # the coordinator notices and submits another job

    def _gone(self) -> bool:
        return time.monotonic() - self.last_reached > GONE_S

    def _reached(self) -> bool:
        """Whether the site's end answers; also updates the byte counts that it reports."""
        traffic = self._ask(GREET, b"", 2.0)
        if traffic is not None and len(traffic) == COUNTS.size:
            self._traffic = traffic
        return traffic is not None

    def _ask(self, topic: str, payload: bytes, timeout: float) -> bytes | None:
        reply = self.cell.send_request(
            channel=CHANNEL, topic=topic, target=self.target, timeout=timeout, optional=True,
            request=Message({MARK: self.secret}, payload),
        )  # fmt: skip
        answered = reply.get_header(MessageHeaderKey.RETURN_CODE) == ReturnCode.OK
        if answered and not of_this_job(reply, self.secret):
            log.warning("an answer without the job's secret is dropped")
            return None
        if answered:
            self.last_reached = time.monotonic()
        # FLARE turns an empty payload into None.
        return bytes(reply.payload or b"") if answered else None


@final
class SiteRelay(Executor):
    """Passes requests to the site's service on this machine; runs in a site's job process."""

    def __init__(self, recipe: str, run: str, secret: str, limit: int, wait_s: float) -> None:
        super().__init__()
        self.secret = secret
        self.greeting = {"recipe": recipe, "run": run}
        self.limit = limit
        self.wait_s = wait_s
        self.kit = Path()
        self.carried = Carried(0)
        self._requests: Requests | None = None
        self._lock = threading.Lock()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Nothing to do: tasks are not used, since they would be polled for."""
        return shareable

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Registers the request handler when the job starts."""
        if event_type != EventType.START_RUN:
            return
        workspace = kit_of(fl_ctx)
        self.kit = workspace.parent  # FLARE's folder lies in the site's
        self.carried = Carried(int(server_of(workspace).rpartition(":")[2]))
        job = fl_ctx.get_job_id()
        meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
        self.greeting |= {"job": job, "submitter": str(meta.get("submitter_name", ""))}
        cell: Any = fl_ctx.get_engine().get_cell().core_cell
        cell.register_request_cb(channel=CHANNEL, topic="*", cb=self.answer, job=job)

    def answer(self, request: Message, job: str) -> Message:
        """Answers a request of the server's process of this job, and refuses any other."""
        origin = request.get_header(MessageHeaderKey.ORIGIN)
        # Other sites can reach this job through the server.
        if origin != f"server.{job}" or not of_this_job(request, self.secret):
            log.warning("a request of %s is refused", origin)
            return make_reply(ReturnCode.UNAUTHENTICATED, "", None)
        payload = bytes(request.payload or b"")
        if len(payload) > self.limit:
            log.warning("a request of %d bytes is refused", len(payload))
            return make_reply(ReturnCode.INVALID_REQUEST, "", None)
        reply = self._reply(request.get_header(MessageHeaderKey.TOPIC), payload)
        reply.set_header(MARK, self.secret)
        return reply

    def _reply(self, topic: str, payload: bytes) -> Message:
        try:
            requests = self._connected()
            if topic == GREET:
                return make_reply(ReturnCode.OK, "", COUNTS.pack(*self.carried.count()))
            return make_reply(ReturnCode.OK, "", requests.ask(payload, self.wait_s))
        except SiteSilentError:
            return make_reply(ReturnCode.TIMEOUT, "", None)
        except (SiteUnreachableError, WireError):
            self.disconnect()
            return make_reply(ReturnCode.SERVICE_UNAVAILABLE, "", None)
        except Exception:
            log.exception("a request is not answered")  # FLARE would not log it
            raise

    def _connected(self) -> Requests:
        with self._lock:
            if self._requests is None or self._requests.frames.ended():
                self._requests = Requests(connect(self.kit, self.greeting, limit=self.limit))
            return self._requests

    def disconnect(self) -> None:
        """Ends the connection to the site's service; the next request opens another."""
        with self._lock:
            if self._requests:
                self._requests.frames.close()
            self._requests = None

"""What FLARE's own processes run of this package: two ends, by which sealed bytes pass.

They hold no data and no key. A site's end passes on to the site's data process, the server's end
takes from the coordinator beside it. In a FLARE federation of others the site's end runs in a job,
and the coordinator in the server's (`asyndgan.runs.coordination`). Bytes travel as FLARE's
auxiliary messages: tasks would be polled for.

Imports no torch, since FLARE starts such processes for every site.
"""

import hmac
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Final, final

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.flare.sockets import (
    GONE_S,
    GREET,
    LONGEST,
    PRESENT,
    REQUEST,
    SERVER,
    SOCKETS,
    Listener,
    connect,
)
from asyndgan.engines.framing import Frames, Requests
from asyndgan.errors import SiteSilentError, SiteUnreachableError, WireError
from asyndgan.texts import parsed_json, sha256_of

log = logging.getLogger(__name__)

BYTES, LINE, WITHIN = "bytes", "line", "within"  # keys of a message

HERE: Final = b"here"  # what a greeting is answered with
ADMIT_S: Final = 3.0  # seconds between two looks at who is a member
MOST_LINES: Final = 16  # open at a site at once: of runs, questions and their earlier tries
LONGEST_GREETING: Final = 2**22  # bytes: a recipe and a letter


@final
class SiteEnd(Executor):
    """Passes what comes from the coordinator on to the site's data process on this machine.

    A greeting opens a line to it, which lasts as long as greetings of its name come. In a job of
    others, whose site has no letters, only one with the digest of the job's own `key` does.
    """

    def __init__(self, key: str = "") -> None:
        super().__init__()
        self.key = key
        self.site = self.submitter = ""
        self._job = False
        self._lines: dict[str, Requests] = {}
        self._greeted: dict[str, float] = {}
        self._lock = threading.Lock()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Nothing to do: there are no tasks."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begins to answer when FLARE's client, or the job of others, begins."""
        if event_type in (EventType.SYSTEM_START, EventType.START_RUN):
            self.site, self._job = fl_ctx.get_identity_name(), event_type == EventType.START_RUN
            meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
            self.submitter = str(meta.get("submitter_name", ""))
            for topic in (GREET, REQUEST):
                fl_ctx.get_engine().register_aux_message_handler(topic, self.answer)

    def answer(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """The data process's answer; it alone knows whether the request is the coordinator's."""
        payload, line, within = (request.get(key) for key in (BYTES, LINE, WITHIN))
        if (
            not isinstance(payload, bytes | bytearray | memoryview)
            or len(payload) > (LONGEST_GREETING if topic == GREET else LONGEST)
            or not (isinstance(line, str) and len(line) <= 64 and isinstance(within, float))
        ):
            log.warning("a message that is no request is refused")
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        reply = make_reply(ReturnCode.OK)
        try:
            if topic == GREET:
                self._greet(line, bytes(payload))
                reply[BYTES] = HERE
            else:
                reply[BYTES] = self._line(line).ask(bytes(payload), within)
        except SiteSilentError:
            return make_reply(ReturnCode.COMMUNICATION_ERROR)
        except (SiteUnreachableError, WireError, ValueError) as error:
            log.debug("%s", error)
            return make_reply(ReturnCode.SERVICE_UNAVAILABLE)
        return reply

    def _greet(self, line: str, greeting: bytes) -> None:
        with self._lock:
            now = time.monotonic()
            for name in [name for name, at in self._greeted.items() if now - at > GONE_S]:
                del self._greeted[name]
                if name in self._lines:
                    self._lines.pop(name).frames.close()
            if line not in self._greeted and len(self._greeted) >= MOST_LINES:
                raise SiteUnreachableError("too many lines are open.")
            self._greeted[line] = now
            if greeting and (line not in self._lines or self._lines[line].frames.ended()):
                about = parsed_json(greeting.decode()) | {"submitter": self.submitter}
                if self._job:
                    if not hmac.compare_digest(str(about.get("letter")), sha256_of(self.key)):
                        raise WireError("a greeting is not of the job's coordinator.")
                    about["letter"] = self.key
                frames = connect(_sockets() / self.site, about, limit=LONGEST)
                self._lines[line] = Requests(frames)
        self._line(line)

    def _line(self, line: str) -> Requests:
        requests = self._lines.get(line)
        if requests is None or requests.frames.ended():
            raise SiteUnreachableError("nobody has opened this line.")
        return requests


def passed_on(
    engine: Any, site: str, topic: str, line: str, payload: bytes, within: float
) -> bytes | None:
    """A site's answer by way of FLARE's engine; None if there was none in so many seconds."""
    if not engine.get_client_from_name(site):
        return None
    request = Shareable()
    request[BYTES], request[LINE], request[WITHIN] = payload, line, float(within)
    with engine.new_context() as fl_ctx:
        replies = engine.send_aux_request([site], topic, request, within, fl_ctx, optional=True)
    reply = (replies or {}).get(site)
    if not isinstance(reply, Shareable) or reply.get_return_code() != ReturnCode.OK:
        return None
    answer = reply.get(BYTES)
    return bytes(answer) if isinstance(answer, bytes | bytearray | memoryview) else None


@final
class ServerEnd(FLComponent):
    """Passes the coordinator's requests on to sites, and sends away who is no member."""

    def __init__(self, federation: str) -> None:
        super().__init__()
        self.federation = Path(federation)
        self._engine: Any = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begins when FLARE's server begins."""
        if event_type == EventType.SYSTEM_START:
            self._engine = fl_ctx.get_engine()
            Listener(_sockets() / SERVER, self._serve)
            threading.Thread(target=self._admit, daemon=True).start()

    def _serve(self, asked: dict[str, str], frames: Frames) -> None:
        """Answers one request; an empty answer is none."""
        number, payload = frames.receive(timeout=10.0)
        if asked["topic"] == PRESENT:
            names = sorted(client.name for client in self._engine.get_clients())
            answer: bytes | None = json.dumps(names).encode()
        else:
            site, topic, line = asked["site"], asked["topic"], asked["line"]
            answer = passed_on(self._engine, site, topic, line, payload, float(asked["within"]))
        frames.send(number, answer or b"", timeout=10.0)

    def _admit(self) -> None:
        known: frozenset[str] = frozenset()
        while True:
            try:
                members = frozenset(Federation.of(self.federation).sites)
                if new := [*(members - known)]:  # they may have been sent away under these names
                    self._engine.enable_clients(new)
                known = members
                present = {client.name for client in self._engine.get_clients()}
                if strangers := [*(present - members)]:
                    self._engine.disable_clients(strangers)
            except Exception as error:
                log.warning("who is a member was not looked at: %s", error)
            time.sleep(ADMIT_S)


def _sockets() -> Path:
    """Folder of the sockets, which whoever starts FLARE names to its processes."""
    folder = os.environ.get(SOCKETS)
    if not folder:
        log.warning("no data process is found: FLARE's environment does not name %s", SOCKETS)
        raise SiteUnreachableError("the process beside FLARE's is not known.")
    return Path(folder)

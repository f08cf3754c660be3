"""FLARE's process at a site, started with this module, reduced to what a run needs.

FLARE's client offers the server a shell that reads files, the removal of any folder beside its own,
restarts and logs. It checks whether a command is authorised only if the server's request demands
the check, and an attacker's server need not. So these commands are removed.
"""

import io
import logging
import re
import runpy
import ssl
import threading
import zipfile
from typing import Any, Final, final

from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.fuel.f3.drivers import tcp_driver
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode, error_reply
from nvflare.private.defs import ERROR_MSG_PREFIX, RequestHeader, TrainingTopic
from nvflare.private.fed.client.admin import RequestProcessor
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from asyndgan.relay.job import start_jobs_here
from asyndgan.relay.names import secure_connections
from asyndgan.relay.server import put_up_door

log = logging.getLogger(__name__)

NEEDED: Final = frozenset(
    {
        "CheckResourceProcessor", "CancelResourceProcessor", "DeployProcessor",
        "StartJobProcessor", "AbortAppProcessor", "NotifyJobStatusProcessor",
        "ClientStatusProcessor",
    }
)  # fmt: skip
"""Processors of the requests by which FLARE's server begins, ends and looks after a job."""

JOB: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Matches a job's name, which is also that of its folder in the kit, beside the site's own."""

FILE: Final = re.compile(
    r"(config/)?(config_fed_(client|server)\.json|\.__nvfl_(sig\.json|submitter\.crt))?"
)
"""Matches the files and folders of a job of ours: configuration, and FLARE's signatures of it."""

MOST_BYTES: Final = 2**22
"""Most bytes that a job's files may take once unpacked."""

FAILED: Final = "it failed; the reason is in the site's own log"

PROOF_S: Final = 10.0
"""Seconds in which a server has to accept a connection and prove that it is the coordinator's."""


@final
class Gate(RequestProcessor):
    """Passes the requests of jobs to one of FLARE's processors, one at a time.

    FLARE unpacks a job before it looks whether the job brings code, and removes it afterwards;
    meanwhile another request could start it.
    """

    _one_at_a_time = threading.Lock()

    def __init__(self, inner: RequestProcessor) -> None:
        self.inner = inner

    def get_topics(self) -> list[str]:
        """The topics of the processor."""
        topics: list[str] = self.inner.get_topics()
        return topics

    def process(self, req: Message, app_ctx: Any) -> Message:
        """Refuses a job that is more than configuration, or whose folder would be another's.

        Errors are reported as fixed sentences: FLARE would send the text of any exception.
        """
        job = req.get_header(RequestHeader.JOB_ID)
        if job is not None and not JOB.fullmatch(str(job)):
            log.warning("a request for a job of no job's name is refused")
            return error_reply("no job has this name")
        if req.topic == TrainingTopic.DEPLOY and not only_configuration(req.body):
            log.warning("a job that brings more than its configuration is refused")
            return error_reply("a job brings its configuration and nothing else")
        try:
            with self._one_at_a_time:
                reply: Message = self.inner.process(req, app_ctx)
        except Exception:
            log.exception("a request of the server failed")
            return error_reply(FAILED)
        said = reply.body if reply is not None else None
        if isinstance(said, str):
            broken = said.startswith(ERROR_MSG_PREFIX)
            if broken or reply.get_header(MsgHeader.RETURN_CODE) == ReturnCode.ERROR:
                log.warning("a request of the server failed: %s", said)
                reply.body = f"{ERROR_MSG_PREFIX}: {FAILED}" if broken else FAILED
        return reply


def only_configuration(packed: object) -> bool:
    """Whether a packed job holds the files that a job of ours has, and is small."""
    if not isinstance(packed, bytes):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            files = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return all(FILE.fullmatch(each.filename) for each in files) and (
        sum(each.file_size for each in files) <= MOST_BYTES
    )


def close_doors() -> None:
    """Takes away what no run needs, from FLARE's client in this process.

    Raises:
        RuntimeError: this version of FLARE has no such processors.
    """
    offered = ClientRequestProcessors.request_processors
    kept = [one for one in offered if type(one).__name__ in NEEDED]
    if {type(one).__name__ for one in kept} != NEEDED:
        raise RuntimeError("FLARE's client is another than this package knows; install nvflare 2.9")
    offered[:] = [Gate(one) for one in kept]


@final
class Hurried(ssl.SSLSocket):
    """A socket that waits at most `PROOF_S` for the handshake, where FLARE waits for ever."""

    def connect(self, addr: Any) -> None:
        """Connects and shakes hands; raises `OSError` if that takes too long."""
        self.settimeout(PROOF_S)
        super().connect(addr)
        self.settimeout(None)


def hurry() -> None:
    """Makes FLARE's client in this process try again if a server does not identify itself."""
    context_of = tcp_driver.get_ssl_context

    def hurried(params: dict[str, Any], ssl_server: bool) -> ssl.SSLContext | None:
        context = context_of(params, ssl_server=ssl_server)
        if context and not ssl_server:
            context.sslsocket_class = Hurried
        return context

    tcp_driver.get_ssl_context = hurried


if __name__ == "__main__":
    secure_connections()
    start_jobs_here(ClientProcessJobLauncher)
    put_up_door()
    close_doors()
    hurry()
    runpy.run_module("nvflare.private.fed.app.client.client_train", run_name="__main__")

"""FLARE's process at a site, started with this module, without what no run needs of it.

FLARE's client offers whoever runs the server a shell that reads files, the removal of any folder
beside its own, restarts and logs. It asks whether a command is authorised only if the server's
request says that this is to be asked: an honest server says so, and one that was taken over need
not. What is not there needs no permission.
"""

import logging
import re
import runpy
from typing import Any, Final, final

from nvflare.private.admin_defs import Message, error_reply
from nvflare.private.defs import RequestHeader
from nvflare.private.fed.client.admin import RequestProcessor
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

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


@final
class Gate(RequestProcessor):
    """Passes the requests of jobs to one of FLARE's processors.

    Args:
        inner: the processor.
    """

    def __init__(self, inner: RequestProcessor) -> None:
        self.inner = inner

    def get_topics(self) -> list[str]:
        """The topics of the processor."""
        topics: list[str] = self.inner.get_topics()
        return topics

    def process(self, req: Message, app_ctx: Any) -> Message:
        """Refuses a job whose name would be that of another folder, such as the site's books.

        What goes wrong is told in our own words: FLARE would send the text of any exception.
        """
        job = req.get_header(RequestHeader.JOB_ID)
        if job is not None and not JOB.fullmatch(str(job)):
            log.warning("a request for a job of no job's name is refused")
            return error_reply("no job has this name")
        try:
            return self.inner.process(req, app_ctx)
        except Exception:
            log.exception("a request of the server failed")
            return error_reply("it failed; the reason is in the site's own log")


def close_doors() -> None:
    """Takes away what no run needs, from FLARE's client in this process."""
    offered = ClientRequestProcessors.request_processors
    offered[:] = [Gate(one) for one in offered if type(one).__name__ in NEEDED]


if __name__ == "__main__":
    close_doors()
    runpy.run_module("nvflare.private.fed.app.client.client_train", run_name="__main__")

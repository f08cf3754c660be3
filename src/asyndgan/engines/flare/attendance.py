"""Records which sites are connected with a federation's server, and has it send others away.

Commands read the file that is written here: to ask FLARE takes seconds or longer.
"""

import json
import logging
import socket
import threading
import time
from shlex import quote
from typing import Final, final

from pydantic import BaseModel, ConfigDict, Field

from asyndgan.engines.flare.jobs import Administrator
from asyndgan.engines.flare.kits import Federation
from asyndgan.errors import AsyndganError
from asyndgan.texts import SiteName, bounded_text, replace_text

log = logging.getLogger(__name__)

FILE: Final = "connected.json"

ASK_S: Final = 3.0  # Seconds between two questions to FLARE's server
STALE_S: Final = 20.0  # Age in seconds from which on what was written no longer counts


class _Noted(BaseModel):
    """The file's content: time of the question (seconds since 1970), and the connected sites."""

    model_config = ConfigDict(extra="forbid")

    time: float
    sites: list[SiteName] = Field(max_length=1024)


@final
class Register:
    """Writes down the connected sites, every few seconds until it is closed."""

    def __init__(self, federation: Federation) -> None:
        self._path = federation.path / FILE
        self._path.unlink(missing_ok=True)
        self._administrator = Administrator(federation.admin_kit)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="attendance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the questions, also one that waits for its answer."""
        self._closing.set()
        self._administrator.close()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _keep(self) -> None:
        known: frozenset[str] = frozenset()
        while not self._closing.is_set():
            try:
                members = frozenset(Federation.of(self._path.parent).sites)
                for site in members - known:  # it may have been sent away under this name
                    self._administrator.ask("enable_client", site)
                known = members
                sites = list(self._administrator.present())
                for site in {*sites} - members:
                    self._administrator.ask("disable_client", site)
                replace_text(self._path, json.dumps({"time": time.time(), "sites": sites}))
            except (AsyndganError, OSError) as error:
                log.debug("who is connected cannot be asked now: %s", error)
            self._closing.wait(ASK_S)


def connected(federation: Federation) -> str:
    """A sentence on which sites are connected, or that the federation is not served."""
    try:
        noted = _Noted.model_validate_json(bounded_text(federation.path / FILE))
    except (OSError, ValueError):
        noted = _Noted(time=0, sites=[])
    if abs(time.time() - noted.time) < STALE_S:
        here = [site for site in federation.sites if site in noted.sites]
        away = [site for site in federation.sites if site not in noted.sites]
        gone = f"; not connected: {', '.join(away)}" if away else ""
        return f"connected: {', '.join(here) or 'nobody'}{gone}"
    place = f"{federation.host}:{federation.port}"
    try:
        socket.create_connection((federation.host, federation.port), timeout=1).close()
    except OSError:
        start = f"asyndgan federation start {quote(str(federation.path))}"
        return f"{place} does not answer; '{start}' starts it."
    return f"{place} takes connections, but FLARE has not said for {STALE_S:g} s who is connected."

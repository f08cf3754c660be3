"""Connects FLARE's processes to ours on the same machine by Unix sockets in a private folder.

Frame 0 is a greeting of FLARE's process in JSON; numbered requests and replies follow.
"""

import hashlib
import json
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Final, final

from asyndgan.engines.flare.sealing import Seal
from asyndgan.engines.framing import Frames
from asyndgan.errors import (
    AsyndganError,
    PolicyRefusedError,
    RefusedError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    UndecidedError,
    WireError,
)
from asyndgan.privacy.policy import ASKED, Policy
from asyndgan.recipe import known_keys
from asyndgan.texts import parsed_json

log = logging.getLogger(__name__)

SOCKETS: Final = "ASYNDGAN_SOCKETS"  # variable that names the folder of the sockets
SERVER: Final = "server"  # the socket of FLARE's server; a data process's has the site's name
GREET: Final = "asyndgan.greet"  # topics of messages
REQUEST: Final = "asyndgan.request"
PRESENT: Final = "asyndgan.present"
CONNECT_S: Final = 5.0  # seconds in which a process on this machine has to take a connection up
QUEUE: Final = 128  # connections that may wait to be taken up: a burst is no fault
GONE_S: Final = 8.0  # seconds without a greeting after which a line is over
LONGEST: Final = 2**28  # most bytes of a message; the recipe's limit is mostly lower


class Reply(IntEnum):
    """Kind of a reply."""

    ANSWER = 0
    UNREACHABLE = 1
    SILENT = 2
    REFUSED = 3


# Text to display for each reply that is not an answer
REASONS: Final = {
    Reply.UNREACHABLE: "its compute process is not running; the reason is in the site's own log",
    Reply.SILENT: "there was no answer in time",
    Reply.REFUSED: "the site's own settings do not allow this run; the reason is in its log",
}


def reply_of(status: Reply, payload: bytes = b"") -> bytes:
    """Encodes a reply."""
    return bytes([status]) + payload


def unsealed(site: str, reply: bytes, seal: Seal, sealed: bytes) -> bytes:
    """The answer to a sealed request, or the error that the reply stands for.

    Anything malformed is unreachable. Keys of a site's policy that refuse the run are sealed as
    answers are: nobody else can end it.
    """
    status = Reply(reply[0]) if reply and reply[0] in list(Reply) else Reply.UNREACHABLE
    if status is Reply.ANSWER:
        return seal.opened(reply[1:], sealed)
    if status is Reply.REFUSED and reply[1:]:
        said = seal.opened(reply[1:], sealed).decode(errors="replace").split()
        keys = [key for key in known_keys(Policy) if key in said]
        named = ", ".join(keys)
        if "allows.refused" in keys:
            raise PolicyRefusedError(
                f"site {site}: its steward has refused this recipe (allows.refused), whatever a "
                "run of it is called."
            )
        if {*keys} - {*ASKED}:
            raise PolicyRefusedError(f"site {site}: its policy refuses the run ({named}).")
        if keys:
            raise UndecidedError(f"site {site}: its steward has not approved the recipe ({named}).")
    kind = {Reply.SILENT: SiteSilentError, Reply.REFUSED: RefusedError}
    raise kind.get(status, SiteUnreachableError)(f"site {site}: {REASONS[status]}.")


def sockets_of(kit: Path) -> Path:
    """Folder of the sockets beside a kit: the one that `SOCKETS` names, or one of this user's own.

    A socket's path has a hundred characters at most, so it is not in the kit. A steward's folder
    may be open to a group: FLARE can be another account's. Raises `RunError` for any other access.
    """
    user, named = os.getuid(), os.environ.get(SOCKETS)
    if named:
        folder, allowed = Path(named), 0o770
    else:
        # Not XDG_RUNTIME_DIR, which goes at logout.
        folder, allowed = Path(tempfile.gettempdir()) / f"asyndgan-{user}", 0o700
        _check(folder, user, allowed)
        folder /= hashlib.sha256(str(kit.resolve()).encode()).hexdigest()[:16]
    _check(folder, user, allowed)
    return folder


def _check(folder: Path, user: int, allowed: int) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if about.st_uid != user or stat.S_IMODE(about.st_mode) & ~allowed or folder.is_symlink():
        raise RunError(
            f"{folder} is not a folder of yours alone; remove it, or set {SOCKETS} to another."
        )


def connect(path: Path, greeting: Mapping[str, str], *, limit: int) -> Frames:
    """Connects to a socket and sends a greeting; raises `SiteUnreachableError`: nobody listens."""
    try:
        connection = socket.socket(socket.AF_UNIX)
    except OSError as error:  # no descriptor is left
        raise SiteUnreachableError(f"no socket can be made: {error}.") from error
    try:
        connection.settimeout(CONNECT_S)  # a process that hangs takes nobody up
        connection.connect(str(path))
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise SiteUnreachableError("the process beside FLARE's is not running.") from error
    frames = Frames(connection, limit=limit)
    frames.send(0, json.dumps(greeting).encode(), timeout=10.0)
    return frames


@final
class _Server(ThreadingUnixStreamServer):
    """Accepts connections, also many at once."""

    request_queue_size = QUEUE

    def get_request(self) -> tuple[socket.socket, object]:
        """The next connection; without a descriptor left for it, a pause comes first."""
        try:
            return super().get_request()
        except OSError as error:
            log.warning("a connection is not taken up: %s", error)
            time.sleep(1.0)
            raise


@final
class Listener:
    """Accepts connections of this user's processes, each in its own thread.

    `serve` is called with the greeting and the frames of each, which then ends.
    """

    def __init__(self, path: Path, serve: Callable[[dict[str, str], Frames], None]) -> None:
        self.path = path
        self._serve = serve
        path.unlink(missing_ok=True)  # left by a killed process: its folder is locked by us
        try:
            self._server = _Server(str(path), self._welcome)  # type: ignore[arg-type]  # (a function makes a handler as well)
        except OSError as error:
            raise RunError(
                f"{path} cannot be a socket ({error}); a shorter TMPDIR may help."
            ) from error
        path.chmod(0o660)  # the folder decides whose group that is
        self._inode = path.stat().st_ino
        self._server.daemon_threads, self._server.block_on_close = True, False
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stops accepting connections and removes the socket."""
        self._server.shutdown()
        self._server.server_close()
        with suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # not of whoever listens here by now
                self.path.unlink()

    def _welcome(self, connection: socket.socket, *about: object) -> None:
        frames = Frames(connection, limit=LONGEST)
        try:
            _, payload = frames.receive(timeout=10.0)
            greeting = parsed_json(payload.decode())
            if not isinstance(greeting, dict):
                raise WireError("a greeting is a table.")
            self._serve({str(key): str(value) for key, value in greeting.items()}, frames)
        except (AsyndganError, KeyError, ValueError) as error:
            log.warning("a process is sent away: %s", error)
        finally:
            frames.close()

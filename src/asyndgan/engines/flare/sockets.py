"""Connects FLARE's job processes to ours on the same machine by Unix sockets in a private folder.

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
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final, final

from asyndgan.engines.framing import Frames
from asyndgan.errors import (
    AsyndganError,
    RefusedError,
    RunError,
    SiteSilentError,
    SiteUnreachableError,
    WireError,
)
from asyndgan.texts import parsed_json

log = logging.getLogger(__name__)

SOCKETS: Final = "ASYNDGAN_SOCKETS"  # variable that names the folder of the sockets
COORDINATOR: Final = "coordinator"  # The coordinator's socket; a site's has the site's name
LOOK_S: Final = 1.0  # Seconds between two checks that the socket still exists


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


def opened_reply(site: str, reply: bytes) -> bytes:
    """The answer in a reply, or the error that it stands for; anything malformed is unreachable."""
    status = Reply(reply[0]) if reply and reply[0] in list(Reply) else Reply.UNREACHABLE
    if status is Reply.ANSWER:
        return reply[1:]
    kind = {Reply.SILENT: SiteSilentError, Reply.REFUSED: RefusedError}
    raise kind.get(status, SiteUnreachableError)(f"site {site}: {REASONS[status]}.")


def sockets_of(kit: Path) -> Path:
    """Folder of the sockets beside a kit: the one that `SOCKETS` names, or one of this user's own.

    It is not in the kit, since a socket's path is limited to about a hundred characters. In a
    folder that a steward names, its group may connect: FLARE's process can be another account's.
    Raises `RunError` if the folder is another user's, is accessible to everybody, or is a link.
    """
    user, named = os.getuid(), os.environ.get(SOCKETS)
    if named:
        folder, allowed = Path(named), 0o770
    else:
        folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        folder, allowed = folder / f"asyndgan-{user}", 0o700
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
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise SiteUnreachableError("the process beside FLARE's is not running.") from error
    frames = Frames(connection, limit=limit)
    frames.send(0, json.dumps(greeting).encode(), timeout=10.0)
    return frames


@final
class Listener:
    """Accepts connections of this user's processes, each in its own thread.

    Args:
        kit: the kit beside which FLARE's processes run.
        name: of the socket.
        serve: called with the greeting and the frames of each connection, which then ends.
        limit: most bytes of a frame.
    """

    def __init__(
        self, kit: Path, name: str, serve: Callable[[dict[str, str], Frames], None], *, limit: int
    ) -> None:
        self._place = lambda: sockets_of(kit) / name
        self.path = self._place()
        self._serve = serve
        self._limit = limit
        self._closing = threading.Event()
        self._socket = self._bound()
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def close(self) -> None:
        """Stops accepting connections and removes the socket."""
        self._closing.set()
        self._socket.close()
        if self._ours():
            self.path.unlink(missing_ok=True)

    def _bound(self) -> socket.socket:
        self.path.unlink(missing_ok=True)  # left by a killed process: its folder is locked by us
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(self.path))
        except OSError as error:
            listening.close()
            raise RunError(
                f"{self.path} cannot be a socket ({error}); a shorter TMPDIR may help."
            ) from error
        self.path.chmod(0o660)  # the folder decides whose group that is
        listening.listen()
        listening.settimeout(LOOK_S)
        self._inode = self.path.lstat().st_ino
        return listening

    def _ours(self) -> bool:
        """Whether the socket at the path is this one, not another process's."""
        try:
            return self.path.lstat().st_ino == self._inode
        except OSError:
            return False

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self.path.exists():
                    self._bind_anew()
                elif not isinstance(error, TimeoutError) and not self._closing.wait(LOOK_S):
                    log.warning("no connection can be accepted: %s", error)
                continue
            connection.settimeout(None)
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _bind_anew(self) -> None:
        """Binds a new socket: some systems remove such folders, for example at logout."""
        if self._closing.is_set():
            return
        self._socket.close()
        try:
            self.path = self._place()
            self._socket = self._bound()
        except (OSError, RunError) as error:
            log.warning("nobody can connect: %s", error)
            self._closing.wait(LOOK_S)

    def _welcome(self, connection: socket.socket) -> None:
        frames = Frames(connection, limit=self._limit)
        try:
            _, payload = frames.receive(timeout=10.0)
            greeting = parsed_json(payload.decode())
            if not isinstance(greeting, dict):
                raise WireError("a greeting is a table.")
            self._serve({str(key): str(value) for key, value in greeting.items()}, frames)
        except (AsyndganError, ValueError) as error:
            log.warning("a process is sent away: %s", error)
        finally:
            frames.close()

"""Connects FLARE's job processes to ours on the same machine by Unix sockets in a private folder.

Frame 0 is the relay's greeting in JSON; numbered requests and replies follow. The first byte of a
reply is its `Reply` kind. Only `Reply.ANSWER` comes from the site and carries a payload.
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

from asyndgan.errors import AsyndganError, RunError, SiteUnreachableError, WireError
from asyndgan.relay.framing import Frames
from asyndgan.texts import parsed_json

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Seconds between two checks that the socket still exists."""


class Reply(IntEnum):
    """Kind of a reply."""

    ANSWER = 0
    UNREACHABLE = 1
    SILENT = 2
    REFUSED = 3


REASONS: Final = {
    Reply.UNREACHABLE: "its compute process is not running; the reason is in the site's own log",
    Reply.SILENT: "there was no answer in time",
    Reply.REFUSED: "the site's own settings do not allow this run; the reason is in its log",
}
"""Text to display for each reply that is not an answer."""


def reply_of(status: Reply, payload: bytes = b"") -> bytes:
    """Encodes a reply."""
    return bytes([status]) + payload


def read_reply(reply: bytes) -> tuple[Reply, bytes]:
    """Decodes a reply from `reply_of`; anything malformed counts as unreachable."""
    if not reply or reply[0] not in list(Reply):
        return Reply.UNREACHABLE, b""
    return Reply(reply[0]), reply[1:]


def socket_path(kit: Path) -> Path:
    """Path of the socket on which our process listens, determined by the startup kit.

    It is not in the kit, since a socket's path is limited to about a hundred characters.

    Raises:
        RunError: the socket's folder belongs to or is accessible to another user, or is a link.
    """
    user = os.getuid()
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"asyndgan-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if about.st_uid != user or stat.S_IMODE(about.st_mode) != 0o700 or folder.is_symlink():
        raise RunError(
            f"{folder} is not a folder of yours alone; remove it or set XDG_RUNTIME_DIR."
        )
    return folder / hashlib.sha256(str(kit.resolve()).encode()).hexdigest()[:16]


def connect(kit: Path, greeting: Mapping[str, str], *, limit: int) -> Frames:
    """Connects to the process that listens for a startup kit and sends it the greeting.

    Raises:
        SiteUnreachableError: no process listens.
        RunError: as `socket_path`.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(socket_path(kit)))
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
        kit: the startup kit whose relays are served.
        serve: called with the greeting and the frames of each connection, which is closed when it
            returns.
        limit: most bytes of a frame.

    Raises:
        RunError: the socket cannot be created.
    """

    def __init__(
        self, kit: Path, serve: Callable[[dict[str, str], Frames], None], *, limit: int
    ) -> None:
        self._kit = kit
        self.path = socket_path(kit)
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
        found = socket.socket(socket.AF_UNIX)
        try:
            found.bind(str(self.path))
        except OSError as error:
            found.close()
            raise RunError(
                f"{self.path} cannot be a socket ({error}); a shorter TMPDIR may help."
            ) from error
        found.listen()
        found.settimeout(LOOK_S)
        self._place = self.path.lstat().st_ino
        return found

    def _ours(self) -> bool:
        """Whether the socket at the path is this one, not another process's."""
        try:
            return self.path.lstat().st_ino == self._place
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
            self.path = socket_path(self._kit)
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
            log.warning("a relay is sent away: %s", error)
        finally:
            frames.close()

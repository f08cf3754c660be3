"""Between FLARE's job processes and ours on the same machine: Unix sockets in a private folder.

Frame 0 is the relay's greeting, in JSON; then numbered requests and replies. The first byte of a
reply says what it is; all but the first are not the site's words, and carry nothing.
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
"""Seconds between two looks whether the socket is still there."""


class Reply(IntEnum):
    """What a reply is."""

    ANSWER = 0
    UNREACHABLE = 1
    SILENT = 2
    REFUSED = 3


REASONS: Final = {
    Reply.UNREACHABLE: "its compute process is not running; the reason is in the site's own log",
    Reply.SILENT: "there was no answer in time",
    Reply.REFUSED: "the site's own settings do not allow this run; the reason is in its log",
}
"""For people, of every reply that is no answer."""


def reply_of(status: Reply, payload: bytes = b"") -> bytes:
    """A reply as bytes."""
    return bytes([status]) + payload


def read_reply(reply: bytes) -> tuple[Reply, bytes]:
    """What `reply_of` gave; anything else counts as unreachable."""
    if not reply or reply[0] not in list(Reply):
        return Reply.UNREACHABLE, b""
    return Reply(reply[0]), reply[1:]


def socket_path(kit: Path) -> Path:
    """Where the process beside FLARE's listens: the same for the same startup kit.

    Not in the kit: systems allow such a path about a hundred characters.

    Raises:
        RunError: the folder belongs to somebody else.
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
    """A connection to the process that listens for a startup kit, which has been greeted.

    Raises:
        SiteUnreachableError: there is none.
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
    """Accepts connections of this user's processes, each in a thread of its own.

    Args:
        kit: the startup kit whose relays are served.
        serve: given a greeting and the frames of a connection, which is closed when it returns.
        limit: most bytes of a frame.
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
        """Accepts no more."""
        self._closing.set()
        self._socket.close()
        if self._ours():
            self.path.unlink(missing_ok=True)

    def _bound(self) -> socket.socket:
        self.path.unlink(missing_ok=True)  # of one that was killed; its folder is locked by us
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
        """Whether what lies at the path is this socket, and not another process's."""
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
        """Folders for sockets are tidied away, some when their user logs out."""
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

"""Keeps one FLARE process, server or client, running: starts it again whenever it ends."""

import errno
import logging
import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from asyndgan import children
from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.flare.member import PROJECT, read_kit
from asyndgan.engines.flare.sockets import SERVER as SOCKET
from asyndgan.engines.flare.sockets import SOCKETS, sockets_of
from asyndgan.engines.flare.workspace import write_server, write_workspace
from asyndgan.errors import BusyError, RunError

log = logging.getLogger(__name__)

AGAIN_S: Final = 2.0  # seconds before a restart; doubled while it ends within `LONGEST_S`
LONGEST_S: Final = 60.0  # Longest delay in seconds before a restart
LONGEST_PATH: Final = 100  # bytes of a socket's path, which systems bound at 104 or 108
FREED_S: Final = 5.0  # seconds in which the port of a killed server has to be free

TIED: Final = "asyndgan.engines.flare.tied"

# Modules that FLARE's own start-up scripts run
CLIENT: Final = "nvflare.private.fed.app.client.client_train"
SERVER: Final = "nvflare.private.fed.app.server.server_train"

HEAP: Final = {
    "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "4",
}  # fmt: skip
"""Keeps buffers off glibc's heap: else a process of FLARE grew by a tenth in 3,000 steps."""


@final
class Kept:
    """Runs a module of FLARE in its folder, and starts it again when it ends."""

    def __init__(self, folder: Path, module: str, settings: str, *more: str) -> None:
        self.folder = folder
        # A folder that is named can be another account's.
        sockets = os.environ.get(SOCKETS) or str(sockets_of(folder.parent))
        self._environment = children.environment(HEAP) | {SOCKETS: sockets}
        self._command = [
            module, "-m", str(folder), "-s", settings,
            "--set", "secure_train=true", f"org={PROJECT}", "config_folder=config", *more,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def pid(self) -> int | None:
        """Process id of the process, or None if it is not running."""
        alive = self._process and self._process.poll() is None
        return self._process.pid if self._process and alive else None

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._closing.set()  # no process is started from now on
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=3)
            self._process.kill()
        self._thread.join()

    def _keep(self) -> None:
        wait = AGAIN_S
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                with self._lock:
                    if self._closing.is_set():
                        return
                    self._process = children.start(
                        TIED, *self._command, env=self._environment, cwd="/", stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    )  # fmt: skip
                ended = str(self._process.wait())
            except OSError as error:  # too many processes, a full disk
                ended = str(error)
            if time.monotonic() - begun > LONGEST_S:
                wait = AGAIN_S
            if not self._closing.is_set():
                log.warning("FLARE ended (%s); again in %.0f s", ended, wait)
            self._closing.wait(wait)
            wait = min(2 * wait, LONGEST_S)


def keep_client(kit: Path) -> Kept:
    """Writes FLARE's files of a site anew, and starts and keeps FLARE's client on them.

    Of the kit only the file of data is read. Raises `RunError` if it cannot be used.
    """
    kit, member = kit.resolve(), read_kit(kit)
    return Kept(write_workspace(kit, member), CLIENT, "fed_client.json", f"uid={member.name}")


def keep_server(federation: Federation) -> Kept:
    """Writes FLARE's files of a federation anew, and starts and keeps its server on them.

    Raises `BusyError` if another program has its port, `RunError` if port or socket cannot be
    opened.
    """
    _wait_for(federation.port)
    if len(os.fsencode(place := sockets_of(federation.server_kit) / SOCKET)) > LONGEST_PATH:
        raise RunError(f"{place} is too long for a socket: set TMPDIR to a shorter folder.")
    return Kept(write_server(federation), SERVER, "fed_server.json")


def _wait_for(port: int) -> None:
    """Waits until something can listen at a port; raises `BusyError` or `RunError`."""
    end = time.monotonic() + FREED_S
    while True:
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed ones may linger
            try:
                return line.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise RunError(
                        f"port {port} of this machine cannot be opened: {error.strerror}. Start it "
                        "as a user who may, or make a federation with another --port."
                    ) from error
                if time.monotonic() > end:
                    raise BusyError(
                        f"port {port} of this machine is in use, perhaps by a copy of this "
                        "federation: end the program that has it, and start again."
                    ) from error
        time.sleep(0.1)

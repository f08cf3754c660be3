"""Keeps one FLARE process, server or client, running: starts it again whenever it ends."""

import errno
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from asyndgan import children
from asyndgan.engines.flare.kits import STORE, Federation, keep_inside, plain, unquoted
from asyndgan.engines.flare.member import FLARE, PROJECT, read_kit, write_workspace
from asyndgan.engines.flare.sockets import SOCKETS, sockets_of
from asyndgan.errors import BusyError, RunError

log = logging.getLogger(__name__)

AGAIN_S: Final = 2.0  # seconds before a restart; doubled while it ends within `LONGEST_S`
LONGEST_S: Final = 60.0  # Longest delay in seconds before a restart
FREED_S: Final = 5.0  # seconds in which the port of a killed server has to be free
SERVER: Final = "fed_server.json"  # FLARE's settings in the server's kit

# Modules that FLARE's own start-up scripts run, and those that it runs for a job
CLIENT: Final = "nvflare.private.fed.app.client.client_train"
SERVER_PARENT: Final = "nvflare.private.fed.app.server.server_train"
JOBS: Final = (
    "nvflare.private.fed.app.client.worker_process",
    "nvflare.private.fed.app.server.runner_process",
)

JOB: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # name of a job's folder

HEAP: Final = {
    "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "4",
}  # fmt: skip
"""Keeps buffers off glibc's heap: else a site's job grew by a tenth in 3,000 steps."""


@final
class Kept:
    """Runs a FLARE process in its folder, and restarts it when it ends, as do those of its jobs."""

    def __init__(self, kit: Path, command: Sequence[str], sockets: str) -> None:
        self.kit = plain(kit)
        self._sockets = sockets
        unquoted(Path(sys.executable))
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        end_all(self.kit)
        self._forget_jobs()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def pid(self) -> int | None:
        """Process id of FLARE's parent process, or None if it is not running."""
        alive = self._process and self._process.poll() is None
        return self._process.pid if self._process and alive else None

    def close(self) -> None:
        """Ends the process and those of its jobs."""
        with self._lock:
            self._closing.set()  # no process is started from now on
        if self._process:
            _end_group(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=3)
            _end_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._thread.join()
        end_all(self.kit)

    def _forget_jobs(self) -> None:
        """Removes the folder that FLARE leaves for each job; messages are never in it."""
        for folder in self.kit.iterdir():
            if JOB.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)

    def _keep(self) -> None:
        wait = AGAIN_S
        while not self._closing.is_set():
            begun = time.monotonic()
            ended = self._run()
            if self._closing.is_set():
                return
            if time.monotonic() - begun > LONGEST_S:
                wait = AGAIN_S
            log.warning("FLARE ended (%s); again in %.0f s", ended, wait)
            self._closing.wait(wait)
            wait = min(2 * wait, LONGEST_S)

    def _run(self) -> str:
        """Runs the process from start to end; returns how it ended."""
        try:
            with self._lock:
                if self._closing.is_set():
                    return ""
                self._start()
        except OSError as error:  # too many processes, a full disk
            return str(error)
        assert self._process
        self._process.wait()
        end_all(self.kit)
        return str(self._process.returncode)

    def _start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        variables = {"PATH": path, SOCKETS: self._sockets}
        self._process = children.start(
            *self._command,
            env=children.environment(HEAP) | variables,
            cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def keep_client(kit: Path) -> Kept:
    """Writes FLARE's files of a site anew, and starts and keeps FLARE's client on them.

    Of the kit only the file of data is read. Raises `RunError` if it cannot be used.
    """
    member = read_kit(kit)
    end_all(plain(kit) / FLARE)
    folder = write_workspace(plain(kit), member)
    command = [
        CLIENT, "-m", str(folder),
        "-s", "fed_client.json", "--set", "secure_train=true", f"uid={member.name}",
        f"org={PROJECT}", "config_folder=config",
    ]  # fmt: skip
    return Kept(folder, command, _sockets(kit))


def keep_server(federation: Federation) -> Kept:
    """Starts and keeps FLARE's server of a federation; its jobs stay in its kit.

    Raises `BusyError` if another program has its port, `RunError` if it cannot be opened.
    """
    keep_inside(federation.server_kit)
    end_all(plain(federation.server_kit))
    port, end = federation.port, time.monotonic() + FREED_S
    while reason := _unavailable(port):
        if reason.errno != errno.EADDRINUSE:
            raise RunError(
                f"port {port} of this machine cannot be opened: {reason.strerror}. Start it as a "
                "user who may, or make a federation with another --port."
            )
        if time.monotonic() > end:
            raise BusyError(
                f"port {port} of this machine is in use, perhaps by a copy of this federation: end "
                "the program that has it, and start again."
            )
        time.sleep(0.1)
    # Jobs of a server that was killed died with it, and a coordinator would wait for them.
    shutil.rmtree(federation.server_kit / STORE, ignore_errors=True)
    kit = plain(federation.server_kit)
    command = [
        SERVER_PARENT, "-m", str(kit),
        "-s", SERVER, "--set", "secure_train=true", f"org={PROJECT}", "config_folder=config",
    ]  # fmt: skip
    return Kept(kit, command, _sockets(kit))


def end_all(folder: Path) -> None:
    """Kills FLARE's processes that work in a folder: a parent whose keeper was killed, and jobs."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = {*(place / "cmdline").read_text(errors="replace").split("\0")}
            if str(folder) in words and words & {CLIENT, SERVER_PARENT, *JOBS}:
                os.kill(int(place.name), signal.SIGKILL)


def _sockets(kit: Path) -> str:
    """Where FLARE's jobs find our processes; a folder that is named can be another account's."""
    return os.environ.get(SOCKETS) or str(sockets_of(kit))


def _unavailable(port: int) -> OSError | None:
    """Why nothing can listen at a port now; None if something can."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
        try:
            line.bind(("", port))
        except OSError as error:
            return error
    return None


def _end_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)

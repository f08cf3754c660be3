"""Keeps one FLARE process running: server or client, whatever ends it."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from asyndgan.engines.flare.kits import Federation, keep_inside, plain
from asyndgan.errors import RunError

log = logging.getLogger(__name__)

AGAIN_S: Final = 2.0
"""Seconds before a process that ended is started again; doubled while it ends at once."""

LONGEST_S: Final = 60.0

HEAP: Final = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""For glibc: buffers of messages apart from the heap, which they would otherwise leave in pieces; a
site's job grew by a tenth in 3,000 steps."""

JOB: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Name of a job's folder."""


@final
class Kept:
    """FLARE's process of a startup kit; started again when it ends.

    Its jobs' processes are in groups of their own, and end by themselves when it is gone.

    Args:
        kit: folder that holds `startup`.

    Raises:
        RunError: the kit holds no FLARE process to start.
    """

    def __init__(self, kit: Path) -> None:
        self.kit = plain(kit)
        self._script = self.kit / "startup" / "sub_start.sh"
        if not self._script.exists():
            raise RunError(
                f"{kit} is no startup kit of a server or a site: it has no {self._script}."
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._end_orphan()
        self._forget_jobs()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def pid(self) -> int | None:
        """FLARE's parent process, if it runs."""
        alive = self._process and self._process.poll() is None
        return self._process.pid if self._process and alive else None

    def close(self) -> None:
        """Ends the process; its jobs' processes notice within seconds."""
        with self._lock:
            self._closing.set()  # from now on none is started
        if self._process:
            _end_group(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=3)
            _end_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._thread.join()
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.kit / "flare.pid"

    def _end_orphan(self) -> None:
        """Of a keeper that was killed. Known by its command: numbers are used again."""
        with suppress(OSError, ValueError):
            pid = int(self._note.read_text())
            if str(self.kit).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                _end_group(pid, signal.SIGKILL)

    def _forget_jobs(self) -> None:
        """FLARE leaves a folder of each job; what they relayed was never in it."""
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
        """From its start to its end; says how it ended."""
        try:
            with self._lock:
                if self._closing.is_set():
                    return ""
                self._start()
        except OSError as error:  # too many processes, a full disk
            return str(error)
        assert self._process
        self._process.wait()
        _end_group(self._process.pid, signal.SIGKILL)
        return str(self._process.returncode)

    def _start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # A session of its own, so that Ctrl-C reaches us first.
        self._process = subprocess.Popen(  # noqa: S603  (FLARE's own script of this kit)
            ["/bin/bash", str(self._script), "--once"],
            env={**HEAP, **os.environ, "PATH": path},
            cwd=self.kit,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with suppress(OSError):  # it runs, whether the disk is full or not
            self._note.write_text(str(self._process.pid))


def keep_server(federation: Federation) -> Kept:
    """FLARE's server of a federation; its jobs stay in its kit."""
    keep_inside(federation.server_kit)
    return Kept(federation.server_kit)


def _end_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)

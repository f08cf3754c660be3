"""Keeps one FLARE process running: server or client, whatever ends it."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from asyndgan.engines.flare.kits import Federation, keep_inside
from asyndgan.errors import RunError

log = logging.getLogger(__name__)

AGAIN_S: Final = 2.0
"""Seconds before a process that ended is started again; doubled while it ends at once."""

LONGEST_S: Final = 60.0


@final
class Kept:
    """FLARE's process of a startup kit, with its jobs' processes; started again when it ends.

    Args:
        kit: folder that holds `startup`.

    Raises:
        RunError: the kit holds no FLARE process to start.
    """

    def __init__(self, kit: Path) -> None:
        self.kit = kit.resolve()
        self._script = self.kit / "startup" / "sub_start.sh"
        if not self._script.exists():
            raise RunError(
                f"{kit} is no startup kit of a server or a site: it has no {self._script}."
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._end_orphan()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def pid(self) -> int | None:
        """FLARE's parent process, if it runs."""
        alive = self._process and self._process.poll() is None
        return self._process.pid if self._process and alive else None

    def close(self) -> None:
        """Ends the process and its jobs'."""
        self._closing.set()
        if self._process:
            _end_group(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=3)
            _end_group(self._process.pid, signal.SIGKILL)  # jobs that outlive their parent
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

    def _keep(self) -> None:
        wait = AGAIN_S
        while not self._closing.is_set():
            begun = time.monotonic()
            self._start()
            assert self._process
            self._process.wait()
            if self._closing.is_set():
                return
            _end_group(self._process.pid, signal.SIGKILL)  # its jobs: they cannot go on
            wait = AGAIN_S if time.monotonic() - begun > LONGEST_S else min(2 * wait, LONGEST_S)
            log.warning("FLARE ended (%s); again in %.0f s", self._process.returncode, wait)
            self._closing.wait(wait)

    def _start(self) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        # A session of its own, so that Ctrl-C reaches us first and its jobs can be ended with it.
        self._process = subprocess.Popen(  # noqa: S603  (FLARE's own script of this kit)
            ["/bin/bash", str(self._script), "--once"],
            # FLARE's pools take a thread more now and then; each would have memory of its own.
            env={"MALLOC_ARENA_MAX": "2", **os.environ, "PATH": path},
            cwd=self.kit,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._note.write_text(str(self._process.pid))


def keep_server(federation: Federation) -> Kept:
    """FLARE's server of a federation; its jobs stay in its kit."""
    keep_inside(federation.server_kit)
    return Kept(federation.server_kit)


def _end_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)

"""FLARE's process of a job, started with this module, in which certificates prove all names.

    python -m asyndgan.relay.job MODULE ...     (a module of FLARE's, and its arguments)

A job's process connects before it imports any class that the job names, so that `flare.py` would be
too late. FLARE names its own modules in the commands that start jobs; this one is put before them.
"""

import runpy
import sys
from typing import Any, Final

from nvflare.app_common.job_launcher.process_launcher import ProcessJobLauncher

from asyndgan.relay.names import secure_connections

UNKNOWN: Final = "FLARE starts jobs in another way than this package knows; install nvflare 2.9"

FLARES: Final = "-m nvflare.private.fed.app."
"""How the module of a job begins in FLARE's command."""


def start_jobs_here(launcher: type[ProcessJobLauncher]) -> None:
    """Makes a launcher of FLARE's start each job with this module.

    Raises:
        RuntimeError: this version of FLARE starts jobs in another way.
    """
    if "get_command" not in launcher.launch_job.__code__.co_names:
        raise RuntimeError(UNKNOWN)
    inner = launcher.get_command

    def get_command(self: ProcessJobLauncher, job_meta: dict[str, Any], fl_ctx: Any) -> str:
        python, found, words = inner(self, job_meta, fl_ctx).partition(FLARES)
        if not found:
            raise RuntimeError(UNKNOWN)
        return f"{python}-m asyndgan.relay.job {FLARES[3:]}{words}"

    launcher.get_command = get_command  # type: ignore[method-assign]


if __name__ == "__main__":
    secure_connections()
    runpy.run_module(sys.argv.pop(1), run_name="__main__")

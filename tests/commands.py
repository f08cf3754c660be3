"""Commands as a person types them, each in a process of its own.

Such a process spends 2 to 4 seconds importing. So one process a worker imports what commands need,
and each command is a fork of it, with a working directory, an environment and streams of its own.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["asyndgan.cli", "asyndgan.api"])

SECONDS = 600.0


def command(*words: object, typed: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs `asyndgan` with these words; `changes` are of the environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("in", "out", "err")]
        for path in streams:
            path.write_text(typed if path.name == "in" else "")
        told = list(map(str, words))
        process = _forks.Process(target=_run, args=(told, Path.cwd(), environment, streams))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(told, SECONDS)
        _, out, err = (path.read_text() for path in streams)
    return subprocess.CompletedProcess(told, process.exitcode, out, err)


def _run(words: list[str], cwd: Path, environment: Mapping[str, str], streams: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    sys.stdin = os.fdopen(0)
    sys.argv = ["asyndgan", *words]
    import torch

    from asyndgan.cli import main

    torch.set_num_threads(1)  # torch has read the environment of the process that was forked
    main()

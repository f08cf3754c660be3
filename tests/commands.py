"""Commands as a person types them, run in this process: a further one imports for seconds."""

import subprocess
import sys
from unittest.mock import patch

from click.testing import CliRunner as Streams
from typer.testing import CliRunner

from asyndgan.cli import app, main


def command(*words: object, typed: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """All that `asyndgan` with these words prints, and its exit code.

    `changes` are of the environment.
    """
    told, code = [str(word) for word in words], 0
    with Streams().isolation(input=typed, env=changes) as streams:
        try:
            with patch.object(sys, "argv", ["asyndgan", *told]):
                main()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (stream.getvalue().decode() for stream in streams[:2])
    return subprocess.CompletedProcess(told, code, out, err)


def asyndgan(*words: object, answer: str = "") -> str:
    """What a command prints; raises what it ends with."""
    done = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


PUBLISHER = {"licence": "CC-BY-4.0", "creator": "Ward 3", "contact": "ask@ward3.example"}
"""What a released set's publisher says."""

AS_OPTIONS = [word for key, value in PUBLISHER.items() for word in (f"--{key}", value)]

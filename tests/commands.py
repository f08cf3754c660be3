"""Commands as a person types them, run in this process: a further one imports for seconds."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import typer
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
    check_named(f"{done.output}\n{done.exception}")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def named_in(text: str) -> Iterator[str]:
    """The commands of a federation, or of a site of one, that a text names to be called."""
    for line in re.findall(r"(?<!Usage: )asyndgan ((?:federation|site) [^'\n;)]*)", text):
        yield re.split(r"[.,:]? *$|[.,] |    ", line)[0]


def check_named(text: str) -> None:
    """Asserts that commands named in a text are whole, by the program's own parser."""
    for line in named_in(text):
        group, name, *words = shlex.split(line)
        found: Any = typer.main.get_command(app)
        for each in (group, name):
            _, found, _ = found.resolve_command(typer.Context(found), [each])
        given, rest, _ = found.make_parser(typer.Context(found)).parse_args(words)
        lacks = [
            one.name for one in found.params
            if one.required and not given.get(one.name) and not getattr(one, "prompt", "")
        ]  # fmt: skip
        assert not rest and not lacks, (line, rest, lacks)


PUBLISHER = {"licence": "CC-BY-4.0", "creator": "Ward 3", "contact": "ask@ward3.example"}
"""What a released set's publisher says."""

AS_OPTIONS = [word for key, value in PUBLISHER.items() for word in (f"--{key}", value)]

"""Files of a stranger: something else stands in one or two places of what a run or audit says."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.errors import AsyndganError

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
SOMETHING_ELSE: list[Any] = [
    None, True, -1, 0, 3, 2**53 - 1, 2**70, 0.5, -2.5, 1e-320, 1e38, 1e300, float("nan"),
    float("inf"), "", "x" * 99, "../../x", "\x1b[2Jx", "; curl x | sh", "T1", "0", [], [7], [None],
    ["T1"], ["T1", "T1"], {}, {"x": 1}, {"north": 1}, {"north": {}}, {"0": "a"},
]  # fmt: skip


def asked(*words: object) -> str:
    """What a command says, an error of ours included; fails on any other."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        if not isinstance(done.exception, AsyndganError):
            raise done.exception
        return str(done.exception)
    return done.output


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def changes(draw: st.DrawFn) -> Callable[[Any], Any]:
    """One or two places of a JSON value get another value or key, or go."""
    how = [
        (draw(st.integers(0, 10**6)), draw(st.sampled_from(["value", "value", "key", "gone"])),
         draw(st.sampled_from(SOMETHING_ELSE)))
        for _ in range(draw(st.integers(1, 2)))
    ]  # fmt: skip

    def changed(value: Any) -> Any:
        for where, kind, other in how:
            every = list(places(value))
            *path, last = every[where % len(every)]
            table = value
            for key in path:
                table = table[key]
            if kind == "value" or isinstance(table, list):
                table[last] = copy.deepcopy(other)
            else:
                inner = table.pop(last)
                if kind == "key":
                    table[str(other)] = inner
        return value

    return changed


def spoiled(run: Path, out: Path, file: str, change: Callable[[Any], Any], line: int = 0) -> Path:
    """A copy of a run with one of its files changed."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run, out)
    texts = (run / file).read_text().splitlines() if file.endswith("l") else [""]
    if file.endswith("l"):
        texts[line % len(texts)] = json.dumps(change(json.loads(texts[line % len(texts)])))
    else:
        texts = [json.dumps(change(json.loads((run / file).read_text())))]
    (out / file).write_text("\n".join(texts) + "\n")
    return out

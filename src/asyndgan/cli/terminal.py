"""The one console of all commands: what others wrote is text to it, never markup or escapes."""

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any, Final, final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from asyndgan.errors import RunError
from asyndgan.texts import printable

SIGNS: Final = str.maketrans({"✗": "x", "→": ">"})  # where a terminal has no such characters


@final
class Terminal(Console):
    """A console on which every character is printable, since names and errors come from others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    def say(self, text: str, style: str = "", end: str = "\n") -> None:
        """Prints a text without wrapping it, since it may hold commands to copy."""
        self.print(text, style=style, end=end)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as rich does, but wraps tables only; the terminal itself wraps a text."""
        if all(isinstance(each, str | Text) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Renders as rich does, with the replacement character for what cannot be printed."""
        signs = {} if self.encoding.startswith("utf") else SIGNS
        for segment in super().render(renderable, options):
            text = printable(segment.text).translate(signs)
            yield segment if segment.control else Segment(text, segment.style)


@final
class LogToTerminal(logging.Handler):
    """Prints warnings that no other handler takes, which may name files and sites of others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record's message on standard error."""
        Terminal(file=sys.stderr).say(self.format(record))


def plain(text: str, style: str = "") -> Text:
    """Text of one paragraph: file names and labels are not trusted to hold no new line."""
    return Text(text.replace("\n", "\N{REPLACEMENT CHARACTER}"), style=style, overflow="fold")


def have_compared(what: str, ours: str, theirs: str | None, who: str) -> None:
    """Compares our safety number with `theirs`, or has a person do so; raises `RunError`."""
    Terminal().say(f"Safety number of {what}: {ours}")
    if theirs is None:
        same = typer.confirm(f"Telephone {who}. Do they read out these digits?")
    else:
        same = re.sub(r"\D", "", theirs) == re.sub(r"\D", "", ours)
    if not same:
        raise RunError(
            f"the safety number of {what} is not what {who} read out. Have it read out once more, "
            "digit by digit. If it still differs, what was sent may have been exchanged on its "
            "way: use nothing of it, and have it sent again."
        )

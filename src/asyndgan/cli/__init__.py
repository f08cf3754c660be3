"""The command line: modules here parse, call and print; lower packages do the work."""

import io
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any, Final, final

import typer

from asyndgan import __version__
from asyndgan.cli.help import Commands, Group
from asyndgan.errors import AsyndganError, Interrupted, message_of

COMMANDS: Final = {
    "demo": "Runs every stage on four phantom hospitals.",
    "phantoms": "Draws phantom data sets: four sites and a test set.",
    "import": "Makes a data set of a folder of DICOM files.",
    "init": "Writes a study: sites, test set and recipe for all commands.",
    "check": "Checks data sets and names every fault.",
    "store": "Shows and removes the copies of data sets that commands keep.",
    "fingerprint": "Measures a data set for a plan: figures, and no image.",
    "plan": "Plans a recipe from sites' data, each value with a reason.",
    "train": "Trains one generator with several sites.",
    "generate": "Paints a synthetic data set with a trained generator.",
    "release": "Paints the set that audits permit to pass on, ready to publish.",
    "export": "Writes a set as DICOM, or a generator as ONNX or MONAI bundle.",
    "augment": "Copies a data set and adds synthetic cases.",
    "complete": "Copies a data set and adds the modalities that its cases lack.",
    "evaluate": "Compares models trained on synthetic and on real data.",
    "audit": "Attacks a run to measure what it reveals about patients.",
    "report": "Writes one HTML page about a run.",
    "play": "Opens a page on which you draw a mask and see it painted.",
    "recipe": "Lists and shows recipes: what is trained and how.",
    "policy": "Shows and checks policies: what may leave a site.",
    "ledger": "Shows and verifies ledgers: what left a site.",
    "federation": "Runs a federation between real machines, as its coordinator.",
    "site": "Takes part in a federation, as one of its sites.",
}
"""Commands and their help, with which each one's own help begins; each has a module of its name.

The module of a name that Python reserves ends in `_`: `import_`.
"""

EXIT_CODES: Final = {
    0: "The command succeeded.",
    1: "An error occurred, a check found a fault, or a policy refuses the recipe.",
    2: "The command line is wrong: an unknown command, a missing or an invalid option.",
    130: "Interrupted by Ctrl-C. Training writes a checkpoint first.",
}
"""What the exit code of every command means."""


@final
class _Commands(Group):
    """Imports a command only when it is called, so that `--help` need not wait for torch."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Imports the command named by the first word, then resolves it as the group does."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = _imported(args[0])
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the page, and what exit codes mean."""
        super().format_help(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def _imported(name: str) -> Any:
    log_to_terminal()
    word = f"{name}_" if iskeyword(name) else name
    found = getattr(import_module(f"asyndgan.cli.{word}"), word)
    return typer.main.get_command(found if isinstance(found, typer.Typer) else alone(name, found))


def alone(name: str, function: Callable[..., None]) -> Commands:
    """A function as a command of its own."""
    commands = Commands("", no_args_is_help=False, pretty_exceptions_enable=False)
    commands.command(name)(function)
    return commands


def log_to_terminal() -> None:
    """Shows warnings as the commands show their own."""
    from asyndgan.cli.terminal import LogToTerminal  # only now, so that `--help` need not wait

    logging.lastResort = LogToTerminal(logging.WARNING)
    # Without a home that can be written, matplotlib keeps its cache in a temporary folder.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit
    return wanted


app = Commands(
    """Trains one image generator across sites whose images never leave them.

    Example:
        asyndgan phantoms data
        asyndgan train demo --site a=data/north --site b=data/west --out run
        asyndgan generate run --out synthetic
    """,
    cls=_Commands,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(commands: Commands = app, name: str = "asyndgan") -> None:
    """Runs a command; an expected error prints its text and exits with 1, an interruption 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        commands(prog_name=name)
    except Interrupted as stop:
        _say(str(stop), "yellow")
        sys.exit(130)
    except (AsyndganError, OSError) as error:
        _say("error:", "bold red", end=" ")
        _say(message_of(error))
        sys.exit(1)


def _say(text: str, style: str = "", end: str = "\n") -> None:
    """Prints a text without wrapping: it may hold commands to copy."""
    from asyndgan.cli.terminal import Terminal  # here, so that `--help` need not wait for it

    Terminal(stderr=True).say(text, style=style, end=end)

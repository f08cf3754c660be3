"""The command line: modules here parse, call and print; lower packages do the work."""

import logging
import sys
from importlib import import_module
from typing import Any, Final, final

import typer
from typer.core import TyperGroup

from asyndgan import __version__
from asyndgan.errors import AsyndganError, Interrupted

COMMANDS: Final = {
    "check": "Looks data sets over and names every fault.",
    "phantoms": "Draws heads of four sites and a test set: T1, T2, FLAIR and label maps.",
    "train": "Trains one generator with several sites; their images stay where they are.",
    "generate": "Paints an nnU-Net data set, with its provenance and a model card.",
    "augment": "Copies a data set and adds synthetic cases, stored like real ones.",
    "complete": "Copies a site's data set and adds what its cases lack.",
    "evaluate": "Trains one segmentation network on all real data, each site's and synthetic data.",
    "report": "Writes one page about a run: images, usefulness, training, what left the sites.",
    "benchmark": "Trains and judges what a suite names and OUT does not hold yet.",
    "audit": "Infers who took part, and where; finds near copies; reads pixels as a coordinator.",
    "demo": "Four phantom hospitals teach one generator: train, evaluate, attack, report.",
    "recipe": "Recipes: what is trained and how.",
    "policy": "Policies: what a site lets out, written by its steward.",
    "ledger": "Ledgers: what left a site.",
    "federation": "Runs between real machines: kits for sites, orders, and how they stand.",
    "site": "A hospital's end of a federation: kit, data and policy.",
}
"""Commands and their help, with which each one's own help begins; each has a module of its name."""


@final
class _Commands(TyperGroup):
    """Imports a command only when it is called, so that `--help` need not wait for torch."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Imports the command named by the first word, then resolves it as the group does."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = _imported(args[0])
        return super().resolve_command(ctx, args)


def _imported(name: str) -> Any:
    from asyndgan.cli.terminal import LogToTerminal  # only now, so that `--help` need not wait

    logging.lastResort = LogToTerminal(logging.WARNING)
    found = getattr(import_module(f"asyndgan.cli.{name}"), name)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        found = alone
    return typer.main.get_command(found)


app = typer.Typer(
    cls=_Commands,
    help="Train one image generator across sites whose images never leave them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"asyndgan {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs a command; an expected error prints its text and exits with 1, an interruption 130."""
    try:
        app()
    except Interrupted as stop:
        _say(str(stop), "yellow")
        sys.exit(130)
    except AsyndganError as error:
        _say("error:", "bold red", end=" ")
        _say(str(error))
        sys.exit(1)
    except OSError as error:
        # A folder that cannot be written or a full disk: the system's message says enough.
        _say("error:", "bold red", end=" ")
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}. Name another folder, or make it writable.")
        sys.exit(1)


def _say(text: str, style: str = "", end: str = "\n") -> None:
    """Prints a text without wrapping: it may hold commands to copy."""
    from asyndgan.cli.terminal import Terminal  # here, so that `--help` need not wait for it

    Terminal(stderr=True).print(text, style=style, end=end, soft_wrap=True)

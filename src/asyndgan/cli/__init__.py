"""The command line: each module parses, calls and prints; the work is done below."""

import sys

import typer
from rich.console import Console

from asyndgan import __version__
from asyndgan.cli.check import check
from asyndgan.cli.demo import demo
from asyndgan.cli.evaluate import evaluate
from asyndgan.cli.generate import generate
from asyndgan.cli.phantoms import phantoms
from asyndgan.cli.recipe import recipe
from asyndgan.cli.report import report
from asyndgan.cli.train import train
from asyndgan.errors import AsyndganError
from asyndgan.runs import Interrupted

app = typer.Typer(
    help="Train one image generator across sites whose images never leave them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(check)
app.command()(phantoms)
app.command()(train)
app.command()(generate)
app.command()(evaluate)
app.command()(report)
app.command()(demo)
app.add_typer(recipe, name="recipe")


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"asyndgan {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs a command; an error of ours ends it with its text and status 1."""
    try:
        app()
    except Interrupted as stop:
        Console(stderr=True).print(f"[yellow]{stop}[/]", highlight=False)
        sys.exit(130)
    except AsyndganError as error:
        Console(stderr=True).print("[bold red]error:[/]", end=" ")
        Console(stderr=True).print(str(error), highlight=False, markup=False)
        sys.exit(1)

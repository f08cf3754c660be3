"""The command line: each module parses, calls and prints; the work is done below."""

import sys

import typer
from rich.console import Console

from asyndgan import __version__
from asyndgan.cli.audit import audit
from asyndgan.cli.augment import augment
from asyndgan.cli.benchmark import benchmark
from asyndgan.cli.check import check
from asyndgan.cli.complete import complete
from asyndgan.cli.demo import demo
from asyndgan.cli.evaluate import evaluate
from asyndgan.cli.federation import federation
from asyndgan.cli.generate import generate
from asyndgan.cli.ledger import ledger
from asyndgan.cli.phantoms import phantoms
from asyndgan.cli.policy import policy
from asyndgan.cli.recipe import recipe
from asyndgan.cli.report import report
from asyndgan.cli.site import site
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
app.command()(augment)
app.command()(complete)
app.command()(evaluate)
app.command()(report)
app.command()(benchmark)
app.command()(audit)
app.command()(demo)
app.add_typer(recipe, name="recipe")
app.add_typer(policy, name="policy")
app.add_typer(ledger, name="ledger")
app.add_typer(federation, name="federation")
app.add_typer(site, name="site")


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
        _say(str(stop), "yellow")
        sys.exit(130)
    except AsyndganError as error:
        _say("error:", "bold red", end=" ")
        _say(str(error))
        sys.exit(1)
    except OSError as error:
        # A folder that cannot be written, a full disk: nothing of ours to explain.
        _say("error:", "bold red", end=" ")
        place = f"{error.filename}: " if error.filename else ""
        _say(f"{place}{error.strerror or error}. Name another folder, or make it writable.")
        sys.exit(1)


def _say(text: str, style: str = "", end: str = "\n") -> None:
    """Foreign names may stand in the text, and commands to copy: no markup, no line breaks."""
    Console(stderr=True).print(
        text, style=style, end=end, highlight=False, markup=False, soft_wrap=True
    )

"""`asyndgan benchmark`: runs a suite of comparisons and writes its tables into a document."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.terminal import Terminal
from asyndgan.cli.train import Device
from asyndgan.errors import RecipeError
from asyndgan.models import usable_device
from asyndgan.reports.evidence import find_block, replace_block, to_markdown, write_evidence
from asyndgan.suites.benchmark import run_suite
from asyndgan.suites.suite import Suite
from asyndgan.texts import bounded_text


def benchmark(
    suite: Annotated[Path, typer.Argument(help="TOML file that says what to compare.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the suite's data sets.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, evaluations, tables and cache.")],
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time, on one core each.")] = 1,
    device: Device = "cpu",
    document: Annotated[
        Path | None,
        typer.Option(help="Markdown file whose block '<!-- suite: NAME -->' to write anew."),
    ] = None,
    examples: Annotated[
        bool, typer.Option(help="Show predictions on real patients in the page.")
    ] = False,
) -> None:
    """Trains and judges what a suite names and OUT does not hold yet, and writes one table."""
    console = Terminal()
    try:
        text = bounded_text(suite)
    except (OSError, ValueError) as error:
        raise RecipeError(f"'{suite}' is no TOML file that can be read.") from error
    if document:
        try:
            find_block(document.read_text("utf-8"), Suite.from_toml(text).name)
        except UnicodeDecodeError as error:
            raise RecipeError(f"'{document}' is no Markdown file in UTF-8; name one.") from error
    with EvaluationDisplay(console) as display:
        result = run_suite(
            text,
            data,
            out,
            workers=workers,
            device=str(usable_device(device)),
            on_training=display.show,
            on_evaluation=display.show,
        )
    markdown, page = write_evidence(out, examples=examples)
    block = to_markdown(result.to_tables())
    if document:
        document.write_text(
            replace_block(document.read_text("utf-8"), result.suite, block), "utf-8"
        )
    console.print(block, soft_wrap=True)
    console.print(f"{markdown}\n{page}", soft_wrap=True)

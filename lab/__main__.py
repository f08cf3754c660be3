"""`python -m lab`: runs a suite of comparisons and writes its tables into a document."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli import alone, log_to_terminal, main
from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.options import Count, NewFolder
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RecipeError
from asyndgan.texts import bounded_text, replace_text


def suite(
    file: Annotated[
        Path, typer.Argument(metavar="SUITE", help="TOML file that describes the comparison.")
    ],
    data: Annotated[Path, typer.Option()],
    out: NewFolder,
    workers: Count = 1,
    device: str = "cpu",
    document: Path | None = None,
) -> None:
    """Runs a suite of trainings and writes one table.

    Trains and evaluates only what OUT does not contain yet.

    Example:
        python -m lab suite.toml --data data --out suite --workers 2

    Data:
        --data FOLDER: Folder that contains the data sets of the suite.

    Output:
        --out FOLDER: Folder for runs, evaluations, tables and a cache. The same command resumes.
        --document FILE: Markdown file whose block '<!-- suite: NAME -->' is replaced by the table.

    Computation:
        --workers N: Trainings in parallel, each on one core.
    """
    from asyndgan.models.parts import usable_device
    from lab.evidence import find_block, replace_block, to_markdown
    from lab.running import run_suite
    from lab.suite import Suite

    console = Terminal()
    try:
        text = bounded_text(file, links=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"'{file}' is no TOML file that can be read.") from error
    if document:
        try:
            find_block(document.read_text("utf-8"), Suite.from_toml(text).name)
        except UnicodeDecodeError as error:
            raise RecipeError(f"'{document}' is no Markdown file in UTF-8; name one.") from error
    stopped = f"the suite was stopped; the same command goes on with what {out} holds."
    with EvaluationDisplay(console, "train", stopped=stopped) as display:
        result = run_suite(
            text,
            data,
            out,
            workers=workers,
            device=str(usable_device(device)),
            on_training=display.show,
            on_evaluation=display.show,
        )
    block = to_markdown(result.to_tables())
    replace_text(out / "suite.md", block)
    if document:
        text = replace_block(document.read_text("utf-8"), result.suite, block)
        replace_text(document, text)
    console.say(block)
    console.say(str(out / "suite.md"))


app = alone("lab", suite)

if __name__ == "__main__":
    log_to_terminal()
    main(app, "python -m lab")

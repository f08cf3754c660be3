"""`asyndgan evaluate`: compares the usefulness of the synthetic set with that of real ones."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from asyndgan.cli.check import PatientPattern
from asyndgan.cli.generate import Fade
from asyndgan.cli.terminal import Terminal
from asyndgan.cli.train import Device, Sites, States, parsed_sites
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.judging.of_run import evaluate_run
from asyndgan.judging.segmentation import SegmentationBudget
from asyndgan.judging.table import Evaluation
from asyndgan.models.segmenters import NETWORKS
from asyndgan.reports.words import counted
from asyndgan.runs import RunFolder


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    site: Sites,
    out: Annotated[Path, typer.Option(help="Folder for the table, the plots and the cache.")],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Real cases of patients that no site holds; else those that the run held out "
            "(training.hold_out)."
        ),
    ] = None,
    synthetic: Annotated[
        Path | None,
        typer.Option(help="A synthetic data set of this run; else painted into OUT/synthetic."),
    ] = None,
    fade: Fade = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model.")] = 1,
    steps: Annotated[
        int, typer.Option(min=1, help="Updates of each segmentation network.")
    ] = SegmentationBudget().steps,
    network: Annotated[
        str, typer.Option(help=f"Segmentation network: {', '.join(NETWORKS)}.")
    ] = SegmentationBudget().network,
    label: Annotated[
        list[str] | None, typer.Option(help="Judge by this label only; may be repeated.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Networks to train at a time, on one core each.")
    ] = 1,
    device: Device = "cpu",
    baselines: Annotated[
        bool, typer.Option(help="Also FedAvg, and each site's real cases with synthetic ones.")
    ] = False,
    augmented: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="What 'asyndgan augment' made of a site's set; may be repeated.",
        ),
    ] = None,
    check_budget: Annotated[
        bool, typer.Option(help="Also train half as long again: has all-real levelled off?")
    ] = False,
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN,
    state: States = None,
) -> None:
    """Trains one segmentation network on all real data, each site's and synthetic data.

    Each is judged on the same real test patients. What is trained once is kept in OUT/cache.
    """
    console = Terminal()
    with EvaluationDisplay(console) as display:
        evaluation = evaluate_run(
            RunFolder(run),
            parsed_sites(site),
            test,
            synthetic,
            out,
            faded=fade or (),
            seeds=seeds,
            budget=SegmentationBudget(network=network, steps=steps),
            targets=label,
            workers=workers,
            device=device,
            baselines=baselines,
            augmented=parsed_sites(augmented or [], "--augmented"),
            check_budget=check_budget,
            patient_pattern=patient_pattern,
            states=parsed_sites(state or [], "--state"),
            on_progress=display.show,
        )
    tell_evaluation(console, evaluation)


def tell_evaluation(console: Terminal, evaluation: Evaluation) -> None:
    """Prints an evaluation's table, headline and gains."""
    table = Table(caption=f"On real {evaluation.judged_on} patients; 95 % intervals over patients")
    seen = evaluation.about.get("modalities")
    if seen:
        console.print(f"Judged in {seen}")
    if others := evaluation.about.get("sites"):
        console.print(others, style="yellow", soft_wrap=True)
    for heading in ("model", "label"):
        table.add_column(heading)
    for heading in ("cases", "Dice", "interval", "of all-real"):
        table.add_column(heading, justify="right")
    for row in evaluation.rows:
        table.add_row(
            row.model,
            row.label,
            str(row.cases),
            f"{row.dice_mean:.3f}",
            f"{row.dice_low:.3f}-{row.dice_high:.3f}",
            f"{row.ratio:.2f}",
            style="bold" if row.model == "synthetic" else None,
        )
    console.print(table)
    console.print(evaluation.headline, style="bold")
    for gain in (one for one in evaluation.gains if one.patients):
        interval = f" ({gain.low:+.3f} to {gain.high:+.3f})" if gain.patients > 1 else ""
        console.print(
            f"{gain.label}: {gain.model} {gain.difference:+.3f}{interval} over {gain.over}, "
            f"{counted(gain.patients, 'patient')}", soft_wrap=True,
        )  # fmt: skip


class EvaluationDisplay(Progress):
    """Shows one progress bar over all trainings."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.add_task("evaluate", total=None)
        self.said: set[str] = set()

    def show(self, text: str, done: int, total: int) -> None:
        """Updates the bar; without a terminal, prints a line for each model."""
        if done < self.tasks[self.task].completed:  # another comparison has started
            self.said.clear()
        self.update(self.task, description=text, completed=done, total=total)
        if self.disable and text not in self.said:  # models trained in parallel alternate
            self.said.add(text)
            self.console.print(f"{100 * done // max(total, 1):3d} %  {text}")

"""`asyndgan evaluate`: compares the usefulness of the synthetic set with that of real ones."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from asyndgan.cli.options import (
    ChosenCount,
    Count,
    FinishedRun,
    NewFolder,
    Sites,
    StudyOption,
    parsed_sites,
)
from asyndgan.cli.tables import tell_records
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import Interrupted
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.models.budget import SegmentationBudget
from asyndgan.reports.words import between, counted, decimal, duration
from asyndgan.runs.trial import NO_RESULT, trial_of

if TYPE_CHECKING:
    from asyndgan.judging.table import Evaluation
    from asyndgan.runs import RunFolder

NOTHING_KEPT: Final = "stopped, and nothing was written; the same command begins anew."
"""What to say after Ctrl-C of a command that writes its result only when it is whole."""

MEASURED_S: Final = 5.0
"""Seconds of work after which the time of the rest is estimated."""

MEASURED_PART: Final = 0.02
"""Fraction of the work that must have been done by then: the first part is no measure."""


def evaluate(
    run: FinishedRun,
    site: Sites,
    out: NewFolder,
    test: Path | None = None,
    synthetic: Path | None = None,
    fade: list[str] | None = None,
    seeds: Count = 1,
    steps: Count = SegmentationBudget.steps,
    network: str = SegmentationBudget.network,
    label: list[str] | None = None,
    workers: ChosenCount = None,
    device: str = "cpu",
    baselines: Annotated[bool, typer.Option("--baselines")] = False,
    augmented: list[str] | None = None,
    check_budget: Annotated[bool, typer.Option("--check-budget")] = False,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    state: list[str] | None = None,
    study: StudyOption = None,
) -> None:
    r"""Compares models trained on synthetic and on real data.

    Trains one segmentation network on all real data, on the data of each site and on synthetic
    data. Scores each on the same real test patients. Prints a table and writes it to
    OUT/evaluation.json. Trained models are kept in OUT/cache.

    Example:
        asyndgan evaluate run --site a=data/north --site b=data/west \
          --test data/test --out evaluation

    Output:
        --out FOLDER: Folder for the tables, the plots and a cache of trained models.
        --label LABEL: Score only this label.

    Data:
        --test FOLDER: Test data set: real cases of patients of no site. By default the patients
            that the run held out (training.hold_out).
        --synthetic FOLDER: Synthetic data set of this run. By default one is painted in
            OUT/synthetic.
        --augmented NAME=FOLDER: Data set that 'asyndgan augment' made of a site's data set.

    Training:
        --seeds N: Trainings per model, one per seed.
        --steps N: Training steps per model.
        --network NAME: Segmentation network: unet, segresnet or unetr.
        --baselines: Also train each site's real cases with synthetic cases.
        --check-budget: Also train the baseline for 1.5 times the steps, to check that it has
            converged.

    Computation:
        --workers N: Models to train in parallel, each on one core. By default one per core.
    """
    from asyndgan.intake.dataset import DataSet, told
    from asyndgan.judging.bench import Bench
    from asyndgan.judging.of_run import evaluate_run
    from asyndgan.judging.records import EVALUATION_FILE, evaluate_records
    from asyndgan.runs import RunFolder
    from asyndgan.runs.sites import RunSites
    from asyndgan.tables.schema import refuse_for_images

    console, folder = Terminal(), RunFolder(run)
    given, states = parsed_sites(site), parsed_sites(state or [], "--state")
    if folder.recipe().table:
        usual = SegmentationBudget()
        refuse_for_images(
            {"fade": fade, "steps": steps != usual.steps, "label": label,
             "network": network != usual.network, "workers": workers, "device": device != "cpu",
             "baselines": baselines, "augmented": augmented, "check_budget": check_budget,
             "patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN}
        )  # fmt: skip
        with EvaluationDisplay(console, "make records, train models of them"):
            found = evaluate_records(
                folder, given, out, test=test, synthetic=synthetic, seeds=seeds, states=states
            )
        tell_records(console, found)
        return console.say(f"{out / EVALUATION_FILE}")
    sites = RunSites.opened(folder, given, states=states, patient_pattern=patient_pattern)
    judged = {"test set": DataSet(test, patient_pattern)} if test else {}
    console.say(told({**sites.data, **judged}))
    budget = SegmentationBudget(network=network, steps=steps)
    stopped = (
        f"the evaluation was stopped; the same command goes on with what {out} holds already, "
        "and begins anew what was unfinished."
    )
    with EvaluationDisplay(
        console, "paint cases", whole="The training", stopped=stopped
    ) as display:
        evaluation = evaluate_run(
            sites,
            judged.get("test set"),
            DataSet(synthetic) if synthetic else None,
            Bench(out, budget, range(seeds), workers, device, display.show),
            faded=fade or (),
            targets=label,
            augmented={
                name: DataSet(folder, patient_pattern)
                for name, folder in parsed_sites(augmented or [], "--augmented").items()
            },
            baselines=baselines,
            check_budget=check_budget,
        )
    tell_evaluation(console, evaluation)
    if not synthetic:
        painted = out / "synthetic"
        same = "; 'asyndgan generate' paints the same images" if sites.run.has_masks else ""
        console.say(f"The synthetic set is {painted}{same}. An audit says whether to pass them on.")


def tell_evaluation(console: Terminal, evaluation: "Evaluation") -> None:
    """Prints an evaluation's table, headline and gains, with the figures of the report's page."""
    from asyndgan.judging.table import SYNTHETIC
    from asyndgan.reports.usefulness import headline, is_learned

    if trial := evaluation.about.get("trial"):
        console.say(f"{trial}. {NO_RESULT}", style="yellow")
    if evaluation.budget.steps < SegmentationBudget.steps:
        console.say(
            f"Networks of {evaluation.budget.steps} steps, of real images too (by default "
            f"{SegmentationBudget.steps}): this is a trial, and no figure is a result.",
            style="yellow",
        )
    learned = {label: is_learned(rows) for label, rows in evaluation.by_label().items()}
    table = Table(
        caption=f"On real {evaluation.judged_on} patients; 95 % intervals over patients; of a mask "
        "there are several synthetic cases"
    )
    seen = evaluation.about.get("modalities")
    if seen:
        console.print(f"Judged in {seen}")
    if others := evaluation.about.get("sites"):
        console.say(others, style="yellow")
    for heading in ("model", "label"):
        table.add_column(heading)
    for heading in ("cases", "Dice", "interval", "of all-real"):
        table.add_column(heading, justify="right")
    bold = "" if trial else "bold"
    for row in evaluation.rows:
        table.add_row(
            row.model, row.label, str(row.cases), decimal(row.dice_mean, 3),
            between(row.dice_low, row.dice_high, 3),
            decimal(row.ratio if learned[row.label] else None, 2),
            style=bold if row.model == SYNTHETIC else None,
        )  # fmt: skip
    console.print(table)
    console.print("\n".join(headline(evaluation)), style=bold)
    for gain in (one for one in evaluation.gains if one.patients):
        interval = f" ({gain.low:+.3f} to {gain.high:+.3f})" if gain.patients > 1 else ""
        console.say(
            f"{gain.label}: {gain.model} {gain.difference:+.3f}{interval} over {gain.over}, "
            f"{counted(gain.patients, 'patient')}"
        )


def tell_trial(console: Terminal, run: "RunFolder") -> None:
    """Says that a run is a trial, if it is one."""
    if trial := trial_of(run.facts(), run.recipe()):
        console.say(f"{trial}. {NO_RESULT}", style="yellow")


class EvaluationDisplay(Progress):
    """Shows one progress bar over all that is done, and says once how long it will take.

    Args:
        console: console to write to.
        name: what is done first.
        counted: whether what is done is many of one kind, and not some of several; without a
            terminal a line is then printed for each tenth.
        whole: what takes so long; empty: nothing is said of the time.
        stopped: what Ctrl-C leaves, and what the same command does then.

    Raises:
        Interrupted: after Ctrl-C.
    """

    def __init__(
        self, console: Terminal, name: str, *, counted: bool = False, whole: str = "",
        stopped: str = NOTHING_KEPT,
    ) -> None:  # fmt: skip
        self.terminal = console
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *([MofNCompleteColumn()] if counted else []),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.add_task(name, total=None)
        self.counted = counted
        self.said: set[tuple[str, int]] = set()
        self.first, self.whole, self.stopped = name, whole, stopped
        self.under_way: set[str] = set()
        self.since = (0, 0.0)  # what was done when the newest part began, and when that was

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Closes the bar, and says after Ctrl-C what that leaves."""
        super().__exit__(kind, value, trace)
        if isinstance(value, KeyboardInterrupt):
            raise Interrupted(self.stopped) from value

    def show(self, text: str, done: int, total: int) -> None:
        """Updates the bar; without a terminal, prints a line for each model or tenth."""
        if done < self.tasks[self.task].completed:  # another comparison has started
            self.said.clear()
            self.under_way.clear()
        self.update(self.task, description=text, completed=done, total=total)
        line = (text, 10 * done // max(total, 1) if self.counted else 0)
        if self.disable and line not in self.said:  # models trained in parallel alternate
            self.said.add(line)
            count = f" ({done} of {total})" if self.counted else ""
            self.terminal.say(f"{100 * done // max(total, 1):3d} %  {text}{count}")
        self._tell_time(text, done, total)

    def _tell_time(self, text: str, done: int, total: int) -> None:
        """Says once, after some seconds of the same parts, how long the rest will take."""
        now = time.monotonic()
        first, began = self.since
        if text not in self.under_way:  # what was found finished must not count as fast work
            self.under_way.add(text)
            self.since = (done, now)
        elif (
            now - began > MEASURED_S
            and (self.counted or text != self.first)
            and (done - first) >= MEASURED_PART * (total - first)
        ):
            left = (now - began) / (done - first) * (total - done)
            if self.whole and left > MEASURED_S:
                self.terminal.say(
                    f"{self.whole} takes about {duration(left)} more on this machine."
                )
            self.whole = ""

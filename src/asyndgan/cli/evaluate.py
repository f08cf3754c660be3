"""`asyndgan evaluate`: compares the usefulness of the synthetic set with that of real ones."""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from asyndgan.cli.options import (
    AsJson,
    ChosenCount,
    Count,
    FinishedRun,
    NewFolder,
    Sites,
    StudyOption,
    parsed_sites,
    print_written,
)
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import Interrupted
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.reports.words import between, counted, decimal
from asyndgan.runs.trial import NO_RESULT, trial_of

if TYPE_CHECKING:
    from asyndgan.judging.records import RecordsEvaluation
    from asyndgan.judging.table import Evaluation
    from asyndgan.runs import RunFolder

NOTHING_KEPT: Final = "stopped, and nothing was written; the same command begins anew."
"""What to say after Ctrl-C of a command that writes its result only when it is whole."""

PACE_S: Final = 300.0
"""Seconds from whose progress the bar tells the time left; a part may report every minute only."""


def evaluate(
    run: FinishedRun,
    site: Sites,
    out: NewFolder,
    test: Path | None = None,
    synthetic: Path | None = None,
    fade: list[str] | None = None,
    seeds: Count = 1,
    steps: Count = SegmentationBudget.steps,
    label: list[str] | None = None,
    workers: ChosenCount = None,
    device: str = "cpu",
    baselines: Annotated[bool, typer.Option("--baselines")] = False,
    state: list[str] | None = None,
    as_json: AsJson = False,
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

    Training:
        --seeds N: Trainings per model, one per seed.
        --steps N: Training steps per model.
        --baselines: Also train each site's real cases with synthetic cases.

    Computation:
        --workers N: Models to train in parallel, each on one core. By default one per core.
    """
    from asyndgan.judging.bench import Bench
    from asyndgan.judging.records import EVALUATION_FILE
    from asyndgan.kinds import Records, kind_of
    from asyndgan.runs import RunFolder

    console, kind, given = Terminal(stderr=as_json), kind_of(RunFolder(run)), parsed_sites(site)
    budget = SegmentationBudget(steps=steps)
    bench = Bench(out, budget, range(seeds), workers, device)
    how: dict[str, Any] = {
        "test": test, "synthetic": synthetic, "states": parsed_sites(state or [], "--state"),
        "fade": fade or (), "label": label, "baselines": baselines,
    }  # fmt: skip
    if isinstance(kind, Records):
        with EvaluationDisplay(console, "make records, train models of them"):
            found = kind.evaluate(given, bench, **how)
        tell_records(console, found)
        console.say(f"{out / EVALUATION_FILE}")
        return print_written(out / EVALUATION_FILE, wanted=as_json)
    stopped = (
        f"the evaluation was stopped; the same command goes on with what {out} holds already, "
        "and begins anew what was unfinished."
    )
    with EvaluationDisplay(console, "paint cases", stopped=stopped) as display:
        bench = replace(bench, on_progress=display.show)
        evaluation = kind.evaluate(given, bench, tell=console.say, **how)
    tell_evaluation(console, evaluation)
    print_written(out / EVALUATION_FILE, wanted=as_json)
    if not synthetic:
        painted = out / "synthetic"
        same = "; 'asyndgan generate' paints the same images" if kind.run.has_masks else ""
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


def tell_records(console: Terminal, found: "RecordsEvaluation") -> None:
    """Prints an evaluation of records."""
    if note := found.about.get("note"):
        console.say(note, style="yellow")
    table = Table(caption=f"On {found.about['judged_on']}; 95 % intervals over records")
    for heading in ("model", "records"):
        table.add_column(heading, overflow="fold")
    for heading in ("trained on", "AUC", "interval", "of all-real", "interval", "Brier"):
        table.add_column(heading, justify="right")
    for one in found.scores:
        table.add_row(
            one.model, one.records, f"{one.count}", f"{one.auc:.3f}",
            f"{one.low:.3f} to {one.high:.3f}", f"{one.ratio:.3f}",
            f"{one.ratio_low:.3f} to {one.ratio_high:.3f}", f"{one.brier:.3f}",
        )  # fmt: skip
    console.print(table)
    worst = sorted(found.columns, key=lambda name: found.columns[name])[:3]
    mean = sum(found.columns.values()) / len(found.columns)
    least = ", ".join(f"{name} {found.columns[name]:.2f}" for name in worst)
    console.say(f"Likeness of columns {mean:.3f} (least: {least}), of pairs {found.pairs:.3f}.")


def tell_trial(console: Terminal, run: "RunFolder") -> None:
    """Says that a run is a trial, if it is one."""
    if trial := trial_of(run.facts(), run.recipe()):
        console.say(f"{trial}. {NO_RESULT}", style="yellow")


class EvaluationDisplay(Progress):
    """Shows one progress bar over all that is done.

    Args:
        console: console to write to.
        name: what is done first.
        counted: whether what is done is many of one kind, and not some of several; without a
            terminal a line is then printed for each tenth.
        stopped: what Ctrl-C leaves, and what the same command does then.

    Raises:
        Interrupted: after Ctrl-C.
    """

    def __init__(
        self, console: Terminal, name: str, *, counted: bool = False, stopped: str = NOTHING_KEPT
    ) -> None:
        self.terminal = console
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *([MofNCompleteColumn()] if counted else []),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=PACE_S,
        )
        self.task = self.add_task(name, total=None)
        self.counted = counted
        self.said: set[tuple[str, int]] = set()
        self.stopped = stopped

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Closes the bar, and says after Ctrl-C what that leaves."""
        if kind is None:
            self.update(self.task, completed=1, total=1)
        super().__exit__(kind, value, trace)
        if isinstance(value, KeyboardInterrupt):
            raise Interrupted(self.stopped) from value

    def show(self, text: str, done: int, total: int) -> None:
        """Updates the bar; without a terminal, prints a line for each model or tenth."""
        known = self.counted or 0 < done < total
        self.update(self.task, description=text, completed=done, total=total if known else done + 1)
        if not known:  # before the first part and after the last one: work that nobody counts
            self.tasks[self.task].total = None
        line = (text, 10 * done // max(total, 1) if self.counted else 0)
        if self.disable and line not in self.said:  # models trained in parallel alternate
            self.said.add(line)
            count = f" ({done} of {total})" if self.counted else ""
            self.terminal.say(f"{100 * done // max(total, 1):3d} %  {text}{count}")

"""`asyndgan train`: trains one generator with several sites."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, final

import typer
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from asyndgan.cli.evaluate import tell_trial
from asyndgan.cli.following import in_lines, next_commands, tell_lacking
from asyndgan.cli.options import (
    ChosenCount,
    Engine,
    Hours,
    NewFolder,
    Overrides,
    PlannedRecipe,
    Sites,
    StartOption,
    StudyOption,
    parsed_sites,
)
from asyndgan.cli.plan import tell_plan
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RecipeError
from asyndgan.intake.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.recipe import Recipe
from asyndgan.reports.words import duration, size
from asyndgan.runs import load_recipe

if TYPE_CHECKING:
    from asyndgan.runs import Progress as RunProgress
    from asyndgan.runs import RunFolder


MEASURED: Final = 10
"""Steps after which the time of the training is estimated."""

LONG: Final = 100
"""Steps from which on a run is worth the seconds that it takes to time what comes after it."""


def train(
    out: NewFolder,
    site: Sites,
    recipe: PlannedRecipe = None,
    hours: Hours = 1.0,
    overrides: Overrides = None,
    policy: list[str] | None = None,
    masks: Path | None = None,
    records: Path | None = None,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    without: list[str] | None = None,
    engine: Engine = "inprocess",
    resume: Annotated[bool, typer.Option("--resume")] = False,
    start: StartOption = None,
    threads: ChosenCount = None,
    device: str = "cpu",
    study: StudyOption = None,
) -> None:
    """Trains one generator with several sites.

    Images stay at their site. Each site answers synthetic images with a gradient.

    Example:
        asyndgan train --site a=data/north --site b=data/west --out run

    Output:
        --out FOLDER: Run folder to write.
        --resume: Resume from the newest checkpoint.

    Privacy:
        --policy NAME=FILE: The policy of a site. Without one, everything that the recipe asks for
            may leave the site.
        --records FOLDER: Keep the sites' ledgers and privacy accounts here, across runs. By default
            they are in the run folder.

    Masks:
        --masks FOLDER: Data set of masks to paint from instead of the patients' masks. Needs
            masks.source=given. By default the sites teach a generator of masks first, in OUT-masks.

    Data:
        --without NAME=MODALITY: Leave out a modality of a site.

    Computation:
        --threads N: CPU threads of the coordinator. By default as many as are fastest.
    """
    from asyndgan.intake.dataset import DataSet, told
    from asyndgan.runs.learned import learned_masks, learns_masks
    from asyndgan.runs.planned import plan_for, within
    from asyndgan.runs.train import train as train_run
    from asyndgan.tables.schema import refuse_for_images

    console = Terminal()
    folders = parsed_sites(site)
    if recipe is None and resume and (out / "recipe.toml").exists():
        recipe = str(out / "recipe.toml")  # as it was planned
    if recipe is None:
        made = plan_for(folders, overrides or [], patient_pattern, fits=within(hours, device))
        tell_plan(console, made)
        resolved = made if isinstance(made, Recipe) else made.recipe
    else:
        resolved = load_recipe(recipe, overrides or [])
    if resolved.table:
        refuse_for_images(
            {"masks": masks, "without": without,
             "patient_pattern": patient_pattern != DEFAULT_PATIENT_PATTERN}
        )  # fmt: skip

    def tell(proposal: str) -> None:
        patients = None
        if resolved.table:
            display.tell(proposal)
        else:
            data = {name: DataSet(folder, patient_pattern) for name, folder in folders.items()}
            display.tell(f"{proposal}\n{told(data)}")
            patients = sum(len({*one.patients.values()}) for one in data.values())
        if part := resolved.training.hold_out:
            who = "records" if resolved.table else "patients"
            display.tell(f"About {part:.0%} of each site's {who} are held out, to judge on later.")
        kept = resolved.keeps_masks or resolved.given_masks
        tell_lacking(console, resolved, masks=kept, study=study, patients=patients)

    how: dict[str, Any] = {
        "policies": parsed_sites(policy or [], "--policy"),
        "records": records,
        "patients": patient_pattern,
        "without": _withheld(without or []),
        "engine": engine,
        "threads": threads,
        "device": device,
    }
    if learns_masks(resolved, masks, out, resume=resume):
        console.say(
            "First the sites teach a generator of masks; the images are painted from these."
        )
        with TrainingDisplay(console) as display:
            masks = learned_masks(
                resolved, folders, out, resume=resume, confirm=display.tell, watch=display.show,
                **how,
            )  # fmt: skip
        console.say(f"Look at the masks in {masks}. Now the images.")
    with TrainingDisplay(console, out) as display:
        run = train_run(
            resolved, folders, out, masks=masks, resume=resume, start=start, confirm=tell,
            watch=display.show, **how,
        )  # fmt: skip
    tell_finished(console, run, folders, patient_pattern, study)


def _withheld(pairs: list[str]) -> dict[str, list[str]]:
    withheld: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, modality = pair.partition("=")
        if not (name and equals and modality):
            raise RecipeError(f"--without {pair}: write NAME=MODALITY, e.g. --without north=T1.")
        withheld.setdefault(name, []).append(modality)
    return withheld


def tell_finished(
    console: Terminal, run: "RunFolder", sites: Mapping[str, Path], pattern: str, study: Path | None
) -> None:
    """Prints a summary after training, what the run lacks, and the commands that use it."""
    facts, recipe, masks = run.facts(), run.recipe(), run.has_masks
    left = sum(sum(kinds.values()) for kinds in facts.left_sites.values())
    console.say(
        f"{facts.steps} steps in {duration(facts.seconds)}; {size(left)} left the sites, "
        f"no {'record' if recipe.table else 'image'} among them. Generator: {run.generator_file}"
    )
    tell_trial(console, run)
    tell_lacking(console, recipe, masks=masks, study=study)
    console.say("Next:")
    for command in next_commands(run.path, recipe, sites, pattern, masks=masks, study=study):
        console.say(in_lines(command))


@final
class TrainingDisplay:
    """Shows a bar with the time left and a table of the sites' losses, updated in place.

    Args:
        console: console to write to; without a terminal, a line is printed now and then.
        run: the run's folder, whose evaluation and audit are timed; None: they are not.
    """

    def __init__(self, console: Terminal, run: Path | None = None) -> None:
        self.console = console
        self.run = run
        self.shown = 0
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]} left", markup=False),
            console=console,
        )
        self.task = self.bar.add_task("set up the sites", total=None, left="?")
        self.live = Live(self.bar, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def tell(self, proposal: str) -> None:
        """Prints what the run paints. All sites are folders here, so none has to confirm."""
        self.console.say(proposal)

    def show(self, progress: "RunProgress") -> None:
        """Shows the state after a step."""
        for line in progress.news:
            self.console.say(f"step {progress.step}: {line}", style="yellow")
        self.shown += 1
        if self.shown == MEASURED and progress.step < progress.steps:
            left, steps = duration(progress.seconds_left), progress.steps - progress.step
            self.console.say(f"The other {steps} steps will take about {left} on this machine.")
            self._tell_later(progress.steps)
        if self.console.is_terminal:
            left = duration(progress.seconds_left)
            text = f"step {progress.step}/{progress.steps}"
            self.bar.update(
                self.task, description=text, completed=progress.step, total=progress.steps,
                left=left,
            )  # fmt: skip
            grid = Table.grid(expand=True)
            grid.add_row(self.bar)
            grid.add_row(_losses(progress))
            self.live.update(grid)
        elif progress.step % max(1, progress.steps // 20) == 0:
            parts = (
                f"step {progress.step}/{progress.steps}",
                f"{duration(progress.seconds_left)} left",
                f"to sites {size(progress.sent)}, from sites {size(progress.received)}",
                _mean_losses(progress),
            )
            self.console.say("  ".join(filter(None, parts)))

    def _tell_later(self, steps: int) -> None:
        """Says how long the finished run's evaluation and audit will take; not of a short trial."""
        from asyndgan.auditing.expected import expected_seconds
        from asyndgan.runs import RunFolder

        if self.run is None or steps < LONG:
            return
        run = RunFolder(self.run)
        if run.recipe().condition.kind == "mask":
            judged, tried = map(duration, expected_seconds(run))
            self.console.say(f"Then 'evaluate' takes about {judged} here, 'audit' about {tried}.")


def _losses(progress: "RunProgress") -> Table:
    names = sorted({name for losses in progress.report.losses.values() for name in losses})
    table = Table(
        caption=f"to sites {size(progress.sent)}, from sites {size(progress.received)}",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("site")
    table.add_column("share", justify="right")
    for name in names:
        table.add_column(name, justify="right")  # the name comes from a site
    for site, losses in progress.report.losses.items():
        values = [f"{losses[name]:.3f}" if name in losses else "" for name in names]
        table.add_row(site, f"{progress.report.shares[site]:.2f}", *values)
    return table


def _mean_losses(progress: "RunProgress") -> str:
    """Means over the sites that sent each: a policy may keep one back."""
    found: dict[str, list[float]] = {}
    for own in progress.report.losses.values():
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return " ".join(f"{name} {fmean(values):.3f}" for name, values in found.items())

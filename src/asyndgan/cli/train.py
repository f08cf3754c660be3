"""`asyndgan train`: trains one generator with several sites."""

import re
from itertools import count
from pathlib import Path
from shlex import quote
from statistics import fmean
from types import TracebackType
from typing import Annotated, Self, final

import typer
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from asyndgan.cli.check import PatientPattern
from asyndgan.cli.recipe import Overrides
from asyndgan.cli.terminal import Terminal
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.engines import ENGINES
from asyndgan.errors import RecipeError
from asyndgan.reports.words import duration, size
from asyndgan.runs import Progress as RunProgress
from asyndgan.runs import RunFolder, load_recipe
from asyndgan.runs.train import train as train_run

Sites = Annotated[
    list[str],
    typer.Option("--site", metavar="NAME=FOLDER", help="A site and the folder of its data."),
]

States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="NAME=FOLDER",
        help="Where a site keeps its states of the run, which say whom it was trained on: "
        "KIT/runs/RUN in a federation, else in the run's folder.",
    ),
]

Device = Annotated[str, typer.Option(help="Where networks compute: cpu, cuda, cuda:1, mps.")]


def train(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe ('asyndgan recipe list'), or a TOML file.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    site: Sites,
    overrides: Overrides = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A site's policy; without one everything that the recipe asks for may leave it.",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Data set of masks, public or generated, to paint from in place of patients' own "
            "(masks.source = given)."
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which each site's ledger and account outlive this run; else they lie "
            "in the run."
        ),
    ] = None,
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODALITY",
            help="A modality that a site has and that takes no part; may be repeated.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help=f"How messages travel: {', '.join(ENGINES)}.")] = (
        "inprocess"
    ),
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint.")] = False,
    threads: Annotated[
        int, typer.Option(min=1, help="Cores for the coordinator's arithmetic.")
    ] = 1,
    device: Device = "cpu",
) -> None:
    """Trains one generator with several sites; their images stay where they are."""
    console = Terminal()
    resolved = load_recipe(recipe, overrides or [])
    with TrainingDisplay(console) as display:
        run = train_run(
            resolved,
            parsed_sites(site),
            out,
            policies=parsed_sites(policy or [], "--policy"),
            masks=masks,
            records=records,
            patients=patient_pattern,
            without=_withheld(without or []),
            engine=engine,
            resume=resume,
            threads=threads,
            device=device,
            confirm=display.tell,
            watch=display.show,
        )
    tell_finished(console, run)


def _withheld(pairs: list[str]) -> dict[str, list[str]]:
    withheld: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, modality = pair.partition("=")
        if not (name and equals and modality):
            raise RecipeError(f"--without {pair}: write NAME=MODALITY, e.g. --without north=T1.")
        withheld.setdefault(name, []).append(modality)
    return withheld


def parsed_sites(pairs: list[str], option: str = "--site") -> dict[str, Path]:
    """Parses `NAME=PATH` pairs.

    Raises:
        RecipeError: if a pair is not of that form, or a name is not valid or comes twice.
    """
    sites: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        same = [known for known in sites if known.casefold() == name.casefold()]
        if not equals or not name or not folder or same:
            raise RecipeError(
                f"{option} {pair}: write NAME=PATH, e.g. {option} north=data/north, each name once "
                "(capitals do not tell two apart)."
            )
        if not re.fullmatch(r"[^\W_][\w-]{0,63}", name):
            raise RecipeError(
                f"{option} {pair}: a name has letters, digits, '-' and '_' only, at most 64, and "
                "begins with a letter or digit."
            )
        sites[name] = Path(folder)
    return sites


def tell_finished(console: Terminal, run: RunFolder) -> None:
    """Prints a summary after training."""
    facts = run.facts()
    left = sum(sum(kinds.values()) for kinds in facts.left_sites.values())
    console.print(
        f"{facts.steps} steps in {duration(facts.seconds)}; {size(left)} left the sites, "
        f"no image among them. Generator: {run.generator_file}",
        soft_wrap=True,
    )
    if run.has_masks:
        out = next(
            name for n in count(1) if not Path(name := f"synthetic{n if n > 1 else ''}").exists()
        )
        console.print(
            f"Next: asyndgan generate {quote(str(run.path))} --out {out}",
            soft_wrap=True,
        )


@final
class TrainingDisplay:
    """Shows a bar with the time left and a table of the sites' losses, updated in place.

    Args:
        console: console to write to; without a terminal, a line is printed now and then.
    """

    def __init__(self, console: Terminal) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("step {task.completed}/{task.total}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]} left", markup=False),
            console=console,
        )
        self.task = self.bar.add_task("train", total=None, left="?")
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
        """Prints what the run paints; nobody is asked, since all sites are folders here."""
        self.console.print(proposal, highlight=False, markup=False, soft_wrap=True)

    def show(self, progress: RunProgress) -> None:
        """Shows the state after a step."""
        for line in progress.news:
            self.console.print(f"step {progress.step}: {line}", style="yellow")
        if self.console.is_terminal:
            left = duration(progress.seconds_left)
            self.bar.update(self.task, completed=progress.step, total=progress.steps, left=left)
            grid = Table.grid(expand=True)
            grid.add_row(self.bar)
            grid.add_row(_losses(progress))
            self.live.update(grid)
        elif progress.step % max(1, progress.steps // 20) == 0:
            self.console.print(
                f"step {progress.step}/{progress.steps}  "
                f"{duration(progress.seconds_left)} left  "
                f"sent {size(progress.sent)}, received {size(progress.received)}  "
                f"{_mean_losses(progress)}",
                soft_wrap=True,
            )


def _losses(progress: RunProgress) -> Table:
    names = sorted({name for losses in progress.report.losses.values() for name in losses})
    table = Table(
        caption=f"sent to sites {size(progress.sent)}, received {size(progress.received)}",
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


def _mean_losses(progress: RunProgress) -> str:
    """Means over the sites that sent each: a policy may keep one back."""
    found: dict[str, list[float]] = {}
    for own in progress.report.losses.values():
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return " ".join(f"{name} {fmean(values):.3f}" for name, values in found.items())

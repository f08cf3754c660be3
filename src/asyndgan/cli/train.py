"""`asyndgan train`: trains one generator with several sites."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from asyndgan.cli.evaluate import EvaluationDisplay, tell_trial
from asyndgan.cli.following import next_commands, tell_lacking, too_few_for
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
from asyndgan.reports.words import duration, size
from asyndgan.runs import load_recipe

if TYPE_CHECKING:
    from asyndgan.recipe import Recipe
    from asyndgan.runs import Progress as RunProgress
    from asyndgan.runs import RunFolder


def train(
    out: NewFolder,
    site: Sites,
    recipe: PlannedRecipe = None,
    hours: Hours = 1.0,
    overrides: Overrides = None,
    policy: list[str] | None = None,
    masks: Path | None = None,
    records: Path | None = None,
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
    from asyndgan.intake.between import check_apart
    from asyndgan.intake.dataset import SLICED, DataSet, sliced, told
    from asyndgan.runs.planned import planned, within
    from asyndgan.tables.schema import refuse_for_images

    console = Terminal()
    folders = parsed_sites(site)
    if recipe is None and resume and (out / "recipe.toml").exists():
        recipe = str(out / "recipe.toml")  # as it was planned
    if recipe is None:
        made = planned(folders, overrides or [], fits=within(hours, device))
        tell_plan(console, made)
        resolved = made.recipe
    else:
        resolved = load_recipe(recipe, overrides or [])
    images = folders
    if resolved.table:
        refuse_for_images({"masks": masks, "without": without})
        images = {}

    def tell(proposal: str) -> None:
        data = {name: DataSet(folder) for name, folder in images.items()}
        console.say(f"{proposal}\n{told(data)}".rstrip())
        patients = sum(len({*one.patients.values()}) for one in data.values())
        if sliced(data.values(), resolved.image):
            console.say(SLICED)
        if part := resolved.training.hold_out:
            who = resolved.kind.patients
            console.say(f"About {part:.0%} of each site's {who} are held out, to judge on later.")
        kept = resolved.keeps_masks or resolved.given_masks
        tell_lacking(console, resolved, masks=kept, study=study)
        for line in too_few_for(resolved, patients) if recipe else ():
            console.say(line, style="yellow")

    how: dict[str, Any] = {
        "policies": parsed_sites(policy or [], "--policy"),
        "records": records,
        "without": _withheld(without or []),
        "engine": engine,
        "threads": threads,
        "device": device,
    }
    if not resume:
        check_apart([*images.values()], resolved.image)
    run = trained(
        console, resolved, folders, out, masks=masks, resume=resume, start=start, confirm=tell,
        **how,
    )  # fmt: skip
    tell_finished(console, run, folders, study)


def trained(
    console: Terminal,
    recipe: "Recipe",
    sites: dict[str, Path],
    out: Path,
    *,
    masks: Path | None = None,
    mask_steps: int | None = None,
    resume: bool = False,
    start: Path | None = None,
    confirm: Callable[[str], None] | None = None,
    **how: Any,
) -> "RunFolder":
    """Trains with a bar; masks are learned first, in so many steps, if the run has to."""
    from asyndgan.runs.mask_learning import learned_masks, learns_masks
    from asyndgan.runs.train import train as train_run

    if learns_masks(recipe, masks, out, resume=resume):
        console.say("First the sites teach a generator of masks; images are painted from those.")
        with TrainingDisplay(console) as display:
            masks = learned_masks(
                recipe, sites, out, resume=resume, steps=mask_steps,
                confirm=confirm, watch=display.watch, **how,
            )  # fmt: skip
        confirm = console.say if confirm else None  # the rest was said
        console.say(f"Look at the masks in {masks}. Now the images.")
    with TrainingDisplay(console) as display:
        return train_run(
            recipe, sites, out, masks=masks, resume=resume, start=start, confirm=confirm,
            watch=display.watch, **how,
        )  # fmt: skip


def _withheld(pairs: list[str]) -> dict[str, list[str]]:
    withheld: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, modality = pair.partition("=")
        if not (name and equals and modality):
            raise RecipeError(f"--without {pair}: write NAME=MODALITY, e.g. --without north=T1.")
        withheld.setdefault(name, []).append(modality)
    return withheld


def tell_finished(
    console: Terminal, run: "RunFolder", sites: Mapping[str, Path], study: Path | None
) -> None:
    """Prints a summary after training, what the run lacks, and the commands that use it."""
    facts, recipe, masks = run.facts(), run.recipe(), run.has_masks
    left = sum(sum(kinds.values()) for kinds in facts.left_sites.values())
    console.say(
        f"{facts.steps} steps in {duration(facts.seconds)}; {size(left)} left the sites, "
        f"no {recipe.kind.case} among them. Generator: {run.generator_file}"
    )
    tell_trial(console, run)
    tell_lacking(console, recipe, masks=masks, study=study)
    console.say("Next:")
    for command in next_commands(
        run.path, recipe, sites, engine=facts.engine, masks=masks, study=study
    ):
        console.say(command)


@final
class TrainingDisplay(EvaluationDisplay):
    """Shows a bar with the time left and the mean losses; without a terminal, now and then."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(console, "set up the sites", stopped="stopped before the first step.")

    def watch(self, progress: "RunProgress") -> None:
        """Shows the state after a step."""
        step, steps = progress.step, progress.steps
        for line in progress.report.events:
            self.terminal.say(f"step {step}: {line}", style="yellow")
        if not self.disable or step % max(1, steps // 20) == 0:
            parts = (
                f"step {step}/{steps}",
                f"{duration(progress.seconds_left)} left",
                f"to sites {size(progress.sent)}, from sites {size(progress.received)}",
                _mean_losses(progress),
            )
            self.show("  ".join(filter(None, parts)), step, steps)


def _mean_losses(progress: "RunProgress") -> str:
    """Means over the sites that sent each: a policy may keep one back."""
    found: dict[str, list[float]] = {}
    for own in progress.report.losses.values():
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return " ".join(f"{name} {fmean(values):.3f}" for name, values in found.items())

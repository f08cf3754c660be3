"""`asyndgan evaluate`: is the synthetic set worth as much as real ones?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from asyndgan.cli.train import Sites, parsed_sites
from asyndgan.data import Case
from asyndgan.data.nnunet import (
    DEFAULT_PATIENT_PATTERN,
    check_labels,
    describe,
    written_whole,
)
from asyndgan.data.prepare import load_cases, load_masks
from asyndgan.errors import RunError
from asyndgan.evaluation import Evaluation, SegmentationBudget, synthesise, write_synthetic
from asyndgan.evaluation import evaluate as evaluate_models
from asyndgan.evaluation.compare import OnProgress
from asyndgan.runs import RunFolder


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    site: Sites,
    test: Annotated[Path, typer.Option(help="Real cases of patients that no site holds.")],
    out: Annotated[Path, typer.Option(help="Folder for the table, the plots and the cache.")],
    synthetic: Annotated[
        Path | None,
        typer.Option(help="A synthetic data set of this run; else painted into OUT/synthetic."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model.")] = 1,
    steps: Annotated[
        int, typer.Option(min=1, help="Updates of each segmentation network.")
    ] = SegmentationBudget().steps,
    label: Annotated[
        list[str] | None, typer.Option(help="Judge by this label only; may be repeated.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Networks to train at a time, on one core each.")
    ] = 1,
    check_budget: Annotated[
        bool, typer.Option(help="Also train half as long again: has all-real levelled off?")
    ] = False,
    patient_pattern: Annotated[
        str, typer.Option(help="Regular expression; its first group is the patient.")
    ] = DEFAULT_PATIENT_PATTERN,
) -> None:
    """Trains one segmentation network on all real data, on each site's and on synthetic data.

    Each is judged on the same real test patients. What is trained once is kept in OUT/cache.
    """
    console = Console()
    folder = RunFolder(run)
    folders = parsed_sites(site)
    painted = synthetic or paint(folder, folders, out / "synthetic")
    with EvaluationDisplay(console) as display:
        evaluation = evaluate_run(
            folder,
            folders,
            test,
            painted,
            out,
            seeds=seeds,
            budget=SegmentationBudget(steps=steps),
            targets=label,
            workers=workers,
            check_budget=check_budget,
            patient_pattern=patient_pattern,
            on_progress=display.show,
        )
    tell_evaluation(console, evaluation)


def paint(run: RunFolder, sites: Mapping[str, Path], out: Path) -> Path:
    """A synthetic set to judge: from released masks, or else from the masks of these sites."""
    if (out / "dataset.json").exists():
        _check_provenance(run, out)
        return out
    if run.recipe().masks.release:
        masks, source = None, "released by the sites during training"
    else:
        image = run.recipe().image
        masks = [
            (f"{site}-c{number:05d}", mask)  # names of cases may be names of patients
            for site, data in sites.items()
            for number, (_, mask) in enumerate(load_masks(data, image), 1)
        ]
        source = "of the sites' own cases, given to the evaluation only"
    cases = synthesise(run, masks)
    with written_whole(out) as half:
        write_synthetic(half, run, cases, masks=source, draws=1, seed=0)
    return out


def evaluate_run(
    run: RunFolder,
    sites: Mapping[str, Path],
    test: Path,
    synthetic: Path,
    out: Path,
    *,
    seeds: int,
    budget: SegmentationBudget,
    targets: Sequence[str] | None,
    workers: int,
    check_budget: bool,
    on_progress: OnProgress,
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
) -> Evaluation:
    """Loads everything on the run's grid and compares the models."""
    _check_provenance(run, synthetic)
    facts, image = run.facts(), run.recipe().image
    modalities = shared_by_all(facts.modalities, [*sites.values(), test])

    def cases(data: Path) -> list[Case]:
        check_labels(data, facts.labels)
        return load_cases(data, image, modalities, patient_pattern=patient_pattern, unmasked=False)

    return evaluate_models(
        sites={name: cases(data) for name, data in sites.items()},
        test=cases(test),
        synthetic=cases(synthetic),
        labels={name: int(number) for number, name in facts.labels.items()},
        out=out,
        targets=targets,
        seeds=range(seeds),
        budget=budget,
        workers=workers,
        check_budget=check_budget,
        about={
            "run": facts.run,
            "generator_sha256": facts.generator_sha256,
            "modalities": ", ".join(modalities),
        },
        on_progress=on_progress,
    )


def shared_by_all(modalities: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What every model can be trained and judged on: a site may lack modalities.

    Raises:
        RunError: if there is none.
    """
    held = [describe(folder).modalities for folder in folders]
    shared = [name for name in modalities if all(name in own for own in held)]
    if not shared:
        raise RunError(
            f"no modality of the run ({', '.join(modalities)}) is in every folder. Leave out the "
            "sites that have others."
        )
    return shared


def tell_evaluation(console: Console, evaluation: Evaluation) -> None:
    """The table and the headline."""
    table = Table(caption="Dice on real test patients, with 95 % intervals over patients")
    seen = evaluation.about.get("modalities")
    if seen:
        console.print(f"Modalities that every folder has: {seen}", highlight=False, markup=False)
    for heading in ("model", "label"):
        table.add_column(heading)
    for heading in ("cases", "Dice", "interval", "HD95", "ASSD", "of all-real"):
        table.add_column(heading, justify="right")
    for row in evaluation.rows:
        table.add_row(
            row.model,
            escape(row.label),
            str(row.cases),
            f"{row.dice_mean:.3f}",
            f"{row.dice_low:.3f}-{row.dice_high:.3f}",
            f"{row.hd95_mean:.1f}",
            f"{row.assd_mean:.2f}",
            f"{row.ratio:.2f}",
            style="bold" if row.model == "synthetic" else None,
        )
    console.print(table)
    console.print(evaluation.headline, style="bold", highlight=False, markup=False)


class EvaluationDisplay(Progress):
    """One bar over all trainings."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.add_task("evaluate", total=None)
        self.said = ""

    def show(self, text: str, done: int, total: int) -> None:
        """Draws the state; without a terminal, a line for each model."""
        self.update(self.task, description=text, completed=done, total=total)
        if self.disable and text != self.said:
            self.said = text
            self.console.print(f"{100 * done // max(total, 1):3d} %  {text}", highlight=False)


def _check_provenance(run: RunFolder, synthetic: Path) -> None:
    provenance = describe(synthetic).extra.get("provenance")
    wanted = run.facts().generator_sha256
    if not isinstance(provenance, dict) or provenance.get("generator_sha256") != wanted:
        raise RunError(
            f"{synthetic} was not painted by the generator of {run.path}; "
            "generate it anew or name another folder."
        )

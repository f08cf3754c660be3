"""`asyndgan demo`: every stage once, on a small scale, with phantoms."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, final

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from asyndgan.cli.evaluate import tell_evaluation
from asyndgan.cli.options import Count, Engine, NewFolder, Overrides
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.models.budget import SegmentationBudget
from asyndgan.reports.words import duration, size
from asyndgan.runs import load_recipe

if TYPE_CHECKING:
    from asyndgan.protocol import Transport
    from asyndgan.runs import Progress as RunProgress
    from asyndgan.runs import RunFolder
    from asyndgan.runs.train import Watch

RECIPE: Final = "demo"
"""Smaller networks and fewer steps than `default`."""

MASK_STEPS: Final = 1000
FLARE_STEPS: Final = 800


def demo(
    out: NewFolder,
    engine: Engine = "inprocess",
    overrides: Overrides = None,
    patients: float = 1.0,
    segmentation_steps: Count = 400,
) -> None:
    """Runs every stage on four phantom hospitals.

    Draws patients, trains one generator, paints a synthetic data set, evaluates it, attacks it
    and writes a report. Takes about 12 minutes on two cores. With '--engine flare' a federation
    with real startup kits runs on this machine over mutual TLS, and the connection of one
    hospital is cut during training.

    Example:
        asyndgan demo --out demo

    Output:
        --out FOLDER: Folder to write. After an interruption the same command resumes.

    Data:
        --patients X: Factor for the number of patients.

    Training:
        --segmentation-steps N: Training steps per segmentation model.
    """
    from asyndgan.auditing.audit import AUDIT_FILE
    from asyndgan.auditing.run import audit_run
    from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
    from asyndgan.export.writing import written_whole
    from asyndgan.intake.dataset import DataSet
    from asyndgan.judging.bench import Bench
    from asyndgan.judging.of_run import evaluate_run
    from asyndgan.painting.sets import synthetic_of_run
    from asyndgan.reports.audited import read_audited
    from asyndgan.reports.report import write_report
    from asyndgan.reports.usefulness import is_of_generator
    from asyndgan.runs import RunFolder
    from asyndgan.runs.learned import learned_masks, learns_masks
    from asyndgan.runs.sites import RunSites
    from asyndgan.runs.train import train as train_run

    console = Terminal()
    begun = time.monotonic()
    folders = {site.name: out / "sites" / site.name for site in DEFAULT_SITES}
    audited = out / "audit"
    run = RunFolder(out / "run")
    sites, test = RunSites.opened(run, folders), DataSet(out / "sites" / "test")
    # A step takes longer where four more processes share the cores with FLARE's.
    steps = [f"training.steps={FLARE_STEPS}"] if engine == "flare" else []
    recipe = load_recipe(RECIPE, [*steps, *(overrides or [])])
    if run.facts_file.exists() and run.recipe().digest() != recipe.digest():
        raise RunError(
            f"{out} holds a demo of other settings or of another version; choose another folder."
        )
    if not (out / "report.html").exists():
        console.print("About 12 minutes on two cores. After Ctrl-C the same command goes on.")
    with DemoDisplay(console) as display:
        with display.part("Draw four hospitals' patients") as part:
            if not (out / "sites").exists():
                with written_whole(out / "sites") as half:
                    write_phantoms(half, size=recipe.image.size[0], patients_scale=patients)
            part.tell(f"{len(folders)} sites and a test set in {out / 'sites'}")
        masks, begun_before = None, run.facts_file.exists()
        if learns_masks(recipe, None, run.path, resume=begun_before):
            with display.part("Learn masks, so that none of a patient leaves") as part:
                masks = learned_masks(
                    recipe, folders, run.path, engine=engine, resume=begun_before,
                    steps=MASK_STEPS // (3 if engine == "flare" else 1),
                    watch=part.watch_training,
                )  # fmt: skip
                part.tell("masks of no patient, painted by a generator of their own")
        with display.part("Train one generator with four discriminators") as part:
            if not run.generator_file.exists():
                first, third = next(iter(folders)), recipe.training.steps // 3
                started, watch = _mishap(first, third, part.watch_training)
                train_run(
                    recipe,
                    folders,
                    run.path,
                    engine=engine,
                    masks=masks,
                    resume=begun_before,
                    started=started,
                    watch=watch,
                )
            part.tell(_moved(run))
        with display.part("Paint a synthetic data set") as part:
            synthetic = synthetic_of_run(sites, out / "synthetic", watch=part.watch_evaluation)
            part.tell(str(synthetic.folder))
        with display.part("Train segmentation models, real and synthetic") as part:
            evaluation = evaluate_run(
                sites,
                test,
                synthetic,
                Bench(
                    out / "evaluation",
                    SegmentationBudget(steps=segmentation_steps),
                    on_progress=part.watch_evaluation,
                ),
            )
            part.tell(f"{len(evaluation.rows)} rows in {out / 'evaluation' / 'evaluation.json'}")
        if engine != "flare":  # whose demo is about who is there, and has ten minutes
            with display.part("Attack it as a coordinator and as a stranger could") as part:
                generator = run.facts().generator_sha256
                file = audited / AUDIT_FILE
                if not file.exists() or not is_of_generator(file, generator):
                    audit_run(
                        sites, audited, holdout=test, asked=list(folders)[:1], synthetic=synthetic,
                        watch=part.watch_evaluation,
                    )  # fmt: skip
                (tried,) = read_audited(run, [audited])
                unsaid = f"; {tried.undecided} cannot say" if tried.undecided else ""
                part.tell(
                    f"{tried.learned} of {len(tried.attempts)} attacks learned something of "
                    f"patients{unsaid}"
                )
        with display.part("Write the report") as part:
            image, modalities = run.recipe().image, run.facts().modalities
            report = write_report(
                run,
                out / "report.html",
                synthetic=synthetic.cases(image, modalities, synthetic=True),
                real={name: data.cases(image, modalities) for name, data in sites.data.items()},
                evaluation=out / "evaluation",
                audits=[audited] if (audited / AUDIT_FILE).exists() else [],
                folders=folders,
            )
            part.tell(str(report))
    tell_evaluation(console, evaluation)
    took = duration(time.monotonic() - begun)
    console.say(f"Done in {took}. Open {report}")


def _mishap(site: str, step: int, watch: "Watch") -> tuple[Callable[["Transport"], None], "Watch"]:
    """Kills a site's connection after a step, if the engine given to the first has any to kill."""
    engines: list[Any] = []

    def watched(progress: "RunProgress") -> None:
        for engine in engines if progress.step == step else ():
            getattr(engine, "kill", bool)(site)
        watch(progress)

    return engines.append, watched


def _moved(run: "RunFolder") -> str:
    facts = run.facts()
    left = sum(sum(kinds.values()) for kinds in facts.left_sites.values())
    own = run.recipe().sends_own_masks
    sent, none = ("gradients and masks", "") if own else ("gradients", " and no mask")
    return f"{facts.steps} steps; {size(left)} of {sent} left the sites, no image{none}"


@final
class DemoDisplay(Progress):
    """Shows one bar per part of the demo; without a terminal, prints a line now and then."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}", markup=False, style="dim"),
            console=console,
            disable=not console.is_terminal,
        )

    @contextmanager
    def part(self, name: str) -> Iterator[Self]:
        """Shows a part while the context lasts."""
        self.told, self.tenths = "", -1
        self.current = self.add_task(name, total=None, told="")
        if self.disable:
            self.console.print(f"{name} ...")
        yield self
        self.update(self.current, completed=1, total=1)
        if self.disable:
            self.console.print(f"  {self.told}", soft_wrap=True)

    def tell(self, text: str) -> None:
        """Sets the status text."""
        self.told = text
        self.update(self.current, told=text)

    def show(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.update(self.current, completed=done, total=total)
        tenths = 10 * done // max(total, 1)
        if self.disable and tenths > self.tenths:
            self.tenths = tenths
            self.console.print(f"  {10 * tenths:3d} %  {self.told}")

    def watch_training(self, progress: "RunProgress") -> None:
        """Shows the progress of training; to be passed to `train`."""
        every = progress.report.losses.values()
        losses = [own["discriminator"] for own in every if "discriminator" in own]
        # A policy may keep them.
        mean = f"D loss {sum(losses) / len(losses):.2f}, " if losses else ""
        moved = f"{size(progress.sent)} out, {size(progress.received)} back"
        self.tell(f"step {progress.step}, {mean}{moved}")
        self.show(progress.step, progress.steps)
        for line in progress.news:
            self.console.print(line, style="yellow")

    def watch_evaluation(self, text: str, done: int, total: int) -> None:
        """Shows the progress of the evaluation or of the audit."""
        self.tell(text)
        self.show(done, total)

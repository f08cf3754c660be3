"""`asyndgan demo`: every stage once, on a small scale, with phantoms."""

import time
from typing import Any, Final

from asyndgan.cli.options import Count, Engine, NewFolder, Overrides
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.reports.words import duration
from asyndgan.runs import load_recipe

RECIPE: Final = "demo"
"""Smaller networks and fewer steps than `default`."""

MASK_STEPS: Final = 1000
FLARE_STEPS: Final = 400


def demo(
    out: NewFolder,
    engine: Engine = "inprocess",
    overrides: Overrides = None,
    patients: float = 1.0,
    segmentation_steps: Count = 400,
) -> None:
    """Runs every stage on four phantom hospitals.

    Draws patients, trains one generator, paints a synthetic data set, evaluates it, attacks it
    and writes a report. Takes 9 to 15 minutes on two cores. With '--engine flare' a federation
    with real startup kits runs on this machine over mutual TLS.

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
    from asyndgan.auditing.record import read_audit
    from asyndgan.auditing.run import audit_run
    from asyndgan.cli.audit import tell_audit
    from asyndgan.cli.evaluate import EvaluationDisplay, evaluate
    from asyndgan.cli.report import report
    from asyndgan.cli.train import trained
    from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
    from asyndgan.export.writing import written_whole
    from asyndgan.intake.dataset import DataSet
    from asyndgan.painting.sets import synthetic_of_run
    from asyndgan.runs import RunFolder
    from asyndgan.runs.sites import RunSites

    console, begun = Terminal(), time.monotonic()
    folders = {site.name: out / "sites" / site.name for site in DEFAULT_SITES}
    test, audited, run = out / "sites" / "test", out / "audit", RunFolder(out / "run")
    # A step takes longer where four more processes share the cores with FLARE's.
    steps = [f"training.steps={FLARE_STEPS}"] if engine == "flare" else []
    recipe = load_recipe(RECIPE, [*steps, *(overrides or [])])
    resume = run.facts_file.exists()
    if resume and run.recipe().digest() != recipe.digest():
        raise RunError(
            f"{out} holds a demo of other settings or of another version; choose another folder."
        )
    console.say("9 to 15 minutes on two cores. After Ctrl-C the same command goes on.")
    if not (out / "sites").exists():
        with written_whole(out / "sites") as half:
            write_phantoms(half, size=recipe.image.size[0], patients_scale=patients)
    console.say(f"Four hospitals' patients and a test set are in {out / 'sites'}.")
    if not run.generator_file.exists():
        mask_steps = MASK_STEPS // (3 if engine == "flare" else 1)
        trained(
            console, recipe, folders, run.path, mask_steps=mask_steps, resume=resume, engine=engine
        )
    sites = RunSites.opened(run, folders)
    stopped = "the demo was stopped; the same command goes on."
    with EvaluationDisplay(console, "paint cases", stopped=stopped) as display:
        synthetic = synthetic_of_run(sites, out / "synthetic", watch=display.show)
    pairs = [f"{name}={folder}" for name, folder in folders.items()]
    how: dict[str, Any] = {"test": test, "synthetic": synthetic.folder, "steps": segmentation_steps}
    evaluate(run.path, pairs, out / "evaluation", **how)
    if engine != "flare":  # whose demo is about who is there, and has ten minutes
        if not (audited / AUDIT_FILE).exists():
            with EvaluationDisplay(console, "read the patients", stopped=stopped) as display:
                audit_run(
                    sites, audited, holdout=DataSet(test), asked=list(folders)[:1],
                    synthetic=synthetic, watch=display.show,
                )  # fmt: skip
        tell_audit(console, run, read_audit(audited))
    report(
        run.path, out / "report.html", site=pairs, evaluation=out / "evaluation",
        audit=[audited] if audited.exists() else [], synthetic=synthetic.folder,
    )  # fmt: skip
    console.say(f"Done in {duration(time.monotonic() - begun)}. Open {out / 'report.html'}")

"""`asyndgan complete`: paints, at the site, the modalities that its cases lack."""

from pathlib import Path
from typing import Annotated, Any

import typer

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.options import Count, FinishedRun, NewFolder, Seed, StudyOption
from asyndgan.cli.terminal import Terminal
from asyndgan.models.budgets import TranslationBudget


def complete(
    run: FinishedRun,
    site: Annotated[Path, typer.Option()],
    out: NewFolder,
    masks: Path | None = None,
    steps: Count = TranslationBudget.steps,
    seed: Seed = 0,
    device: str = "cpu",
    study: StudyOption = None,
) -> None:
    """Copies a data set and adds the modalities that its cases lack.

    A network, trained here on synthetic images, translates the patient's acquired images. Added
    images are named as synthetic. Nothing leaves the machine. Not for diagnosis: an added
    image was never acquired.

    Example:
        asyndgan complete run --site data/west --out west-complete

    Data:
        --site FOLDER: Data set with cases that lack modalities.

    Painting:
        --steps N: Training steps of the translator.

    Masks:
        --masks FOLDER: Data set of more masks, to paint training cases of the translator from. By
            default the masks of the run.
    """
    from asyndgan.export.writing import written_whole
    from asyndgan.intake.dataset import DataSet
    from asyndgan.models.parts import usable_device
    from asyndgan.painting.completion import GALLERY, complete_folder
    from asyndgan.painting.synthesise import chosen_masks
    from asyndgan.runs import RunFolder

    folder, console = RunFolder(run), Terminal()
    kept: list[Any] = []
    source = "the run kept none"
    if masks or folder.has_masks:
        kept, origin = chosen_masks(folder, masks)
        source = origin.text
    device = str(usable_device(device))
    display = EvaluationDisplay(console, "train the translator", counted=True)
    with display, written_whole(out) as half:
        count, modalities = complete_folder(
            folder, DataSet(site), half, masks=kept, source=source,
            budget=TranslationBudget(steps=steps), seed=seed, device=device,
            on_progress=lambda done: display.show("train the translator", done, steps),
        )  # fmt: skip
    names = ", ".join(f"synthetic {name}" for name in modalities)
    console.say(
        f"{count} files of {names} in {out}; provenance.json names each, {GALLERY} shows a few."
    )

"""`asyndgan complete`: paints, at the site, the modalities that its cases lack."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.options import Count, FinishedRun, NewFolder, Seed, StudyOption
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.painting.budget import TranslationBudget


def complete(
    run: FinishedRun,
    site: Annotated[Path, typer.Option()],
    out: NewFolder,
    way: Literal["translated", "painted"] = "translated",
    masks: Path | None = None,
    steps: Count = TranslationBudget.steps,
    look: str | None = None,
    hide_masks: Annotated[bool, typer.Option("--hide-masks")] = False,
    seed: Seed = 0,
    device: str = "cpu",
    study: StudyOption = None,
) -> None:
    """Copies a data set and adds the modalities that its cases lack.

    Added images are named as synthetic. Nothing leaves the machine. Not for diagnosis: an added
    image was never acquired.

    Example:
        asyndgan complete run --site data/west --out west-complete

    Data:
        --site FOLDER: Data set with cases that lack modalities.

    Painting:
        --way WAY: 'translated': a network, trained here on synthetic images, translates the
            patient's acquired images. 'painted': the generator paints from the mask alone.
        --steps N: Training steps of the translator.
        --look SITE: Paint in the look of this site of the run. To translate, it must have every
            modality.

    Masks:
        --masks FOLDER: Data set of more masks, to paint training cases of the translator from. By
            default the masks of the run.
        --hide-masks: Ignore the masks of the cases. Use it if a model is to find them afterwards.
    """
    from asyndgan.export.writing import written_whole
    from asyndgan.intake.dataset import DataSet
    from asyndgan.models import usable_device
    from asyndgan.painting.completion import GALLERY, Completion, complete_folder
    from asyndgan.painting.synthesise import chosen_masks
    from asyndgan.runs import RunFolder

    if way == "painted" and hide_masks:
        raise RunError(
            "--way painted paints from the masks that --hide-masks hides; leave out one of them."
        )
    if way == "painted" and (masks or steps != TranslationBudget.steps):
        raise RunError("--masks and --steps are of the translator, and --way painted trains none.")
    folder, console = RunFolder(run), Terminal()
    kept: list[Any] = []
    source = "the run kept none"
    if masks or folder.has_masks:
        kept, origin = chosen_masks(folder, masks)
        source = origin.text
    how = Completion(
        way, kept, source, TranslationBudget(steps=steps), seed, look, hide_masks,
        str(usable_device(device)),
    )  # fmt: skip
    display = EvaluationDisplay(console, "train the translator", counted=True)
    with display, written_whole(out) as half:
        count, modalities = complete_folder(
            folder,
            DataSet(site),
            half,
            how,
            on_progress=lambda done: display.show("train the translator", done, steps),
        )
    names = ", ".join(f"synthetic {name}" for name in modalities)
    console.say(
        f"{count} files of {names} in {out}; provenance.json names each, {GALLERY} shows a few."
    )

"""`asyndgan complete`: paints, at the site, the modalities that its cases lack."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.options import (
    DATA,
    MASKS,
    PAINTING,
    Device,
    FinishedRun,
    NewFolder,
    PatientPattern,
    Seed,
)
from asyndgan.cli.terminal import Terminal
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.errors import RunError
from asyndgan.painting.budget import TranslationBudget


def complete(
    run: FinishedRun,
    site: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Data set with cases that lack modalities.",
            rich_help_panel=DATA,
        ),
    ],
    out: NewFolder,
    way: Annotated[
        Literal["translated", "painted"],
        typer.Option(
            metavar="WAY",
            help="'translated': a network, trained here on synthetic images, translates the "
            "patient's acquired images. 'painted': the generator paints from the mask alone.",
            rich_help_panel=PAINTING,
        ),
    ] = "translated",
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Data set of more masks, to paint training cases of the translator from. By "
            "default the masks of the run.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Training steps of the translator.", rich_help_panel=PAINTING
        ),
    ] = TranslationBudget.steps,
    look: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Paint in the look of this site of the run. To translate, it must have every "
            "modality.",
            rich_help_panel=PAINTING,
        ),
    ] = None,
    hide_masks: Annotated[
        bool,
        typer.Option(
            "--hide-masks",
            help="Ignore the masks of the cases. Use it if a model is to find them afterwards.",
            rich_help_panel=MASKS,
        ),
    ] = False,
    seed: Seed = 0,
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN,
    device: Device = "cpu",
) -> None:
    """Copies a data set and adds the modalities that its cases lack.

    Added images are named as synthetic. Nothing leaves the machine. Not for diagnosis: an added
    image was never acquired.

    Example:
        asyndgan complete run --site data/west --out west-complete
    """
    from asyndgan.data.dataset import DataSet
    from asyndgan.data.writing import written_whole
    from asyndgan.models import usable_device
    from asyndgan.painting.completion import GALLERY, Completion, complete_folder
    from asyndgan.painting.synthesise import masks_in, released_masks, source_of_masks
    from asyndgan.runs import RunFolder

    if way == "painted" and hide_masks:
        raise RunError(
            "--way painted paints from the masks that --hide-masks hides; leave out one of them."
        )
    if way == "painted" and (masks or steps != TranslationBudget.steps):
        raise RunError("--masks and --steps are of the translator, and --way painted trains none.")
    folder, console = RunFolder(run), Terminal()
    if masks:
        kept, source = masks_in(masks, folder), "a folder of masks"
    elif folder.has_masks:
        kept, source = released_masks(folder), source_of_masks(folder)
    else:
        kept, source = [], "the run kept none"
    how = Completion(
        way, kept, source, TranslationBudget(steps=steps), seed, look, hide_masks,
        str(usable_device(device)),
    )  # fmt: skip
    with EvaluationDisplay(console) as display, written_whole(out) as half:
        count, modalities = complete_folder(
            folder,
            DataSet(site, patient_pattern),
            half,
            how,
            on_progress=lambda done: display.show("translator", done, steps),
        )
    names = ", ".join(f"synthetic {name}" for name in modalities)
    console.print(
        f"{count} files of {names} in {out}; provenance.json names each, {GALLERY} shows a few.",
        soft_wrap=True,
    )

"""`asyndgan complete`: paints, at the site, the modalities that its cases lack."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asyndgan.cli.check import PatientPattern
from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.terminal import Terminal
from asyndgan.cli.train import Device
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.data.writing import written_whole
from asyndgan.errors import RunError
from asyndgan.models import usable_device
from asyndgan.painting.completion import GALLERY, TranslationBudget, complete_folder
from asyndgan.painting.synthesise import masks_in, released_masks, source_of_masks
from asyndgan.runs import RunFolder


def complete(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    site: Annotated[Path, typer.Option(metavar="FOLDER", help="Data set whose cases lack some.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new.")],
    way: Annotated[
        Literal["translated", "painted"],
        typer.Option(
            help="translated: from the patient's acquired images, by a network trained here on "
            "what the generator paints; painted: by the generator, from the mask alone."
        ),
    ] = "translated",
    masks: Annotated[
        Path | None,
        typer.Option(help="Further masks to paint training cases from; else the run's own."),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Updates of the translator.")
    ] = TranslationBudget().steps,
    look: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Site of the run in whose look to paint; to translate, one with every modality.",
        ),
    ] = None,
    hide_masks: Annotated[
        bool,
        typer.Option(
            "--hide-masks", help="Complete as if there were no masks, to look for them afterwards."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN,
    device: Device = "cpu",
) -> None:
    """Copies a site's data set and adds what its cases lack, under names that say it is synthetic.

    Nothing leaves the machine. Not for diagnosis: what is added was never acquired.
    """
    if way == "painted" and hide_masks:
        raise RunError(
            "--way painted paints from the masks that --hide-masks hides; leave out one of them."
        )
    if way == "painted" and (masks or steps != TranslationBudget().steps):
        raise RunError("--masks and --steps are of the translator, and --way painted trains none.")
    folder, console = RunFolder(run), Terminal()
    if masks:
        kept, source = masks_in(masks, folder), "a folder of masks"
    elif folder.has_masks:
        kept, source = released_masks(folder), source_of_masks(folder)
    else:
        kept, source = [], "the run kept none"
    with EvaluationDisplay(console) as display, written_whole(out) as half:
        count, modalities = complete_folder(
            folder,
            site,
            half,
            way=way,
            masks=kept,
            source=source,
            budget=TranslationBudget(steps=steps),
            patient_pattern=patient_pattern,
            seed=seed,
            look=look,
            hide_masks=hide_masks,
            device=str(usable_device(device)),
            on_progress=lambda done: display.show("translator", done, steps),
        )
    names = ", ".join(f"synthetic {name}" for name in modalities)
    console.print(
        f"{count} files of {names} in {out}; provenance.json names each, {GALLERY} shows a few.",
        soft_wrap=True,
    )

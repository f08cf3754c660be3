"""`asyndgan augment`: a copy of a site's data set with synthetic cases added."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.check import PatientPattern
from asyndgan.cli.generate import Fade
from asyndgan.cli.terminal import Terminal
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.data.writing import written_whole
from asyndgan.painting.augmenting import augment_folder, words_of
from asyndgan.painting.synthesise import masks_in, released_masks, source_of_masks
from asyndgan.runs import RunFolder


def augment(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    site: Annotated[Path, typer.Option(metavar="FOLDER", help="Data set of real cases.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new.")],
    ratio: Annotated[
        float, typer.Option(min=0.01, max=100, help="Synthetic cases for each real one.")
    ] = 1.0,
    masks: Annotated[
        Path | None, typer.Option(help="Data set whose masks to paint from, beside its own.")
    ] = None,
    released: Annotated[
        bool, typer.Option(help="Also from the masks that sites released to the run.")
    ] = False,
    own: Annotated[bool, typer.Option(help="From the masks of the data set itself.")] = True,
    label: Annotated[
        str | None, typer.Option(help="Paint only masks that hold this label.")
    ] = None,
    rare_first: Annotated[
        bool,
        typer.Option(
            "--rare-first", help="Masks whose labels, or sizes of a label, few have, more often."
        ),
    ] = False,
    fade: Fade = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Where the site keeps its states of the run (KIT/runs/RUN in a federation), which "
            "say whom it held out."
        ),
    ] = None,
) -> None:
    """Copies a data set and adds synthetic cases, stored like real ones and named as synthetic.

    Nothing leaves the machine.
    """
    folder = RunFolder(run)
    others = [mask for _, mask in masks_in(masks, folder)] if masks else []
    sources = ["of a folder"] if masks else []
    if released:
        others += [mask for _, mask in released_masks(folder)]
        sources += [source_of_masks(folder)]
    with written_whole(out) as half:
        real, painted, left_out = augment_folder(
            folder,
            site,
            half,
            ratio=ratio,
            masks=others,
            source=" or ".join(sources),
            own_masks=own,
            label=label,
            rare_first=rare_first,
            faded=fade or (),
            seed=seed,
            patient_pattern=patient_pattern,
            state=state,
        )
    without = f" Further masks {words_of(left_out)}." if left_out else ""
    Terminal().print(
        f"{real} real and {painted} synthetic cases in {out}; dataset.json names the synthetic "
        f"ones.{without}", soft_wrap=True,
    )  # fmt: skip

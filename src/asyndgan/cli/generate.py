"""`asyndgan generate`: paints a synthetic data set with a finished run's generator."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.auditing.record import check_released
from asyndgan.cli.terminal import Terminal
from asyndgan.data.writing import written_whole
from asyndgan.errors import RunError
from asyndgan.painting.sets import MOVED, painting_of
from asyndgan.painting.synthesise import (
    fading_of,
    masks_digest,
    masks_in,
    released_masks,
    source_of_masks,
    synthesise,
    write_synthetic,
)
from asyndgan.runs import RunFolder

Fade = Annotated[
    list[str] | None,
    typer.Option(
        help="Label, such as a lesion, to show more or less clearly from image to image; may be "
        "repeated. The generator must know images without it.",
    ),
]


def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new.")],
    masks: Annotated[
        Path | None,
        typer.Option(help="Data set whose masks to paint from; else those that sites released."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Images a mask.")] = 1,
    augment: Annotated[
        bool, typer.Option(help="Mirror, turn, scale and shift the masks, every draw anew.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of noise and augmentation.")] = 0,
    fade: Fade = None,
    release: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="AUDIT",
            help="To be passed on: the set that was audited, and only if the audits in these "
            "folders, together of all sites, find neither members nor copies of them; the model "
            "card says what they found.",
        ),
    ] = None,
) -> None:
    """Paints an nnU-Net data set, with its provenance and a model card."""
    if release and (draws, augment, seed) != (1, False, 0):
        raise RunError(
            "with --release the set that was audited is painted again, so --draws, --augment and "
            "--seed say nothing; leave them out."
        )
    folder = RunFolder(run)
    if masks is None:
        named, source = released_masks(folder), source_of_masks(folder)
    else:
        named, source = masks_in(masks, folder), "a folder of masks"
    audited, fading = None, fading_of(folder, fade or ())
    with written_whole(out) as half:  # on entry it looks whether it can be written
        if release:
            audited = check_released(folder, masks_digest(named), release, fading=fading)
            cases, painting = painting_of(folder, named, fading=fading), {"moved": MOVED}
            source += ", some of them moved at random"
        else:
            cases = list(
                synthesise(folder, named, draws=draws, seed=seed, move=augment, fading=fading)
            )
            painting = {"draws": draws, "seed": seed}
            source += ", moved at random" if augment else ""
        count = write_synthetic(
            half,
            folder,
            cases,
            masks=named,
            source=source,
            painting={**painting, **fading.told()},
            audited=audited,
        )
    Terminal().print(
        f"{count} synthetic cases in {out}, with MODEL_CARD.md.",
        soft_wrap=True,
    )

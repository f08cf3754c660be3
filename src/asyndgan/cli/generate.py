"""`asyndgan generate`: paints a synthetic data set with a finished run's generator."""

from pathlib import Path
from typing import Annotated

import typer

import asyndgan
from asyndgan.cli.terminal import Terminal

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
    count = asyndgan.generate(
        run, out, masks=masks, draws=draws, augment=augment, seed=seed, fade=fade or (),
        release=release or (),
    )  # fmt: skip
    Terminal().print(
        f"{count} synthetic cases in {out}, with MODEL_CARD.md.",
        soft_wrap=True,
    )

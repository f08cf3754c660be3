"""`asyndgan generate`: paints a synthetic data set with a finished run's generator."""

from pathlib import Path
from typing import Annotated

import typer

import asyndgan
from asyndgan.cli.options import Count, FinishedRun, NewFolder, Seed
from asyndgan.cli.terminal import Terminal


def generate(
    run: FinishedRun,
    out: NewFolder,
    masks: Path | None = None,
    draws: Count = 1,
    augment: Annotated[bool, typer.Option("--augment")] = False,
    seed: Seed = 0,
    fade: list[str] | None = None,
    release: list[Path] | None = None,
) -> None:
    """Paints a synthetic data set with a trained generator.

    Writes an nnU-Net data set, its provenance in dataset.json, and MODEL_CARD.md.

    Example:
        asyndgan generate run --out synthetic --draws 3

    Masks:
        --masks FOLDER: Data set of masks to paint from. By default the masks that the sites
            released.
        --augment: Mirror, rotate, scale and shift the masks at random.

    Painting:
        --draws N: Images per mask.

    Privacy:
        --release AUDIT: Paint the set that these audits examined, to pass it on. Refused if the
            audits do not cover all sites, or found members or copies. The model card reports the
            audits.
    """
    count = asyndgan.generate(
        run, out, masks=masks, draws=draws, augment=augment, seed=seed, fade=fade or (),
        release=release or (),
    )  # fmt: skip
    Terminal().say(f"{count} synthetic cases in {out}, with MODEL_CARD.md.")

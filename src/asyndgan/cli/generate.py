"""`asyndgan generate`: paints a synthetic data set with a finished run's generator."""

from inspect import unwrap
from pathlib import Path
from typing import Annotated

import typer

import asyndgan
from asyndgan.cli.evaluate import EvaluationDisplay, tell_trial
from asyndgan.cli.options import ChosenCount, FinishedRun, NewFolder, Seed, StudyOption
from asyndgan.cli.terminal import Terminal


def generate(
    run: FinishedRun,
    out: NewFolder,
    masks: Path | None = None,
    draws: ChosenCount = None,
    augment: Annotated[bool, typer.Option("--augment")] = False,
    seed: Seed = 0,
    fade: list[str] | None = None,
    like: Path | None = None,
    study: StudyOption = None,
) -> None:
    """Paints a synthetic data set with a trained generator.

    Writes an nnU-Net data set, its provenance in dataset.json, MODEL_CARD.md, and
    splits_final.json, whose folds keep the images of a mask together. By default it paints
    three images per mask, two of them of the mask moved at random. 'asyndgan evaluate' judges
    the same set.

    Example:
        asyndgan generate run --out synthetic

    Masks:
        --masks FOLDER: Data set of masks to paint from. By default the masks that the sites
            released. From volumes, volumes are written that overlay them.
        --augment: Mirror, rotate, scale and shift the masks at random.

    Painting:
        --draws N: Images per mask, or, of a generator of masks, number of masks.

    Output:
        --like FOLDER: Store files as this data set of a site does: in its format and bit depth
            and, where its files hold them, with its spacing and orientation. Intensities are those
            of the recipe's range; percentiles differ by patient, so the whole bit depth is used.
    """
    from asyndgan.intake.dataset import SLICED
    from asyndgan.runs import RunFolder

    console, generate_set = Terminal(), unwrap(asyndgan.generate)  # whose errors name arguments
    with EvaluationDisplay(console, "paint cases", counted=True) as display:
        count = generate_set(
            run, out, masks=masks, draws=draws, augment=augment, seed=seed, fade=fade or (),
            like=like, watch=display.show,
        )  # fmt: skip
    folder = RunFolder(run)
    if folder.recipe().table:
        return console.say(
            f"{count} synthetic records in {out}, with schema.json and MODEL_CARD.md."
        )
    tell_trial(console, folder)
    console.say(f"{count} synthetic cases in {out}, with MODEL_CARD.md.")
    if folder.facts().sliced:
        console.say(SLICED)

"""`asyndgan generate`: paints a synthetic data set with a finished run's generator."""

from inspect import unwrap
from pathlib import Path

import asyndgan
from asyndgan.cli.evaluate import EvaluationDisplay, tell_trial
from asyndgan.cli.options import ChosenCount, FinishedRun, NewFolder, StudyOption
from asyndgan.cli.terminal import Terminal


def generate(
    run: FinishedRun,
    out: NewFolder,
    masks: Path | None = None,
    draws: ChosenCount = None,
    fade: list[str] | None = None,
    like: Path | None = None,
    study: StudyOption = None,
) -> None:
    """Paints a synthetic data set with a trained generator.

    Writes an nnU-Net data set, its provenance in dataset.json, MODEL_CARD.md, and
    splits_final.json, whose folds keep the images of a mask together. By default it is the set
    that 'asyndgan evaluate' judges.

    Example:
        asyndgan generate run --out synthetic

    Masks:
        --masks FOLDER: Data set of masks to paint from. By default the masks that the sites
            released. From volumes, volumes are written that overlay them.

    Painting:
        --draws N: Images per mask: one of the mask itself, the others of it moved at random. By
            default three. Of a generator of masks: number of masks.

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
            run, out, masks=masks, draws=draws, fade=fade or (), like=like, watch=display.show
        )
    folder = RunFolder(run)
    if folder.recipe().table:
        return console.say(
            f"{count} synthetic records in {out}, with schema.json and MODEL_CARD.md."
        )
    tell_trial(console, folder)
    console.say(f"{count} synthetic cases in {out}, with MODEL_CARD.md.")
    if folder.facts().sliced:
        console.say(SLICED)

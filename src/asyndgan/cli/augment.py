"""`asyndgan augment`: a copy of a site's data set with synthetic cases added."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.options import FinishedRun, NewFolder, Seed, StudyOption
from asyndgan.cli.terminal import Terminal


def augment(
    run: FinishedRun,
    site: Annotated[Path, typer.Option()],
    out: NewFolder,
    ratio: Annotated[float, typer.Option(min=0.01, max=100)] = 1.0,
    masks: Path | None = None,
    released: Annotated[bool, typer.Option("--released")] = False,
    own: Annotated[bool, typer.Option("--own/--no-own")] = True,
    label: str | None = None,
    fade: list[str] | None = None,
    seed: Seed = 0,
    state: Path | None = None,
    study: StudyOption = None,
) -> None:
    """Copies a data set and adds synthetic cases.

    Synthetic cases are stored like real ones and named as synthetic. Nothing leaves the machine.

    Example:
        asyndgan augment run --site data/north --out north-augmented --ratio 2

    Data:
        --site FOLDER: Data set of real cases.
        --state FOLDER: The folder in which the site kept its state of the run, which records the
            patients that it held out. In a federation: KIT/runs/RUN.

    Painting:
        --ratio X: Synthetic cases per real case.

    Masks:
        --masks FOLDER: Also paint from the masks of this data set.
        --released: Also paint from the masks that sites released to the run.
        --own: Paint from the masks of the data set itself.
        --label LABEL: Paint only from masks that contain this label.
    """
    from asyndgan.export.writing import written_whole
    from asyndgan.intake.dataset import DataSet
    from asyndgan.painting.augmenting import augment_folder, words_of
    from asyndgan.painting.synthesise import chosen_masks, released_masks, source_of_masks
    from asyndgan.runs import RunFolder

    folder = RunFolder(run)
    others = [mask for _, mask in chosen_masks(folder, masks)[0]] if masks else []
    sources = ["of a folder"] if masks else []
    if released:
        others += [mask for _, mask in released_masks(folder)]
        sources += [source_of_masks(folder)]
    data = DataSet(site)
    with written_whole(out) as half:
        real, painted, left_out = augment_folder(
            folder, data, half, ratio=ratio, masks=others, source=" or ".join(sources),
            own_masks=own, label=label, fade=fade or (), seed=seed, state=state,
        )  # fmt: skip
    without = f" Further masks {words_of(left_out)}." if left_out else ""
    Terminal().say(
        f"{real} real and {painted} synthetic cases in {out}; dataset.json names the synthetic "
        f"ones.{without}"
    )

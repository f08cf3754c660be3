"""`asyndgan label`: a synthetic set with labels of the sites' own segmentation networks."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.options import Count, FinishedRun, NewFolder, Sites, StudyOption, parsed_sites
from asyndgan.cli.terminal import Terminal
from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.models.budget import SegmentationBudget
from asyndgan.reports.words import size

if TYPE_CHECKING:
    from asyndgan.painting.labelled import Sent

LEARNING: Final = "Each site first trains a segmentation network, which takes some minutes."


def label(
    run: FinishedRun,
    site: Sites,
    synthetic: Annotated[Path, typer.Option()],
    out: NewFolder,
    masks: Path | None = None,
    policy: list[str] | None = None,
    records: Path | None = None,
    steps: Count = SegmentationBudget.steps,
    device: str = "cpu",
    patient_pattern: str = DEFAULT_PATIENT_PATTERN,
    state: list[str] | None = None,
    study: StudyOption = None,
) -> None:
    r"""Copies a synthetic set with labels that sites give it.

    Each site trains a segmentation network on its real images and labels all synthetic ones by
    it. Labels reveal more of patients than a run does; a policy forbids them unless leaves.labels
    is true. Between real machines: 'asyndgan federation label'.

    Example:
        asyndgan label run --site a=data/north --site b=data/west \
          --synthetic synthetic --out labelled

    Data:
        --synthetic FOLDER: Synthetic data set of this run, as 'asyndgan generate' wrote it.
        --masks FOLDER: The masks of the training, if its recipe has masks.source=given.

    Training:
        --steps N: Training steps of each site's network.

    Privacy:
        --policy NAME=FILE: The policy of a site. Without one, labels may leave the site.
        --records FOLDER: The sites' ledgers and privacy accounts, if they are not in the run
            folder.
    """
    from asyndgan.data.dataset import DataSet
    from asyndgan.engines import build_engine
    from asyndgan.painting.labelled import check_labelling, label_set
    from asyndgan.runs import RunFolder
    from asyndgan.runs.sites import RunSites

    folder, painted, console = RunFolder(run), DataSet(synthetic), Terminal()
    sites = RunSites.opened(
        folder, parsed_sites(site), states=parsed_sites(state or [], "--state"),
        patient_pattern=patient_pattern,
    )  # fmt: skip
    check_labelling(folder, painted, [*sites.data])
    sites.check_pattern()
    sites.check_data()
    policies = parsed_sites(policy or [], "--policy")
    setups = [
        replace(
            sites.as_in_run(name), masks=masks, policy=policies.get(name), device=device,
            label_steps=steps, records=records / name if records else None,
        )
        for name in sites.data
    ]  # fmt: skip
    with (
        folder.held(),
        closing(build_engine("inprocess", setups, folder.recipe())) as engine,
        EvaluationDisplay(console, "label images", counted=True) as display,
    ):
        console.say(LEARNING)
        sent = label_set(folder, painted, out, engine, [*sites.data], watch=display.show)
    tell_labelled(console, out, sent)


def tell_labelled(console: Terminal, out: Path, sent: "Sent") -> None:
    """Says where the set is, what moved, and how to judge it."""
    for site, (came, left) in sent.items():
        console.say(f"{site}: {size(came)} came, {size(left)} left")
    console.say(f"The labelled set is {out}: asyndgan evaluate ... --labelled {out}")

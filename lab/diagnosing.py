"""`python -m lab.diagnosing`: what images of a run lack beside real ones."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from asyndgan.cli import alone, log_to_terminal, main
from asyndgan.cli.options import FinishedRun, Sites, parsed_sites
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.reports.words import DASH, decimal
from asyndgan.texts import without_nan
from lab.kid import KID, thousandths


def diagnose(
    run: FinishedRun,
    site: Sites,
    state: list[str] | None = None,
) -> None:
    """Says what images painted from the sites' masks lack beside the real images of these masks.

    Example:
        python -m lab.diagnosing run --site a=data/north --site b=data/west
    """
    from asyndgan.judging.real import load_real, shared_by_all
    from asyndgan.runs import RunFolder
    from asyndgan.runs.sites import RunSites
    from lab.diagnosis import diagnose_run

    opened = RunSites.opened(
        RunFolder(run), parsed_sites(site), states=parsed_sites(state or [], "--state"),
    )  # fmt: skip
    facts, console = opened.run.facts(), Terminal()
    partial = [name for name, data in opened.data.items() if data.info.incomplete]
    real, _ = load_real(
        opened.data, None, opened.run.recipe(), labels=facts.labels, incomplete=True,
        modalities=shared_by_all(facts.modalities, list(opened.data.values())),
        participation=opened.participation(trained=partial),
    )  # fmt: skip
    if sum(not case.absent for cases in real.values() for case in cases) < 2:
        raise RunError(
            "fewer than two cases of these sites have all modalities, so there is nothing to "
            "compare. Name more sites with --site."
        )
    table = Table("as many images, of the same masks", "synthetic", "real")
    for row in lacks_of(without_nan(asdict(diagnose_run(opened.run, real)))):
        table.add_row(*row)
    console.print(table)


def lacks_of(diagnosis: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """What was compared, and its figure for synthetic and for real images, as text.

    Args:
        diagnosis: figures of `Diagnosis` by name; those that are not known are None.
    """
    spectrum = diagnosis["spectrum"]
    power = " ".join(decimal(value, 2) for value in spectrum)
    ones = " ".join(["1"] * len(spectrum))
    return (
        (
            "Variety: principal components that hold 90 % of the variance",
            decimal(diagnosis["components"], 0), decimal(diagnosis["components_real"], 0),
        ),
        (
            "Variety: correlation with the most similar other image (median)",
            decimal(diagnosis["nearest"], 2), decimal(diagnosis["nearest_real"], 2),
        ),
        ("Variety: similarity of two images of one mask (MS-SSIM); 1: equal",
         decimal(1.0 if diagnosis["repeated"] is None else diagnosis["repeated"], 2), DASH),
        ("Detail: power by octave, over that of real images; coarse to fine", power, ones),
        (
            "Borders: gradient at a label's border",
            decimal(diagnosis["border"][0], 3), decimal(diagnosis["border_real"][0], 3),
        ),
        (
            f"Distance: {KID} from real images of other patients",
            thousandths(diagnosis["kid"]), thousandths(diagnosis["kid_real"]),
        ),
        (
            "Distance: FRD from real images of other patients",
            decimal(diagnosis["frd"], 0), decimal(diagnosis["frd_real"], 0),
        ),
        (
            "Precision: synthetic images that lie among real ones",
            decimal(diagnosis["precision"], 2), DASH,
        ),
        (
            "Recall: real images that lie among synthetic ones",
            decimal(diagnosis["recall"], 2), DASH,
        ),
        ("AUC of a small network that tells real from synthetic; 0.5: it cannot",
         decimal(diagnosis["told"], 2), DASH),
    )  # fmt: skip


app = alone("lab.diagnosing", diagnose)

if __name__ == "__main__":
    log_to_terminal()
    main(app, "python -m lab.diagnosing")

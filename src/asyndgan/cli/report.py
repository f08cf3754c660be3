"""`asyndgan report`: one page about a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asyndgan.cli.options import FinishedRun, StudyOption, parsed_sites
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import RunError
from asyndgan.received import lacking
from asyndgan.reports.words import size

if TYPE_CHECKING:
    from asyndgan.runs import RunFolder
    from asyndgan.store import Case


def report(
    run: FinishedRun,
    out: Path | None = None,
    site: list[str] | None = None,
    evaluation: Path | None = None,
    audit: list[Path] | None = None,
    synthetic: Path | None = None,
    title: str | None = None,
    study: StudyOption = None,
) -> None:
    """Writes one HTML page about a run.

    It shows images, usefulness, training, what left the sites, and attacks. Its commands hold the
    paths as you typed them.

    Example:
        asyndgan report run --evaluation evaluation --audit audit

    Output:
        --out FILE: File to write. By default RUN/report.html.
        --title TEXT: Title of the page.

    Data:
        --site NAME=FOLDER: Show real images of this site, and the examples of the evaluation and
            the audit. They become part of the page: use it for phantoms, or if you may share the
            images.
        --evaluation FOLDER: Result of 'asyndgan evaluate'. By default RUN/evaluation, or the folder
            'evaluation' beside RUN.
        --audit FOLDER: Result of 'asyndgan audit'. By default RUN/audit, or the folder 'audit'
            beside RUN.
        --synthetic FOLDER: Synthetic data set to show. By default images are painted from the
            released masks.
    """
    from asyndgan.auditing.audit import AUDIT_FILE
    from asyndgan.cli.evaluate import EvaluationDisplay
    from asyndgan.reports.records import write_records_report
    from asyndgan.reports.report import write_report
    from asyndgan.runs import RunFolder
    from asyndgan.tables.schema import refuse_for_images

    console = Terminal(stderr=True)
    folder = RunFolder(run)
    judged = evaluation or _of_this_run(
        console, folder, "asyndgan evaluate", "evaluation.json", "about"
    )
    found = None if audit else _of_this_run(console, folder, "asyndgan audit", AUDIT_FILE)
    audits = audit or ([found] if found else [])
    if folder.recipe().table:
        refuse_for_images({"site": site, "synthetic": synthetic})
        page = write_records_report(
            folder, out or run / "report.html", evaluation=judged, audits=audits, title=title
        )
        return console.print(f"{page} ({size(page.stat().st_size)})")
    with EvaluationDisplay(console, "paint and draw the page"):
        shown = _real(folder, site or [])
        page = write_report(
            folder,
            out or run / "report.html",
            synthetic=_synthetic(console, folder, synthetic, shown),
            real=shown,
            folders=parsed_sites(site or []),
            evaluation=judged,
            audits=audits,
            title=title,
        )
    about = f"with the evaluation in {judged}" if judged else "without an evaluation"
    about += (
        f", with the audit in {', '.join(map(str, audits))}" if audits else ", without an audit"
    )
    console.print(f"{page} ({size(page.stat().st_size)}), {about}")


def _of_this_run(
    console: Terminal, run: "RunFolder", command: str, file: str, *within: str
) -> Path | None:
    """The folder named like a file, in the run folder or beside it, if it is of its generator.

    Prints which folder was left out since the command has not finished in it.
    """
    from asyndgan.reports.usefulness import is_of_generator

    generator, name = run.facts().generator_sha256, Path(file).stem
    for folder in (run.path / name, run.path.resolve().parent / name):
        if not folder.is_dir():
            continue
        if fault := lacking(folder / file, command):
            console.say(f"left out: {fault}", style="yellow")
        elif is_of_generator(folder / file, generator, *within):
            return folder
    return None


def _synthetic(
    console: Terminal, run: "RunFolder", folder: Path | None, real: Mapping[str, Sequence["Case"]]
) -> list["Case"]:
    """Synthetic cases to show; if none can be painted, prints why and returns none."""
    from asyndgan.intake.dataset import DataSet
    from asyndgan.painting.sets import check_provenance
    from asyndgan.painting.synthesise import released_masks, synthesise
    from asyndgan.reports.gallery import worth_painting

    facts = run.facts()
    if folder:
        data = DataSet(folder)
        check_provenance(run, data)
        return data.cases(run.recipe().image, facts.modalities, synthetic=True)
    try:
        return list(synthesise(run, worth_painting(released_masks(run), real, list(facts.sites))))
    except RunError as error:
        console.print(f"no images on the page: {error}", style="yellow")
        if not run.has_masks:
            console.print(
                "A set that was painted from other masks ('asyndgan generate --masks') can be "
                "shown: --synthetic FOLDER.",
                style="yellow",
            )  # fmt: skip
        return []


def _real(run: "RunFolder", pairs: list[str]) -> dict[str, list["Case"]]:
    from asyndgan.intake.dataset import DataSet

    folders = parsed_sites(pairs)
    known = run.facts().sites
    for name in folders:
        if name not in known:
            raise RunError(f"--site {name}: this run has {', '.join(known)}. Name one of them.")
    return {
        name: DataSet(path).cases(run.recipe().image, incomplete=True)
        for name, path in folders.items()
    }

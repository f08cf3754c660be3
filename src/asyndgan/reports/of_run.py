"""The page of a run with what is known of it: its evaluation, its audits, images painted now."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.painting.sets import check_provenance
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.received import lacking
from asyndgan.reports.gallery import worth_painting
from asyndgan.reports.records import write_records_report
from asyndgan.reports.report import write_report
from asyndgan.reports.usefulness import is_of_generator
from asyndgan.runs import RunFolder
from asyndgan.store import Case
from asyndgan.tables.schema import refuse_for_images

Tell = Callable[[str], None]


class Reported(NamedTuple):
    """A page, and the folders of results that it shows."""

    page: Path
    evaluation: Path | None
    audits: Sequence[Path]


def report_run(
    run: RunFolder,
    out: Path | None = None,
    *,
    sites: Mapping[str, Path] | None = None,
    evaluation: Path | None = None,
    audits: Sequence[Path] = (),
    synthetic: Path | None = None,
    title: str | None = None,
    tell: Tell,
) -> Reported:
    """Writes one HTML page about a run.

    Args:
        run: the run, finished or not.
        out: file to write; None: report.html in the run's folder.
        sites: folders of sites whose real images are shown; they become part of the page.
        evaluation: folder that `asyndgan evaluate` wrote; None: `evaluation` in the run's folder or
            beside it, if it is of this run.
        audits: folders that `asyndgan audit` wrote; none: `audit`, likewise.
        synthetic: synthetic data set to show; None: images are painted from the run's masks.
        title: title of the page; None: it tells the number of sites.
        tell: is given a sentence on each thing that was left out.

    Raises:
        RunError: a folder is not of this run, or a site is not.
        DataError: a data set cannot be read.
    """
    folders, out = dict(sites or {}), out or run.path / "report.html"
    evaluation = evaluation or _beside(run, "asyndgan evaluate", "evaluation.json", tell, "about")
    if not audits:
        found = _beside(run, "asyndgan audit", AUDIT_FILE, tell)
        audits = [found] if found else []
    if run.recipe().table:
        refuse_for_images({"site": folders, "synthetic": synthetic})
        page = write_records_report(run, out, evaluation=evaluation, audits=audits, title=title)
        return Reported(page, evaluation, audits)
    known = run.facts().sites
    if strange := [name for name in folders if name not in known]:
        raise RunError(f"--site {strange[0]}: this run has {', '.join(known)}. Name one of them.")
    image = run.recipe().image
    real = {name: DataSet(path).cases(image, incomplete=True) for name, path in folders.items()}
    page = write_report(
        run, out, synthetic=_shown(run, synthetic, real, tell), real=real, folders=folders,
        evaluation=evaluation, audits=audits, title=title,
    )  # fmt: skip
    return Reported(page, evaluation, audits)


def _beside(run: RunFolder, command: str, file: str, tell: Tell, *within: str) -> Path | None:
    """The folder named like a file, in the run's folder or beside it, if of its generator."""
    generator, name = run.facts().generator_sha256, Path(file).stem
    for folder in (run.path / name, run.path.resolve().parent / name):
        if not folder.is_dir():
            continue
        if fault := lacking(folder / file, command):
            tell(f"left out: {fault}")
        elif is_of_generator(folder / file, generator, *within):
            return folder
    return None


def _shown(
    run: RunFolder, folder: Path | None, real: Mapping[str, Sequence[Case]], tell: Tell
) -> list[Case]:
    """Synthetic cases to show; none if none can be painted."""
    facts = run.facts()
    if folder:
        data = DataSet(folder)
        check_provenance(run, data)
        return data.cases(run.recipe().image, facts.modalities, synthetic=True)
    try:
        return list(synthesise(run, worth_painting(released_masks(run), real, list(facts.sites))))
    except RunError as error:
        tell(f"no images on the page: {error}")
        if not run.has_masks:
            tell(
                "A set that was painted from other masks ('asyndgan generate --masks') can be "
                "shown: --synthetic FOLDER."
            )
        return []

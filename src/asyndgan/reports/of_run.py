"""The page of a run with what is known of it: its evaluation, its audits, images painted now."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from asyndgan.auditing.asking import answered_audits
from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.auditing.records import RecordsAudit, release_by_records
from asyndgan.errors import RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.asked import newest_evaluations
from asyndgan.judging.records import EVALUATION_FILE, RecordsEvaluation
from asyndgan.judging.table import read_result
from asyndgan.painting.sets import check_provenance
from asyndgan.painting.synthesise import released_masks, synthesise
from asyndgan.reports.audited import guarantee
from asyndgan.reports.gallery import worth_painting
from asyndgan.reports.page import write_page
from asyndgan.reports.report import write_report
from asyndgan.reports.usefulness import is_of_generator
from asyndgan.reports.words import counted, size
from asyndgan.runs import RunFolder
from asyndgan.runs.shipped import is_shipped
from asyndgan.runs.trial import trial_of
from asyndgan.store import Case
from asyndgan.tables.schema import refuse_for_images
from asyndgan.texts import lacking

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
    tell: Tell,
) -> Reported:
    """Writes one HTML page about a run; arguments are those of `asyndgan.report`.

    Without folders of an evaluation and of audits it takes those in the run's folder or beside it,
    if they are of this run, or the audits that sites of a federation answered. `tell` is given a
    sentence on each thing that was left out.

    Raises:
        RunError: a folder is not of this run, or a site is not.
        DataError: a data set cannot be read.
    """
    if out is None and is_shipped(run.path):
        raise RunError("this generator comes with the package. Name the page with --out FILE.")
    folders, out = dict(sites or {}), out or run.path / "report.html"
    evaluation = evaluation or _beside(run, "asyndgan evaluate", "evaluation.json", tell, "about")
    if not audits:
        found = _beside(run, "asyndgan audit", AUDIT_FILE, tell)
        audits = [found] if found else answered_audits(run)
    if run.recipe().table:
        refuse_for_images({"site": folders, "synthetic": synthetic})
        page = _page_of_records(run, out, evaluation, audits)
        return Reported(page, evaluation, audits)
    known = run.facts().sites
    if strange := [name for name in folders if name not in known]:
        raise RunError(f"--site {strange[0]}: this run has {', '.join(known)}. Name one of them.")
    image = run.recipe().image
    real = {name: DataSet(path).cases(image, incomplete=True) for name, path in folders.items()}
    page = write_report(
        run, out, synthetic=_shown(run, synthetic, real, tell), real=real, folders=folders,
        evaluation=evaluation, audits=audits,
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


def _page_of_records(
    run: RunFolder, out: Path, evaluation: Path | None, audits: Sequence[Path]
) -> Path:
    """Writes a page about a run of records, of which it holds none; raises as `report_run`."""
    facts, recipe = run.facts(), run.recipe()
    what = "result for a run of records"
    useful = evaluation and read_result(
        evaluation / EVALUATION_FILE, TypeAdapter(RecordsEvaluation), what, "asyndgan evaluate"
    )
    audit = TypeAdapter(RecordsAudit)
    found = [read_result(each / AUDIT_FILE, audit, what, "asyndgan audit") for each in audits]
    generators = {useful.about["generator_sha256"]} if useful else set()
    generators |= {one.generator_sha256 for one in found}
    if generators - {facts.generator_sha256}:
        raise RunError(
            f"an evaluation or audit is of another generator than that of {run.path}; name those "
            "of this run."
        )
    left = {site: size(sum(facts.left_sites.get(site, {}).values())) for site in facts.sites}
    page = {
        "title": f"One generator of records, {counted(len(facts.sites), 'site')}",
        "facts": facts,
        "recipe": recipe,
        "trial": trial_of(facts, recipe),
        "useful": useful,
        "at_sites": newest_evaluations(run),
        "audits": [
            (one, release_by_records(run, one, [other for other in found if other is not one]))
            for one in found
        ],
        "guarantee": guarantee(recipe),
        "left": left,
        "recipe_text": recipe.to_toml(comments=False),
    }
    return write_page("records.html.jinja", page, out)

"""`report.html` of a run of records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from asyndgan.auditing.audit import AUDIT_FILE
from asyndgan.auditing.records import RecordsAudit, release_by_records
from asyndgan.errors import RunError
from asyndgan.judging.records import EVALUATION_FILE, RecordsEvaluation
from asyndgan.reports.audited import guarantee
from asyndgan.reports.page import write_page
from asyndgan.reports.words import counted, size
from asyndgan.runs import RunFolder
from asyndgan.runs.trial import trial_of
from asyndgan.texts import bounded_text, parsed_json


def write_records_report(
    run: RunFolder,
    out: Path,
    *,
    evaluation: Path | None = None,
    audits: Sequence[Path] = (),
    title: str | None = None,
) -> Path:
    """Writes a page about a run of records; it holds no record.

    Args:
        run: the run.
        out: the file to write.
        evaluation: folder that `asyndgan evaluate` wrote.
        audits: folders that `asyndgan audit` wrote.
        title: of the page.

    Raises:
        RunError: `evaluation` or one of `audits` cannot be read, or is of another generator.
    """
    facts, recipe = run.facts(), run.recipe()
    useful = _read(evaluation / EVALUATION_FILE, RecordsEvaluation) if evaluation else None
    found = [_read(folder / AUDIT_FILE, RecordsAudit) for folder in audits]
    generators = {useful.about["generator_sha256"]} if useful else set()
    generators |= {one.generator_sha256 for one in found}
    if generators - {facts.generator_sha256}:
        raise RunError(
            f"an evaluation or audit is of another generator than that of {run.path}; name those "
            "of this run."
        )
    left = {site: size(sum(facts.left_sites.get(site, {}).values())) for site in facts.sites}
    page = {
        "title": title or f"One generator of records, {counted(len(facts.sites), 'site')}",
        "facts": facts,
        "trial": trial_of(facts, recipe),
        "useful": useful,
        "audits": [
            (one, release_by_records(run, one, [other for other in found if other is not one]))
            for one in found
        ],
        "guarantee": guarantee(recipe),
        "left": left,
        "recipe_text": recipe.to_toml(comments=False),
    }
    return write_page("records.html.jinja", page, out)


def _read(path: Path, kind: type) -> Any:
    """A result of another command; the file may come from another party."""
    try:
        return TypeAdapter(kind).validate_python(parsed_json(bounded_text(path)))
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(f"{path} is no result for a run of records. Make it anew.") from error

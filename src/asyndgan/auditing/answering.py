"""A site's process where there is no recipe: it sends a fingerprint, or attacks a finished run."""

import shutil
from pathlib import Path
from typing import Final, TypeVar

from asyndgan.auditing.record import AuditRecord
from asyndgan.auditing.run import about_state, audit_run
from asyndgan.engines.processes import serve
from asyndgan.engines.setup import SiteSetup, answering
from asyndgan.errors import DataError, ProtocolError, RunError
from asyndgan.painting.fading import fading_of
from asyndgan.painting.sets import painted_once
from asyndgan.painting.synthesise import PAINTING_VERSION, Origin
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.texts import replace_text, storing
from asyndgan.training.checkpoint import place_holding
from asyndgan.wire import AttackFigures, Audit, AuditFigures, CopyFigures, GroupFigures

F = TypeVar("F", AttackFigures, CopyFigures, GroupFigures)

RECEIVED: Final = "asked"
"""Folder, among the site's states, of what the coordinator sent and what is painted from it."""

AUDIT: Final = "audit"
"""Folder of the audit, in the site's states of the run that was attacked."""


def audited(setup: SiteSetup, asked: Audit) -> AuditFigures:
    """Attacks a run in which this site took part, by its own state, with the site's patients.

    Members are the patients on whom it was trained here; the others, those whom it held out.

    Raises:
        ProtocolError: the site keeps no state of such a run, or what it is asked does not fit.
        DataError: the audit failed, for a reason that stays here.
    """
    if asked.painting != PAINTING_VERSION or len(asked.names) != len(asked.masks):
        raise ProtocolError(
            f"it cannot be painted here: this site paints by version {PAINTING_VERSION}, and each "
            "mask needs a name. Install the same asyndgan at both ends."
        )
    place = setup.state / RECEIVED
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    try:
        return _figures(_audit(setup, asked, place))
    except RunError as error:  # it may name folders of this site
        raise DataError(str(error)) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _audit(setup: SiteSetup, asked: Audit, place: Path) -> AuditRecord:
    run = _received(asked, place / "run")
    facts = run.facts()
    states = (folder for folder in sorted(setup.state.parent.iterdir()) if folder.is_dir())
    state = next((each for each in states if place_holding(each, facts.run)), None)
    if state is None or asked.run != facts.run:
        raise ProtocolError("this site keeps no state of such a run, so it cannot be audited here.")
    about_state(run, setup.name, state)  # another recipe could name any network
    if tuple(asked.masks.shape[1:]) != tuple(facts.scope.space):
        raise ProtocolError("the masks are not of the size that the generator paints.")
    sites = RunSites.opened(run, {setup.name: setup.data}, states={setup.name: state})
    masks = list(zip(asked.names, asked.masks, strict=True))
    synthetic = painted_once(
        run, masks, Origin("sent by the coordinator"), place / "synthetic",
        fading=fading_of(run, asked.faded),
    )  # fmt: skip
    record = audit_run(sites, state / AUDIT, fade=asked.faded, asked=(), synthetic=synthetic)
    if record.modalities != {*facts.sites[setup.name]["modalities"]}:
        raise DataError(f"{setup.data} has other modalities than those that took part.")
    return record


def _received(asked: Audit, folder: Path) -> RunFolder:
    """The run as far as an audit needs it, in a folder like any that another party made."""
    run = RunFolder(folder)
    with storing(folder):
        folder.mkdir(parents=True, mode=0o700)
        replace_text(run.recipe_file, asked.recipe)
        replace_text(run.facts_file, asked.facts)
        run.generator_file.write_bytes(asked.generator.numpy().tobytes())
    return run


def _figures(record: AuditRecord) -> AuditFigures:
    """What of an audit the policy may let out: nothing of a single patient, and no text of ours."""
    found = record.audit
    return AuditFigures(
        members=found.copies.members,
        others=found.copies.others,
        attacks=[_of(AttackFigures, one) for one in found.attacks],
        copies=_of(CopyFigures, found.copies),
        own_masks=found.own_masks,
        groups=_of(GroupFigures, found.groups),
    )


def _of(kind: type[F], found: object) -> F:
    """The figures of these names; nan becomes None."""
    values = {name: getattr(found, name) for name in kind.model_fields}
    return kind.model_validate({name: None if v != v else v for name, v in values.items()})


if __name__ == "__main__":
    serve(lambda setup, _: answering(setup, audited))

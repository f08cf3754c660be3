"""A site's process where there is no recipe: it sends a fingerprint, audits or evaluates a run."""

import shutil
from pathlib import Path
from typing import Final, TypeVar

from asyndgan.auditing.record import AuditRecord
from asyndgan.auditing.run import about_state, audit_run
from asyndgan.engines.processes import serve
from asyndgan.engines.setup import SiteSetup, answering
from asyndgan.errors import DataError, ProtocolError, RunError
from asyndgan.judging.asked import judged_network, judged_regression
from asyndgan.models.parts import usable_device
from asyndgan.painting.fading import fading_of
from asyndgan.painting.sets import painted_once
from asyndgan.painting.synthesise import PAINTING_VERSION, Origin
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.texts import replace_text, storing
from asyndgan.training.checkpoint import place_holding
from asyndgan.wire.audited import (
    AttackFigures,
    AuditFigures,
    CopyFigures,
    EvaluationFigures,
    GroupFigures,
)
from asyndgan.wire.messages import Asked, Audit, Evaluate

F = TypeVar("F", AttackFigures, CopyFigures, GroupFigures)

RECEIVED: Final = "asked"
"""Folder, among the site's states, of what the coordinator sent and what comes of it."""

AUDIT: Final = "audit"
"""Folder of the audit, in the site's states of the run that was attacked."""


def answered(setup: SiteSetup, asked: Asked) -> AuditFigures | EvaluationFigures:
    """What a site finds of a run in which it took part, by its own state, with its patients.

    An audit compares the patients on whom the run was trained here with those whom it held out. An
    evaluation judges on the latter.

    Raises:
        ProtocolError: the site keeps no state of such a run, or what it is asked does not fit.
        DataError: it failed, for a reason that stays here.
    """
    place = setup.state / RECEIVED
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    try:
        run = _received(asked, place / "run")
        state = _state_of(setup, run, asked)
        if isinstance(asked, Audit):
            return _figures(_audit(setup, asked, place, run, state))
        assert isinstance(asked, Evaluate)
        return _evaluation(setup, asked, place, run, state)
    except RunError as error:  # it may name folders of this site
        raise DataError(str(error)) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _state_of(setup: SiteSetup, run: RunFolder, asked: Asked) -> Path:
    """The folder of the site's states of a run, which say that it is the run."""
    facts = run.facts()
    states = (folder for folder in sorted(setup.state.parent.iterdir()) if folder.is_dir())
    state = next((each for each in states if place_holding(each, facts.run)), None)
    if state is None or asked.run != facts.run:
        raise ProtocolError("this site keeps no state of such a run, so it cannot tell of it.")
    about_state(run, setup.name, state)  # another recipe could name any network
    return state


def _evaluation(
    setup: SiteSetup, asked: Evaluate, place: Path, run: RunFolder, state: Path
) -> EvaluationFigures:
    if run.recipe().table:
        return judged_regression(run, setup.name, setup.data, state, asked, place)
    sites = RunSites.opened(run, {setup.name: setup.data}, states={setup.name: state})
    return judged_network(sites, asked, place, str(usable_device(setup.device)))


def _audit(setup: SiteSetup, asked: Audit, place: Path, run: RunFolder, state: Path) -> AuditRecord:
    facts = run.facts()
    if asked.painting != PAINTING_VERSION or len(asked.names) != len(asked.masks):
        raise ProtocolError(
            f"it cannot be painted here: this site paints by version {PAINTING_VERSION}, and each "
            "mask needs a name. Install the same asyndgan at both ends."
        )
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


def _received(asked: Asked, folder: Path) -> RunFolder:
    """The run as far as the question needs it, in a folder like any that another party made."""
    run = RunFolder(folder)
    with storing(folder):
        folder.mkdir(parents=True, mode=0o700)
        replace_text(run.recipe_file, asked.recipe)
        replace_text(run.facts_file, asked.facts)
        if isinstance(asked, Audit):
            run.generator_file.write_bytes(asked.generator.numpy().tobytes())
    return run


def _figures(record: AuditRecord) -> AuditFigures:
    """What of an audit the policy may let out: nothing of a single patient, and no text of ours."""
    audit = record.audit
    return AuditFigures(
        members=audit.copies.members,
        others=audit.copies.others,
        attacks=[_of(AttackFigures, one) for one in audit.attacks],
        copies=_of(CopyFigures, audit.copies),
        own_masks=audit.own_masks,
        groups=_of(GroupFigures, audit.groups),
    )


def _of(kind: type[F], finding: object) -> F:
    """The figures of these names; nan becomes None."""
    values = {name: getattr(finding, name) for name in kind.model_fields}
    return kind.model_validate({name: None if v != v else v for name, v in values.items()})


if __name__ == "__main__":
    serve(lambda setup, _: answering(setup, answered))

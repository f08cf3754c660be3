"""The sites of a federation audit what a run paints, and the coordinator keeps their figures."""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel

from asyndgan.arrays import Mask
from asyndgan.auditing.audit import AUDIT_FILE, Audit, Audited, write_audit
from asyndgan.auditing.copies import NearCopies
from asyndgan.auditing.groups import Groups
from asyndgan.auditing.membership import Attack
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.engines.federation import AUDITS, Federation
from asyndgan.errors import AsyndganError, RunError, SiteUnreachableError
from asyndgan.painting.fading import fading_of
from asyndgan.painting.synthesise import PAINTING_VERSION, chosen_masks, masks_digest
from asyndgan.protocol import ASKED_FRAME, Exchange
from asyndgan.received import contents
from asyndgan.runs import RunFolder
from asyndgan.runs.described import connected
from asyndgan.wire import CASES_WITHHELD, MOST_MASKS, AuditFigures
from asyndgan.wire import Audit as Asked
from asyndgan.wire import Audited as Answered

WAIT_S: Final = 600.0
"""Seconds after which a site that has not answered is asked again for the same answer."""

PATIENCE_S: Final = 6 * 3600.0
"""Seconds that all sites together may take."""

AGAIN_S: Final = 2.0


def answered_audits(run: RunFolder) -> list[Path]:
    """Folders of the audits that sites of a federation answered, kept with the run."""
    return sorted(file.parent for file in run.path.glob(f"audits/*/{AUDIT_FILE}"))


def ask_audits(
    federation: Federation,
    run: RunFolder,
    *,
    sites: Sequence[str] = (),
    masks: Path | None = None,
    fade: Sequence[str] = (),
    tell: Callable[[str, AuditRecord | AsyndganError], None],
) -> list[str]:
    """Asks sites to attack what a finished run paints, each with its own patients.

    An answer is kept in the run's folder, as `audits/SITE/audit.json`, in place of an earlier one.
    No run may be at work: sites serve one at a time. Without names, all sites that took part are
    asked; `tell` is called with a site's name and its audit, or why there is none.

    Returns:
        Names of the sites that gave no audit.

    Raises:
        BusyError: a run is ordered or at work.
        RunError: sites cannot audit a run like this one, or one cannot be reached.
        DataError: the masks cannot be read.
    """
    _check(run)
    facts, recipe = run.facts(), run.recipe()
    wanted = sorted(sites or facts.sites)
    if strange := {*wanted} - {*facts.sites}:
        raise RunError(f"{', '.join(sorted(strange))} took no part in {run.path}.")
    named, origin = chosen_masks(run, masks)
    fading = fading_of(run, fade)
    requests = {site: _asked(run, site, named, fade) for site in wanted}
    about = Audited(masks_digest(named), origin.text, fading, wanted)
    missed: list[str] = []
    # A site attacks for minutes or hours, and then gives this answer to whoever asks again.
    patient = recipe.quorum.model_copy(update={"wait_s": WAIT_S})
    recipe = recipe.model_copy(update={"quorum": patient})
    end = time.monotonic() + PATIENCE_S
    with (
        connected(federation, wanted, AUDITS) as transport,
        closing(Exchange(transport, recipe)) as exchange,
    ):
        while requests:
            answers = exchange.ask(requests)
            over = time.monotonic() > end
            found: dict[str, AuditRecord | AsyndganError] = {
                site: error
                for site, error in answers.missed.items()
                if over or not isinstance(error, SiteUnreachableError)
            }
            for site, answer in answers.answers.items():
                found[site] = _kept(run, site, answer, about)
            for site, one in found.items():
                del requests[site]
                missed += [site] if isinstance(one, AsyndganError) else []
                tell(site, one)
            if requests:
                time.sleep(AGAIN_S)
    return missed


def _check(run: RunFolder) -> None:
    """Raises `RunError` if the sites of a run cannot audit it for their coordinator."""
    recipe, reason = run.recipe(), ""
    if recipe.table or recipe.image.source == "masks":
        reason = "it does not paint images"
    elif recipe.sends_own_masks:
        reason = "it painted from patients' masks, which sites compare as they were sent"
    elif not recipe.training.hold_out:
        reason = "its sites held out no patients (training.hold_out), so others have to be named"
    if reason:
        raise RunError(
            f"the sites of {run.path} cannot audit it by themselves: {reason}. Audit it at each "
            "site with 'asyndgan audit', and name these audits with --audit."
        )


def _asked(
    run: RunFolder, site: str, named: Sequence[tuple[str, Mask]], fade: Sequence[str]
) -> Asked:
    """What a site needs for its audit, and of other sites no more than the painting depends on."""
    facts = run.facts()
    others = {name: own | {"cases": CASES_WITHHELD} for name, own in facts.sites.items()}
    told = replace(
        facts, sites=others | {site: facts.sites[site]}, left_sites={}, came_to_sites={}, spared={}
    )
    try:
        weights = contents(run.generator_file, ASKED_FRAME)
        return Asked(
            run=facts.run, recipe=run.recipe().to_toml(), facts=json.dumps(asdict(told)),
            painting=PAINTING_VERSION, faded=list(fade), names=[name for name, _ in named],
            generator=torch.frombuffer(bytearray(weights), dtype=torch.uint8),
            masks=torch.stack([mask for _, mask in named]),
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.path} cannot be sent to its sites, with a generator of at most "
            f"{ASKED_FRAME // 2**20} MiB and {MOST_MASKS:,} masks: {error}"
        ) from error


def _kept(run: RunFolder, site: str, answer: object, about: Audited) -> AuditRecord | RunError:
    """Keeps a site's figures as an audit of its members, unless they contradict themselves."""
    folder = run.path / "audits" / site
    try:
        if not isinstance(answer, Answered):
            raise ValueError("it is no audit")
        found = _audit_of(site, answer.found)
        folder.mkdir(parents=True, exist_ok=True)
        modalities = run.facts().sites[site]["modalities"]
        write_audit(run, folder, found, replace(about, confirmed=[site]), modalities)
        return read_audit(folder)
    except (ValueError, RunError) as error:
        (folder / AUDIT_FILE).unlink(missing_ok=True)
        return RunError(f"what {site} answered cannot be: {error}")


def _audit_of(site: str, found: AuditFigures) -> Audit:
    """Raises `ValueError` if the figures contradict each other."""
    sizes: dict[str, Any] = {"members": found.members, "others": found.others}
    attacks = [Attack(**_numbers(one), **sizes) for one in found.attacks]
    copies = NearCopies(**_numbers(found.copies), **sizes)
    groups = Groups({site: found.members}, {site: found.others}, **_numbers(found.groups))
    return Audit(groups, attacks, copies, [], False, found.own_masks)


def _numbers(figures: BaseModel) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in figures}

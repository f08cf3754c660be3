"""The sites of a federation audit or evaluate a run, and the coordinator keeps their figures."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from pydantic import BaseModel

from asyndgan.arrays import Mask
from asyndgan.auditing.audit import AUDIT_FILE, Audit, Audited, write_audit
from asyndgan.auditing.copies import NearCopies
from asyndgan.auditing.groups import Groups
from asyndgan.auditing.membership import Attack
from asyndgan.auditing.record import AuditRecord, read_audit
from asyndgan.engines.federation import Federation
from asyndgan.errors import AsyndganError, RunError, SiteUnreachableError
from asyndgan.judging.asked import EVALUATION_FILE, keep_evaluation, train_models
from asyndgan.judging.bench import Bench
from asyndgan.painting.fading import fading_of
from asyndgan.painting.synthesise import PAINTING_VERSION, chosen_masks, masks_digest
from asyndgan.protocol import ASKED_FRAME, Exchange
from asyndgan.received import contents
from asyndgan.runs import RunFolder
from asyndgan.runs.described import connected
from asyndgan.wire.audited import AuditFigures
from asyndgan.wire.messages import CASES_WITHHELD, MOST_MASKS, Asked, Evaluate
from asyndgan.wire.messages import Audit as AskedAudit
from asyndgan.wire.messages import Audited as AnsweredAudit

R = TypeVar("R")
Tell = Callable[[str, Any], None]

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
    tell: Tell,
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
    wanted = _wanted(run, sites)
    named, origin = chosen_masks(run, masks)
    fading = fading_of(run, fade)
    requests = {site: _asked(run, site, named, fade) for site in wanted}
    about = Audited(masks_digest(named), origin.text, fading, wanted)
    return _ask(federation, run, requests, AUDIT_FILE, partial(_keep_audit, run, about), tell)


def ask_evaluations(
    federation: Federation,
    run: RunFolder,
    bench: Bench,
    *,
    sites: Sequence[str] = (),
    masks: Path | None = None,
    fade: Sequence[str] = (),
    tell: Tell,
) -> list[str]:
    """Trains models on a finished run's synthetic set alone, and asks sites how well they do.

    Each site judges on the patients whom it held out. It gets a model of the modalities that it
    had. An answer is kept as `audits/SITE/evaluation.json`; otherwise as `ask_audits`. The set is
    painted into the bench's folder.

    Raises:
        BusyError, DataError: as `ask_audits`.
        RunError: as `ask_audits`, or for a run of records masks or fading are given.
        NotFiniteError: as `train_segmenter`.
    """
    _check_evaluated(run)
    facts, wanted = run.facts(), _wanted(run, sites)
    groups = {site: tuple(facts.sites[site]["modalities"]) for site in wanted}
    with connected(federation, wanted, Evaluate.answer.what):
        pass  # before minutes of work for sites that are away
    about, models = train_models(run, {*groups.values()}, bench, masks, fade)
    with _sending(run):
        requests = {
            site: Evaluate(**_about(run, site), **models[group]) for site, group in groups.items()
        }
    return _ask(
        federation, run, requests, EVALUATION_FILE, partial(keep_evaluation, run, about), tell
    )


def _wanted(run: RunFolder, sites: Sequence[str]) -> list[str]:
    wanted, known = sorted(sites or run.facts().sites), run.facts().sites
    if strange := {*wanted} - {*known}:
        raise RunError(f"{', '.join(sorted(strange))} took no part in {run.path}.")
    return wanted


def _ask(
    federation: Federation,
    run: RunFolder,
    requests: Mapping[str, Asked],
    file: str,
    keep: Callable[[str, object, Path], R],
    tell: Tell,
) -> list[str]:
    """Asks until each site has answered or refused; returns who gave nothing that can be kept.

    `keep` writes a site's answer as `file` of its folder, or raises `ValueError` or `RunError`.
    """
    waited, recipe, missed = dict(requests), run.recipe(), []
    what = next(iter(requests.values())).answer.what
    # A site works for minutes or hours, and then gives this answer to whoever asks again.
    patient = recipe.quorum.model_copy(update={"wait_s": WAIT_S})
    recipe = recipe.model_copy(update={"quorum": patient})
    end = time.monotonic() + PATIENCE_S
    with (
        connected(federation, sorted(requests), what) as transport,
        closing(Exchange(transport, recipe)) as exchange,
    ):
        while waited:
            answers = exchange.ask(waited)
            over = time.monotonic() > end
            found: dict[str, R | AsyndganError] = {
                site: error
                for site, error in answers.missed.items()
                if over or not isinstance(error, SiteUnreachableError)
            }
            for site, answer in answers.answers.items():
                found[site] = _kept(run, site, file, partial(keep, site, answer))
            for site, one in found.items():
                del waited[site]
                missed += [site] if isinstance(one, AsyndganError) else []
                tell(site, one)
            if waited:
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


def _check_evaluated(run: RunFolder) -> None:
    """Raises `RunError` if the sites of a run cannot evaluate it for their coordinator."""
    recipe, reason = run.recipe(), ""
    if not recipe.table and (recipe.image.source == "masks" or recipe.condition.kind != "mask"):
        reason = "it paints no images of masks, so there is nothing to be found in them"
    elif not recipe.training.hold_out:
        reason = "its sites held out no patients (training.hold_out)"
    if reason:
        raise RunError(
            f"the sites of {run.path} cannot evaluate it by themselves: {reason}. Evaluate it at "
            "each site with 'asyndgan evaluate'."
        )


def _about(run: RunFolder, site: str) -> dict[str, Any]:
    """What a site needs to know of a run, and of other sites what the painting depends on."""
    facts = run.facts()
    others = {name: own | {"cases": CASES_WITHHELD} for name, own in facts.sites.items()}
    told = replace(
        facts, sites=others | {site: facts.sites[site]}, left_sites={}, came_to_sites={}, spared={}
    )
    about = {"run": facts.run, "recipe": run.recipe().to_toml()}
    return about | {"facts": json.dumps(asdict(told))}


def _asked(
    run: RunFolder, site: str, named: Sequence[tuple[str, Mask]], fade: Sequence[str]
) -> AskedAudit:
    """What a site needs for its audit."""
    with _sending(run):
        weights = contents(run.generator_file, ASKED_FRAME)
        return AskedAudit(
            **_about(run, site), painting=PAINTING_VERSION, faded=list(fade),
            names=[name for name, _ in named],
            generator=torch.frombuffer(bytearray(weights), dtype=torch.uint8),
            masks=torch.stack([mask for _, mask in named]),
        )  # fmt: skip


@contextmanager
def _sending(run: RunFolder) -> Iterator[None]:
    """Turns errors of a question that is too long into `RunError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.path} cannot be sent to its sites, with a generator of at most "
            f"{ASKED_FRAME // 2**20} MiB and {MOST_MASKS:,} masks: {error}"
        ) from error


def _kept(run: RunFolder, site: str, file: str, keep: Callable[[Path], R]) -> R | RunError:
    """What `keep` writes to a site's folder of answers; no file remains if it cannot be."""
    folder = run.path / "audits" / site
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return keep(folder)
    except (ValueError, RunError) as error:
        (folder / file).unlink(missing_ok=True)
        return RunError(f"what {site} answered cannot be: {error}")


def _keep_audit(
    run: RunFolder, about: Audited, site: str, answer: object, folder: Path
) -> AuditRecord:
    """Writes a site's figures as an audit of its members, unless they contradict themselves."""
    if not isinstance(answer, AnsweredAudit):
        raise ValueError("it is no audit")
    found = _audit_of(site, answer.found)
    modalities = run.facts().sites[site]["modalities"]
    write_audit(run, folder, found, replace(about, confirmed=[site]), modalities)
    return read_audit(folder)


def _audit_of(site: str, found: AuditFigures) -> Audit:
    """Raises `ValueError` if the figures contradict each other."""
    sizes: dict[str, Any] = {"members": found.members, "others": found.others}
    attacks = [Attack(**_numbers(one), **sizes) for one in found.attacks]
    copies = NearCopies(**_numbers(found.copies), **sizes)
    groups = Groups({site: found.members}, {site: found.others}, **_numbers(found.groups))
    return Audit(groups, attacks, copies, [], False, found.own_masks)


def _numbers(figures: BaseModel) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in figures}

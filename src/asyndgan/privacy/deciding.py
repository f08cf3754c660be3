"""What a policy and a site's books say of a recipe, and how a steward's decision is written."""

import json
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from asyndgan.errors import LedgerError, PolicyError
from asyndgan.privacy.accounting import Account, Mechanism, epsilon_of, mechanism_of, most_uses
from asyndgan.privacy.ledger import Tally, read
from asyndgan.privacy.policy import Policy
from asyndgan.recipe import Recipe
from asyndgan.texts import bounded_text, replace_text

DECIDED: Final = (
    *(("allows", name) for name in ("unasked", "approved", "refused", "such")),
    *(("leaves", name) for name in ("audits", "evaluations")),
)
"""Section and name of the keys that decisions change."""


def write_policy(file: Path, policy: Policy) -> None:
    """Writes a policy in place of the one in a file, whose comments stay where they can."""
    text = bounded_text(file, links=True)
    with suppress(PolicyError):
        before = Policy.from_toml(text)
        for section, name in DECIDED:
            old, value = (getattr(getattr(one, section), name) for one in (before, policy))
            if value == old:
                continue
            written = json.dumps(value)
            if not isinstance(value, bool | int):
                digests = "".join(f"\n  {json.dumps(each)}," for each in value)
                written = f"[{digests}\n]" if digests else "[]"
            text = _with(text, section, name, written)
        if Policy.from_toml(text).digest() == policy.digest():
            return replace_text(file.resolve(), text)
    return replace_text(file.resolve(), policy.to_toml())  # the file is written in another way


def _with(text: str, section: str, name: str, value: str) -> str:
    """A policy's text with another value of a key."""
    line = rf"^[ \t]*{name}[ \t]*=[ \t]*(\[[^\]]*\]|true|false|\d+)"
    text, found = re.subn(line, f"{name} = {value}", text, count=1, flags=re.MULTILINE)
    place, heading = rf"\g<0>\n{name} = {value}", rf"^\[{section}\].*$"
    return text if found else re.sub(heading, place, text, count=1, flags=re.MULTILINE)


def verdict(
    found: Policy, wanted: Recipe, patients: int | None, site: str | None, records: Path | None
) -> tuple[list[str], list[str]]:
    """Why a site would refuse a recipe, and what else its steward should know."""
    reasons = [text for _, text in found.refused_by(wanted, site, patients=patients)]
    spent, answered = _spent(records, found, reasons) if records else ({}, 0)
    steps, told = sum(map(len, wanted.presence_of(site))), []
    most = found.most_answers(patients)
    if most and answered >= most:
        reasons.append(f"it has answered {answered} times; its policy allows {most} answers in all")
    elif most and most - answered < steps:
        told.append(
            f"The site would stop after {most - answered} more answers: it has given {answered}, "
            f"and its policy allows {most} in all."
        )
    if patients and (mechanism := mechanism_of(wanted, patients)):
        uses, limit, delta = wanted.privacy.updates, found.privacy.epsilon, found.privacy.delta
        in_all = spent | {mechanism: spent.get(mechanism, 0) + steps * uses}
        epsilon = epsilon_of(in_all, delta)
        before = f", with the {sum(spent.values())} uses of earlier runs," if spent else ""
        told.append(
            f"All {steps} steps{before} spend epsilon {epsilon:.2f} (delta {delta:g}) on "
            f"each of {patients} patients or records."
        )
        # As the site counts: what surely fits may be a thousandth less than what does.
        fit = most_uses(spent, mechanism, epsilon=limit, delta=delta) // uses if limit else steps
        if limit and fit < steps:
            if fit:
                told.append(f"The site would stop after {fit} steps: privacy.epsilon is {limit:g}.")
            else:
                reasons.append(f"its first step spends more than is left of epsilon {limit:g}")
    elif wanted.privacy.kind != "none":
        told.append(
            "What it spends depends on how many patients or records take part: give --patients."
        )
    if not found.leaves.cases:
        told.append("The site declares a share, as leaves.cases is false.")
    return reasons, told


@lru_cache(maxsize=1)
def _tally(ledger: Path, changed: tuple[int, int]) -> Tally:
    tally = Tally(ledger.name)
    for entry in read(ledger):
        tally.add(entry)
    return tally


def _spent(records: Path, policy: Policy, reasons: list[str]) -> tuple[dict[Mechanism, int], int]:
    """Privacy spent and answers given, by the site's books; adds the reasons to refuse."""
    ledger = records / "ledger.jsonl"
    if not ledger.exists():
        raise LedgerError(
            f"'{records}' has no ledger.jsonl. Give the folder of the site's books: RUN/sites/NAME "
            "or BOOKS/NAME (--records BOOKS) of a simulation, KIT/records of a federation."
        )
    about = ledger.stat()
    tally = _tally(ledger, (about.st_mtime_ns, about.st_size))
    wanted = policy.privacy
    account = Account(records / "privacy.json", None, epsilon=wanted.epsilon, delta=wanted.delta)
    try:
        account.check_against(tally, unprotected_masks=wanted.unprotected_masks)
    except PolicyError as error:
        reasons.append(str(error))
    return account.spent, tally.answers

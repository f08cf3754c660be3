"""Opens a site's books: the ledger of what left it, and the account of its privacy."""

from pathlib import Path

from asyndgan.privacy.accounting import Account, mechanism_of
from asyndgan.privacy.ledger import Ledger, check_not_removed
from asyndgan.privacy.policy import Policy
from asyndgan.privacy.release import Release
from asyndgan.recipe import Recipe


def open_release(
    recipe: Recipe | None, policy: Policy, records: Path | None, site: str, patients: int
) -> Release:
    """Opens the door out of a site, which writes in its books; without a recipe, for questions.

    Raises `LedgerError` if the ledger cannot be trusted or had, `PolicyError` if the books
    contradict the policy, or it refuses the recipe.
    """
    ledger = None
    if records:
        file = records / "ledger.jsonl"
        check_not_removed(file, [records / "policies", records / "privacy.json"])
        ledger = Ledger(file, policy.digest(), recipe.digest() if recipe else "")
    account = Account(
        records / "privacy.json" if records else None,
        mechanism_of(recipe, patients) if recipe else None,
        epsilon=policy.privacy.epsilon,
        delta=policy.privacy.delta,
    )
    if records and ledger:
        policy.keep(records / "policies")
        account.check_against(ledger.tally, unprotected_masks=policy.privacy.unprotected_masks)
    return Release(recipe, policy, ledger, account, site, patients)

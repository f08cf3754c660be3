"""`asyndgan policy`: what a site lets out, and what it would refuse."""

from pathlib import Path
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, Overrides, RecipeName, print_json
from asyndgan.cli.terminal import Terminal
from asyndgan.errors import LedgerError, PolicyError
from asyndgan.privacy import Policy
from asyndgan.privacy.accounting import (
    Account,
    Mechanism,
    epsilon_of,
    mechanism_of,
    most_uses,
)
from asyndgan.privacy.ledger import Tally, read
from asyndgan.recipe import Recipe
from asyndgan.runs import load_recipe

policy = Commands(
    """Shows and checks policies: what may leave a site.

    Example:
        asyndgan policy show > simulated.toml
        asyndgan policy check simulated.toml default --patients 40
    """
)


@policy.command()
def show(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="POLICY", help="A policy file. By default the default policy."),
    ] = None,
) -> None:
    """Prints a policy with all its keys and a comment on each.

    The output is a valid policy. At a site of a federation do not write it over policy.toml:
    'asyndgan site init' has written a stricter one.

    Example:
        asyndgan policy show north/policy.toml
    """
    found = Policy.from_file(file) if file else Policy()
    typer.echo(found.to_toml(), nl=False)
    typer.echo(f"\n# digest {found.digest()}")


@policy.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy file of the site.")],
    recipe: RecipeName,
    overrides: Overrides = None,
    patients: Annotated[int | None, typer.Option(min=1)] = None,
    site: str | None = None,
    records: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Says before training whether a site would refuse a recipe, and why.

    The exit code is 1 if the site would refuse.

    Example:
        asyndgan policy check policy.toml default --patients 40

    Data:
        --patients N: Number of patients of the site. Checks whether they are enough, and computes
            the epsilon that the recipe would spend.
        --site NAME: Name of the site. Needed if the recipe has a timeline.

    Privacy:
        --records FOLDER: Folder of the site's ledger.jsonl and privacy.json, to count what earlier
            runs spent.
    """
    found, wanted = Policy.from_file(file), load_recipe(recipe, overrides or [])
    reasons, told = _verdict(found, wanted, patients, site, records)
    if as_json:
        beyond = {each.key: each.value for each in found.unmeasured(wanted)}
        print_json(
            {"recipe": wanted.digest(), "refused": reasons, "unmeasured": beyond, "notes": told}
        )
    else:
        _print_verdict(found, wanted, reasons, told)
    if reasons:
        raise typer.Exit(1)


def _verdict(
    found: Policy, wanted: Recipe, patients: int | None, site: str | None, records: Path | None
) -> tuple[list[str], list[str]]:
    """Why a site would refuse a recipe, and what else its steward should know."""
    reasons = found.refusals(wanted, site, patients=patients)
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


def _print_verdict(found: Policy, wanted: Recipe, reasons: list[str], told: list[str]) -> None:
    console = Terminal()
    for reason in reasons:
        console.say(f"refused: {reason}")
    _print_beyond(console, found, wanted)
    for line in told:
        console.print(line)
    if not reasons:
        console.say(
            f"A site with policy '{found.name}' takes part in '{wanted.name}' ({wanted.digest()})."
        )


def _print_beyond(console: Terminal, policy: Policy, recipe: Recipe) -> None:
    """What could be learned through a recipe outside the family, and how a steward approves it."""
    beyond = policy.unmeasured(recipe)
    for each in beyond:
        row = Padding(Text(f"{each.key} is {each.value} (measured: {each.within})"), (1, 0, 0, 2))
        console.print(row)
        console.print(Padding(Text(each.otherwise), (0, 0, 0, 4)))
    if beyond:
        console.print(
            "\nTo let this recipe alone be outside what was measured, add its digest to\n"
            "allows.approved in the policy (other refusals stay):\n"
        )
        console.say(f"  {recipe.digest()}\n")


def _spent(records: Path, policy: Policy, reasons: list[str]) -> tuple[dict[Mechanism, int], int]:
    """Privacy spent and answers given, by the site's books; adds the reasons to refuse."""
    ledger = records / "ledger.jsonl"
    if not ledger.exists():
        raise LedgerError(
            f"'{records}' has no ledger.jsonl. Give the folder of the site's books: RUN/sites/NAME "
            "or BOOKS/NAME (--records BOOKS) of a simulation, KIT/records of a federation."
        )
    tally = Tally(ledger.name)
    for entry in read(ledger):
        tally.add(entry)
    wanted = policy.privacy
    account = Account(records / "privacy.json", None, epsilon=wanted.epsilon, delta=wanted.delta)
    try:
        account.check_against(tally, unprotected_masks=wanted.unprotected_masks)
    except PolicyError as error:
        reasons.append(str(error))
    return account.spent, tally.answers

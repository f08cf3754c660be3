"""`asyndgan policy`: what a site lets out, and what it would refuse."""

from pathlib import Path
from typing import Annotated

import typer

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, Overrides, RecipeName, print_json
from asyndgan.cli.terminal import Terminal
from asyndgan.privacy import Policy
from asyndgan.privacy.deciding import verdict
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
    reasons, told = verdict(found, wanted, patients, site, records)
    if as_json:
        beyond = {each.key: each.value for each in found.unmeasured(wanted)}
        print_json(
            {"recipe": wanted.digest(), "refused": reasons, "unmeasured": beyond, "notes": told}
        )
    else:
        _print_verdict(found, wanted, reasons, told)
    if reasons:
        raise typer.Exit(1)


def _print_verdict(found: Policy, wanted: Recipe, reasons: list[str], told: list[str]) -> None:
    console, beyond = Terminal(), found.unmeasured(wanted)
    for reason in reasons:
        console.say(f"refused: {reason}")
    for each in beyond:
        console.say(f"  {each.key} is {each.value} (measured: {each.within}). {each.otherwise}")
    if beyond:
        console.say(
            "To let this recipe alone be outside what was measured, add its digest to "
            f"allows.approved in the policy (other refusals stay):\n  {wanted.digest()}"
        )
    for line in told:
        console.say(line)
    if not reasons:
        console.say(
            f"A site with policy '{found.name}' takes part in '{wanted.name}' ({wanted.digest()})."
        )

"""`asyndgan policy`: what a site lets out, and what it would refuse."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from asyndgan.cli.recipe import Overrides
from asyndgan.privacy import Policy
from asyndgan.privacy.accounting import epsilon_of, mechanism_of, most_uses, uses_a_step
from asyndgan.runs import load_recipe

policy = typer.Typer(
    help="Policies: what a site lets out, written by its steward.",
    no_args_is_help=True,
    add_completion=False,
)


@policy.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(help="A policy file; else the defaults, to begin with.")
    ] = None,
) -> None:
    """Prints a policy with all its keys and a comment on each; the output is a valid policy."""
    found = Policy.from_file(file) if file else Policy()
    typer.echo(found.to_toml(), nl=False)
    typer.echo(f"\n# digest {found.digest()}")


@policy.command()
def check(
    file: Annotated[Path, typer.Argument(help="The site's policy file.")],
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    overrides: Overrides = None,
    patients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the site: are they enough, and what epsilon would the recipe spend on each?",
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Its name, if the recipe's timeline says when it takes part."),
    ] = None,
) -> None:
    """Says before training what a site would refuse, and why; exits with 1 if it would refuse."""
    found, wanted = Policy.from_file(file), load_recipe(recipe, overrides or [])
    reasons = found.refusals(wanted, site, patients=patients)
    steps = sum(map(len, wanted.presence_of(site)))
    console = Console()
    for reason in reasons:
        console.print(f"refused: {reason}", highlight=False, markup=False, soft_wrap=True)
    mechanism = mechanism_of(wanted, patients) if patients else None
    if mechanism:
        uses = steps * uses_a_step(wanted)
        epsilon, delta = epsilon_of({mechanism: uses}, found.privacy.delta), found.privacy.delta
        console.print(
            f"All {steps} steps spend epsilon {epsilon:.2f} (delta {delta:g}) on "
            f"each of {patients} patients.",
            highlight=False,
        )
        if found.privacy.epsilon and epsilon > found.privacy.epsilon:
            most = most_uses({}, mechanism, epsilon=found.privacy.epsilon, delta=delta)
            console.print(
                f"The site would stop after {most // uses_a_step(wanted)} steps: "
                f"privacy.epsilon is {found.privacy.epsilon:g}.",
                highlight=False,
            )
    if not found.leaves.cases:
        console.print("The site declares a share, as leaves.cases is false.", highlight=False)
    if reasons:
        raise typer.Exit(1)
    console.print(
        f"A site with policy '{found.name}' takes part in '{wanted.name}' ({wanted.digest()}).",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )

"""`asyndgan recipe`: lists and shows recipes."""

from typing import Annotated

import typer

from asyndgan.runs import load_recipe, recipe_names

recipe = typer.Typer(
    help="Recipes: what is trained and how.", no_args_is_help=True, add_completion=False
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. image.size=128."),
]


@recipe.command("list")
def list_() -> None:
    """Names the recipes that come with the package."""
    for name in recipe_names():
        typer.echo(name)


@recipe.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    overrides: Overrides = None,
) -> None:
    """Prints a recipe with all its keys and a comment on each; the output is a valid recipe."""
    found = load_recipe(name, overrides or [])
    typer.echo(found.to_toml(), nl=False)
    typer.echo(f"\n# digest {found.digest()}")

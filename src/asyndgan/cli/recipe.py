"""`asyndgan recipe`: lists and shows recipes."""

import typer
from rich.table import Table

from asyndgan.cli.help import Commands
from asyndgan.cli.options import AsJson, Overrides, RecipeName, print_json
from asyndgan.cli.terminal import Terminal
from asyndgan.runs import load_recipe
from asyndgan.runs.recipes import recipe_summaries

recipe = Commands(
    """Lists and shows recipes: what is trained and how.

    Example:
        asyndgan recipe list
        asyndgan recipe show default --set image.size=128 > my-recipe.toml
    """
)


@recipe.command("list")
def list_(as_json: AsJson = False) -> None:
    """Lists the recipes of the package, with a line about each.

    Example:
        asyndgan recipe list
    """
    summaries = recipe_summaries()
    if as_json:
        print_json([{"name": name, "summary": says} for name, says in summaries.items()])
        return
    table = Table.grid(padding=(0, 2))
    for row in summaries.items():
        table.add_row(*row)
    Terminal().print(table)


@recipe.command()
def show(name: RecipeName, overrides: Overrides = None) -> None:
    """Prints a recipe with all its keys and a comment on each.

    The output is a valid recipe.

    Example:
        asyndgan recipe show default --set image.size=128 > my-recipe.toml
    """
    found = load_recipe(name, overrides or [])
    typer.echo(found.to_toml(), nl=False)
    typer.echo(f"\n# digest {found.digest()}")

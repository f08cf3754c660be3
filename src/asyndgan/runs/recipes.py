"""Loads recipes by name or by path."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from asyndgan.errors import RecipeError
from asyndgan.models import check_parts
from asyndgan.recipe import Recipe
from asyndgan.texts import bounded_text


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files("asyndgan") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def recipe_summaries() -> dict[str, str]:
    """Names of those recipes and a line about each, which is the first line of its file."""
    return {name: recipe_text(name).partition("\n")[0].lstrip("# ") for name in recipe_names()}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a recipe by a name of `recipe_names()` or the path of a TOML file.

    Overrides are written `key=value`. Raises `RecipeError` if it does not exist, is not valid, or
    names a part that is not installed.
    """
    recipe = Recipe.from_toml(recipe_text(name), overrides)
    check_parts(recipe)
    return recipe


def recipe_text(name: str) -> str:
    """The text of a recipe; arguments and errors are those of `load_recipe`."""
    if name in recipe_names():
        return (files("asyndgan") / "recipes" / f"{name}.toml").read_text("utf-8")
    try:
        return bounded_text(Path(name), links=True)
    except (OSError, ValueError) as error:
        nearest = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
        raise RecipeError(
            f"'{name}' is neither a recipe of this package ({', '.join(recipe_names())}) "
            f"nor a TOML file that can be read, of at most a megabyte.{hint}"
        ) from error

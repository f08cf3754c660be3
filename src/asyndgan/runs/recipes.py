"""Recipes by name or by path."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from asyndgan.errors import RecipeError
from asyndgan.recipe import Recipe


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files("asyndgan") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that comes with the package, or that lies in a file.

    Args:
        name: a name of `recipe_names()`, or the path of a TOML file.
        overrides: `key=value` each.

    Raises:
        RecipeError: if there is none, or it is not valid.
    """
    if name in recipe_names():
        text = (files("asyndgan") / "recipes" / f"{name}.toml").read_text("utf-8")
        return Recipe.from_toml(text, overrides)
    try:
        return Recipe.from_toml(Path(name).read_text("utf-8"), overrides)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"'{name}' is neither a recipe of this package ({', '.join(recipe_names())}) "
            "nor a TOML file that can be read."
        ) from error

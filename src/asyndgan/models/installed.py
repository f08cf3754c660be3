"""Networks and losses by name: of installed packages, by entry points, and of this process."""

import difflib
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Final

from asyndgan.errors import RecipeError
from asyndgan.recipe import Recipe

GROUPS: Final = ("generators", "discriminators", "adversarial_losses")

_HERE: Final[dict[tuple[str, str], Callable[..., Any]]] = {}


def register(group: str, kind: str, build: Any) -> None:
    """Offers a network or loss to recipes under a name, in this process alone.

    For notebooks: sites in other processes or on other machines need an installed package. `group`
    is `generators`, `discriminators` or `adversarial_losses`, `build` its class, as an entry point
    would name it (docs/extending.md). Raises `RecipeError` if there is no such group, `build` is
    nothing to call, or an installed package offers this name.
    """
    if group not in GROUPS or not kind or not callable(build):
        raise RecipeError(
            f"asyndgan.register({group!r}, {kind!r}, {build!r}): give one of "
            f"{', '.join(GROUPS)}, a name, and a class."
        )
    if kind in _installed(group, *sys.path):
        raise RecipeError(f"asyndgan.{group} has '{kind}' already; choose another name.")
    _HERE[group, kind] = build
    part.cache_clear()


@cache
def part(group: str, kind: str) -> Any:
    """Loads the network or loss of an entry point `asyndgan.<group>`; may raise `RecipeError`."""
    if (group, kind) in _HERE:
        return _HERE[group, kind]
    try:
        return _offered(group, kind).load()
    except (ImportError, AttributeError) as error:
        raise _broken(group, kind, error) from error


def check_parts(recipe: Recipe) -> None:
    """Raises `RecipeError`, with the key, for a part that is not installed; imports none."""
    named = {
        "generator.kind": ("generators", recipe.generator.kind),
        "discriminator.kind": ("discriminators", recipe.discriminator.kind),
        "loss.adversarial": ("adversarial_losses", recipe.loss.adversarial),
    }
    for key, (group, kind) in named.items():
        if (group, kind) in _HERE:
            continue
        try:
            entry = _offered(group, kind)
            if not _exists(entry.module):
                raise _broken(group, kind, ModuleNotFoundError())
        except RecipeError as error:
            raise RecipeError(f"recipe '{recipe.name}': {key}: {error}") from error


@cache
def _installed(group: str, *_path: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name; looks at every package that is installed along the path."""
    return {entry.name: entry for entry in entry_points(group=f"asyndgan.{group}")}


def _offered(group: str, kind: str) -> EntryPoint:
    offered = _installed(group, *sys.path)
    if kind not in offered:  # unless it was installed since
        _installed.cache_clear()
        offered = _installed(group, *sys.path)
    if kind not in offered:
        nearest = difflib.get_close_matches(kind, offered, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise RecipeError(
            f"no installed package offers '{kind}' among asyndgan.{group}; "
            f"there are: {', '.join(sorted(offered))}.{hint}"
        )
    return offered[kind]


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # of a package that it lies in
        return False


def _broken(group: str, kind: str, error: Exception) -> RecipeError:
    return RecipeError(
        f"'{kind}' of asyndgan.{group} cannot be loaded ({type(error).__name__}); mend or "
        "reinstall the package that offers it."
    )

"""What is imported when it is first asked for: light commands import no torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, final


def lazily(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (`__name__`) that imports its names at first use.

    `modules`: each module of it, and the names that it holds, with spaces between.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def found(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return found


@final
class Late:
    """A module, by its name, that is imported when one of its attributes is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)

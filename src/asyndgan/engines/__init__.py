"""How messages travel between the coordinator and its sites: one transport each."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from asyndgan.engines.inprocess import InProcess
from asyndgan.engines.processes import Processes
from asyndgan.engines.setup import SiteSetup, load_cohort, set_up
from asyndgan.errors import RunError
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe

ENGINES: Final = ("inprocess", "processes", "flare")


def build_engine(name: str, setups: Sequence[SiteSetup], recipe: Recipe) -> Transport:
    """The engine of this name, with its sites set up.

    Raises:
        RunError: if there is none (lists those that exist), or it is not installed.
        SiteUnreachableError: `flare` did not connect the sites.
    """
    if name == "inprocess":
        return InProcess({setup.name: set_up(setup, recipe) for setup in setups})
    if name == "processes":
        return Processes(setups, recipe)
    if name == "flare":
        localhost: Transport = flare_part("localhost").Localhost(setups, recipe)
        return localhost
    raise RunError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}.")


def flare_part(name: str) -> Any:
    """A module of `asyndgan.engines.flare`; FLARE is an extra.

    Raises:
        RunError: it is not installed.
    """
    try:
        return import_module(f"asyndgan.engines.flare.{name}")
    except ImportError as error:
        raise RunError(
            "between machines NVIDIA FLARE is needed: pip install 'asyndgan[flare]'."
        ) from error


__all__ = [
    "ENGINES",
    "InProcess",
    "Processes",
    "SiteSetup",
    "build_engine",
    "flare_part",
    "load_cohort",
    "set_up",
]

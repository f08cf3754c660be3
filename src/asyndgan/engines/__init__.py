"""How messages travel between the coordinator and its sites: one transport each."""

from collections.abc import Sequence
from typing import Final

from asyndgan.engines.inprocess import InProcess
from asyndgan.engines.processes import Processes
from asyndgan.engines.setup import SiteSetup, load_cohort, set_up
from asyndgan.errors import RunError
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe

ENGINES: Final = ("inprocess", "processes")


def build_engine(name: str, setups: Sequence[SiteSetup], recipe: Recipe) -> Transport:
    """The engine of this name, with its sites set up.

    Raises:
        RunError: if there is none; lists those that exist.
    """
    if name == "inprocess":
        return InProcess({setup.name: set_up(setup, recipe) for setup in setups})
    if name == "processes":
        return Processes(setups, recipe)
    raise RunError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}.")


__all__ = [
    "ENGINES",
    "InProcess",
    "Processes",
    "SiteSetup",
    "build_engine",
    "load_cohort",
    "set_up",
]

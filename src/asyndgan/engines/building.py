"""Builds an engine by its name."""

from collections.abc import Sequence

from asyndgan.engines import ENGINES
from asyndgan.engines.federation import flare_part
from asyndgan.engines.inprocess import InProcess
from asyndgan.engines.processes import Processes
from asyndgan.engines.setup import SiteSetup, set_up
from asyndgan.errors import RunError
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe


def build_engine(name: str, setups: Sequence[SiteSetup], recipe: Recipe) -> Transport:
    """Builds an engine by its name and sets up its sites; raises `RunError` for another name."""
    if name == "inprocess":
        return InProcess({setup.name: set_up(setup, recipe) for setup in setups})
    if name == "processes":
        return Processes(setups, recipe)
    if name == "flare":
        localhost: Transport = flare_part("localhost").Localhost(setups, recipe)
        return localhost
    raise RunError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}.")

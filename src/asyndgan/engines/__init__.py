"""Engines: the transports that carry messages between the coordinator and its sites."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from asyndgan.engines.federation import flare_part
from asyndgan.errors import RunError
from asyndgan.lazy import lazily
from asyndgan.recipe import Recipe

if TYPE_CHECKING:
    from asyndgan.engines.inprocess import InProcess
    from asyndgan.engines.setup import SiteSetup, load_cohort, set_up
    from asyndgan.protocol import Transport
else:
    __getattr__ = lazily(
        __name__, {"inprocess": "InProcess", "setup": "SiteSetup load_cohort set_up"}
    )

ENGINES: Final = ("inprocess", "processes", "flare")


def build_engine(name: str, setups: "Sequence[SiteSetup]", recipe: Recipe) -> "Transport":
    """Builds an engine by its name and sets up its sites; raises `RunError` for another name."""
    from asyndgan.engines import inprocess, processes, setup  # they import torch

    if name == "inprocess":
        return inprocess.InProcess({one.name: setup.set_up(one, recipe) for one in setups})
    if name == "processes":
        return processes.Processes(setups, recipe)
    if name == "flare":
        localhost: Transport = flare_part("localhost").Localhost(setups, recipe)
        return localhost
    raise RunError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}.")

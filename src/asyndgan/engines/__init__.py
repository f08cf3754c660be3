"""Engines: the transports that carry messages between the coordinator and its sites."""

from typing import TYPE_CHECKING, Final

from asyndgan.engines.federation import flare_part
from asyndgan.lazy import lazily

if TYPE_CHECKING:
    from asyndgan.engines.building import build_engine
    from asyndgan.engines.inprocess import InProcess
    from asyndgan.engines.processes import Processes
    from asyndgan.engines.setup import SiteSetup, load_cohort, set_up
else:
    __getattr__ = lazily(
        __name__,
        {
            "building": "build_engine",
            "inprocess": "InProcess",
            "processes": "Processes",
            "setup": "SiteSetup load_cohort set_up",
        },
    )

ENGINES: Final = ("inprocess", "processes", "flare")

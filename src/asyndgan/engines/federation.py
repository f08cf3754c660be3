"""Sites at machines of their own: what a run needs of the federation that connects them."""

import re
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from asyndgan.errors import MissingPackageError
from asyndgan.recipe import Recipe

if TYPE_CHECKING:  # it imports torch, which `asyndgan federation --help` needs not
    from asyndgan.protocol import Transport

RUN_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")  # name of a run, also of its folder at sites


class Federation(Protocol):
    """A federation, kept in a folder on the coordinator's machine."""

    @property
    def path(self) -> Path:
        """Folder that holds everything."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that may connect."""


def federation_in(path: Path) -> Federation:
    """Opens a federation; raises `RunError` if the folder holds none, or FLARE is not installed."""
    federation: Federation = flare_part("kits").Federation.of(path)
    return federation


def transport_to(
    federation: Federation, recipe: Recipe | None, run: str, only: Collection[str] = ()
) -> "Transport":
    """Connects to the sites for one run, or to those named alone.

    Without a recipe, they answer questions alone.
    """
    office = flare_part("jobs").Office(federation, recipe, run, only)
    transport: Transport = flare_part("transport").Flare(office)
    return transport


@contextmanager
def served(federation: Federation) -> Iterator[None]:
    """Keeps a federation's server running; raises `BusyError` if another program has its port."""
    with (
        closing(flare_part("keeper").keep_server(federation)),
        closing(flare_part("attendance").Register(federation)),
    ):
        yield


def flare_part(name: str) -> Any:
    """A module of `asyndgan.engines.flare`; raises `MissingPackageError` without FLARE."""
    try:
        return import_module(f"asyndgan.engines.flare.{name}")
    except ImportError as error:
        raise MissingPackageError("federations", "NVIDIA FLARE", "flare") from error

"""Sites at machines of their own: what a run needs of the federation that connects them."""

import re
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from asyndgan.errors import MissingPackageError, RunError
from asyndgan.recipe import Recipe

if TYPE_CHECKING:  # it imports torch, which `asyndgan federation --help` needs not
    from asyndgan.protocol import Transport

RUN_LENGTH: Final = 64
RUN_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{RUN_LENGTH - 1}}}")
"""Name of a run, also of its folder at sites; a command takes no `-` at its start."""

MASKS_SUFFIX: Final = "-masks"  # of the run that learns masks, beside the run painted from them


class Federation(Protocol):
    """A federation, kept in a folder on the coordinator's machine."""

    @property
    def path(self) -> Path:
        """Folder that holds everything."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that may connect."""


def check_run_name(name: str, *, learns_masks: bool) -> None:
    """Raises `RunError` unless a run, and one that learns its masks, may be called so."""
    shorter = RUN_LENGTH - len(MASKS_SUFFIX)
    if not RUN_NAME.fullmatch(name) or len(name) > (shorter if learns_masks else RUN_LENGTH):
        raise RunError(
            f"'{name}': name a run in small letters, digits and hyphens, with a letter or digit at "
            f"its start, and at most {RUN_LENGTH} of them; where its sites first learn masks, "
            f"{shorter}."
        )


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
    transport: Transport = flare_part("transport").flare_to(federation, recipe, run, only)
    return transport


@contextmanager
def served(federation: Federation) -> Iterator[None]:
    """Keeps a federation's server running; raises `BusyError` if another program has its port."""
    with closing(flare_part("keeper").keep_server(federation)):
        yield


def flare_part(name: str) -> Any:
    """A module of `asyndgan.engines.flare`; raises `MissingPackageError` without FLARE."""
    try:
        return import_module(f"asyndgan.engines.flare.{name}")
    except ImportError as error:
        raise MissingPackageError("federations", "NVIDIA FLARE", "flare") from error

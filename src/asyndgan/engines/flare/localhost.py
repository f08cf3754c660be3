"""Runs a whole federation on this machine from real startup kits: FLARE server, clients, jobs."""

import shutil
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final

from asyndgan.engines.flare.keeper import keep_client, keep_server
from asyndgan.engines.flare.kits import Federation, add_site, init_federation
from asyndgan.engines.flare.member import KIT_FILE, make_request, read_request
from asyndgan.engines.flare.service import SiteService
from asyndgan.engines.flare.transport import flare_to
from asyndgan.engines.setup import SiteSetup
from asyndgan.errors import SiteUnreachableError
from asyndgan.protocol import Transport, away
from asyndgan.recipe import Recipe

CONNECTED_S: Final = 300.0  # Seconds within which all sites must be connected


@final
class Localhost(Transport):
    """Connects sites through FLARE on one machine, as a federation does between machines.

    `folder` takes kits and FLARE's own files; None: a temporary one. Raises `SiteUnreachableError`
    if a site is not connected within `CONNECTED_S`.
    """

    def __init__(
        self, setups: Sequence[SiteSetup], recipe: Recipe, *, folder: Path | None = None
    ) -> None:
        self._order = [setup.name for setup in setups]
        self.recipe = recipe
        self.services: dict[str, SiteService] = {}
        with ExitStack() as ends:  # ends what was started, on an error or Ctrl-C
            if folder is None:
                # Jobs that are about to end may still write there.
                temporary = TemporaryDirectory(prefix="asyndgan-", ignore_cleanup_errors=True)
                folder = Path(ends.enter_context(temporary))
            self.folder = folder
            kits = [folder / "sites" / name for name in self._order]
            self.federation = federation_here(folder / "federation", *kits)
            self.server = keep_server(self.federation)
            ends.callback(self.server.close)
            for setup, kit in zip(setups, kits, strict=True):
                self.services[setup.name] = SiteService(kit, partial(_same, setup))
                ends.callback(self.services[setup.name].close)
                ends.callback(keep_client(kit).close)
            self.flare = flare_to(self.federation, recipe, "run", ())
            ends.callback(self.flare.close)
            if missing := away(self.flare, self._order, CONNECTED_S):
                named = ", ".join(missing)
                raise SiteUnreachableError(f"FLARE did not connect {named} in {CONNECTED_S:g} s.")
            self._ends = ends.pop_all()

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request through FLARE and returns the site's answer."""
        return self.flare.send(site, payload, timeout)

    def sites(self) -> tuple[str, ...]:
        """Connected sites, in the order in which they were given."""
        there = self.flare.sites()
        return tuple(name for name in self._order if name in there)

    def pid(self, site: str) -> int | None:
        """Process id of a site's compute process, or None if it is not alive."""
        return self.services[site].pid()

    def close(self) -> None:
        """Ends the jobs, clients, services and the server."""
        self._ends.close()


def federation_here(path: Path, *sites: Path, port: int | None = None) -> Federation:
    """Makes a federation on this machine, with sites in these folders, named after them."""
    made = init_federation(path, host="localhost", port=port or free_port())
    for folder in sites:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = join(made, folder)
    return made


def join(federation: Federation, folder: Path) -> Federation:
    """What the administrators of a site and of the coordinator do, where both are one person."""
    request = read_request(make_request(folder))
    more = add_site(federation, request)
    shutil.copy(more.kit(request.name), folder / KIT_FILE)
    return more


def _same(setup: SiteSetup, run: str) -> SiteSetup:
    return setup


def free_port() -> int:
    """Returns a port of this machine that is free now."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])

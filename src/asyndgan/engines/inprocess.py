"""Runs sites in the coordinator's own process. They still exchange only bytes with it."""

from collections.abc import Mapping
from typing import final

from asyndgan.errors import SiteUnreachableError
from asyndgan.protocol import Endpoint, Transport


@final
class InProcess(Transport):
    """Calls endpoints directly. A call cannot be interrupted, so `timeout` is ignored."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = dict(endpoints)

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Returns the endpoint's answer."""
        if site not in self.endpoints:
            raise SiteUnreachableError(f"site {site} is not connected.")
        return self.endpoints[site].answer(payload)

    def sites(self) -> tuple[str, ...]:
        """All sites, in the order in which they were given."""
        return tuple(self.endpoints)

    def close(self) -> None:
        """Closes and drops all endpoints."""
        for endpoint in self.endpoints.values():
            endpoint.close()
        self.endpoints = {}

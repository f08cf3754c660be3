"""The interface that each engine implements: how bytes get to a site and back."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection


class Transport(ABC):
    """Carries requests to sites and answers back, without knowing what they mean."""

    @abstractmethod
    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """The answer to a request; late answers to earlier ones are dropped.

        Called from several threads at once. Raises `SiteUnreachableError` if there is no connection
        to one of `sites()`, or no answer within `timeout` seconds.
        """

    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that can be reached now, in a fixed order."""

    def belongs(self, site: str) -> bool:
        """Whether a site still belongs to the run; one that left for good is not waited for."""
        return True

    def close(self) -> None:  # noqa: B027  (most transports hold nothing that needs closing)
        """Frees connections and processes; `send` raises `SiteUnreachableError` from then on."""


def away(transport: Transport, wanted: Collection[str], seconds: float) -> list[str]:
    """Those of these sites that cannot be reached within so many seconds, sorted."""
    deadline = time.monotonic() + seconds
    while (missing := sorted({*wanted} - {*transport.sites()})) and time.monotonic() < deadline:
        time.sleep(0.2)
    return missing

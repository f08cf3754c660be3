"""The interface that each engine implements: how bytes get to a site and back."""

from abc import ABC, abstractmethod


class Transport(ABC):
    """Carries requests to sites and answers back, without knowing what they mean."""

    @abstractmethod
    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request and waits for its answer. Called from several threads at once.

        Args:
            site: one of `sites()`.
            payload: the request.
            timeout: seconds to wait.

        Returns:
            The answer to this request; late answers to earlier requests are dropped.

        Raises:
            SiteUnreachableError: if there is no connection, or no answer in time.
        """

    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that can be reached now, in a fixed order."""

    def belongs(self, site: str) -> bool:
        """Whether a site still belongs to the run; one that left for good is not waited for."""
        return True

    def pace(self) -> float:
        """Longest time in seconds that a site took for one of its latest answers; 0 if unknown."""
        return 0.0

    def close(self) -> None:  # noqa: B027  (most transports hold nothing that needs closing)
        """Frees connections and processes; `send` raises `SiteUnreachableError` from then on."""

"""The seam under which engines differ: how bytes get to a site and back."""

from abc import ABC, abstractmethod


class Transport(ABC):
    """Carries requests to sites and their answers back, and knows nothing of what they mean."""

    @abstractmethod
    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        """Sends a request and waits for its answer. Called from several threads at once.

        Args:
            site: one of `sites()`.
            payload: the request.
            timeout: seconds to wait.

        Returns:
            The answer to this very request: one that comes too late is dropped.

        Raises:
            SiteUnreachableError: if there is no connection, or no answer in time.
        """

    @abstractmethod
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that can be reached now, in a fixed order."""

    def belongs(self, site: str) -> bool:
        """Whether a site is still a member: nobody waits for one that has left for good."""
        return True

    def socket_bytes(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Bytes that left and came to each site, as operating systems count them, by connection.

        Nothing where there is no network, or nobody counts.
        """
        return {}

    def close(self) -> None:  # noqa: B027  (most transports hold nothing that needs closing)
        """Frees connections and processes; `send` raises `SiteUnreachableError` from then on."""

"""A site's half of the protocol: bytes in, bytes out, whatever comes."""

import hashlib
import logging
from abc import ABC, abstractmethod
from threading import Lock
from typing import final

from asyndgan.errors import (
    CohortError,
    DataError,
    NotFiniteError,
    PolicyError,
    ProtocolError,
    RecipeError,
    WireError,
)
from asyndgan.privacy import Release, Released
from asyndgan.wire import REQUESTS, Appraise, Judge, Message, unpack

log = logging.getLogger(__name__)

NO_RUN = "0"


class Handler(ABC):
    """What an endpoint needs of a site."""

    release: Release

    @abstractmethod
    def handle(self, request: Message) -> Released:
        """Answers a request, through the site's `Release`.

        Raises:
            AsyndganError: if it cannot; the endpoint turns it into a refusal.
        """


@final
class Endpoint:
    """Answers requests for a site, one at a time.

    Idempotent: the request that was answered last gets the same bytes again, so an answer that was
    lost on the way costs nothing and trains nothing twice.

    Args:
        handler: the site.
        limit: most bytes of arrays that a request may announce.
    """

    def __init__(self, handler: Handler, *, limit: int) -> None:
        self.handler = handler
        self.limit = limit
        self._lock = Lock()
        self._digest = b""
        self._last: Released | None = None

    def answer(self, payload: bytes) -> bytes:
        """The answer to a request; a refusal if it cannot be met.

        Raises:
            LedgerError: nothing may leave, not even a refusal.
        """
        with self._lock:
            digest = hashlib.sha256(payload).digest()
            if self._last and digest == self._digest:
                return self.handler.release.let_out_again(self._last).payload
            request: Message | None = None
            try:
                request = unpack(payload, REQUESTS, limit=self.limit)
                answer = self.handler.handle(request)
            except Exception as error:  # whatever it is, the coordinator gets one of our sentences
                return self._refuse(request, error)
            trained = isinstance(request, Judge | Appraise)
            self._digest, self._last = digest, answer if trained else None
            return answer.payload

    def close(self) -> None:
        """The site answers no more."""
        self.handler.release.close()

    def _refuse(self, request: Message | None, error: Exception) -> bytes:
        code, reason = "internal", "the site failed; the reason is in its own log"
        if isinstance(error, (DataError, CohortError)):
            code, reason = "data", "the site's data cannot be used; the reason is in its own log"
        elif type(error) in _CODES:
            # These texts are ours and speak of the protocol, never of what a site holds.
            code, reason = _CODES[type(error)], str(error)
        log.warning("refused a request: %s", error, exc_info=code in ("internal", "data"))
        run = request.run if request else NO_RUN
        return self.handler.release.refuse(run, code, reason[:500]).payload


_CODES: dict[type[Exception], str] = {
    WireError: "malformed",
    ProtocolError: "order",
    PolicyError: "policy",
    RecipeError: "recipe",
    NotFiniteError: "not_finite",
}

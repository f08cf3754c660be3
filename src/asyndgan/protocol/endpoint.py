"""A site's half of the protocol: it answers any bytes with a message or a refusal."""

import hashlib
import logging
from abc import ABC, abstractmethod
from threading import Lock
from typing import final

from asyndgan.errors import (
    AsyndganError,
    CohortError,
    DataError,
    LedgerError,
    NotFiniteError,
    PolicyError,
    ProtocolError,
    RecipeError,
    WireError,
    WithheldError,
)
from asyndgan.privacy import Release, Released
from asyndgan.wire.messages import REQUESTS, Asked, Judge, Message, unpack

log = logging.getLogger(__name__)

NO_RUN = "0"


class Handler(ABC):
    """The interface that an endpoint needs of a site."""

    release: Release

    @abstractmethod
    def handle(self, request: Message) -> Released:
        """Answers a request, through the site's `Release`.

        Raises `AsyndganError` if it cannot; the endpoint turns it into a refusal.
        """


@final
class Endpoint:
    """Answers requests for a site, one at a time.

    If the last request was a `Judge` or an `Asked` and comes again, it gets the same bytes, as far
    as the policy lets them out again: an answer that was lost trains and computes nothing twice.

    `limit`: most bytes that a request's arrays may take once decoded.
    """

    def __init__(self, handler: Handler, *, limit: int) -> None:
        self.handler = handler
        self.limit = limit
        self._lock = Lock()
        self._digest = b""
        self._last: Released | None = None
        self._closed = False

    def answer(self, payload: bytes) -> bytes:
        """The answer to a request; a refusal if it cannot be met.

        Raises `LedgerError` if the books cannot be written or were closed: nothing leaves then.
        """
        with self._lock:
            if self._closed:
                raise LedgerError("this site has closed its books, so nothing may leave.")
            digest = hashlib.sha256(payload).digest()
            request: Message | None = None
            try:
                if self._last and digest == self._digest:
                    return self.handler.release.let_out_again(self._last).payload
                request = unpack(payload, REQUESTS, limit=self.limit)
                answer = self.handler.handle(request)
            except Exception as error:  # whatever it is, it becomes a refusal in our own words
                return self._refuse(request, error)
            kept = isinstance(request, Judge | Asked)
            self._digest, self._last = digest, answer if kept else None
            return answer.payload

    def close(self) -> None:
        """Closes the site's release, after the answer at work; nothing leaves from then on."""
        with self._lock:
            self._closed = True
            self.handler.release.close()

    def _refuse(self, request: Message | None, error: Exception) -> bytes:
        code, reason = "internal", "the site failed; the reason is in its own log"
        if isinstance(error, (DataError, CohortError)):
            code, reason = "data", "the site's data cannot be used; the reason is in its own log"
        elif type(error) in _CODES:
            # This package wrote these texts: they concern the protocol, never a site's data.
            code, reason = _CODES[type(error)], str(error)
        elif isinstance(error, PolicyError):
            keys = f" ({', '.join(error.keys)})" if error.keys else ""
            code, reason = "policy", f"its policy refuses{keys}; the reason is in its own log"
        log.warning("refused a request: %s", error, exc_info=not isinstance(error, AsyndganError))
        run = request.run if request else NO_RUN
        return self.handler.release.refuse(run, code, reason[:500]).payload


_CODES: dict[type[Exception], str] = {
    WireError: "malformed",
    ProtocolError: "order",
    WithheldError: "policy",
    RecipeError: "recipe",
    NotFiniteError: "not_finite",
}

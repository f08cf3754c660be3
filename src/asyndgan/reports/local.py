"""A server for pages of this machine alone, at an address that nobody can guess."""

import logging
import re
import secrets
import sys
from abc import abstractmethod
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final
from urllib.parse import parse_qs

from asyndgan.errors import AsyndganError, RunError, message_of

log = logging.getLogger(__name__)

HERE: Final = "127.0.0.1"
PASSED_OVER: Final = 2**20  # bytes read of too long an order: who is cut off reads no answer
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Answer(NamedTuple):
    """What a server answers to an order of its page."""

    status: HTTPStatus
    content: bytes = b""
    kind: str = "text/plain"


HTML: Final = "text/html; charset=utf-8"


class LocalServer(ThreadingHTTPServer):
    """Serves one page to this machine alone; raises `RunError` if the port is taken.

    Requests without a key in the address, of another origin or by another name of this machine
    get nothing, and are logged. Port 0 is any that is free.
    """

    daemon_threads = True
    most = 0  # bytes of an order, which is not read if it has as many
    scripts = False  # whether the page has scripts
    readers: str | None = None  # key of who may only look; None: nobody

    def __init__(self, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(16)  # key of who may order
        try:
            super().__init__((HERE, port), _Answers)
        except OSError as error:
            raise RunError(
                f"port {port} cannot be used ({error.strerror}). Name another."
            ) from error
        self.url = self.url_of(self.token)

    def url_of(self, key: str) -> str:
        """The address of the page for who has this key."""
        return f"http://{HERE}:{self.server_port}/{key}/"

    @abstractmethod
    def page(self) -> str:
        """The page."""

    def seen(self) -> str:
        """The page for who may only look."""
        return self.page()

    @abstractmethod
    def answer(self, order: bytes) -> Answer:
        """The answer to an order of the page."""

    def too_long(self) -> Answer:
        """The answer to an order that is not read."""
        return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a page that was closed while it was answered."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class FormServer(LocalServer):
    """Serves a page whose forms decide: what one did, or why it did not, is told once."""

    def __init__(self, port: int = 0) -> None:
        self._told, self._turn = "", Lock()
        super().__init__(port)

    @abstractmethod
    def shown(
        self, told: str = "", *, refused: str = "", typed: Mapping[str, str] = NOTHING
    ) -> str:
        """The page, with what the latest form did, or why it was refused and what it said."""

    @abstractmethod
    def decide(self, said: Mapping[str, str]) -> str:
        """Does what a form says, or raises `AsyndganError`; returns what was done.

        Of what is no form of the page it raises `KeyError` or `ValueError`.
        """

    @final
    def page(self) -> str:
        """The page, with the news of the latest decision, once."""
        told, self._told = self._told, ""
        return self.shown(told)

    @final
    def answer(self, order: bytes) -> Answer:
        """Does what a form says, one after the other."""
        said = NOTHING
        try:
            parsed = parse_qs(order.decode(), strict_parsing=True)
            said = {key: values[0] for key, values in parsed.items()}
            with self._turn:
                self._told = self.decide(said)
        except (AsyndganError, OSError) as error:
            return self._refusal(HTTPStatus.CONFLICT, message_of(error), said)
        except (ValueError, KeyError):
            return self._refusal(HTTPStatus.CONFLICT, "This is no form of the page.", said)
        return Answer(HTTPStatus.SEE_OTHER)

    @final
    def too_long(self) -> Answer:
        """See `LocalServer.too_long`."""
        why = f"The page reads no form of {self.most:,} bytes or more. Use the command instead."
        return self._refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why, NOTHING)

    def _refusal(self, status: HTTPStatus, why: str, said: Mapping[str, str]) -> Answer:
        log.warning("a decision is refused: %s", why)
        return Answer(status, self.shown(refused=why, typed=said).encode(), HTML)


@final
class _Answers(BaseHTTPRequestHandler):
    """One request."""

    server: LocalServer
    timeout = 30.0

    def do_GET(self) -> None:
        if key := self._key():
            page = self.server.page() if key == self.server.token else self.server.seen()
            self._answer(Answer(HTTPStatus.OK, page.encode(), HTML))

    def do_POST(self) -> None:
        if not (key := self._key()):
            return
        if key != self.server.token:
            log.warning("an order of somebody who may only look is refused")
            return self._answer(Answer(HTTPStatus.FORBIDDEN))
        said = self.headers.get("Content-Length", "")
        length = int(said) if re.fullmatch("[0-9]{1,9}", said) else 0
        if length < self.server.most:
            return self._answer(self.server.answer(self.rfile.read(length)))
        self.rfile.read(min(length, PASSED_OVER))
        self._answer(self.server.too_long())

    def _key(self) -> str | None:
        """The key in the address, if it is one and the request comes from the page itself."""
        own = f"{HERE}:{self.server.server_port}"
        origin = self.headers.get("Origin")
        keys = [key for key in (self.server.token, self.server.readers) if key]
        given = self.path.encode()
        key = next((k for k in keys if secrets.compare_digest(given, f"/{k}/".encode())), None)
        faults = {
            "name": self.headers.get("Host") != own,
            "origin": origin not in (None, f"http://{own}"),
            "key": key is None,
        }
        if found := [fault for fault, there in faults.items() if there]:
            log.warning("a request with a wrong %s is refused", ", ".join(found))
            self._answer(Answer(HTTPStatus.NOT_FOUND))
            return None
        return key

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.content)))
        if answer.status is HTTPStatus.SEE_OTHER:
            self.send_header("Location", self.server.url)
        self.send_header("Cache-Control", "no-store")
        # Without a referrer a browser sends no origin along with a form.
        self.send_header("Referrer-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        scripts = "connect-src 'self'; script-src 'unsafe-inline'; " if self.server.scripts else ""
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; img-src data:; {scripts}style-src 'unsafe-inline'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: Any) -> None:
        """Says nothing: the address is the key."""

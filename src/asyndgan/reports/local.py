"""A server for pages of this machine alone, at an address that nobody can guess."""

import logging
import re
import secrets
import sys
from abc import abstractmethod
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, final

from asyndgan.errors import RunError

log = logging.getLogger(__name__)

HERE: Final = "127.0.0.1"


class Answer(NamedTuple):
    """What a server answers to an order of its page."""

    status: HTTPStatus
    content: bytes = b""
    kind: str = "text/plain"


HTML: Final = "text/html; charset=utf-8"


class LocalServer(ThreadingHTTPServer):
    """Serves one page to this machine alone; raises `RunError` if the port is taken.

    Requests without the key in the address, of another origin or by another name of this machine
    get nothing, and are logged. Port 0 is any that is free.

    Attributes:
        most: longest order in bytes; a longer one is not read.
        scripts: whether the page has scripts.
    """

    daemon_threads = True
    most = 0
    scripts = False

    def __init__(self, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((HERE, port), _Answers)
        except OSError as error:
            raise RunError(
                f"port {port} cannot be used ({error.strerror}). Name another."
            ) from error
        self.url = f"http://{HERE}:{self.server_port}/{self.token}/"

    @abstractmethod
    def page(self) -> str:
        """The page."""

    def answer(self, order: bytes) -> Answer:
        """The answer to an order of the page; a page that only shows takes none."""
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a page that was closed while it was answered."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@final
class _Answers(BaseHTTPRequestHandler):
    """One request."""

    server: LocalServer
    timeout = 30.0

    def do_GET(self) -> None:
        if self._known():
            self._answer(Answer(HTTPStatus.OK, self.server.page().encode(), HTML))

    def do_POST(self) -> None:
        if not self._known():
            return
        said = self.headers.get("Content-Length", "")
        length = int(said) if re.fullmatch("[0-9]{1,9}", said) else 0
        if not 0 < length < self.server.most:
            return self._answer(Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        self._answer(self.server.answer(self.rfile.read(length)))

    def _known(self) -> bool:
        own = f"{HERE}:{self.server.server_port}"
        origin = self.headers.get("Origin")
        faults = {
            "name": self.headers.get("Host") != own,
            "origin": origin not in (None, f"http://{own}"),
            "key": not secrets.compare_digest(
                self.path.encode(), f"/{self.server.token}/".encode()
            ),
        }
        found = [fault for fault, there in faults.items() if there]
        if found:
            log.warning("a request with a wrong %s is refused", ", ".join(found))
            self._answer(Answer(HTTPStatus.NOT_FOUND))
        return not found

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

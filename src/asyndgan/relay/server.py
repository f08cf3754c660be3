"""FLARE's process at the coordinator, started with this module: strangers cannot block it.

FLARE's server shakes hands in the thread that accepts connections, without a deadline: one silent
connection blocks all others. Here each connection has its own thread and a deadline, and their
number is bounded.
"""

import logging
import resource
import runpy
import socket
import threading
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from ssl import SSLSocket
from typing import Any, Final, final

from cryptography import x509
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.fuel.f3.drivers import tcp_driver
from nvflare.fuel.f3.drivers.driver_params import DriverParams

from asyndgan.relay.job import start_jobs_here
from asyndgan.relay.lines import end
from asyndgan.relay.names import secure_connections
from asyndgan.relay.revoked import digest_of, revoked

log = logging.getLogger(__name__)

PROOF_S: Final = 10.0
"""Seconds for the whole handshake of a connection, however slowly its bytes come."""

MOST_UNPROVEN: Final = 256
"""Most connections in the handshake at once; each has a thread."""

MOST_PROVEN: Final = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Connections that members may hold; jobs and their files need the rest of the file descriptors."""


@final
class Held:
    """Connections held at once; for one more, the holder of most connections loses one.

    It is the oldest of theirs, so a flood from one address keeps out no other address, and a
    connection that proves itself quickly is seldom closed before.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[socket.socket, str] = {}  # in the order in which they came
        self._lock = threading.Lock()

    def add(self, connection: socket.socket, holder: str) -> None:
        """Takes a connection in."""
        with self._lock:
            if len(self._held) >= self.most:
                greedy, _ = Counter(self._held.values()).most_common(1)[0]
                oldest = next(one for one, whose in self._held.items() if whose == greedy)
                self._held.pop(oldest)
                end(oldest)
            self._held[connection] = holder

    def remove(self, connection: socket.socket) -> bool:
        """Lets a connection go, before it is closed; whether it was held until now."""
        with self._lock:
            return self._held.pop(connection, None) is not None

    def expel(self, holders: Collection[str]) -> None:
        """Closes all connections of these holders."""
        with self._lock:
            for connection in [one for one, whose in self._held.items() if whose in holders]:
                self._held.pop(connection)
                end(connection)


@final
class Door(tcp_driver.TcpStreamServer):
    """FLARE's socket server; a connection is passed to FLARE after its TLS handshake."""

    request_queue_size = 128

    def __init__(self, driver: Any, connector: Any) -> None:
        self.unproven, self.proven = Held(MOST_UNPROVEN), Held(MOST_PROVEN)
        super().__init__(driver, connector)
        if self.ssl_context:
            # The kit; the authority's certificate lies in its folder `startup`.
            self.kit = Path(connector.params[DriverParams.CA_CERT.value]).parents[1]
            if not hasattr(self.socket, "do_handshake_on_connect"):
                raise RuntimeError(UNKNOWN)
            self.socket.do_handshake_on_connect = False  # `accept` hands over at once

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins a connection's thread."""
        if self.ssl_context:
            self.unproven.add(request, str(client_address[0]))
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection, in its own thread, once it has shown a certificate of ours."""
        if self.ssl_context and not self._proves(request):
            return
        super().finish_request(request, client_address)

    def _proves(self, request: SSLSocket) -> bool:
        try:
            request.settimeout(PROOF_S)
            request.do_handshake()  # verifies the certificate, and waits that long in all
            request.settimeout(None)
        except OSError as error:
            log.debug("a connection has not proved whose it is: %s", error)
            return False
        if not self.unproven.remove(request):
            return False  # it was closed for another
        certificate = x509.load_der_x509_certificate(request.getpeercert(True) or b"")
        self.proven.add(request, holder := digest_of(certificate.public_key()))
        # Looked up after it is held: a key that is revoked meanwhile is found here or there.
        return holder not in revoked(self.kit)

    def service_actions(self) -> None:
        """Ends the connections of revoked keys; called every half a second."""
        if self.ssl_context:
            with suppress(OSError):  # a handshake fails then
                self.proven.expel(revoked(self.kit))

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection, however it ended."""
        self.unproven.remove(request)
        self.proven.remove(request)
        super().shutdown_request(request)


UNKNOWN: Final = "FLARE's server is another than this package knows; install nvflare 2.9"


def put_up_door() -> None:
    """Makes FLARE's server in this process listen at a `Door`.

    Raises:
        RuntimeError: this version of FLARE listens in another way.
    """
    server, listen = tcp_driver.TcpStreamServer, tcp_driver.TcpDriver.listen
    known = issubclass(server, ThreadingMixIn) and "TcpStreamServer" in listen.__code__.co_names
    if not known:
        raise RuntimeError(UNKNOWN)
    tcp_driver.TcpStreamServer = Door  # type: ignore[misc]


if __name__ == "__main__":
    secure_connections()
    start_jobs_here(ServerProcessJobLauncher)
    put_up_door()
    runpy.run_module("nvflare.private.fed.app.server.server_train", run_name="__main__")

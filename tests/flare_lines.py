"""Connections that speak as processes of FLARE do, and say any name."""

import socket
import ssl
import time
from pathlib import Path
from typing import Any, Final

import msgpack
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.sfm.constants import HandshakeKeys, Types
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN, Prefix

SOON_S: Final = 5.0


class Line:
    """A connection of FLARE's frames.

    Args:
        connection: an open one.
        name: name that is said first; none is said if it is empty.
    """

    def __init__(self, connection: socket.socket, name: str = "") -> None:
        self.connection = connection
        connection.settimeout(SOON_S)
        if name:
            self.say(name)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def say(self, name: str) -> None:
        """Says a name."""
        told = {HandshakeKeys.ENDPOINT_NAME: name, HandshakeKeys.TIMESTAMP: 0.0, "fqcn": name}
        self._write(Types.HELLO, b"", msgpack.packb(told), app=0)

    def send(self, headers: dict[str, Any]) -> None:
        """Sends a message that has no payload; its headers without FLARE's prefix."""
        packed = msgpack.packb({f"cn__{key}": value for key, value in headers.items()})
        self._write(Types.DATA, packed, b"", app=CoreCell.APP_ID)

    def _write(self, kind: int, headers: bytes, payload: bytes, *, app: int) -> None:
        frame = bytearray(PREFIX_LEN) + headers + payload
        Prefix(len(frame), len(headers), kind, app_id=app).to_buffer(frame, 0)
        self.connection.sendall(frame)

    def closed(self, seconds: float = SOON_S) -> bool:
        """Whether the other end closes it within that time, whatever it sends before."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:  # a reset, or an alert that says why
            return True
        return False


def plain(port: int, name: str) -> Line:
    """A line without a certificate."""
    return Line(socket.create_connection(("127.0.0.1", port), timeout=SOON_S), name)


def certified(port: int, startup: Path, name: str) -> Line:
    """A line with the certificate that lies in a kit's folder `startup`."""
    line = socket.create_connection(("127.0.0.1", port), timeout=SOON_S)
    return Line(context_of(startup, ssl.PROTOCOL_TLS_CLIENT).wrap_socket(line), name)


def context_of(startup: Path, side: int) -> ssl.SSLContext:
    """TLS with that certificate, without a look at the other end's."""
    (certificate,) = startup.glob("*.crt")
    context = ssl.SSLContext(side)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context

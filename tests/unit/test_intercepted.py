"""What `site check` says of a connection that something between intercepts."""

import datetime
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from asyndgan.engines.flare.checks import _connection
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import KEY_FILE, read_kit


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fed")
    federation_here(folder / "fed", folder / "north")
    return folder / "north"


def inspector(line: socket.socket, folder: Path) -> None:
    """Answers with a certificate of its own, as a proxy that inspects TLS does."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Zscaler Root CA")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day).not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    own = key.private_bytes(pem, form, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(made.public_bytes(pem) + own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    context.wrap_socket(line, server_side=True).recv(1)


@pytest.mark.parametrize(
    ("host", "error", "said"),
    [
        ("coordinator.invalid", None, "the name coordinator.invalid cannot be resolved"),
        ("localhost", None, "refused. Ask the coordinator whether it is started"),
        ("10.255.255.1", TimeoutError(), "no answer within 5 seconds: a firewall drops it"),
    ],
)
def test_what_keeps_a_connection_from_being_made_is_named(kit, monkeypatch, host, error, said):
    if error:
        monkeypatch.setattr(socket, "create_connection", Mock(side_effect=error))
    found = _connection(replace(read_kit(kit), host=host, port=59), kit / KEY_FILE)
    assert not found.fine and said in found.text


def filter_page(line: socket.socket, folder: Path) -> None:
    """Answers in plain text, as a web filter does."""
    line.recv(1)
    line.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\nblocked by policy" + b" " * 100)


@pytest.mark.parametrize(
    ("answer", "said", "first", "then"),
    [
        (inspector, "(CN=Zscaler Root CA issued it). Most often a proxy", "inspect", "new kit"),
        (filter_page, "another program answers, without TLS", "host and port", "a proxy answers"),
    ],
)
def test_what_is_most_likely_is_named_first(kit, tmp_path, answer, said, first, then):
    with socket.create_server(("localhost", 0)) as server:

        def serve():
            with suppress(OSError):  # until the server is shut down
                while True:
                    line, _ = server.accept()
                    with line, suppress(OSError):
                        answer(line, tmp_path)

        threading.Thread(target=serve, daemon=True).start()
        member = replace(read_kit(kit), port=server.getsockname()[1])
        found = _connection(member, kit / KEY_FILE)
        server.shutdown(socket.SHUT_RDWR)
    assert not found.fine and said in found.text
    assert found.text.index(first) < found.text.index(then)

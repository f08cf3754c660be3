"""What strangers can do at the port of FLARE's server: nothing that anybody else would notice."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from nvflare.fuel.f3.connection import Connection, ConnState
from nvflare.fuel.f3.drivers import tcp_driver
from nvflare.fuel.f3.drivers.connector_info import ConnectorInfo, Mode
from nvflare.fuel.f3.drivers.driver import ConnMonitor
from nvflare.fuel.f3.drivers.driver_params import DriverParams

from asyndgan.engines.flare.kits import Federation, remove_site
from asyndgan.engines.flare.localhost import federation_here, join
from asyndgan.engines.flare.member import read_kit, write_workspace
from asyndgan.relay import client, server
from asyndgan.relay.client import hurry
from asyndgan.relay.server import Door, Held, put_up_door
from waiting import until

SOON_S = 3.0
PROOF_S = 1.0
MOST = 20


class Seen(ConnMonitor):
    """The connections that FLARE was handed."""

    def __init__(self) -> None:
        self.there: list[Connection] = []

    def state_change(self, connection: Connection) -> None:
        if connection.state == ConnState.CONNECTED:
            self.there.append(connection)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    path = tmp_path_factory.mktemp("door") / "f"
    return federation_here(path, *(path / "sites" / name for name in ("north", "south")))


@pytest.fixture
def seen(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """FLARE's driver, which listens as in the server's process, with small bounds."""
    monkeypatch.setattr(tcp_driver, "TcpStreamServer", tcp_driver.TcpStreamServer)
    monkeypatch.setattr(server, "PROOF_S", PROOF_S)
    monkeypatch.setattr(server, "MOST_UNPROVEN", MOST)
    monkeypatch.setattr(server, "MOST_PROVEN", MOST)
    put_up_door()
    startup, driver, seen = federation.server_kit / "startup", tcp_driver.TcpDriver(), Seen()
    params = {
        DriverParams.SCHEME.value: "stcp",
        DriverParams.HOST.value: "127.0.0.1",
        DriverParams.PORT.value: str(federation.port),
        DriverParams.CA_CERT.value: str(startup / "rootCA.pem"),
        DriverParams.SERVER_CERT.value: str(startup / "server.crt"),
        DriverParams.SERVER_KEY.value: str(startup / "server.key"),
    }
    connector = ConnectorInfo("x", driver, params, Mode.PASSIVE, 0, 0, False, threading.Event())
    driver.register_conn_monitor(seen)
    threading.Thread(target=driver.listen, args=(connector,), daemon=True).start()
    until(lambda: driver.server is not None, SOON_S)
    yield seen
    ending = threading.Thread(target=driver.shutdown, daemon=True)  # FLARE's own waits for ever
    ending.start()
    ending.join(SOON_S)
    driver.server.socket.close()


def kit_of(federation: Federation, site: str) -> Path:
    """FLARE's files of a site, with its certificate and key."""
    kit = federation.path / "sites" / site
    return write_workspace(kit, read_kit(kit)) / "startup"


def connected(federation: Federation, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(
        ("127.0.0.1", federation.port), timeout=SOON_S, source_address=(address, 0)
    )


def shaken(federation: Federation, kit: Path | None) -> ssl.SSLSocket:
    """A connection after our half of the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if kit:
        context.load_cert_chain(kit / "client.crt", kit / "client.key")
    return context.wrap_socket(connected(federation))


def closed(line: socket.socket, seconds: float = SOON_S) -> bool:
    """Whether the server closes it within that time."""
    line.settimeout(seconds)
    try:
        return not line.recv(1)
    except TimeoutError:
        return False
    except OSError:  # a reset, or an alert that says why
        return True


def half_a_greeting() -> bytes:
    out = ssl.MemoryBIO()
    line = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="nobody")
    with suppress(ssl.SSLWantReadError):
        line.do_handshake()
    return out.read()[:-20]


def test_a_member_comes_in_beside_connections_that_say_nothing_or_half_of_it(
    seen: Seen, federation: Federation, tmp_path: Path
) -> None:
    kit = kit_of(federation, "north")
    with ExitStack() as ends:
        for number in range(MOST - 2):
            line = ends.enter_context(connected(federation))
            if number % 2:
                line.sendall(half_a_greeting())
        ends.enter_context(shaken(federation, kit))
        until(lambda: len(seen.there) == 1, SOON_S)
        assert seen.there[0].get_conn_properties()[DriverParams.PEER_CN.value] == "north"


@pytest.mark.parametrize("talks", [False, True], ids=["silent", "a byte now and then"])
def test_who_has_not_proved_whose_it_is_in_time_is_sent_away(
    seen: Seen, federation: Federation, talks: bool
) -> None:
    line, begun, said = connected(federation), time.monotonic(), half_a_greeting()
    while talks and time.monotonic() - begun < 2 * PROOF_S:
        with suppress(OSError):
            line.sendall(said[:1])
        said = said[1:]
        time.sleep(PROOF_S / 10)
    assert closed(line)
    assert time.monotonic() - begun < 2 * PROOF_S + SOON_S
    assert not seen.there


def test_tls_alone_or_with_the_certificate_of_others_brings_nobody_to_flare(
    seen: Seen, federation: Federation, tmp_path: Path
) -> None:
    other = federation_here(tmp_path / "o", tmp_path / "o" / "sites" / "north")
    for kit in (None, kit_of(other, "north")):
        with shaken(federation, kit) as line:
            assert closed(line)
    assert not seen.there


def test_a_flood_from_one_address_ends_its_own_connections_and_no_others(
    seen: Seen, federation: Federation, tmp_path: Path
) -> None:
    threads = threading.active_count()
    with ExitStack() as ends:
        quiet = ends.enter_context(connected(federation, "127.0.0.2"))
        flood = [ends.enter_context(connected(federation)) for _ in range(3 * MOST)]
        assert closed(flood[0], PROOF_S / 2) and closed(flood[MOST], PROOF_S / 2)
        assert not closed(quiet, 0.05)
        assert threading.active_count() <= threads + MOST + 5
        ends.enter_context(shaken(federation, kit_of(federation, "north")))
        until(lambda: len(seen.there) == 1, SOON_S)


def test_a_member_that_opens_connection_after_connection_takes_no_other_members(
    seen: Seen, federation: Federation, tmp_path: Path
) -> None:
    kits = [kit_of(federation, site) for site in ("north", "south")]
    with ExitStack() as ends:
        other = ends.enter_context(shaken(federation, kits[1]))
        until(lambda: len(seen.there) == 1, SOON_S)
        greedy = []
        for number in range(MOST + 5):
            greedy.append(ends.enter_context(shaken(federation, kits[0])))
            until(lambda wanted=number + 2: len(seen.there) == wanted, SOON_S)  # type: ignore[misc]
        assert closed(greedy[0]) and not closed(greedy[-1], 0.05) and not closed(other, 0.05)


def test_a_removed_site_loses_its_connections_and_its_key_opens_no_other(
    seen: Seen, federation: Federation
) -> None:
    south = kit_of(federation, "south")
    again = federation.path / "again" / "west"
    federation = join(federation, federation.path / "sites" / "west")
    old = kit_of(federation, "west")
    with ExitStack() as ends:
        stays, goes = (ends.enter_context(shaken(federation, kit)) for kit in (south, old))
        until(lambda: len(seen.there) == 2, SOON_S)
        assert not closed(goes, 0.05)
        federation = remove_site(federation, "west")
        assert closed(goes) and not closed(stays, 0.05)
        assert closed(ends.enter_context(shaken(federation, old)))
        again.parent.mkdir()
        federation = join(federation, again)  # the name, with another key
        new = write_workspace(again, read_kit(again)) / "startup"
        ends.enter_context(shaken(federation, new))
        until(lambda: len(seen.there) == 3, SOON_S)
        assert closed(ends.enter_context(shaken(federation, old)))
        assert seen.there[-1].get_conn_properties()[DriverParams.PEER_CN.value] == "west"


def test_a_connection_is_let_go_once_and_an_ended_one_can_be_closed_for_another() -> None:
    held, (ours, theirs) = Held(1), socket.socketpair()
    held.add(ours, "a")
    theirs.close()
    held.add(theirs, "b")
    assert not held.remove(ours) and held.remove(theirs) and not held.remove(theirs)
    ours.close()


def test_a_site_does_not_wait_for_ever_for_a_server_that_says_nothing(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_driver, "get_ssl_context", tcp_driver.get_ssl_context)
    monkeypatch.setattr(client, "PROOF_S", PROOF_S)
    hurry()
    kit, driver = kit_of(federation, "north"), tcp_driver.TcpDriver()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        params = {
            DriverParams.SCHEME.value: "stcp",
            DriverParams.HOST.value: "127.0.0.1",
            DriverParams.PORT.value: str(silent.getsockname()[1]),
            DriverParams.CA_CERT.value: str(kit / "rootCA.pem"),
            DriverParams.CLIENT_CERT.value: str(kit / "client.crt"),
            DriverParams.CLIENT_KEY.value: str(kit / "client.key"),
        }
        connector = ConnectorInfo("x", driver, params, Mode.ACTIVE, 0, 0, False, threading.Event())
        ended = threading.Event()

        def connect() -> None:
            with suppress(TimeoutError):
                driver.connect(connector)
            ended.set()

        threading.Thread(target=connect, daemon=True).start()
        assert not ended.wait(PROOF_S / 2) and ended.wait(PROOF_S + SOON_S)


def test_a_flare_that_listens_in_another_way_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp_driver, "TcpStreamServer", socket.socket)
    with pytest.raises(RuntimeError, match=r"another than this package knows; install nvflare"):
        put_up_door()
    assert tcp_driver.TcpStreamServer is not Door

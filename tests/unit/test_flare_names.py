"""Names that parties say to FLARE's processes: each counts only where a certificate proves it."""

import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.fuel.f3.cellnet.connector_manager import ConnectorManager
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.cellnet.registry import Registry
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.drivers.socket_conn import SocketConnection
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.stats_pool import StatsPoolManager

from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.flare.localhost import federation_here, free_port
from asyndgan.engines.flare.member import read_kit, write_workspace
from asyndgan.relay import names
from asyndgan.relay.job import start_jobs_here
from asyndgan.relay.names import secure_connections
from flare_lines import SOON_S, Line, certified, context_of, plain
from waiting import until

BRIEFLY_S = 0.5
JOB = str(uuid.uuid4())
ADMINISTRATOR = f"_admin_{uuid.uuid4()}"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    path = tmp_path_factory.mktemp("names") / "f"
    return federation_here(path, *(path / "sites" / name for name in ("north", "south")))


@pytest.fixture(scope="module")
def startups(federation: Federation) -> dict[str, Path]:
    """Folders of everybody's certificate and key."""
    found = {
        "server": federation.server_kit / "startup",
        "coordinator": federation.admin_kit / "startup",
    }
    for site in federation.sites:
        kit = federation.path / "sites" / site
        found[site] = write_workspace(kit, read_kit(kit)) / "startup"
    return found


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLARE in this process as in those of ours."""
    for owner, method in (
        (CoreCell, "_add_adhoc_connector"),
        (CoreCell, "process_message"),
        (ConnManager, "update_endpoint"),
        (ConnectorManager, "get_internal_listener"),
        (NetAgent, "__init__"),
        *((SocketConnection, name) for name in ("__init__", "_send_with_timeout", "read_loop")),
        (SocketConnection, "close"),
    ):
        monkeypatch.setattr(owner, method, getattr(owner, method))
    monkeypatch.setattr(StatsPoolManager, "pools", {})  # FLARE wants one cell of a name a process
    monkeypatch.setattr(CoreCell, "ALL_CELLS", {})
    secure_connections()


@pytest.fixture
def begun(
    mended: None, federation: Federation, startups: dict[str, Path]
) -> Iterator[Callable[[str], CoreCell]]:
    """Begins FLARE's cell of the server or of a site, with its local port."""
    with ExitStack() as ends:

        def begin(name: str) -> CoreCell:
            folder, side = startups[name], "server" if name == "server" else "client"
            credentials = {
                DriverParams.CA_CERT.value: str(folder / "rootCA.pem"),
                f"{side}_cert": str(folder / f"{side}.crt"),
                f"{side}_key": str(folder / f"{side}.key"),
            }
            cell = CoreCell(
                name, f"tcp://127.0.0.1:{free_port()}?admin_listener=true", True, credentials,
                create_internal_listener=True, auth_identity_map={"server": federation.host} | {
                    site: site for site in (name,) if site != "server"
                },
            )  # fmt: skip
            ends.callback(stop, cell)
            cell.start()
            if name == "server":
                until(lambda: listens(open_port(cell)), SOON_S)
            until(lambda: listens(local_port(cell)), SOON_S)
            return cell

        yield begin


def stop(cell: CoreCell) -> None:
    cell.communicator.stop()
    for connector in cell.communicator.conn_manager.connectors.values():
        if connector.driver.server:  # FLARE leaves it open
            connector.driver.server.server_close()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def open_port(cell: CoreCell) -> int:
    (url,) = cell.ext_listeners
    return int(str(url).partition("?")[0].rpartition(":")[2])


def local_port(cell: CoreCell) -> int:
    return int(str(cell.get_internal_listener_url()).rpartition(":")[2])


def known(cell: CoreCell, name: str) -> bool:
    return cell.communicator.find_endpoint(name) is not None


def heard(cell: CoreCell) -> list[str]:
    """Ids of the messages that come past our checks, in a list that grows."""
    ids: list[str] = []

    def note(message: Message) -> None:
        ids.append(str(message.get_header("cn__req_id")))

    cell.add_incoming_filter("*", "*", note)
    return ids


def message(**changes: Any) -> dict[str, Any]:
    """Headers of a message of south's by which a process registers."""
    return {
        "msg_type": "req", "req_id": "1", "reply_expected": False, "channel": "task",
        "topic": "challenge", "origin": "south", "destination": "server", "from": "x",
        "to": "server",
    } | changes  # fmt: skip


def test_a_name_without_a_certificate_is_refused_and_ends_no_certified_connection(
    begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    server = begun("server")
    unsafe = free_port()
    with certified(open_port(server), startups["north"], "north") as north:
        until(lambda: known(server, "north"), SOON_S)
        server.communicator.add_connector(f"tcp://127.0.0.1:{unsafe}", Mode.PASSIVE)
        until(lambda: listens(unsafe), SOON_S)
        for name in ("north", f"server.{JOB}", "west"):
            with plain(unsafe, name) as line:
                assert line.closed()
        with socket.create_server(("127.0.0.1", 0)) as trap:
            server.communicator.add_connector(
                f"tcp://127.0.0.1:{trap.getsockname()[1]}", Mode.ACTIVE
            )
            trap.settimeout(SOON_S)
            with Line(trap.accept()[0], "north") as line:
                assert line.closed()
        assert not north.closed(BRIEFLY_S)
    assert not known(server, "west") and not known(server, f"server.{JOB}")


def test_a_certificate_proves_its_own_name_and_its_jobs_and_no_others(
    begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    server = begun("server")
    with ExitStack() as ends:
        for who, name in (
            ("south", "south"), ("south", f"south.{JOB}"), ("coordinator", ADMINISTRATOR),
        ):  # fmt: skip
            ends.enter_context(certified(open_port(server), startups[who], name))
            until(lambda name=name: known(server, name), SOON_S)  # type: ignore[misc]
    for name in ("north", f"north.{JOB}", f"server.{JOB}", f"_admin_{uuid.uuid4()}"):
        with certified(open_port(server), startups["south"], name) as line:
            assert line.closed()
        assert not known(server, name)


@pytest.mark.parametrize("own", ["server", "north"])
def test_the_local_port_takes_the_jobs_of_its_process_and_nobody_else(
    own: str, begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    cell = begun(own)
    port = local_port(cell)
    with certified(port, startups[own], f"{own}.{JOB}") as job:
        until(lambda: known(cell, f"{own}.{JOB}"), SOON_S)
        for name in ("server", "north", "south", f"{own}.{JOB}"):
            with plain(port, name) as line:
                assert line.closed()
        for name in ("north", f"{own}.{JOB}"):
            with certified(port, startups["south"], name) as line:
                assert line.closed()
        assert not job.closed(BRIEFLY_S)


@pytest.mark.parametrize(
    ("who", "name"), [("", "server"), ("south", "server"), ("south", "south"), ("server", "server")]
)
def test_a_process_takes_where_it_connects_for_the_server_only_by_the_servers_certificate(
    who: str, name: str, begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        north = begun("north")
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        north.communicator.add_connector(url, Mode.ACTIVE, secure=bool(who))
        other.settimeout(SOON_S)
        connection = other.accept()[0]
        if who:
            context = context_of(startups[who], ssl.PROTOCOL_TLS_SERVER)
            connection = context.wrap_socket(connection, server_side=True)
        with Line(connection, name) as line:
            if who == "server":
                until(lambda: known(north, "server"), SOON_S)
            else:
                assert line.closed()
                assert not known(north, name)


def test_a_message_that_names_an_address_makes_no_process_connect(
    begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    server = begun("server")
    ids = heard(server)
    with (
        socket.create_server(("127.0.0.1", 0)) as trap,
        certified(open_port(server), startups["south"], "south") as south,
    ):
        until(lambda: known(server, "south"), SOON_S)
        url = f"tcp://127.0.0.1:{trap.getsockname()[1]}"
        for kind in ("req", "reply"):
            topic = "challenge" if kind == "req" else "other"
            south.send(message(msg_type=kind, topic=topic, req_id=kind, conn_url=url))
        until(lambda: sorted(ids) == ["reply", "req"], SOON_S)
        trap.settimeout(BRIEFLY_S)
        with pytest.raises(TimeoutError):
            trap.accept()


def test_a_message_counts_for_the_site_whose_connection_brought_it(
    begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    server = begun("server")
    ids = heard(server)
    with certified(open_port(server), startups["south"], "south") as south:
        until(lambda: known(server, "south"), SOON_S)
        for number, origin in enumerate(("north", f"north.{JOB}", "server", ADMINISTRATOR)):
            south.send(message(req_id=f"forged {number}", origin=origin))
        south.send(message(req_id="own", origin=f"south.{JOB}"))
        until(lambda: "own" in ids, SOON_S)
        assert not south.closed(BRIEFLY_S)
    assert ids == ["own"]


@pytest.mark.parametrize("topic", ["challenge", "register"])
def test_only_requests_to_the_server_register_a_process(
    topic: str, begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    server = begun("server")
    ids = heard(server)
    with certified(open_port(server), startups["south"], "south") as south:
        until(lambda: known(server, "south"), SOON_S)
        for changes in ({"msg_type": "reply"}, {"msg_type": "return"}, {"destination": "north"}):
            south.send(message(topic=topic, req_id=str(changes), **changes))
        south.send(message(topic=topic, req_id="asked"))
        until(lambda: "asked" in ids, SOON_S)
        assert not south.closed(BRIEFLY_S)
    assert ids == ["asked"]


def test_a_forged_answer_does_not_take_the_place_of_a_sites(
    begun: Callable[[str], CoreCell], startups: dict[str, Path]
) -> None:
    server = begun("server")
    with (
        certified(open_port(server), startups["north"], "north") as north,
        certified(open_port(server), startups["south"], "south") as south,
    ):
        until(lambda: known(server, "north") and known(server, "south"), SOON_S)
        replies = []

        def ask() -> None:
            replies.append(
                server.send_request("admin", "x", "north", Message({}, b""), SOON_S, optional=True)
            )

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: server.waiters, SOON_S)
        (number,) = server.waiters
        answer = {"msg_type": "reply", "req_id": number, "origin": "north", "return_code": "ok"}
        for changes in ({"topic": "register"}, {"channel": "admin", "topic": "x"}):
            south.send(message(**changes, **answer, error="forged"))
        asking.join(BRIEFLY_S)
        assert asking.is_alive()
        north.send(message(channel="admin", topic="x", **answer, error="true"))
        asking.join(SOON_S)
    assert [reply.get_header("cn__error") for reply in replies] == ["true"]


def test_nobody_is_told_of_a_processs_paths_addresses_and_threads(
    begun: Callable[[str], CoreCell],
) -> None:
    server = begun("server")

    def codes(begin: Any) -> set[str]:
        server.req_reg = Registry()
        begin(object.__new__(NetAgent), server)
        topics = ("conns", "process_info", "config_vars", "comm_config", "peers")
        asked = {
            topic: server.send_request("_net_manager", topic, "server", Message({}, None), SOON_S)
            for topic in topics
        }
        return {reply.get_header("cn__return_code") for reply in asked.values()}

    ours = vars(NetAgent)["__init__"]
    assert codes(ours.__wrapped__) == {"ok"}  # FLARE's own
    assert codes(ours) == {"process_exception"}


@pytest.mark.parametrize(
    ("owner", "method"), sorted({(owner, method) for owner, method, _ in names.CALLS}, key=str)
)
def test_a_flare_that_connects_or_takes_messages_in_another_way_is_not_started(
    owner: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, lambda *_: None)
    before = CoreCell.process_message
    with pytest.raises(RuntimeError, match="others than this package knows; install nvflare"):
        secure_connections()
    assert CoreCell.process_message is before


@pytest.mark.parametrize(
    ("launcher", "module"),
    [
        (ClientProcessJobLauncher, "nvflare.private.fed.app.client.worker_process"),
        (ServerProcessJobLauncher, "nvflare.private.fed.app.server.runner_process"),
    ],
)
def test_a_jobs_process_is_started_by_our_module_and_another_command_not_at_all(
    launcher: type[ProcessJobLauncher], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "get_command", launcher.get_command)
    start_jobs_here(launcher)

    def command(name: str) -> str:
        words = {"exe_module": ("-m", name), "workspace": ("-m", "/kit")}
        context = SimpleNamespace(get_prop=lambda _: words)
        return str(launcher().get_command({}, context)).split(" ", 1)[1]

    assert command(module) == f"-m asyndgan.relay.job {module} -m /kit"
    with pytest.raises(RuntimeError, match="starts jobs in another way"):
        command("elsewhere.process")

"""What a site with a certificate, or an account of its machine, tries at FLARE's processes."""

import re
import socket
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from asyndgan.engines.flare.jobs import Administrator
from asyndgan.engines.flare.keeper import keep_client, keep_server
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.member import read_kit, write_workspace
from asyndgan.errors import SiteUnreachableError
from flare_lines import certified, plain
from waiting import until

LOCAL = re.compile(r"PASSIVE stcp://127\.0\.0\.1:(\d+)")


def local_port(log: Path) -> int:
    """The local port of the FLARE process that writes this log."""
    until(lambda: log.exists() and LOCAL.search(log.read_text()), 60)
    return int(LOCAL.findall(log.read_text())[-1])


def test_nobody_takes_the_place_of_another_site_or_makes_its_process_connect(
    tmp_path: Path,
) -> None:
    made = federation_here(tmp_path / "f", tmp_path / "north", tmp_path / "south")
    south = write_workspace(tmp_path / "south", read_kit(tmp_path / "south")) / "startup"
    administrator = Administrator(made.admin_kit)

    def present() -> tuple[str, ...]:
        try:
            return administrator.present()
        except SiteUnreachableError:
            return ()

    with ExitStack() as ends:
        ends.callback(keep_server(made).close)
        ends.callback(keep_client(tmp_path / "north").close)
        ends.callback(administrator.close)
        until(lambda: present() == ("north",))
        logs = made.server_kit / "log.txt", tmp_path / "north" / "flare" / "log.txt"

        trap = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        line = ends.enter_context(certified(made.port, south, "south"))
        url = f"tcp://127.0.0.1:{trap.getsockname()[1]}"

        def ask(place: str) -> None:
            line.send(
                {
                    "msg_type": "req", "req_id": place, "reply_expected": False, "channel": "task",
                    "topic": "challenge", "origin": "south", "destination": place, "from": "x",
                    "to": "server", "conn_url": url,
                }
            )  # fmt: skip

        def ignored() -> bool:
            ask("server")  # again, since FLARE may handle a message before its sender's name
            return "names an address to connect to; ignored" in logs[0].read_text()

        def dropped() -> int:
            return logs[0].read_text().count("a message by south of 'south' is dropped")

        until(ignored)
        before = dropped()
        ask("north")
        until(lambda: dropped() > before)
        trap.settimeout(3)
        with pytest.raises(TimeoutError):
            trap.accept()

        for name in (
            "north",
            *(f"{whose}{uuid.uuid4()}" for whose in ("north.", "server.", "_admin_")),
        ):
            assert certified(made.port, south, name).closed()
        for port in map(local_port, logs):
            ends.enter_context(plain(port, ""))  # holds nobody up
            for name in ("server", "north", f"north.{uuid.uuid4()}", f"server.{uuid.uuid4()}"):
                assert plain(port, name).closed()
        job = certified(local_port(logs[1]), logs[1].parent / "startup", f"north.{uuid.uuid4()}")
        assert not job.closed(1)
        assert present() == ("north",)
        assert "evicted" not in logs[0].read_text() + logs[1].read_text()

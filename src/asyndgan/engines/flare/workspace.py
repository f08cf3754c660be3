"""The folders on which FLARE's server and clients are started.

FLARE builds objects from what its settings name, so all files come from here, and from data that
was checked. Neither end knows a job: there is nothing that could start one, and nobody may submit.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.flare.member import PROJECT, Member, key_text, read_key
from asyndgan.errors import RunError

FLARE: Final = "flare"  # folder of FLARE's files in that of a site, written anew at every start
HALF: Final = ".flare"  # Folder in which `FLARE` is written, and into which the one before it goes
APP: Final = "asyndgan.engines.flare.app"
HEARTBEAT_S: Final = 30  # seconds without one until the server drops a site; it may return

# FLARE's connections: none between sites, and mutual TLS at local ports too
LINES: Final = {
    "allow_adhoc_conns": False,
    "internal": {
        "scheme": "tcp",
        "resources": {"host": "localhost", "connection_security": "mtls"},
    },
}
# FLARE's defaults would let administrators read files and logs in a kit, and end its processes.
RIGHTS: Final = {"format_version": "1.0", "permissions": {"lead": "none"}}
LOGS: Final = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
    "handlers": {
        "file": {
            "class": "logging.handlers.RotatingFileHandler", "formatter": "plain",
            "filename": "log.txt", "maxBytes": 2**22, "backupCount": 1,
        },
    },
    "root": {"level": "INFO", "handlers": ["file"]},
}  # fmt: skip


def write_workspace(kit: Path, member: Member) -> Path:
    """Writes the folder of a site's client, from its kit and its key; raises `RunError`."""
    settings = {
        "servers": [
            {
                "name": PROJECT,
                "service": {"target": f"{member.host}:{member.port}", "scheme": "grpc"},
                "identity": member.host,
            }
        ],
        "client": {
            "ssl_private_key": "client.key", "ssl_cert": "client.crt",
            "ssl_root_cert": "rootCA.pem", "fqsn": member.name, "is_leaf": True,
            "connection_security": "mtls", "retry_timeout": 30, "compression": "Gzip",
        },
    }  # fmt: skip
    return _written(kit, {
        "startup/fed_client.json": json.dumps({"format_version": 2, **settings}),
        "startup/rootCA.pem": member.root,
        "startup/client.crt": member.certificate,
        "startup/client.key": key_text(read_key(kit)),
    }, "SiteEnd", {})  # fmt: skip


def write_server(federation: Federation) -> Path:
    """Writes the folder of a federation's server, from its certificate and key; raises as above."""
    target = f"{federation.host}:{federation.port}"
    server = {
        "name": PROJECT,
        "service": {"target": target, "scheme": "grpc"},
        "admin_server": federation.host, "admin_port": federation.port,
        "admin_storage": "transfer", "heart_beat_timeout": HEARTBEAT_S,
        "ssl_private_key": "server.key", "ssl_cert": "server.crt", "ssl_root_cert": "rootCA.pem",
        "connection_security": "mtls",
    }  # fmt: skip
    startup = federation.server_kit / "startup"
    try:
        keys = {
            f"startup/{name}": (startup / name).read_text("ascii")
            for name in ("rootCA.pem", "server.crt", "server.key")
        }
    except (OSError, ValueError) as error:
        raise RunError(f"{startup} cannot be read: {error}. Put it back from a copy.") from error
    settings = json.dumps({"format_version": 2, "servers": [server]})
    files = {"startup/fed_server.json": settings, **keys}
    kit, path = federation.server_kit.resolve(), str(federation.path.resolve())
    return _written(kit, files, "ServerEnd", {"federation": path})


def _written(kit: Path, files: Mapping[str, str], end: str, arguments: dict[str, Any]) -> Path:
    """Writes these files and FLARE's settings, in place of the folder before."""
    tables = {
        "resources": {
            "format_version": 2,
            "class_allow_list": [],
            "class_list_enforcement_mode": "enforce",
            "allow_log_streaming": False,
            "components": [{"id": "asyndgan", "path": f"{APP}.{end}", "args": arguments}],
        },
        "log_config": LOGS,
        "authorization": RIGHTS,
        "comm_config": LINES,
    }
    local = {f"local/{name}.json": json.dumps(table) for name, table in tables.items()}
    half, place = kit / HALF, kit / FLARE
    try:
        shutil.rmtree(half, ignore_errors=True)
        for folder in (half, half / "new", half / "new/startup", half / "new/local"):
            folder.mkdir(mode=0o700)
        for name, text in {**files, **local}.items():
            with open(half / "new" / name, "x", encoding="utf-8", opener=_private) as file:
                file.write(text)
        with suppress(FileNotFoundError):
            place.rename(half / "old")
        (half / "new").rename(place)
    except OSError as error:
        raise RunError(
            f"FLARE's files cannot be written to {place}: {error}. Free space."
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return place


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

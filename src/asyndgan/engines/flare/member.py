"""A site's membership: the data that a kit gives, and FLARE's files, which this package writes.

A kit comes from the coordinator, and FLARE builds objects from what its settings name. A site
therefore reads one file of a kit, of data alone, and starts FLARE on a folder of its own.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from asyndgan.errors import RunError
from asyndgan.texts import bounded_text, parsed_json

PROJECT: Final = "asyndgan"
SITE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
HOST_LENGTH: Final = 64
"""Most characters of a host name: the limit of a certificate's common name."""

WORD: Final = re.compile(r"[A-Za-z0-9.+!_-]{1,64}")
"""Matches a package's name and its version."""

CLASSES: Final = [f"asyndgan.relay.flare.{name}" for name in ("CoordinatorRelay", "SiteRelay")]
RIGHTS: Final = {
    "format_version": "1.0",
    "permissions": {
        "lead": {"submit_job": "any", "manage_job": "n:submitter", "view": "any", "byoc": "none"},
        "member": {"view": "any"},
    },
}
"""Permissions at the server and the sites; everything else is refused. FLARE's defaults would let
the coordinator read files and logs in a site's kit and end its processes."""

KIT_FILE: Final = "kit.json"
"""The one file of a kit that is read."""

MOST_BYTES: Final = 2**16
"""Largest size of `KIT_FILE`, in bytes; with RSA keys of 2048 bits it has 4,500."""

FLARE: Final = "flare"
"""The site's folder of FLARE's files, written anew at every start, and of FLARE's log."""

HALF: Final = ".flare"
"""Folder in which `FLARE` is written, and into which the one before it goes."""

DECIDED: Final = ("site.toml", "policy.toml", "records", "runs", FLARE, HALF)
"""Names in the folder of a kit of what decides about a site; no received kit holds any of it."""

OWN: Final = (*DECIDED, ".held", "site.log", "site.log.1")
"""All names that a site writes to in the folder of its kit."""

MOST_ENTRIES: Final = 1000
"""Most files and folders of a received kit; this package's have one."""

MOST_PEM: Final = 4096
"""Most characters of a certificate or key; an RSA key of 4,096 bits has 3,272. To check one of tens
of thousands of bits takes minutes."""

SHOWN: Final = 8
"""Names that are listed of what a kit holds besides."""


@final
@dataclass(frozen=True)
class Member:
    """What a kit gives a site: data alone.

    Attributes:
        name: the site's name.
        host: name by which the site reaches the coordinator.
        port: the coordinator's port.
        versions: the coordinator's versions of the packages that should be equal at both ends.
        root: certificate of the federation's authority, as PEM.
        certificate: the site's certificate, issued by the authority to `name`, as PEM.
        key: the private key of that certificate, as PEM.
    """

    name: str
    host: str
    port: int
    versions: Mapping[str, str]
    root: str
    certificate: str
    key: str = field(repr=False)

    def to_json(self) -> str:
        """Text of `KIT_FILE`."""
        return json.dumps(asdict(self), indent=1)


def read_kit(kit: Path) -> Member:
    """Reads what a kit gives, and nothing else of it.

    Args:
        kit: the folder with `KIT_FILE`.

    Raises:
        RunError: the folder is no kit, its file is not valid, or one of the names that a site
            writes to is a link.
    """
    path = kit / KIT_FILE
    if linked := [name for name in OWN if (kit / name).is_symlink()]:
        raise RunError(
            f"{kit / linked[0]} is a link, and would lead what this site writes elsewhere: remove "
            "the link. To keep a site on another disk, put the whole folder there."
        )
    try:
        return _parsed(parsed_json(bounded_text(path, MOST_BYTES)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{kit} is no site's startup kit: unpack the one that the coordinator sent, and name "
            f"the folder that holds {KIT_FILE}."
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be used: {error}. Ask for another kit.") from error


def _parsed(found: Any) -> Member:
    """Checks every value of `KIT_FILE`; raises `ValueError`, which names no part of the key."""
    keys = [each.name for each in fields(Member)]
    if not isinstance(found, dict) or sorted(found) != sorted(keys):
        raise ValueError(f"it holds other keys than {', '.join(keys)}")
    name, host, port, versions = (found[key] for key in keys[:4])
    if not isinstance(name, str) or not SITE_NAME.fullmatch(name):
        raise ValueError("'name' is no site's name")
    if not isinstance(host, str) or len(host) > HOST_LENGTH or not HOST_NAME.fullmatch(host):
        raise ValueError("'host' is no name of a host")
    if type(port) is not int or not 0 < port < 2**16:
        raise ValueError("'port' is no port")
    if not isinstance(versions, dict) or not all(
        isinstance(word, str) and WORD.fullmatch(word) for pair in versions.items() for word in pair
    ):
        raise ValueError("'versions' are no packages' versions")
    pems = [found[key] for key in keys[4:]]
    if not all(isinstance(pem, str) for pem in pems):
        raise ValueError("its certificates and its key are no texts")
    return Member(name, host, port, versions, *_verified(name, *pems))


def _verified(name: str, root: str, certificate: str, key: str) -> tuple[str, str, str]:
    """Checks that authority, certificate and key belong together; returns them encoded anew."""
    if max(map(len, (root, certificate, key))) > MOST_PEM:
        raise ValueError(f"a certificate or key of more than {MOST_PEM} characters")
    try:
        authority = x509.load_pem_x509_certificate(root.encode())
        own = x509.load_pem_x509_certificate(certificate.encode())
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ValueError("its certificate is not one of its authority") from error
    names = own.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [each.value for each in names] != [name]:
        raise ValueError("its certificate is of another name")
    try:
        # Whether its factors are primes matters to the site alone; checking that takes long.
        private: Any = serialization.load_pem_private_key(
            key.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("its key cannot be read") from None
    if private.public_key() != own.public_key():
        raise ValueError("its key is not that of its certificate")
    pem = serialization.Encoding.PEM
    form, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    made = (
        authority.public_bytes(pem),
        own.public_bytes(pem),
        private.private_bytes(pem, form, open_),
    )
    return made[0].decode(), made[1].decode(), made[2].decode()


def refuse_links(kit: Path) -> None:
    """Refuses a received kit with a link in it, a dangling one too, or a pipe or device.

    Raises:
        RunError: names the first of them; or the kit has more than `MOST_ENTRIES` entries.
    """
    seen, folders = 0, [kit]
    while folders:
        for entry in os.scandir(folders.pop()):
            seen += 1
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise RunError(
                    f"{printable(entry.path)} is a link, or no file. A kit holds data alone: use "
                    f"nothing of this one, ask the coordinator what it is, and for another."
                )
            if seen > MOST_ENTRIES:
                raise RunError(
                    f"{kit} holds more than {MOST_ENTRIES} files. Name the folder of the kit alone."
                )


def not_read(kit: Path) -> str:
    """Names of files in a kit's folder that are no part of a kit; empty if there are none."""
    names = sorted(
        printable(path.name) for path in kit.iterdir() if path.name not in (KIT_FILE, *OWN)
    )
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def printable(name: str) -> str:
    """A name from another party, safe to print on a terminal."""
    return name if name.isprintable() else ascii(name)


def guard(kit: Path) -> None:
    """Makes a kit readable by its owner only: its key, and what the site keeps beside it."""
    kit.chmod(0o700)
    (kit / KIT_FILE).chmod(0o600)


def write_workspace(kit: Path, member: Member) -> Path:
    """Writes the folder on which FLARE's client is started, in place of the one before.

    The files come from this function and the member's data; FLARE sees no other file of the kit's
    folder. The old folder's content is removed.

    Returns:
        The folder.

    Raises:
        RunError: it cannot be written.
    """
    half, place = kit / HALF, kit / FLARE
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        for folder in ("new", "new/startup", "new/local"):
            (half / folder).mkdir(mode=0o700)
        for name, text in _flare_files(member).items():
            with open(half / "new" / name, "x", encoding="utf-8", opener=_private) as file:
                file.write(text)
        with suppress(FileNotFoundError):
            place.rename(half / "old")  # a job that is about to end may still write there
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


def _flare_files(member: Member) -> dict[str, str]:
    """Every file that FLARE's client and its jobs find at a site, by its path in their folder."""
    target = {"target": f"{member.host}:{member.port}", "scheme": "tcp"}
    client = {
        "ssl_private_key": "client.key", "ssl_cert": "client.crt", "ssl_root_cert": "rootCA.pem",
        "fqsn": member.name, "is_leaf": True, "connection_security": "mtls",
    }  # fmt: skip
    startup = {
        "format_version": 2,
        "servers": [{"name": PROJECT, "service": target, "identity": member.host}],
        "client": client,
    }
    manager, consumer, launcher = (
        f"nvflare.app_common.{path}"
        for path in (
            "resource_managers.gpu_resource_manager.GPUResourceManager",
            "resource_consumers.gpu_resource_consumer.GPUResourceConsumer",
            "job_launcher.client_process_launcher.ClientProcessJobLauncher",
        )
    )
    none = {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300}
    resources = {
        "format_version": 2,
        "class_allow_list": CLASSES,
        "class_list_enforcement_mode": "enforce",
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "compression": "Gzip"},
        "components": [
            {"id": "resource_manager", "path": manager, "args": none},
            {"id": "resource_consumer", "path": consumer, "args": {}},
            {"id": "process_launcher", "path": launcher, "args": {}},
        ],
    }
    to_file = {
        "class": "logging.handlers.RotatingFileHandler", "formatter": "plain",
        "filename": "log.txt", "maxBytes": 2**22, "backupCount": 1,
    }  # fmt: skip
    logs = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
        "handlers": {"file": to_file},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
    tables = {
        "startup/fed_client.json": startup,
        "local/resources.json": resources,
        "local/log_config.json": logs,
        "local/authorization.json": RIGHTS,
    }
    return {name: json.dumps(table, indent=1) for name, table in tables.items()} | {
        "startup/rootCA.pem": member.root,
        "startup/client.crt": member.certificate,
        "startup/client.key": member.key,
    }

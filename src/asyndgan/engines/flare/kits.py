"""A federation, and the kits of those whose certificates its authority signs.

A site makes its key itself and sends a request; its kit is one file without a secret (`member`).
The coordinator's two kits are made by FLARE's provisioning, and tightened.
"""

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import Any, Final, Self, final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from asyndgan.engines.flare.member import (
    CLASSES,
    HOST_LENGTH,
    HOST_NAME,
    LINES,
    PROJECT,
    RIGHTS,
    Member,
    Request,
)
from asyndgan.engines.flare.sealing import key_digest
from asyndgan.errors import RunError
from asyndgan.texts import append, replace_text, storing

MEMBER_DAYS: Final = 360  # days for which a certificate is valid, if the authority's is
SUBMITTER: Final = "coordinator@asyndgan.local"
VALID_DAYS: Final = 3 * 365  # Days for which the authority's certificate is valid
STORE: Final = "store"  # Folder in the server's kit in which FLARE keeps its jobs
REMOVED: Final = "removed"  # file of a federation: SHA-256 of the keys of removed sites
HEARTBEAT_S: Final = 30  # seconds without one until the server drops a site; it may return


@final
@dataclass(frozen=True)
class Federation:
    """A federation, kept in a folder on the coordinator's machine."""

    path: Path  # folder that holds everything; the key in `provisioning` can create new members
    host: str  # name by which sites reach the coordinator
    port: int  # the one port at which sites reach the coordinator
    sites: tuple[str, ...]  # names of the sites that have kits

    @property
    def server_kit(self) -> Path:
        """Startup kit of FLARE's server."""
        return self.path / "server"

    @property
    def admin_kit(self) -> Path:
        """Startup kit of the coordinator, who submits jobs."""
        return self.path / "coordinator"

    def kit(self, site: str) -> Path:
        """The kit to send to a site."""
        return self.path / "kits" / f"{site}.json"

    @property
    def safety_number(self) -> str:
        """What the administrators of its sites see too."""
        return _member(self, "", "").federation

    @classmethod
    def of(cls, path: Path) -> Self:
        """The federation made in a folder; raises `RunError` if the folder holds none."""
        try:
            tables = tomllib.loads((path / "federation.toml").read_text("utf-8"))
            return cls(path, tables["host"], tables["port"], tuple(tables["sites"]))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path} is no federation; make one with 'asyndgan federation init "
                f"{quote(str(path))} --host HOST'."
            ) from error


@final
@dataclass(frozen=True)
class Authority:
    """Who signs all certificates of a federation; FLARE's provisioning has made it."""

    certificate: x509.Certificate  # of the authority itself
    key: Any  # its private key

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The authority of a federation's folder; raises `RunError` if its file cannot be used."""
        path = folder / "provisioning" / PROJECT / "state" / "cert.json"
        with _as_it_was(path):
            known = json.loads(path.read_text())
            root = x509.load_pem_x509_certificate(known["root_cert"].encode())
            key = known["root_pri_key"].encode()
            return cls(root, serialization.load_pem_private_key(key, password=None))

    def sign(self, key: Any, name: str, role: str = "") -> str:
        """A certificate (PEM) of a public key; raises `RunError` if the authority's has expired."""
        from nvflare.lighter.utils import Identity, generate_cert, serialize_cert  # slow to import

        now, end = datetime.now(UTC), self.certificate.not_valid_after_utc
        if end <= now:
            raise RunError(
                f"the authority that signs all certificates expired on {end:%Y-%m-%d}. Make a new "
                "federation with 'asyndgan federation init NEW --host HOST'."
            )
        made = generate_cert(
            Identity(name, PROJECT, role), Identity(PROJECT), self.key, key,
            server_default_host=name, not_valid_before=now,
            not_valid_after=min(now + timedelta(days=MEMBER_DAYS), end),
        )  # fmt: skip
        return str(serialize_cert(made).decode())


def init_federation(path: Path, *, host: str, port: int) -> Federation:
    """Makes a federation without sites: its authority, and the coordinator's kits.

    Raises `RunError` if the folder is not empty, its path or a name is not valid, or FLARE cannot.
    """
    if path.exists() and any(path.iterdir()):
        raise RunError(f"{path} is not empty; choose another folder, or add sites to it.")
    plain(path)
    if len(host) > HOST_LENGTH or not HOST_NAME.fullmatch(host):
        raise RunError(
            f"'{host}' is no name of a host: letters, digits, dots and hyphens, at most "
            f"{HOST_LENGTH} of them. Give --host the name alone, and the port with --port."
        )
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    federation = Federation(path, host, port, ())
    try:
        with storing(path):
            _provision(federation)
            _describe(federation)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a federation, with keys
        raise
    return federation


def add_site(federation: Federation, request: Request) -> Federation:
    """Signs a site's request, whose safety number was compared, and makes its kit.

    Raises `RunError` if its name or its key belongs to another member, or its key was removed.
    """
    site = request.name
    others = (*federation.sites, federation.host)
    taken = [name for name in others if name.casefold() == site.casefold()]
    if taken:
        raise RunError(
            f"the name {taken[0]} is taken by a site or the coordinator's host; capitals do not "
            "tell two apart. Have the site take another name or, if this is the same site with "
            f"another key, call 'asyndgan federation remove {quote(str(federation.path))} "
            f"{taken[0]}' first."
        )
    same = [name for name in federation.sites if key_of(federation, name) == request.key]
    if same or key_digest(request.key) in _removed(federation):
        whose = f"is that of site {same[0]}" if same else "was removed from this federation"
        raise RunError(
            f"the key of this request {whose}. {site} has to make another: remove site.key there, "
            f"and call 'asyndgan site request {site}' again."
        )
    certificate = Authority.of(federation.path).sign(request.key, site)
    more = replace(federation, sites=(*federation.sites, site))
    _write_kit(more, site, certificate)
    _describe(more)
    return more


def remove_site(federation: Federation, site: str) -> Federation:
    """Excludes a site, and its key, from all runs; raises `RunError` if the site has no kit."""
    if site not in federation.sites:
        raise RunError(f"there is no kit for {site}; there are for {', '.join(federation.sites)}.")
    less = replace(federation, sites=tuple(name for name in federation.sites if name != site))
    append(federation.path / REMOVED, f"{key_digest(key_of(federation, site))}\n".encode())
    _describe(less)
    for path in (federation.kit(site), _certificate(federation, site)):
        path.unlink(missing_ok=True)
    return less


def renew(federation: Federation) -> None:
    """Renews all certificates, for the same keys; those sent earlier stay valid."""
    authority = Authority.of(federation.path)
    for path, name, role in (
        (federation.server_kit / "startup" / "server.crt", federation.host, ""),
        (federation.admin_kit / "startup" / "client.crt", SUBMITTER, "lead"),
    ):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        replace_text(path, authority.sign(certificate.public_key(), name, role), mode=0o600)
    for site in federation.sites:
        _write_kit(federation, site, authority.sign(key_of(federation, site), site))


def key_of(federation: Federation, site: str) -> Any:
    """The public key of a site; raises `RunError` if its certificate cannot be read."""
    path = _certificate(federation, site)
    with _as_it_was(path):
        return x509.load_pem_x509_certificate(path.read_bytes()).public_key()


def _removed(federation: Federation) -> frozenset[str]:
    """Digests of the keys of removed sites."""
    path = federation.path / REMOVED
    return frozenset(path.read_text("ascii").split() if path.exists() else ())


def plain(path: Path) -> Path:
    """Resolves a path; raises `RunError` if it needs quotes, which FLARE does not write."""
    return unquoted(path.resolve())


def unquoted(path: Path) -> Path:
    """Returns a path that needs no quotes; raises as `plain`."""
    if re.search(r"[\s'\"\\$`;&|<>*?()\[\]{}]", str(path)):
        raise RunError(
            f"FLARE starts no jobs by '{path}': choose a path without spaces, quotes, brackets or "
            "other characters that mean something to a shell."
        )
    return path


def _provision(federation: Federation) -> None:
    """Makes the authority and the coordinator's two kits, with their keys."""
    # Slow to import; only a new federation needs them.
    from nvflare.lighter.entity import Project
    from nvflare.lighter.impl.cert import CertBuilder
    from nvflare.lighter.impl.static_file import StaticFileBuilder
    from nvflare.lighter.impl.workspace import WorkspaceBuilder
    from nvflare.lighter.provisioner import Provisioner

    root = federation.path / "provisioning"
    said = StringIO()
    try:
        project = Project(PROJECT, "")
        project.set_server(federation.host, PROJECT, {"fed_learn_port": federation.port})
        project.add_admin(SUBMITTER, PROJECT, {"role": "lead"})
        builders = [
            WorkspaceBuilder(),
            StaticFileBuilder(config_folder="config", scheme="grpc"),
            CertBuilder(root_valid_days=VALID_DAYS),
        ]
        with redirect_stdout(said), redirect_stderr(said), _for_its_owner():
            context = Provisioner(str(root), builders).provision(project)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"FLARE cannot make the kits: {error}.") from error
    made = context.get("current_prod_dir")
    if context.get("build_error") or not made:
        if number := re.search(r"\[Errno (\d+)\]", said.getvalue()):  # a full disk
            raise OSError(int(number[1]), os.strerror(int(number[1])))
        raise RunError(f"FLARE cannot make the kits: {said.getvalue().strip()}.")
    for name, place in (
        (federation.host, federation.server_kit), (SUBMITTER, federation.admin_kit)
    ):  # fmt: skip
        _narrow(Path(made) / name)
        shutil.move(Path(made) / name, place)
    shutil.rmtree(made)


@contextmanager
def _for_its_owner() -> Iterator[None]:
    """Nobody else may read what is written meanwhile, such as the authority's key."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _write_kit(federation: Federation, site: str, certificate: str) -> None:
    signed = _certificate(federation, site)  # kept, for the kit may be moved to where it is sent
    for path, text in (
        (signed, certificate),
        (federation.kit(site), _member(federation, site, certificate).to_json()),
    ):
        path.parent.mkdir(exist_ok=True)
        replace_text(path, text)


def _certificate(federation: Federation, site: str) -> Path:
    return federation.path / "sites" / f"{site}.crt"


def _member(federation: Federation, site: str, certificate: str) -> Member:
    root = (federation.server_kit / "startup" / "rootCA.pem").read_text("ascii")
    return Member(site, federation.host, federation.port, versions(), root, certificate)


def _describe(federation: Federation) -> None:
    names = ", ".join(f'"{site}"' for site in federation.sites)
    replace_text(
        federation.path / "federation.toml",
        f'host = "{federation.host}"\nport = {federation.port}\nsites = [{names}]\n',
    )


def _narrow(kit: Path) -> None:
    """Tightens the coordinator's settings: our app only, no code in jobs, no logs to others."""
    local = kit / "local"
    resources = _read(local / "resources.json.default")
    resources["class_allow_list"] = CLASSES
    resources["class_list_enforcement_mode"] = "enforce"
    resources["allow_log_streaming"] = False
    components = [each for each in resources.get("components", []) if each["id"] != "log_receiver"]
    for component in components:
        if component["id"] == "job_scheduler":
            component["args"]["max_jobs"] = 1000  # one per site
    resources["components"] = components
    for server in resources.get("servers", []):
        server["heart_beat_timeout"] = HEARTBEAT_S
    _write(local / "resources.json", resources)
    _write(local / "comm_config.json", LINES)
    if (local / "authorization.json.default").exists():
        _write(local / "authorization.json", RIGHTS)


def versions() -> dict[str, str]:
    """Versions of the packages that should be equal at both ends."""
    return {name: version(name) for name in ("asyndgan", "nvflare")}


def keep_inside(kit: Path) -> None:
    """Makes FLARE's server keep its jobs in its kit, not in a shared folder of the machine."""
    path = kit / "local" / "resources.json"
    resources = _read(path)
    store = kit.resolve() / STORE
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(
        store / "snapshots"
    )
    for component in resources["components"]:
        if component["id"] == "job_manager":
            component["args"]["uri_root"] = str(store / "jobs")
    _write(path, resources)


def _read(path: Path) -> Any:
    with _as_it_was(path):
        return json.loads(path.read_text())


@contextmanager
def _as_it_was(path: Path) -> Iterator[None]:
    """Turns errors while a file of the federation is read into a `RunError`; it may hold keys."""
    try:
        yield
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        raise RunError(
            f"{path} is missing, or not as it was written. Put it back from a copy of the "
            "federation's folder."
        ) from None


def _write(path: Path, content: Any) -> None:
    """Writes a file atomically: some of these files hold keys that cannot be made again."""
    replace_text(path, json.dumps(content, indent=1), mode=0o600)

"""Identities: a federation's startup kits, made by FLARE's own provisioning.

A site's kit is one file of data: where the coordinator is, certificates, the site's key. FLARE's
settings at a site are the site's own (`asyndgan.engines.flare.member`). Those of the coordinator's
two kits are FLARE's, tightened: jobs may name only our two relay classes and may bring no code.
"""

import json
import os
import re
import shutil
import tomllib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import Any, Final, Self, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from asyndgan.engines.flare.member import (
    CLASSES,
    HOST_LENGTH,
    HOST_NAME,
    KIT_FILE,
    PROJECT,
    RIGHTS,
    SITE_NAME,
    Member,
)
from asyndgan.errors import RunError
from asyndgan.texts import replace_text, storing

SUBMITTER: Final = "coordinator@asyndgan.local"
VALID_DAYS: Final = 3 * 365

STORE: Final = "store"
"""Folder in the server's kit in which FLARE keeps its jobs."""

HEARTBEAT_S: Final = 30
"""Seconds without a heartbeat after which the server drops a site; it may come back."""


@final
@dataclass(frozen=True)
class Federation:
    """A federation, kept in a folder on the coordinator's machine.

    Attributes:
        path: folder that holds everything; the keys in `provisioning` can create new members.
        host: name by which sites reach the coordinator.
        port: the one port at which sites reach the coordinator.
        sites: names of the sites that have kits.
    """

    path: Path
    host: str
    port: int
    sites: tuple[str, ...]

    @property
    def server_kit(self) -> Path:
        """Startup kit of FLARE's server."""
        return self.path / "server"

    @property
    def admin_kit(self) -> Path:
        """Startup kit of the coordinator, who submits jobs."""
        return self.path / "coordinator"

    @property
    def kits(self) -> Path:
        """Folder of the kits to send to the sites, NAME.zip for each."""
        return self.path / "kits"

    @classmethod
    def of(cls, path: Path) -> Self:
        """Opens a federation that `init_federation` made.

        Raises:
            RunError: the folder holds no federation.
        """
        try:
            tables = tomllib.loads((path / "federation.toml").read_text("utf-8"))
            return cls(path, tables["host"], tables["port"], tuple(tables["sites"]))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path} is no federation; make one with 'asyndgan federation init "
                f"{quote(str(path))} --host NAME --site NAME ...'."
            ) from error


def init_federation(path: Path, *, host: str, port: int, sites: tuple[str, ...]) -> Federation:
    """Makes identities and startup kits for a coordinator and its sites.

    Raises:
        RunError: the folder is not empty, its path has spaces or quotes, a name is not valid, or
            FLARE cannot make the kits.
    """
    if path.exists() and any(path.iterdir()):
        raise RunError(f"{path} is not empty; choose another folder, or add sites to it.")
    plain(path)
    if len(host) > HOST_LENGTH or not HOST_NAME.fullmatch(host):
        raise RunError(
            f"'{host}' is no name of a host: letters, digits, dots and hyphens, at most "
            f"{HOST_LENGTH} of them. Give --host the name alone, and the port with --port."
        )
    _check_names(sites, host)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    federation = Federation(path, host, port, sites)
    try:
        with storing(path):
            _provision(federation, sites)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a federation, with keys
        raise
    return federation


def add_site(federation: Federation, site: str) -> Federation:
    """Makes a kit for one more site; kits sent earlier stay valid.

    Raises:
        RunError: the site has a kit already, its name is not valid, or FLARE cannot make the kit.
    """
    if site in federation.sites:
        raise RunError(f"there is a kit for {site} already: {federation.kits / site}.zip.")
    _check_names((*federation.sites, site), federation.host)
    more = replace(federation, sites=(*federation.sites, site))
    _provision(more, [site])
    return more


def remove_site(federation: Federation, site: str) -> Federation:
    """Excludes a site from all runs, from the next time its members are checked.

    Its certificate stays valid until it expires, since FLARE cannot revoke a kit: the site can
    still connect, but is sent no requests. If it is added again it gets a new key; the old kit then
    works again as well.

    Raises:
        RunError: the site has no kit.
    """
    if site not in federation.sites:
        raise RunError(f"there is no kit for {site}; there are for {', '.join(federation.sites)}.")
    less = replace(federation, sites=tuple(name for name in federation.sites if name != site))
    _forget(federation, [site])
    (federation.kits / f"{site}.zip").unlink(missing_ok=True)
    _describe(less)
    return less


def renew(federation: Federation) -> None:
    """Renews all certificates and kits under the same authority; those sent earlier stay valid.

    All sites get new keys. The server keeps its key, because it signs what identifies connected
    sites: with another key, each site would have to be started again.

    Raises:
        RunError: FLARE cannot make the kits, or the authority's file cannot be used.
    """
    known = _read(_identities(federation))
    try:
        own = x509.load_pem_x509_certificate(known[federation.host]["cert"].encode())
        root = x509.load_pem_x509_certificate(known["root_cert"].encode())
        key = serialization.load_pem_private_key(known["root_pri_key"].encode(), password=None)
        known[federation.host]["cert"] = _prolonged(own, root, key)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{_identities(federation)} is not as FLARE's provisioning left it. Put it back from a "
            "copy of the federation's folder."
        ) from error
    _write(_identities(federation), known)
    _forget(federation, [SUBMITTER, *federation.sites])
    _provision(federation, federation.sites)


def _prolonged(own: x509.Certificate, root: x509.Certificate, key: Any) -> str:
    """The same certificate with as many days from now, as PEM; it ends with the root's at last."""
    now = datetime.now(UTC)
    end = min(now + (own.not_valid_after_utc - own.not_valid_before_utc), root.not_valid_after_utc)
    made = x509.CertificateBuilder(
        own.issuer, own.subject, own.public_key(), x509.random_serial_number(), now, end,
        list(own.extensions),
    )  # fmt: skip
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _identities(federation: Federation) -> Path:
    """Where FLARE's provisioning keeps all keys and certificates."""
    return federation.path / "provisioning" / PROJECT / "state" / "cert.json"


def _forget(federation: Federation, names: Iterable[str]) -> None:
    """Makes FLARE's provisioning give these names new keys and certificates the next time."""
    known = _read(_identities(federation))
    for name in names:
        known.pop(name, None)
    _write(_identities(federation), known)


def plain(path: Path) -> Path:
    """Resolves a path and checks that FLARE can start jobs in it; FLARE does not quote paths.

    Raises:
        RunError: the path contains white space, quotes or other characters special to a shell.
    """
    return unquoted(path.resolve())


def unquoted(path: Path) -> Path:
    """Returns a path that needs no quotes; raises as `plain`."""
    if re.search(r"[\s'\"\\$`;&|<>*?()\[\]{}]", str(path)):
        raise RunError(
            f"FLARE starts no jobs by '{path}': choose a path without spaces, quotes, brackets or "
            "other characters that mean something to a shell."
        )
    return path


def _check_names(sites: tuple[str, ...], host: str) -> None:
    for site in sites:
        if not SITE_NAME.fullmatch(site) or site in ("server", PROJECT, host):
            raise RunError(
                f"'{site}' cannot be a site's name: letters, digits, '-' and '_', at most 48, and "
                f"not 'server', '{PROJECT}' or the host's name."
            )
    if len({site.casefold() for site in sites}) < len(sites):
        raise RunError("a site is named twice; capitals do not tell two sites apart.")


def _provision(federation: Federation, sent: Collection[str]) -> None:
    """Makes what is missing, and the kits of the sites that are to be sent one."""
    # Slow to import; only kits need them.
    from nvflare.lighter.entity import Project
    from nvflare.lighter.impl.cert import CertBuilder
    from nvflare.lighter.impl.signature import SignatureBuilder
    from nvflare.lighter.impl.static_file import StaticFileBuilder
    from nvflare.lighter.impl.workspace import WorkspaceBuilder
    from nvflare.lighter.provisioner import Provisioner

    root = federation.path / "provisioning"
    said = StringIO()
    try:
        project = Project(PROJECT, "")
        project.set_server(federation.host, PROJECT, {"fed_learn_port": federation.port})
        for site in federation.sites:
            project.add_client(site, PROJECT, {})
        project.add_admin(SUBMITTER, PROJECT, {"role": "lead"})
        builders = [
            WorkspaceBuilder(),
            StaticFileBuilder(config_folder="config", scheme="tcp"),
            CertBuilder(root_valid_days=VALID_DAYS),
            SignatureBuilder(),
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
    made = Path(made)
    _adopt(made / federation.host, federation.server_kit)
    _adopt(made / SUBMITTER, federation.admin_kit)
    federation.kits.mkdir(exist_ok=True)
    for site in federation.sites:
        kit = federation.kits / f"{site}.zip"
        if site in sent or not kit.exists():
            _pack(federation, site, made / site / "startup").replace(kit)
    shutil.rmtree(made)
    _describe(federation)


@contextmanager
def _for_its_owner() -> Iterator[None]:
    """Nobody else may read what is written meanwhile, such as the authority's key."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _pack(federation: Federation, site: str, startup: Path) -> Path:
    """Archives what a site is sent; returns the archive, beside FLARE's kit of the site."""
    pems = [(startup / name).read_text() for name in ("rootCA.pem", "client.crt", "client.key")]
    member = Member(site, federation.host, federation.port, versions(), *pems)
    folder = startup.parent / "sent" / site
    folder.mkdir(parents=True)
    replace_text(folder / KIT_FILE, member.to_json(), mode=0o600)
    made = Path(shutil.make_archive(str(folder), "zip", folder.parent, site))
    made.chmod(0o600)
    return made


def _describe(federation: Federation) -> None:
    names = ", ".join(f'"{site}"' for site in federation.sites)
    replace_text(
        federation.path / "federation.toml",
        f'host = "{federation.host}"\nport = {federation.port}\nsites = [{names}]\n',
    )


def _adopt(made: Path, place: Path) -> None:
    """Puts a kit of the coordinator in place; of an existing one only `startup` is renewed."""
    if place.exists():
        shutil.copytree(made / "startup", place / "startup", dirs_exist_ok=True)
    else:
        _narrow(made)
        shutil.move(made, place)


def _narrow(kit: Path) -> None:
    """Tightens the coordinator's settings: our relays only, no code in jobs, no logs to others."""
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
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Put it back from a copy of the federation's folder."
        ) from error


def _write(path: Path, content: Any) -> None:
    """Writes a file atomically: some of these files hold keys that cannot be made again."""
    replace_text(path, json.dumps(content, indent=1), mode=0o600)

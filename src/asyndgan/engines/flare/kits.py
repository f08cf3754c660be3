"""Identities: a federation's startup kits, made by FLARE's own provisioning.

A kit holds a certificate and its private key, FLARE's settings, and nothing of ours. Settings are
narrowed down: jobs may name no class but our two relays, may bring no code, nobody has a shell at a
site, and no log of a site is streamed to the server (FLARE's default is to stream its errors, which
may name files).
"""

import json
import re
import shutil
import tomllib
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, Final, Self, final

from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.signature import SignatureBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

from asyndgan.errors import RunError
from asyndgan.texts import replace_text

PROJECT: Final = "asyndgan"
SUBMITTER: Final = "coordinator@asyndgan.local"
VALID_DAYS: Final = 3 * 365
RUN_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
"""Of a run in a federation: sites name a folder after it."""

SITE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
HOST_LENGTH: Final = 64
"""Of a certificate's name."""

CLASSES: Final = [f"asyndgan.relay.flare.{name}" for name in ("CoordinatorRelay", "SiteRelay")]
RIGHTS: Final = {
    "format_version": "1.0",
    "permissions": {
        "lead": {"submit_job": "any", "manage_job": "n:submitter", "view": "any", "byoc": "none"},
        "member": {"view": "any"},
    },
}
"""Who may do what at the server and at the sites, everything else refused: FLARE's defaults let the
coordinator read files and logs of a site's kit and end its processes."""

VERSIONS_FILE: Final = "versions.json"
"""In a kit: what the coordinator had when it made it."""

HEARTBEAT_S: Final = 30
"""After so many seconds without a sign of life the server forgets a site; it may come back."""


@final
@dataclass(frozen=True)
class Federation:
    """A folder on the coordinator's machine.

    Attributes:
        path: holds everything; the keys in `provisioning` can make members.
        host: name by which sites reach the coordinator.
        port: the one port that they reach it at.
        sites: whom there are kits for.
    """

    path: Path
    host: str
    port: int
    sites: tuple[str, ...]

    @property
    def server_kit(self) -> Path:
        """Of FLARE's server."""
        return self.path / "server"

    @property
    def admin_kit(self) -> Path:
        """Of the coordinator, who submits jobs."""
        return self.path / "coordinator"

    @property
    def kits(self) -> Path:
        """What is sent to the sites: NAME.zip each."""
        return self.path / "kits"

    @classmethod
    def of(cls, path: Path) -> Self:
        """A federation that `init_federation` made.

        Raises:
            RunError: there is none.
        """
        try:
            tables = tomllib.loads((path / "federation.toml").read_text("utf-8"))
            return cls(path, tables["host"], tables["port"], tuple(tables["sites"]))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path} is no federation; make one with 'asyndgan federation init {path} --host "
                "NAME --site NAME ...'."
            ) from error


def init_federation(path: Path, *, host: str, port: int, sites: tuple[str, ...]) -> Federation:
    """Makes identities and startup kits for a coordinator and its sites.

    Args:
        path: a new folder.
        host: name by which sites reach the coordinator.
        port: that they reach it at.
        sites: their names.

    Raises:
        RunError: the folder is not empty, or FLARE does not take a name.
    """
    if path.exists() and any(path.iterdir()):
        raise RunError(f"{path} is not empty; choose another folder, or add sites to it.")
    plain(path)
    if not 0 < len(host) <= HOST_LENGTH:
        raise RunError(f"'{host}' is no name of a host, of at most {HOST_LENGTH} letters.")
    _check_names(sites, host)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    federation = Federation(path, host, port, sites)
    _provision(federation)
    return federation


def add_site(federation: Federation, site: str) -> Federation:
    """Makes one more kit; those that were sent stay valid.

    Raises:
        RunError: there is one already, or FLARE does not take the name.
    """
    if site in federation.sites:
        raise RunError(f"there is a kit for {site} already: {federation.kits / site}.zip.")
    _check_names((site,), federation.host)
    more = replace(federation, sites=(*federation.sites, site))
    _provision(more)
    return more


def remove_site(federation: Federation, site: str) -> Federation:
    """Leaves a site out of all runs, from the next look at who is there on.

    Its certificate stays valid until it expires, since FLARE knows no revocation of a kit: it can
    connect, and is asked nothing.

    Raises:
        RunError: there is no kit for it.
    """
    if site not in federation.sites:
        raise RunError(f"there is no kit for {site}; there are for {', '.join(federation.sites)}.")
    less = replace(federation, sites=tuple(name for name in federation.sites if name != site))
    _describe(less)
    (federation.kits / f"{site}.zip").unlink(missing_ok=True)
    return less


def renew(federation: Federation) -> None:
    """Makes certificates and kits anew, of the same authority: those that were sent stay valid.

    Raises:
        RunError: FLARE cannot.
    """
    state = federation.path / "provisioning" / PROJECT / "state" / "cert.json"
    known = _read(state)
    for name in (federation.host, SUBMITTER, *federation.sites):
        known.pop(name, None)
    _write(state, known)
    _provision(federation, anew=True)


def plain(path: Path) -> Path:
    """A resolved path that FLARE can start its jobs in: it does not quote.

    Raises:
        RunError: it has white space or quotes in it.
    """
    found = path.resolve()
    if re.search(r"[\s'\"\\$`;&|<>*?()]", str(found)):
        raise RunError(
            f"FLARE starts no jobs in '{found}': choose a path without spaces or quotes."
        )
    return found


def guard(kit: Path) -> None:
    """Nobody but its owner sees what is in a kit: its key, and what the site keeps beside it."""
    kit.chmod(0o700)
    for key in (kit / "startup").glob("*.key"):
        key.chmod(0o600)


def _check_names(sites: tuple[str, ...], host: str) -> None:
    for site in sites:
        if not SITE_NAME.fullmatch(site) or site in ("server", PROJECT, host):
            raise RunError(
                f"'{site}' cannot be a site's name: letters, digits, '-' and '_', at most 48, and "
                f"not 'server', '{PROJECT}' or the host's name."
            )
    if len(set(sites)) < len(sites):
        raise RunError("a site is named twice.")


def _provision(federation: Federation, *, anew: bool = False) -> None:
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
        with redirect_stdout(said):
            context = Provisioner(str(root), builders).provision(project)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"FLARE cannot make the kits: {error}.") from error
    made = context.get("current_prod_dir")
    if context.get("build_error") or not made:
        raise RunError(f"FLARE cannot make the kits: {said.getvalue().strip()}.")
    made = Path(made)
    _adopt(made / federation.host, federation.server_kit)
    _adopt(made / SUBMITTER, federation.admin_kit)
    federation.kits.mkdir(exist_ok=True)
    for site in federation.sites:
        if anew or not (federation.kits / f"{site}.zip").exists():
            _narrow(made / site)
            _write(made / site / VERSIONS_FILE, versions())
            shutil.make_archive(str(federation.kits / site), "zip", made, site)
            (federation.kits / f"{site}.zip").chmod(0o600)
    shutil.rmtree(made)
    _describe(federation)


def _describe(federation: Federation) -> None:
    names = ", ".join(f'"{site}"' for site in federation.sites)
    replace_text(
        federation.path / "federation.toml",
        f'host = "{federation.host}"\nport = {federation.port}\nsites = [{names}]\n',
    )


def _adopt(made: Path, place: Path) -> None:
    """The coordinator's own kits stay where they are; certificates are those of now."""
    if place.exists():
        shutil.copytree(made / "startup", place / "startup", dirs_exist_ok=True)
    else:
        _narrow(made)
        shutil.move(made, place)


def _narrow(kit: Path) -> None:
    """Settings of a kit: our relays only, no code in jobs, no logs to others."""
    local = kit / "local"
    resources = _read(local / "resources.json.default")
    resources["class_allow_list"] = CLASSES
    resources["class_list_enforcement_mode"] = "enforce"
    resources["allow_log_streaming"] = False
    components = [
        each
        for each in resources.get("components", [])
        if each["id"] not in ("site_log_streamer", "log_receiver")
    ]
    for component in components:
        if component["id"] == "job_scheduler":
            component["args"]["max_jobs"] = 1000  # one a site
    resources["components"] = components
    for server in resources.get("servers", []):
        server["heart_beat_timeout"] = HEARTBEAT_S
    _write(local / "resources.json", resources)
    if (local / "authorization.json.default").exists():
        _write(local / "authorization.json", RIGHTS)


def versions() -> dict[str, str]:
    """Of what both ends should have alike."""
    return {name: version(name) for name in ("asyndgan", "nvflare")}


def keep_inside(kit: Path) -> None:
    """Has FLARE's server keep its jobs in its kit, and not in a folder of the machine's."""
    path = kit / "local" / "resources.json"
    resources = _read(path)
    store = kit.resolve() / "store"
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
    """As a whole: some of these files hold keys that nobody can make again."""
    try:
        replace_text(path, json.dumps(content, indent=1), mode=0o600)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}. The old one is unchanged.") from error

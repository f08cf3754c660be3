"""A federation, and the kits of those whose certificates its authority signs.

A site makes its key itself and sends a request; its kit is one file without a secret (`member`).
"""

import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any, Final, Self, final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from asyndgan.engines.flare.member import (
    HOST_LENGTH,
    HOST_NAME,
    PROJECT,
    Member,
    Request,
    key_text,
    new_key,
)
from asyndgan.engines.flare.sealing import key_digest
from asyndgan.errors import RunError
from asyndgan.texts import append, replace_text, storing

MEMBER_DAYS: Final = 360  # days for which a certificate is valid, if the authority's is
SUBMITTER: Final = "coordinator@asyndgan.local"
VALID_DAYS: Final = 3 * 365  # Days for which the authority's certificate is valid
REMOVED: Final = "removed"  # file of a federation: SHA-256 of the keys of removed sites


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
        """Key and certificate of FLARE's server, and its folder."""
        return self.path / "server"

    @property
    def admin_kit(self) -> Path:
        """Key and certificate of the coordinator, who signs letters."""
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


def _signed(federation: Federation, key: Any, name: str, role: str = "") -> str:
    """A certificate (PEM) of a public key; raises `RunError` if the authority's has expired."""
    from nvflare.lighter.utils import Identity, generate_cert, serialize_cert  # slow to import

    with _as_it_was(path := _authority(federation)):
        known = json.loads(path.read_text())
        root = x509.load_pem_x509_certificate(known["root_cert"].encode())
        signer = serialization.load_pem_private_key(known["root_pri_key"].encode(), password=None)
    now, end = datetime.now(UTC), root.not_valid_after_utc
    if end <= now:
        raise RunError(
            f"the authority that signs all certificates expired on {end:%Y-%m-%d}. Make a new "
            "federation with 'asyndgan federation init NEW --host HOST'."
        )
    made = generate_cert(
        Identity(name, PROJECT, role), Identity(PROJECT), signer, key,
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
            _make_keys(federation)
            renew(federation)
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
    path = federation.path / REMOVED  # digests of the keys of removed sites
    removed = path.read_text("ascii").split() if path.exists() else ()
    if same or key_digest(request.key) in removed:
        whose = f"is that of site {same[0]}" if same else "was removed from this federation"
        raise RunError(
            f"the key of this request {whose}. {site} has to make another: remove site.key there, "
            f"and call 'asyndgan site request {site}' again."
        )
    certificate = _signed(federation, request.key, site)
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
    for path, name, role in (
        (federation.server_kit / "startup" / "server.key", federation.host, ""),
        (federation.admin_kit / "startup" / "client.key", SUBMITTER, "lead"),
    ):
        with _as_it_was(path):
            key: Any = serialization.load_pem_private_key(path.read_bytes(), password=None)
        certificate = _signed(federation, key.public_key(), name, role)
        replace_text(path.with_suffix(".crt"), certificate, mode=0o600)
    for site in federation.sites:
        _write_kit(federation, site, _signed(federation, key_of(federation, site), site))


def key_of(federation: Federation, site: str) -> Any:
    """The public key of a site; raises `RunError` if its certificate cannot be read."""
    path = _certificate(federation, site)
    with _as_it_was(path):
        return x509.load_pem_x509_certificate(path.read_bytes()).public_key()


def _make_keys(federation: Federation) -> None:
    """Makes the authority, and the keys of the server and of the coordinator."""
    from nvflare.lighter.utils import Identity, generate_cert, serialize_cert  # slow to import

    own, key = Identity(PROJECT), new_key()
    root = generate_cert(own, own, key, key.public_key(), VALID_DAYS, ca=True)
    pem = serialize_cert(root).decode()
    startup = federation.server_kit / "startup"
    for path, text in (
        (_authority(federation), json.dumps({"root_cert": pem, "root_pri_key": key_text(key)})),
        (startup / "rootCA.pem", pem),
        (startup / "server.key", key_text(new_key())),
        (federation.admin_kit / "startup" / "client.key", key_text(new_key())),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text, mode=0o600)


def _authority(federation: Federation) -> Path:
    return federation.path / "provisioning" / PROJECT / "state" / "cert.json"


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


def versions() -> dict[str, str]:
    """Versions of the packages that should be equal at both ends."""
    return {name: version(name) for name in ("asyndgan", "nvflare")}


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

"""Checks that a site's administrator runs before the first run."""

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from tempfile import NamedTemporaryFile
from typing import Final, final

import torch
from cryptography import x509

from asyndgan.engines.flare.kits import versions
from asyndgan.engines.flare.member import KEY_FILE, Member, read_kit
from asyndgan.engines.flare.service import SITE_FILE, SiteFile, has_kit, name_of
from asyndgan.errors import AsyndganError, DataError, PolicyError
from asyndgan.intake.check import check_folder
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.description import describe
from asyndgan.models.parts import usable_device
from asyndgan.privacy import Policy
from asyndgan.tables.check import checked
from asyndgan.tables.planning import fingerprint_in
from asyndgan.tables.schema import is_table
from asyndgan.texts import counted

SOON_DAYS: Final = 30
REFUSAL_S: Final = 2.0  # seconds within which a server refuses our certificate
LEAST_FREE: Final = 2 * 2**30  # bytes that checkpoints, ledger and logs may take


@final
@dataclass(frozen=True)
class Check:
    """The result of one check."""

    subject: str  # what was checked
    fine: bool  # whether the check passed
    text: str  # what was found, and what to do about it


def checks(kit: Path) -> Iterator[Check]:
    """Checks what a site needs; nothing but a TLS handshake leaves. May raise `RunError`."""
    member = read_kit(kit) if has_kit(kit) else None
    of = "of" if member else "none: FLARE is of others; it has to know this as"
    yield Check("kit", True, f"{of} site {name_of(kit)}")
    try:
        file = SiteFile.of(kit)
    except AsyndganError as error:
        yield Check("site.toml", False, str(error))
    else:
        yield _of("policy", lambda: _policy(file))
        yield _of("data", lambda: _data(file))
        if file.fingerprint:
            yield _of("fingerprint", lambda: _fingerprint(file))
        yield _of("device", lambda: str(usable_device(file.device)))
    if member:
        yield from _membership(kit, member)
    free = shutil.disk_usage(kit).free
    yield Check("disk", free >= LEAST_FREE, f"{free / 2**30:.0f} GiB free, 2 are wanted")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield Check("GPU", True, f"{gpu}; 'device' in {SITE_FILE} says what is used")


def _membership(kit: Path, member: Member) -> Iterator[Check]:
    """Checks key, certificate, connection and versions."""
    seen = [path for path in (kit, kit / KEY_FILE) if path.stat().st_mode & 0o77]
    start = f"asyndgan site start {quote(str(kit))}"
    others = f"others can read {', '.join(map(str, seen))}; '{start}' forbids it"
    yield Check("permissions", not seen, others if seen else "nobody else reads the key")
    yield _dates(x509.load_pem_x509_certificate(member.certificate.encode()))
    yield _connection(member, kit / KEY_FILE)
    yield _versions(member)


def _of(subject: str, look: Callable[[], str]) -> Check:
    try:
        return Check(subject, True, look())
    except AsyndganError as error:
        return Check(subject, False, str(error))


def _policy(file: SiteFile) -> str:
    policy = Policy.from_file(file.policy)
    with suppress(DataError):  # what is wrong with the data is said by its own check
        patients = {*DataSet(file.data).patients.values()}
        if len(patients) < policy.allows.fewest_patients:
            raise PolicyError(
                f"{file.policy}: allows.fewest_patients is {policy.allows.fewest_patients}, and "
                f"{file.data} has {len(patients)}: recipes that are not private will be refused."
            )
    return policy.name


def _data(file: SiteFile) -> str:
    if is_table(file.data):
        (table,) = checked([file.data])
        if table.faults:
            raise AsyndganError(" ".join(table.faults))
        return "; ".join(f"{heading} {text}" for heading, text in table.rows.items())
    info = describe(file.data)
    if unknown := set(file.without) - set(info.modalities):
        raise AsyndganError(
            f"'without' in {SITE_FILE} names {', '.join(sorted(unknown))}, which {file.data} does "
            f"not hold; it holds {', '.join(info.modalities)}."
        )
    report = check_folder(file.data)
    if report.faults:
        raise AsyndganError(
            f"{counted(len(report.faults), 'fault')}. 'asyndgan check {quote(str(file.data))}' "
            "names all."
        )
    facts = [f"{heading} {text}" for heading, text in report.rows[:3]]
    return "; ".join([*facts, *report.notes])


def _fingerprint(file: SiteFile) -> str:
    assert file.fingerprint
    fingerprint_in(file.fingerprint)
    try:
        Policy.from_file(file.policy).check_question("fingerprint")
    except PolicyError as error:
        return f"stays here: {error}"
    return f"{file.fingerprint.name} is sent to whoever plans a recipe"


def certificate(path: Path) -> Check:
    """Checks a certificate's dates against this machine's clock."""
    try:
        read = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return Check("certificate", False, f"{path}: {error}; put it back from a copy.")
    return _dates(read)


def _dates(certificate: x509.Certificate) -> Check:
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        text = f"valid from {begin:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
        return Check("certificate", False, f"{text}{now:%Y-%m-%d %H:%M} UTC: set the clock.")
    if now > end:
        text = f"expired on {end:%Y-%m-%d}, and this machine's clock says {now:%Y-%m-%d}: "
        return Check("certificate", False, f"{text}set the clock, or ask for a new kit.")
    days = (end - now).days
    text = f"until {end:%Y-%m-%d}, {days} days"
    return Check("certificate", days > SOON_DAYS, text if days > SOON_DAYS else f"only {text}")


def _connection(member: Member, key: Path) -> Check:
    """Checks that a TLS handshake with the coordinator succeeds, with both ends authenticated."""
    target = f"{member.host}:{member.port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it may be an address; the authority is checked
    context.set_alpn_protocols(["h2"])  # as gRPC wants it
    try:
        context.load_verify_locations(cadata=member.root)
        with NamedTemporaryFile("w", suffix=".crt") as file:  # Python's ssl reads it from a file
            file.write(member.certificate)
            file.flush()
            context.load_cert_chain(file.name, key)
        with (
            socket.create_connection((member.host, member.port), timeout=5) as plain,
            context.wrap_socket(plain) as line,
        ):
            line.settimeout(REFUSAL_S)
            # The server checks our certificate only after our side of the handshake is done.
            with suppress(TimeoutError):
                if not line.recv(1):
                    raise OSError("the coordinator closes it")
            return Check("connection", True, f"{target}, {line.version()}, both ends certified")
    except ssl.SSLCertVerificationError:
        fault = _intercepted(member)
    except socket.gaierror:
        fault = f"the name {member.host} cannot be resolved: check its spelling, DNS and VPN."
    except ConnectionRefusedError:
        fault = "refused. Ask the coordinator whether it is started, and this port passed on to it."
    except TimeoutError:
        fault = "no answer within 5 seconds: a firewall drops it. Ask IT to let it out and in."
    except ssl.SSLError as error:
        fault = (
            f"the kit's key and certificates do not work with it ({error}). If a proxy or firewall "
            "inspects TLS, have this connection exempted. Else ask the coordinator for a new kit."
        )
        if error.reason == "WRONG_VERSION_NUMBER":
            fault = (
                "another program answers, without TLS. Ask the coordinator whether host and port "
                "are right, and your network's administrators whether a proxy answers for it."
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fault = f"{reason}. Is the coordinator started, and does the firewall let out to it?"
    return Check("connection", False, f"{target}: {fault}")


def _intercepted(member: Member) -> str:
    """What to do about a certificate that this federation's authority did not sign."""
    issuer = ""
    with suppress(OSError, ValueError):
        pem = ssl.get_server_certificate((member.host, member.port), timeout=5)
        other = x509.load_pem_x509_certificate(pem.encode())
        issuer = f" ({other.issuer.rfc4514_string()} issued it)"
    return (
        f"the certificate there is not this federation's{issuer}. Most often a proxy or firewall "
        "inspects TLS: ask your network's administrators to exempt this connection from TLS "
        "inspection. If none does, ask the coordinator for a new kit."
    )


def _versions(member: Member) -> Check:
    ours, theirs = versions(), member.versions
    other = {name: theirs.get(name) for name, own in ours.items() if theirs.get(name) != own}
    text = ", ".join(f"{name} {own}" for name, own in ours.items())
    if other:
        wanted = ", ".join(f"{name} {version}" for name, version in other.items())
        return Check("versions", False, f"{text}; the coordinator made this kit with {wanted}.")
    return Check("versions", True, text)

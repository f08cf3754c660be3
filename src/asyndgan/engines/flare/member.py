"""A site's membership: its own key, and the data that a kit gives.

FLARE builds objects from what its settings name, so a kit, which comes from the coordinator, is one
file of data alone.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from shlex import quote
from typing import Any, Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from asyndgan.errors import RunError
from asyndgan.texts import bounded_text, parsed_json, replace_text, storing

PROJECT: Final = "asyndgan"
KEY_BITS: Final = range(2048, 4096 + 1)  # sizes of a site's RSA key; FLARE uses RSA alone
SITE_NAME: Final = re.compile(rf"(?!(server|{PROJECT})\Z)[A-Za-z0-9][A-Za-z0-9_-]{{0,47}}")
HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
HOST_LENGTH: Final = 64  # Most characters of a host name: the limit of a certificate's common name
WORD: Final = re.compile(r"[A-Za-z0-9.+!_-]{1,64}")  # Matches a package's name and its version
KEY_FILE: Final = "site.key"  # the site's private key, in its folder
KIT_FILE: Final = "kit.json"  # The kit, in the site's folder
MOST_BYTES: Final = 2**16  # bytes of a kit; with RSA keys of 2048 bits it has 2,700
MOST_PEM: Final = 4096  # characters of a certificate, request or key; RSA 4,096 has 3,272
DIGITS: Final = 24  # of a safety number, 80 bits: nobody finds a file with the same


@final
@dataclass(frozen=True)
class Member:
    """What a kit gives a site: data alone, and no secret."""

    name: str  # the site's name
    host: str  # name by which the site reaches the coordinator
    port: int  # the coordinator's port
    # the coordinator's versions of the packages that should be equal at both ends
    versions: Mapping[str, str]
    root: str  # certificate of the federation's authority, as PEM
    certificate: str  # the site's certificate, issued by the authority to `name`, as PEM

    @property
    def federation(self) -> str:
        """Safety number of the federation: of its authority's certificate and of its address."""
        address = f"{self.host}:{self.port}"
        return safety_number(_of_pem(self.root).public_bytes(Encoding.DER) + address.encode())

    def to_json(self) -> str:
        """Text of a kit."""
        return json.dumps(asdict(self), indent=1)


def safety_number(content: bytes) -> str:
    """What two people compare by voice: `DIGITS` digits of the SHA-256, in groups of four."""
    number = int.from_bytes(hashlib.sha256(content).digest())
    return " ".join(re.findall("....", f"{number % 10**DIGITS:0{DIGITS}}"))


def make_request(folder: Path) -> Path:
    """Writes NAME.csr, the request of the site NAME in its folder, and its key if need be.

    The same key gives the same bytes. Raises `RunError` or `StorageError`.
    """
    name = folder.resolve().name
    if not SITE_NAME.fullmatch(name):
        raise RunError(
            f"'{name}' cannot be a site's name: name the folder with letters, digits, '-' and '_' "
            f"alone, at most 48, and not 'server' or '{PROJECT}'."
        )
    path = folder / f"{name}.csr"
    with storing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        there = {each.name for each in folder.iterdir()}
        if there and not there & {KEY_FILE, KIT_FILE, path.name}:
            raise RunError(f"{folder} is not empty, and no site's; name a new folder.")
        folder.chmod(0o700)
    if KEY_FILE not in there:
        replace_text(folder / KEY_FILE, key_text(new_key()), mode=0o600)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(read_key(folder), hashes.SHA256())
    replace_text(path, signed.public_bytes(Encoding.PEM).decode())
    return path


@final
@dataclass(frozen=True)
class Request:
    """A site's request for a certificate, which its own key has signed."""

    name: str  # the site's name
    key: rsa.RSAPublicKey  # the site's public key
    safety_number: str  # digits that the site's administrator sees too


def read_request(path: Path) -> Request:
    """Reads a site's request; raises `RunError` if it is none, or cannot be a site's."""
    again = "Have the site make another with 'asyndgan site request NAME'"
    try:
        csr = x509.load_pem_x509_csr(bounded_text(path, MOST_PEM, links=True).encode())
        signed = csr.is_signature_valid
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Name the site's .csr.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RunError(f"{path} is no request for a certificate. {again}.") from error
    if not signed:
        raise RunError(
            f"{path} was altered: its signature is not of its own key. {again}, and send it again."
        )
    key: Any = csr.public_key()
    sound = isinstance(key, rsa.RSAPublicKey) and key.key_size in KEY_BITS
    if not sound or key.public_numbers().e < 2**16:
        raise RunError(
            f"the key of {path} is too weak, or of another kind: RSA of {KEY_BITS[0]} to "
            f"{KEY_BITS[-1]} bits is wanted. {again}."
        )
    names = [each.value for each in csr.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if len(names) != 1 or not SITE_NAME.fullmatch(str(names[0])):
        raise RunError(f"{path} does not hold a site's name, and one is wanted. {again}.")
    return Request(str(names[0]), key, safety_number(csr.public_bytes(Encoding.DER)))


def read_key(folder: Path) -> Any:
    """The private key of a site; raises `RunError` if it is missing or cannot be used."""
    path = folder / KEY_FILE
    try:
        return serialization.load_pem_private_key(
            bounded_text(path, MOST_PEM).encode(), password=None
        )
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} holds no key of a site ({KEY_FILE}). Name the folder that holds it, or "
            f"make one with 'asyndgan site request {quote(str(folder))}'."
        ) from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise RunError(
            f"{path} cannot be used as a private key. Put it back from a copy, or remove it and "
            f"make another with 'asyndgan site request {quote(str(folder))}'."
        ) from None


def new_key() -> rsa.RSAPrivateKey:
    """A private key, of the kind that all members of a federation have."""
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS[0])


def key_text(key: Any) -> str:
    """A private key as PEM; it is not encrypted."""
    form, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return str(key.private_bytes(Encoding.PEM, form, open_).decode())


def received_kit(path: Path, folder: Path) -> Member:
    """Reads a coordinator's kit for the key in a site's folder; raises `RunError`."""
    member, key = parsed_kit(path), read_key(folder)
    if _of_pem(member.certificate).public_key() != key.public_key():
        raise RunError(
            f"{path} is a kit of site {member.name} for another key than that in {folder}. Send "
            f"the coordinator's administrator the request of this folder ('asyndgan site request "
            f"{quote(str(folder))}' writes it), and use the kit that is made from it."
        )
    return member


def read_kit(kit: Path) -> Member:
    """Reads the kit of a site's folder, for the site's key; raises `RunError` as `parsed_kit`."""
    return received_kit(kit / KIT_FILE, kit)


def parsed_kit(path: Path) -> Member:
    """Reads a kit, without the key that it is for; raises `RunError` if it is not valid."""
    try:
        return _parsed(parsed_json(bounded_text(path, MOST_BYTES, links=True)))
    except (FileNotFoundError, NotADirectoryError) as error:
        put = "At a site, name the file that the coordinator sent."
        if path.name == KIT_FILE:
            put = f"At a site, 'asyndgan site init {quote(str(path.parent))} FILE' puts it there."
        raise RunError(
            f"{path} is missing. {put} At the coordinator, put it back from a copy."
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be used: {error}. Ask for another kit.") from error


def _parsed(table: Any) -> Member:
    """Checks every value of a kit; raises `ValueError`."""
    keys = [each.name for each in fields(Member)]
    if not isinstance(table, dict) or sorted(table) != sorted(keys):
        raise ValueError(f"it holds other keys than {', '.join(keys)}")
    name, host, port, versions, *pems = (table[key] for key in keys)
    if not isinstance(name, str) or not SITE_NAME.fullmatch(name):
        raise ValueError("'name' is no site's name")
    if not isinstance(host, str) or len(host) > HOST_LENGTH or not HOST_NAME.fullmatch(host):
        raise ValueError("'host' is no name of a host")
    if type(port) is not int or not 0 < port < 2**16:
        raise ValueError("'port' is no port")
    words = [*versions, *versions.values()] if isinstance(versions, dict) else [None]
    if not all(isinstance(word, str) and WORD.fullmatch(word) for word in words):
        raise ValueError("'versions' are no packages' versions")
    if not all(isinstance(pem, str) for pem in pems):
        raise ValueError("its certificates are no texts")
    return Member(name, host, port, versions, *_verified(name, *pems))


def _verified(name: str, root: str, certificate: str) -> tuple[str, str]:
    """Checks that authority and certificate belong together; returns them encoded anew."""
    if max(map(len, (root, certificate))) > MOST_PEM:
        raise ValueError(f"a certificate of more than {MOST_PEM} characters")
    try:
        authority, member = _of_pem(root), _of_pem(certificate)
        member.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise ValueError("its certificate is not one of its authority") from error
    names = member.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [each.value for each in names] != [name]:
        raise ValueError("its certificate is of another name")
    return authority.public_bytes(Encoding.PEM).decode(), member.public_bytes(Encoding.PEM).decode()


def _of_pem(certificate: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.encode())


def guard(kit: Path) -> None:
    """Makes a site's folder readable by its owner only: its key, and what is kept beside it."""
    kit.chmod(0o700)
    (kit / KEY_FILE).chmod(0o600)

"""What a federation's authority signs: requests of sites, and certificates of the coordinator."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self, final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from asyndgan.engines.flare.member import MOST_PEM, PROJECT, SITE_NAME, safety_number
from asyndgan.errors import RunError
from asyndgan.texts import bounded_text

MEMBER_DAYS: Final = 360  # days for which a certificate is valid, if the authority's is
KEY_BITS: Final = range(2048, 4096 + 1)  # sizes of a site's RSA key; FLARE uses RSA alone


@final
@dataclass(frozen=True)
class Request:
    """A site's request for a certificate, which its own key has signed."""

    name: str  # the site's name
    key: rsa.RSAPublicKey  # the site's public key
    safety_number: str  # digits that the site's administrator sees too


def read_request(path: Path) -> Request:
    """Reads a site's request; raises `RunError` if it is none, or cannot be a site's."""
    again = "Have the site make another with 'asyndgan site request'"
    try:
        found = x509.load_pem_x509_csr(bounded_text(path, MOST_PEM, links=True).encode())
        signed = found.is_signature_valid
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}. Name the site's .csr.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RunError(f"{path} is no request for a certificate. {again}.") from error
    if not signed:
        raise RunError(
            f"{path} was altered: its signature is not of its own key. {again}, and send it again."
        )
    key: Any = found.public_key()
    sound = isinstance(key, rsa.RSAPublicKey) and key.key_size in KEY_BITS
    if not sound or key.public_numbers().e < 2**16:
        raise RunError(
            f"the key of {path} is too weak, or of another kind: RSA of {KEY_BITS[0]} to "
            f"{KEY_BITS[-1]} bits is wanted. {again}."
        )
    names = [each.value for each in found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if len(names) != 1 or not SITE_NAME.fullmatch(str(names[0])):
        raise RunError(f"{path} does not hold a site's name, and one is wanted. {again}.")
    return Request(str(names[0]), key, safety_number(found.public_bytes(Encoding.DER)))


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
        try:
            known = json.loads(path.read_text())
            root = x509.load_pem_x509_certificate(known["root_cert"].encode())
            key = known["root_pri_key"].encode()
            return cls(root, serialization.load_pem_private_key(key, password=None))
        except (OSError, KeyError, TypeError, AttributeError, ValueError):
            raise RunError(
                f"{path} is not as FLARE's provisioning left it. Put it back from a copy of the "
                "federation's folder."
            ) from None

    def sign(self, key: Any, name: str, role: str = "") -> str:
        """A certificate (PEM) of a public key; raises `RunError` if the authority's has expired."""
        from nvflare.lighter.utils import Identity, generate_cert, serialize_cert  # slow to import

        now, end = datetime.now(UTC), self.certificate.not_valid_after_utc
        if end <= now:
            raise RunError(
                f"the authority that signs all certificates expired on {end:%Y-%m-%d}. Make a new "
                "federation with 'asyndgan federation init'."
            )
        made = generate_cert(
            Identity(name, PROJECT, role), Identity(PROJECT), self.key, key,
            server_default_host=name, not_valid_before=now,
            not_valid_after=min(now + timedelta(days=MEMBER_DAYS), end),
        )  # fmt: skip
        return str(serialize_cert(made).decode())

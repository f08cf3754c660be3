"""Keys of the lines between the coordinator and each site, so that FLARE's processes need no trust.

FLARE carries sealed bytes (AES-GCM). The key of a line comes to the site in a letter, which is
encrypted for the site's key and signed by the coordinator's. So neither another member, nor whoever
takes over one of FLARE's processes, can read, ask or answer in the name of one of the two.
"""

import hashlib
import hmac
import json
import secrets
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from asyndgan.errors import RunError, WireError

NONCE: Final = 12
MOST: Final = 8192  # Most characters of a letter
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_SIGNED: Final = (padding.PKCS1v15(), hashes.SHA256())


@final
class Seal:
    """Seals requests and answers of one line by a key of 32 bytes; an answer fits one request."""

    BYTES: ClassVar[int] = 64  # most bytes by which a sealed message is longer

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def sealed(self, payload: bytes, request: bytes | None = None) -> bytes:
        """Seals a request or, if a sealed one is given, the answer to it."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, payload, _purpose(request))

    def opened(self, sealed: bytes, request: bytes | None = None) -> bytes:
        """Opens what `sealed` made; raises `WireError` if it is not of the other end."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], _purpose(request))
        except (InvalidTag, ValueError) as error:
            raise WireError("a message is not of the other end of this line.") from error


def _purpose(request: bytes | None) -> bytes:
    return b"request" if request is None else b"answer" + hashlib.sha256(request).digest()


def key_digest(key: Any) -> str:
    """SHA-256 of a public key, in hexadecimal."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def line_key(kit: Path, site: str, key: Any, run: str) -> bytes:
    """The key of a run's line to a site, by its public `key`: a stolen one opens no later line."""
    private = (kit / "startup" / "client.key").read_bytes()
    return hmac.digest(private, f"line {site} {key_digest(key)} {run}".encode(), "sha256")


def write_letter(kit: Path, site: str, key: Any, run: str, recipe: str) -> str:
    """A letter of a coordinator's kit with the key of a line, that a site's key alone can read."""
    startup = kit / "startup"
    private: Any = serialization.load_pem_private_key((startup / "client.key").read_bytes(), None)
    sealed = key.encrypt(line_key(kit, site, key, run), _OAEP)
    signature = private.sign(_signed(sealed, site, run, recipe), *_SIGNED)
    parts = sealed, signature, (startup / "client.crt").read_bytes()
    return " ".join(b64encode(part).decode() for part in parts)  # FLARE fills in what is in braces


def read_letter(
    letter: str, root: str, key: Any, site: str, run: str, recipe: str
) -> tuple[bytes, str]:
    """Reads a letter; returns the key of the line, and who has signed the letter.

    Raises `RunError` if it is no letter of the coordinator that `root` (PEM) has certified to this
    site, for this run and recipe.
    """
    try:
        sealed, signature, certificate = map(b64decode, letter[:MOST].split(" "))
        signer = x509.load_pem_x509_certificate(certificate)
        signer.verify_directly_issued_by(x509.load_pem_x509_certificate(root.encode()))
        (name,) = signer.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        if "@" not in str(name.value):  # only in the certificates of administrators
            raise ValueError("a site has signed it")
        if not signer.not_valid_before_utc <= datetime.now(UTC) <= signer.not_valid_after_utc:
            raise ValueError("its certificate is not valid now")
        public: Any = signer.public_key()
        public.verify(signature, _signed(sealed, site, run, recipe), *_SIGNED)
        return key.decrypt(sealed, _OAEP), str(name.value)
    except (
        ValueError, TypeError, AttributeError, InvalidSignature, UnsupportedAlgorithm,
    ) as error:  # fmt: skip
        reason = str(error) or "its signature does not fit"
        raise RunError(f"it is not of this federation's coordinator: {reason}") from error


def _signed(sealed: bytes, site: str, run: str, recipe: str) -> bytes:
    parts = [site, run, hashlib.sha256(recipe.encode()).hexdigest(), sealed.hex()]
    return json.dumps(parts).encode()

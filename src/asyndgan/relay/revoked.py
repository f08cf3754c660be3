"""Keys that a federation's server accepts no more, in a file of the server's kit."""

import hashlib
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from asyndgan.texts import append

REVOKED: Final = "revoked"
"""The file: the SHA-256 of a public key on each line."""


def digest_of(key: Any) -> str:
    """The SHA-256 of a public key, in hexadecimal digits; the same in all its certificates."""
    form = PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(Encoding.DER, form)).hexdigest()


def revoke(kit: Path, key: Any) -> None:
    """Adds a public key; the server ends its connections within a second.

    Raises:
        StorageError: it cannot be written.
    """
    append(kit / REVOKED, f"{digest_of(key)}\n".encode())


def is_revoked(kit: Path, key: Any) -> bool:
    """Whether a public key was revoked."""
    return digest_of(key) in revoked(kit)


def revoked(kit: Path) -> frozenset[str]:
    """The digests of all revoked keys.

    Raises:
        OSError: they cannot be read.
    """
    try:
        return frozenset((kit / REVOKED).read_text("ascii").split())
    except FileNotFoundError:
        return frozenset()

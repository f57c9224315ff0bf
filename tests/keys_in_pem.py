"""Keys for tests, made anew each time."""

from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

PEM = serialization.Encoding.PEM


class Keys(NamedTuple):
    """One pair, in PEM files."""

    private: Path
    public: Path


def key_pair(folder: Path, *, curve: ec.EllipticCurve | None = None, passphrase: str = "") -> Keys:
    """On P-256 unless said otherwise."""
    return _written(folder, ec.generate_private_key(curve or ec.SECP256R1()), passphrase=passphrase)


def rsa_pair(folder: Path) -> Keys:
    """Of a family that signs no models."""
    return _written(folder, rsa.generate_private_key(public_exponent=65537, key_size=2048))


def _written(folder: Path, key: Any, *, passphrase: str = "") -> Keys:
    folder.mkdir(parents=True, exist_ok=True)
    hidden = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    found = Keys(folder / "retort.pem", folder / "retort.pub")
    found.private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, hidden))
    shape = serialization.PublicFormat.SubjectPublicKeyInfo
    found.public.write_bytes(key.public_key().public_bytes(PEM, shape))
    return found

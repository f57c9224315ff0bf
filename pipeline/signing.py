"""Signing a version's folder with a key of one's own, offline: model-signing's format, a Sigstore bundle over the
digest of every file. serving/signatures.py verifies it, by the public half.

A key on P-256, P-384 or P-521, in PEM:  openssl ecparam -name prime256v1 -genkey -noout -out retort.pem
its public half:                         openssl ec -in retort.pem -pubout -out retort.pub
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pipeline.errors import BadRequest
from serving.signatures import INSTALL, MLFLOW_NOTE, SIGNATURE

CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_MAKE: Final = "make one with openssl ecparam -name prime256v1 -genkey -noout -out KEY"


def check_key(key: Path) -> None:
    """Refuse a key that cannot sign, before anything is made.

    Raises:
        BadRequest: it cannot be read, is no private key on one of CURVES, or has a passphrase; or model-signing is not
            installed.
    """
    try:
        import model_signing.signing  # noqa: F401
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise BadRequest(f"signing needs model-signing, which is not installed here; run {INSTALL}") from error
    try:
        found = load_pem_private_key(key.read_bytes(), password=None)
    except OSError as error:
        raise BadRequest(f"key {key} cannot be read: {error.strerror}; name a private key, a PEM file") from error
    except TypeError as error:
        raise BadRequest(
            f"key {key} has a passphrase, and nobody is there to type it; write it without one: "
            f"openssl ec -in {key} -out KEY"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest(f"key {key} is no private key in PEM, which signs; {_MAKE}") from error
    if not isinstance(found, EllipticCurvePrivateKey) or found.curve.name not in CURVES:
        raise BadRequest(f"key {key} is on no curve that signs models (P-256, P-384, P-521); {_MAKE}")


def sign(folder: Path, key: Path) -> Path:
    """Write model.sig over every file of a version's folder; an earlier one gives way. The file.

    Each signature has other bytes than the one before: that is how such keys sign.

    Raises:
        BadRequest: as `check_key`.
    """
    check_key(key)
    from model_signing import hashing, signing

    told = hashing.Config().set_ignored_paths(paths=(SIGNATURE, MLFLOW_NOTE), ignore_git_paths=False)  # type: ignore[no-untyped-call]
    signer = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(told)  # type: ignore[no-untyped-call]
    with TemporaryDirectory(dir=folder.parent) as scratch:
        signer.sign(folder, Path(scratch) / SIGNATURE)
        return (Path(scratch) / SIGNATURE).replace(folder / SIGNATURE)

"""Signing a version's folder: with which keys, over what, and without a network."""

import base64
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from keys_in_pem import Keys, key_pair, rsa_pair

from pipeline.errors import BadRequest
from pipeline.signing import check_key, sign
from serving.signatures import FILES, SIGNATURE, files_listing, verify_folder

MAKE = "make one with openssl ecparam -name prime256v1 -genkey -noout -out KEY"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "version"
    (path / "bundle").mkdir(parents=True)
    (path / "bundle" / "model.onnx").write_bytes(b"weights")
    (path / ".gitignore").write_text("model-signing leaves these out unless told")
    (path / FILES).write_text(files_listing(path))
    return path


def covered(folder: Path) -> dict[str, str]:
    """Path -> sha256, as the signature says."""
    envelope = json.loads((folder / SIGNATURE).read_bytes())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}


def refusal(key: Path) -> str:
    with pytest.raises(BadRequest) as refused:
        check_key(key)
    return str(refused.value)


def test_a_signature_is_over_every_file_with_the_digests_of_the_list(folder: Path, tmp_path: Path) -> None:
    assert sign(folder, key_pair(tmp_path / "keys").private) == folder / SIGNATURE
    listed = dict(reversed(line.split("  ")) for line in (folder / FILES).read_text().splitlines())
    found = covered(folder)
    assert {name: digest for name, digest in found.items() if name != FILES} == listed
    assert set(found) == {FILES, ".gitignore", "bundle/model.onnx"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "version"]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_each_curve_signs_and_verifies(folder: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    keys = key_pair(tmp_path / "keys", curve=curve)
    sign(folder, keys.private)
    verify_folder(folder, files_digest=None, key=keys.public)


def test_signing_again_gives_way_to_the_new_key(folder: Path, tmp_path: Path) -> None:
    sign(folder, key_pair(tmp_path / "old").private)
    keys = key_pair(tmp_path / "new")
    sign(folder, keys.private)
    verify_folder(folder, files_digest=None, key=keys.public)


def test_keys_that_openssl_makes_as_the_advice_says_sign_and_verify(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "retort.pem"
    subprocess.run(f"openssl ecparam -name prime256v1 -genkey -noout -out {key}", shell=True, check=True)
    subprocess.run(f"openssl ec -in {key} -pubout -out {key}.pub", shell=True, check=True, capture_output=True)
    sign(folder, key)
    verify_folder(folder, files_digest=None, key=Path(f"{key}.pub"))


def test_model_signing_s_own_command_verifies_it(folder: Path, tmp_path: Path) -> None:
    keys = key_pair(tmp_path / "keys")
    (folder / ".gitignore").unlink()  # it passes these over
    sign(folder, keys.private)
    asked = ["verify", "key", str(folder), "--signature", str(folder / SIGNATURE), "--public_key", str(keys.public)]
    done = subprocess.run([sys.executable, "-m", "model_signing", *asked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr


def test_signing_and_verifying_ask_no_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    keys = key_pair(tmp_path / "keys")
    sign(folder, keys.private)
    verify_folder(folder, files_digest=None, key=keys.public)


def test_a_key_that_signs_is_let_through(tmp_path: Path) -> None:
    check_key(key_pair(tmp_path).private)


def test_a_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    key = tmp_path / "none.pem"
    assert refusal(key) == f"key {key} cannot be read: No such file or directory; name a private key, a PEM file"


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    key = key_pair(tmp_path, passphrase="secret").private
    assert refusal(key) == (
        f"key {key} has a passphrase, and nobody is there to type it; write it without one: "
        f"openssl ec -in {key} -out KEY"
    )


def test_what_is_no_private_key_is_refused(tmp_path: Path) -> None:
    keys: Keys = key_pair(tmp_path)
    other = tmp_path / "other"
    other.write_text("hello")
    for key in (keys.public, other):
        assert refusal(key) == f"key {key} is no private key in PEM, which signs; {MAKE}"


def test_a_key_of_another_family_or_curve_is_refused(tmp_path: Path) -> None:
    for key in (rsa_pair(tmp_path / "rsa").private, key_pair(tmp_path / "k", curve=ec.SECP256K1()).private):
        assert refusal(key) == f"key {key} is on no curve that signs models (P-256, P-384, P-521); {MAKE}"


def test_a_key_that_cannot_sign_leaves_no_signature(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        sign(folder, key_pair(tmp_path / "keys").public)
    assert not (folder / SIGNATURE).exists()


def test_where_model_signing_is_not_installed_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    assert refusal(key_pair(tmp_path).private) == (
        "signing needs model-signing, which is not installed here; run pip install 'retort[signing]'"
    )

"""A version's folder against its list of files and its signature."""

import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from keys_in_pem import Keys, key_pair, rsa_pair

from pipeline.signing import sign
from serving.errors import BadArtifact, BadRequest
from serving.signatures import FILES, MLFLOW_NOTE, SIGNATURE, files_listing, verify_folder

AGAIN = "fetch the version again, or register it again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small version's folder."""
    path = tmp_path / "version"
    (path / "bundle" / "receipts").mkdir(parents=True)
    (path / "bundle" / "model.onnx").write_bytes(b"weights")
    (path / "bundle" / "receipts" / "latency@here.json").write_text("{}")
    (path / "README.md").write_text("a card")
    (path / FILES).write_text(files_listing(path))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return key_pair(tmp_path / "keys")


@pytest.fixture
def signed(folder: Path, keys: Keys) -> Path:
    sign(folder, keys.private)
    return folder


def digest_of(folder: Path) -> str:
    return hashlib.sha256((folder / FILES).read_bytes()).hexdigest()


def refusal(folder: Path, *, files_digest: str | None = None, key: Path | None = None) -> str:
    with pytest.raises(BadArtifact) as refused:
        verify_folder(folder, files_digest=files_digest, key=key)
    return str(refused.value)


# -- the list of files -------------------------------------------------------------------------------------------------


def test_the_list_has_a_line_a_file_by_path_and_neither_itself_nor_the_signature(folder: Path) -> None:
    (folder / SIGNATURE).write_text("{}")
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("README.md", "bundle/model.onnx", "bundle/receipts/latency@here.json")
    ]
    assert files_listing(folder) == "".join(lines)


def test_a_folder_as_it_was_listed_is_let_through(folder: Path) -> None:
    verify_folder(folder, files_digest=digest_of(folder), key=None)
    verify_folder(folder, files_digest=None, key=None)


def test_what_mlflow_leaves_in_a_folder_that_it_reads_is_passed_over(folder: Path) -> None:
    (folder / MLFLOW_NOTE).write_text("model_name: m\nmodel_version: '3'\n")
    verify_folder(folder, files_digest=digest_of(folder), key=None)
    (folder / "bundle" / MLFLOW_NOTE).write_text("elsewhere it is a file like any other")
    assert refusal(folder) == f"{folder}: bundle/{MLFLOW_NOTE} is not listed in files.sha256; {AGAIN}"


def test_an_altered_file_is_named(folder: Path) -> None:
    (folder / "bundle" / "model.onnx").write_bytes(b"Weights")
    told = f"{folder}: bundle/model.onnx is not as files.sha256 lists it: it was altered; {AGAIN}"
    assert refusal(folder) == told


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "bundle" / "model.onnx").unlink()
    assert refusal(folder) == f"{folder}: bundle/model.onnx is missing; {AGAIN}"


def test_a_file_that_came_later_is_named(folder: Path) -> None:
    (folder / "bundle" / "extra.py").write_text("")
    assert refusal(folder) == f"{folder}: bundle/extra.py is not listed in files.sha256; {AGAIN}"


def test_bytecode_that_came_later_is_named_since_it_would_be_run(folder: Path) -> None:
    (folder / "code" / "__pycache__").mkdir(parents=True)
    (folder / "code" / "__pycache__" / "a.pyc").write_bytes(b"")
    assert refusal(folder) == f"{folder}: code/__pycache__/a.pyc is not listed in files.sha256; {AGAIN}"


def test_of_several_faults_the_first_by_path_is_named(folder: Path) -> None:
    (folder / "README.md").write_text("another card")
    (folder / "bundle" / "model.onnx").unlink()
    (folder / "A").write_text("")
    assert refusal(folder) == f"{folder}: A is not listed in files.sha256; {AGAIN}"


def test_an_empty_folder_is_no_file(folder: Path) -> None:
    """Object stores keep none."""
    (folder / "empty").mkdir()
    verify_folder(folder, files_digest=digest_of(folder), key=None)


def test_another_list_than_was_registered_is_refused(folder: Path) -> None:
    found = digest_of(folder)
    told = f"{folder}: files.sha256 is {found[:12]}, not the {'0' * 12} registered; {AGAIN}"
    assert refusal(folder, files_digest="0" * 64) == told


def test_a_folder_without_a_list_is_no_version(folder: Path, tmp_path: Path) -> None:
    (folder / FILES).unlink()
    for path in (folder, tmp_path / "nowhere"):
        told = f"{path} is no version's folder: it has no files.sha256; name one that `retort run` registered"
        assert refusal(path) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense\n",
        f"{'0' * 64}  b\n{'0' * 64}  a\n",
        f"{'0' * 64}  a\n{'0' * 64}  a\n",
        f"{'0' * 64}  a",
        f"{'0' * 63}  a\n",
        f"{'0' * 64}  a\r\n",
        f"{'0' * 64}  a\n\n",
    ],
)
def test_a_list_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / FILES).write_bytes(text.encode())
    told = f"{folder}: files.sha256 is no list of digests and paths, sorted and each once; {AGAIN}"
    assert refusal(folder) == (told if text else f"{folder}: README.md is not listed in files.sha256; {AGAIN}")


def test_a_list_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / FILES).write_bytes(b"\xff\xfe\n")
    assert refusal(folder).endswith(f"is no list of digests and paths, sorted and each once; {AGAIN}")


def test_a_list_cannot_speak_of_files_outside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (folder / FILES).write_text(f"{digest}  ../outside\n{files_listing(folder)}")
    assert refusal(folder) == f"{folder}: ../outside is missing; {AGAIN}"


def test_a_link_is_refused_wherever_it_leads(folder: Path, tmp_path: Path) -> None:
    (folder / "bundle" / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "bundle" / "model.onnx").symlink_to(tmp_path / "model.onnx")
    told = f"{folder}: bundle/model.onnx is a link; a version holds files alone; {AGAIN}"
    assert refusal(folder) == told
    with pytest.raises(BadArtifact) as refused:
        files_listing(folder)
    assert str(refused.value) == told


def test_a_link_to_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "more").symlink_to(tmp_path)
    assert refusal(folder) == f"{folder}: more is a link; a version holds files alone; {AGAIN}"


@pytest.mark.parametrize("name", ["a b", "a\nb", "é", "a\\b", "a:b", "a*", "a\u202eb"])
def test_a_name_with_odd_characters_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("")
    told = f"{folder}: {name!a} has odd characters in its name: not A-Z a-z 0-9 . _ @ + = , -; {AGAIN}"
    assert refusal(folder) == told


def test_what_is_neither_a_file_nor_a_folder_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert refusal(folder) == f"{folder}: pipe is neither a file nor a folder; {AGAIN}"


# -- the signature -----------------------------------------------------------------------------------------------------


def test_a_signed_folder_is_let_through_by_the_public_key(signed: Path, keys: Keys) -> None:
    verify_folder(signed, files_digest=digest_of(signed), key=keys.public)
    verify_folder(signed, files_digest=None, key=None)


def test_a_signature_holds_wherever_the_files_are_copied(signed: Path, keys: Keys, tmp_path: Path) -> None:
    """Under another name, written in another order, with other times and modes, and with MLflow's note."""
    copy = tmp_path / "elsewhere" / "m-0123"
    for file in sorted((path for path in signed.rglob("*") if path.is_file()), reverse=True):
        place = copy / file.relative_to(signed)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
        place.chmod(0o600)
        os.utime(place, (0, 0))
    (copy / MLFLOW_NOTE).write_text("model_name: m\n")
    verify_folder(copy, files_digest=digest_of(signed), key=keys.public)


def test_an_unsigned_folder_is_refused_where_a_key_is_given(folder: Path, keys: Keys) -> None:
    told = f"{folder} is not signed: it has no model.sig; verify it without a key, or sign it"
    assert refusal(folder, key=keys.public) == told


def test_a_signature_of_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    other = key_pair(tmp_path / "other").public
    told = refusal(signed, key=other)
    assert told.startswith(f"{signed}: model.sig does not fit these files and {other}: Key mismatch")


def test_files_and_their_list_altered_together_do_not_fit_the_signature(signed: Path, keys: Keys) -> None:
    (signed / "README.md").write_text("another card")
    (signed / FILES).write_text(files_listing(signed))
    verify_folder(signed, files_digest=None, key=None)
    told = refusal(signed, key=keys.public)
    assert told.startswith(f"{signed}: model.sig does not fit these files and {keys.public}: Signature mismatch")
    assert "README.md" in told


def test_a_file_added_to_the_folder_and_its_list_does_not_fit_the_signature(signed: Path, keys: Keys) -> None:
    (signed / "extra").write_text("")
    (signed / FILES).write_text(files_listing(signed))
    told = refusal(signed, key=keys.public)
    assert told.startswith(f"{signed}: model.sig does not fit these files and {keys.public}: Signature mismatch")


def test_a_signature_that_passes_files_over_is_refused(folder: Path, keys: Keys) -> None:
    """model-signing lets a signer leave files out, and says so in the signature itself."""
    from model_signing import hashing, signing

    told: Any = hashing.Config().set_ignored_paths(paths=(SIGNATURE, "bundle"), ignore_git_paths=False)  # type: ignore[no-untyped-call]
    signer: Any = signing.Config().use_elliptic_key_signer(private_key=keys.private)  # type: ignore[no-untyped-call]
    signer.set_hashing_config(told).sign(folder, folder / SIGNATURE)
    assert refusal(folder, key=keys.public) == (
        f"{folder}: model.sig leaves out bundle/model.onnx; sign the whole folder"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}',
        b'{"mediaType": 3, "verificationMaterial": {}, "dsseEnvelope": null}',
    ],
)
def test_a_signature_that_is_none_is_refused(folder: Path, keys: Keys, content: bytes) -> None:
    (folder / SIGNATURE).write_bytes(content)
    told = refusal(folder, key=keys.public)
    assert told.startswith(f"{folder}: model.sig does not fit these files and {keys.public}: ")
    assert "\n" not in told


def test_no_byte_of_the_signed_statement_can_be_changed(signed: Path, keys: Keys) -> None:
    told = json.loads((signed / SIGNATURE).read_bytes())
    payload = bytearray(base64.b64decode(told["dsseEnvelope"]["payload"]))
    for place in range(0, len(payload), 97):
        altered = bytes([*payload[:place], payload[place] ^ 1, *payload[place + 1 :]])
        told["dsseEnvelope"]["payload"] = base64.b64encode(altered).decode()
        (signed / SIGNATURE).write_text(json.dumps(told))
        assert refusal(signed, key=keys.public).startswith(f"{signed}: model.sig does not fit these files")


@pytest.mark.parametrize("missing", ["signatures", "payload", "payloadType"])
def test_a_signature_without_one_of_its_parts_is_refused(signed: Path, keys: Keys, missing: str) -> None:
    told = json.loads((signed / SIGNATURE).read_bytes())
    told["dsseEnvelope"][missing] = [] if missing == "signatures" else ""
    (signed / SIGNATURE).write_text(json.dumps(told))
    assert refusal(signed, key=keys.public).startswith(f"{signed}: model.sig does not fit these files")


# -- the key -----------------------------------------------------------------------------------------------------------


def request_refusal(folder: Path, key: Path) -> str:
    with pytest.raises(BadRequest) as refused:
        verify_folder(folder, files_digest=None, key=key)
    return str(refused.value)


def test_a_private_key_is_refused_with_how_to_take_its_public_half(signed: Path, keys: Keys) -> None:
    assert request_refusal(signed, keys.private) == (
        f"key {keys.private} is a private key, which signs; verifying needs its public half alone: "
        f"openssl ec -in {keys.private} -pubout -out {keys.private}.pub"
    )


def test_a_key_that_is_not_there_is_told_before_anything_is_read(tmp_path: Path) -> None:
    key = tmp_path / "none.pub"
    told = f"key {key} cannot be read: No such file or directory; name the public key, a PEM file"
    assert request_refusal(tmp_path / "nowhere", key) == told


def test_a_key_that_is_none_is_refused(signed: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.txt"
    key.write_text("hello")
    assert request_refusal(signed, key) == (
        f"key {key} is no public key in PEM; make one with openssl ec -in KEY -pubout"
    )


def test_a_key_of_another_family_or_curve_is_refused(signed: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    for key in (rsa_pair(tmp_path / "rsa").public, key_pair(tmp_path / "k", curve=ec.SECP256K1()).public):
        told = f"key {key} is on no curve that signs models (P-256, P-384, P-521)"
        assert request_refusal(signed, key) == told


@pytest.mark.parametrize("absent", ["model_signing", "cryptography.hazmat.primitives.serialization"])
def test_where_model_signing_is_not_installed_the_way_out_is_told(
    signed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    assert request_refusal(signed, keys.public) == (
        "a signature needs model-signing, which is not installed here; run pip install 'retort[signing]'"
    )
    verify_folder(signed, files_digest=None, key=None)

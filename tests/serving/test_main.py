import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import tiny_bundle
from offers import version_folder

WAIT_S = 60


def serving(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serving", *arguments]
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RETORT"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=known | environment)


def test_help_teaches_by_example() -> None:
    told = serving("--help")
    assert told.returncode == 0
    assert "python -m serving models:/retort-demo@champion --tracking-uri sqlite:///mlflow.db" in told.stdout
    assert """curl localhost:8080/classify -d '{"texts": ["what a fine day"]}'""" in told.stdout


def test_a_bug_ends_with_1_and_its_trace() -> None:
    asking = "import serving.__main__ as main; main.app = lambda **_: 1 / 0; main.main()"
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("Traceback (most recent call last):\n")
    assert told.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_help_and_the_package_load_nothing_heavy() -> None:
    asking = (
        "import sys; import serving.__main__\n"
        "heavy = {'torch', 'mlflow', 'onnxruntime', 'numpy', 'uvicorn', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert told.stdout == "[]\n"


def test_the_server_loads_no_torch_and_late_mlflow() -> None:
    asking = "import sys; import serving.server; print(sorted({'torch', 'mlflow', 'transformers'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "Missing argument 'source'"),
        (("a", "b"), "Got unexpected extra argument(s) (b)"),
        (("a", "--prot", "1"), "No such option: --prot"),
        (("a", "--queue", "0"), "Invalid value for '--queue'"),
    ],
)
def test_usage_errors_end_with_64(arguments: tuple[str, ...], error: str) -> None:
    ended = serving(*arguments)
    assert ended.returncode == 64
    assert ended.stderr.startswith(f"error: {error}")
    assert ended.stderr.endswith("; see python -m serving --help\n")


def test_a_bad_request_ends_with_64_and_one_line(tmp_path: Path) -> None:
    ended = serving(str(tmp_path / "none"), "--port", "0")
    way_out = "name a bundle folder, models:/NAME@ALIAS or models:/NAME/VERSION"
    assert (ended.returncode, ended.stderr) == (64, f"error: {tmp_path / 'none'} is no folder; {way_out}\n")


def test_a_bad_artifact_ends_with_65_and_one_line(tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    ended = serving(str(tmp_path), "--port", "0")
    told = f"error: {tmp_path}: model.onnx was altered after it was sealed; fetch or export the bundle again\n"
    assert (ended.returncode, ended.stderr) == (65, told)


def test_a_model_that_computes_something_else_here_is_not_served(tmp_path: Path) -> None:
    tiny_bundle(tmp_path, golden_error=1.0)
    ended = serving(str(tmp_path), "--port", "0")
    assert ended.returncode == 65
    assert " is off by 1 on this machine, more than the 0.0001 allowed; " in ended.stderr


def test_an_unreachable_registry_from_the_environment_ends_with_75(tmp_path: Path) -> None:
    ended = serving(
        *("models:/m@champion", "--port", "0", "--cache", str(tmp_path)),
        RETORT_TRACKING_URI="http://127.0.0.1:1",
        MLFLOW_TRACKING_URI="http://not-this-one.invalid",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    assert ended.returncode == 75
    assert ended.stderr.splitlines()[-1].startswith("error: the registry http://127.0.0.1:1 cannot be reached (")
    assert "Traceback" not in ended.stderr


def test_a_registered_source_without_a_registry_says_how_to_name_one() -> None:
    ended = serving("models:/m@champion", "--port", "0")
    told = "a models:/ source needs a registry; say where with --tracking-uri, e.g. sqlite:///mlflow.db"
    assert (ended.returncode, ended.stderr) == (64, f"error: {told}\n")


def test_with_a_key_what_nobody_signed_is_not_served(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    folder, key = version_folder(tmp_path / "version"), tmp_path / "public.pem"
    public = generate_private_key(SECP256R1()).public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    ended = serving(str(folder), "--port", "0", RETORT_KEY=str(key))
    told = f"{folder} is not signed: it has no model.sig; verify it without a key, or sign it"
    assert (ended.returncode, ended.stderr) == (65, f"error: {told}\n")

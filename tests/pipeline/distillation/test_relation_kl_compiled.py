"""The C++ kernel: how it is made, kept and run by threads, and what happens where it cannot be."""

import os
import platform
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.data.layout import Layout
from pipeline.distillation.relation_kl import compiled, implementation, reference, relation_kl

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
QUICK = tuple("-O1" if flag == "-O3" else flag for flag in compiled.FLAGS)
WITHOUT = "the relation loss runs in plain torch, several times slower than its C++ kernel: "


@pytest.fixture(autouse=True)
def _made_anew() -> Iterator[None]:
    """No kernel is loaded before a test, nor after it."""
    compiled._kernel.cache_clear()
    yield
    compiled._kernel.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, and flags that compile quickly."""
    monkeypatch.setattr(compiled, "_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(compiled, "FLAGS", QUICK)
    return tmp_path / "cache"


def some_loss(layout: Layout | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient of a batch like any other."""
    layout = layout or Layout.packed((37, 5, 20))
    generator = torch.Generator().manual_seed(1)
    student_ND = torch.randn(layout.positions, 48, generator=generator, requires_grad=True)
    teacher_NE = torch.randn(layout.positions, 96, generator=generator)
    value = relation_kl(student_ND, teacher_NE, layout=layout, relation_heads=6)
    value.backward()  # type: ignore[no-untyped-call]
    wanted = reference.relation_kl(student_ND.detach(), teacher_NE, layout=layout, relation_heads=6)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert student_ND.grad is not None
    return value.detach(), student_ND.grad


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@needs_compiler
@pytest.mark.parametrize("flags", [("-march=x86-64-v4",), ("-march=x86-64-v3",), ("-march=x86-64",)])
def test_every_width_of_vector_has_the_same_loss(
    flags: tuple[str, ...], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("these are widths of x86-64")
    if flags == ("-march=x86-64-v4",) and "avx512dq" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("no AVX-512 here")
    monkeypatch.setattr(compiled, "FLAGS", tuple(flag for flag in QUICK if flag != "-march=native") + flags)

    value, gradient_ND = some_loss()

    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(compiled, "available", lambda: False)
    tiled, tiled_ND = some_loss()
    assert value.item() == pytest.approx(tiled.item(), rel=1e-6)
    torch.testing.assert_close(gradient_ND, tiled_ND, atol=1e-7, rtol=1e-5)


@needs_compiler
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.packed((90, 1, 64, 17, 30, 90, 5, 41))
    found = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(some_loss(layout))

    assert len({value.item() for value, _ in found}) == 1
    assert all(torch.equal(gradient_ND, found[0][1]) for _, gradient_ND in found)


@needs_compiler
def test_as_many_threads_work_as_torch_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[object] = []
    submit = compiled._pool().submit
    monkeypatch.setattr(compiled._pool(), "submit", lambda *call: jobs.append(call) or submit(*call))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    some_loss()
    assert len(jobs) == 2  # and the caller's own thread

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    some_loss()
    assert len(jobs) == 2


@needs_compiler
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layout = Layout.packed((30, 12))
    x_ND = torch.randn(42, 24, generator=torch.Generator().manual_seed(1))
    before, _ = compiled.value_and_gradient(x_ND, -x_ND.sin(), layout=layout, relation_heads=6)

    child = os.fork()
    if child == 0:
        signal.alarm(30)  # it would wait for the parent's thread for ever
        after, _ = compiled.value_and_gradient(x_ND, -x_ND.sin(), layout=layout, relation_heads=6)
        os._exit(0 if after.item() == before.item() else 1)

    assert os.waitpid(child, 0)[1] == 0


@needs_compiler
def test_the_kernel_is_compiled_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = some_loss()
    (kept,) = cache.iterdir()

    compiled._kernel.cache_clear()
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("it is there"))
    again = some_loss()

    assert kept.name.startswith("relation_kl-")
    assert kept.suffix == ".so"
    assert again[0].item() == first[0].item()


@needs_compiler
def test_another_source_other_flags_and_another_compiler_are_other_kernels(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = str(shutil.which("c++"))
    made: list[str] = []
    monkeypatch.setattr(compiled, "_compile", lambda _, library: made.append(library.name))
    monkeypatch.setattr(compiled.ctypes, "CDLL", lambda _: None)

    compiled._library(compiler)
    compiled._library(compiler)
    monkeypatch.setattr(compiled, "FLAGS", (*QUICK, "-O2"))
    compiled._library(compiler)
    edited = tmp_path / "kernel.cpp"
    edited.write_text("// other")
    monkeypatch.setattr(compiled, "SOURCES", (edited, *compiled.SOURCES[1:]))
    compiled._library(compiler)
    compiled._library(fake_compiler(tmp_path, "echo '#define __VERSION__ \"another\"'"))

    assert made[0] == made[1]
    assert len(set(made)) == 4


@needs_compiler
@pytest.mark.parametrize("way", ["a file stands in the way", "no home"])
def test_where_nothing_can_be_kept_every_process_compiles_its_own(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()

    def nowhere() -> Path:
        if way == "no home":
            raise RuntimeError("Could not determine home directory.")
        return tmp_path / "file" / "retort"

    monkeypatch.setattr(compiled, "FLAGS", QUICK)
    monkeypatch.setattr(compiled, "_cache_folder", nowhere)
    monkeypatch.setattr(compiled.tempfile, "tempdir", str(tmp_path / "temporary"))
    some_loss()
    some_loss()

    said = {
        "a file stands in the way": f"[Errno 20] Not a directory: '{tmp_path / 'file' / 'retort'}'",
        "no home": "Could not determine home directory.",
    }
    assert implementation("cpu") == "compiled"
    assert caplog.messages == [
        f"every process compiles the relation loss's kernel anew, for it cannot be kept: {said[way]}"
    ]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_a_compiler_torch_computes_the_loss_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)

    some_loss()
    some_loss()

    assert implementation("cpu") == "torch"
    assert caplog.messages == [WITHOUT + "no C++ compiler (c++, g++, clang++) is on the PATH"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'in file x:'>&2; echo 'x:1:2: error: no such thing'>&2; echo 'more'>&2; exit 1",
            "x:1:2: error: no such thing",
        ),
        ("echo 'bad value for -march'>&2; exit 1", "bad value for -march"),
        ("exit 7", "exit code 7"),
    ],
)
def test_where_the_compiler_fails_torch_computes_the_loss_and_its_first_error_is_named(
    script: str,
    said: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compiler = fake_compiler(tmp_path, script)
    monkeypatch.setattr(shutil, "which", lambda _: compiler)

    some_loss()

    assert implementation("cpu") == "torch"
    assert caplog.messages == [f"{WITHOUT}{compiler} says: {said}"]


def test_a_library_that_cannot_be_loaded_leaves_the_loss_to_torch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writes_nonsense = 'for last; do :; done; case "$last" in *.so) echo no > "$last";; esac'
    monkeypatch.setattr(shutil, "which", lambda _: fake_compiler(tmp_path, writes_nonsense))

    some_loss()

    assert implementation("cpu") == "torch"
    assert len(caplog.messages) == 2  # not from the cache, and not from anywhere else
    assert caplog.messages[1].startswith(WITHOUT)
    assert "file too short" in caplog.messages[1]


@needs_compiler
def test_a_kernel_without_memory_is_an_error_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_kernel", lambda: lambda job: False)

    with pytest.raises(MemoryError) as told:
        some_loss()

    assert str(told.value) == "the relation loss has no memory for its scratch: a sequence of 37 tokens"

"""The relation loss by the C++ kernel beside this file, compiled for this machine when first asked for.

The library is kept in the user's cache under a name that holds whatever it depends on: the source, the flags, and all
that the compiler says of itself and of this processor. Threads of Python's own run it (a call through ctypes lets the
interpreter go): a second OpenMP runtime would fight torch's for the cores.

Shapes: N positions, D and E student and teacher width, A relation heads, B sequences.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch

from pipeline.data.layout import Layout

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernel.cpp", "head.h", "vectors.h"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
HEADS_PER_ITEM = 4  # neighbours in memory; enough work that taking an item is nothing to it
_DIRECT = (torch.float32, torch.bfloat16)  # what the kernel reads as it is
_log = logging.getLogger(__name__)


class _Job(ctypes.Structure):
    """As `Job` in kernel.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("student", "teacher", "gradient", "losses", "starts", "lengths")),
        *((name, ctypes.c_int64) for name in ("sequences", "longest", "heads", "heads_per_item")),
        *((name, ctypes.c_int64) for name in ("student_channels", "teacher_channels", "student_row", "teacher_row")),
        *((name, ctypes.c_int64) for name in ("student_bf16", "teacher_bf16", "next")),
    )


def available() -> bool:
    """Whether there is a kernel to call; the first question compiles it."""
    return _kernel() is not None


def value_and_gradient(
    student_ND: torch.Tensor, teacher_NE: torch.Tensor, *, layout: Layout, relation_heads: int, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss (fp32) and, if `gradient`, its gradient for the student, in the student's type."""
    student_ND, teacher_NE, given = _readable(student_ND), _readable(teacher_NE), student_ND.dtype
    gradient_ND = _blank(student_ND, layout) if gradient else None
    order = np.argsort(-np.asarray(layout.lengths, dtype=np.int64), kind="stable")  # the longest first: ends together
    starts_B, lengths_B = (np.asarray(x, dtype=np.int64)[order] for x in (layout.starts, layout.lengths))
    losses_BA = np.zeros((len(layout), relation_heads))
    job = _Job(
        student=student_ND.data_ptr(),
        teacher=teacher_NE.data_ptr(),
        gradient=None if gradient_ND is None else gradient_ND.data_ptr(),
        losses=losses_BA.ctypes.data,
        starts=starts_B.ctypes.data,
        lengths=lengths_B.ctypes.data,
        sequences=len(layout),
        longest=max(layout.lengths, default=0),
        heads=relation_heads,
        heads_per_item=HEADS_PER_ITEM,
        student_channels=student_ND.shape[1] // relation_heads,
        teacher_channels=teacher_NE.shape[1] // relation_heads,
        student_row=student_ND.stride(0),
        teacher_row=teacher_NE.stride(0),
        student_bf16=student_ND.dtype == torch.bfloat16,
        teacher_bf16=teacher_NE.dtype == torch.bfloat16,
    )
    _run(job, threads=torch.get_num_threads())
    return torch.tensor(losses_BA.sum(), dtype=torch.float32), None if gradient_ND is None else gradient_ND.to(given)


def _readable(x_ND: torch.Tensor) -> torch.Tensor:
    """As the kernel reads it: fp32 or bf16, channels side by side, rows anywhere (a fused projection's share too)."""
    x_ND = x_ND.detach() if x_ND.dtype in _DIRECT else x_ND.detach().float()
    return x_ND if x_ND.stride(1) == 1 else x_ND.contiguous()


def _blank(student_ND: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Where the gradient goes: zeros where there is padding, which nobody writes to."""
    make = torch.empty if layout.tokens == layout.positions else torch.zeros
    return make(student_ND.shape, dtype=student_ND.dtype)


def _run(job: _Job, *, threads: int) -> None:
    """The kernel on this thread and `threads - 1` others, until the job is done."""
    work = _kernel()
    assert work is not None, "`available` was not asked"
    others = [_pool().submit(work, ctypes.byref(job)) for _ in range(threads - 1)]
    try:
        done = [work(ctypes.byref(job))]
    finally:
        wait(others)  # they write to memory that is let go with this call
    if not any(done + [other.result() for other in others]):
        raise MemoryError(f"the relation loss has no memory for its scratch: a sequence of {job.longest} tokens")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="relation-kl")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork keeps the pool and none of its threads


@functools.cache
def _kernel() -> Callable[..., bool] | None:
    """The kernel's one function; None, with one warning that says why, where it cannot be made."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    try:
        if compiler is None:
            raise FileNotFoundError("no C++ compiler (c++, g++, clang++) is on the PATH")
        function = _library(compiler).relation_kl
    except subprocess.CalledProcessError as error:
        said = error.stderr.splitlines() or [f"exit code {error.returncode}"]
        why = f"{compiler} says: {next((line for line in said if 'error' in line), said[0])}"
    except OSError as error:
        why = str(error)
    else:
        function.argtypes, function.restype = (ctypes.c_void_p,), ctypes.c_bool
        return function
    _log.warning("the relation loss runs in plain torch, several times slower than its C++ kernel: %s", why)
    return None


def _library(compiler: str) -> ctypes.CDLL:
    """From the cache, or compiled into it; where that cannot be, from a folder that is gone once it is loaded."""
    about = _output(compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull)  # its version and this CPU's features
    key = hashlib.sha256("\0".join((about, *FLAGS, *(source.read_text() for source in SOURCES))).encode()).hexdigest()
    name = f"relation_kl-{key[:32]}.so"
    try:
        kept = _cache_folder() / name
        if not kept.exists():
            _compile(compiler, kept)
        return ctypes.CDLL(str(kept))
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        _log.warning("every process compiles the relation loss's kernel anew, for it cannot be kept: %s", error)
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        _compile(compiler, Path(folder) / name)
        return ctypes.CDLL(str(Path(folder) / name))


def _cache_folder() -> Path:
    return Path.home() / ".cache" / "retort"


def _compile(compiler: str, library: Path) -> None:
    """Written beside its place and renamed into it, so that no other process loads half of it."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        _output(compiler, *FLAGS, "-shared", str(SOURCES[0]), "-o", str(made))
        made.replace(library)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

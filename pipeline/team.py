"""The processes of one training run: alone, or N started by torchrun or `accelerate launch`, each with its device.

What fails fails once: the first process that fails speaks for all, and the others, which meet the same failure or lose
their partner, end with its exit code and without a word. The launcher ends whoever still waits.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import BadRequest, Failure

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # the others wait for whatever rank 0 does alone, and for whom it waits


@dataclass(frozen=True)
class Team:
    """This process among `size`; rank 0 writes and speaks for all."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def device(self) -> "torch.device":
        """The CUDA device of this process, or the CPU."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.distributed.get_node_local_rank(fallback_rank=0) if self.size > 1 else 0)

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes: two numbers on the CPU, nothing waits for a GPU."""
        if self.size == 1:
            return list(values)
        import torch

        summed = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(summed)
        return list(summed.tolist())

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        if self.size == 1:
            return [value]
        import torch

        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def leaders(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for all."""
        if self.size == 1:
            return make()
        import torch

        told = [make() if self.leads else None]
        torch.distributed.broadcast_object_list(told, src=0)
        return told[0]  # type: ignore[return-value]

    def parallel(self, module: Any) -> Any:
        """The module with its gradients averaged over the processes after each backward; alone, itself."""
        if self.size == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


@contextmanager
def team_of(processes: int) -> Iterator[Team]:
    """This process alone, or its place in the team it was launched into (the launcher's variables are read by torch
    itself).

    Raises BadRequest where it cannot join, or where there are more processes than GPUs.
    """
    if processes == 1:
        yield Team()
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    store, rank, size = _rendezvous(processes)
    # Tensors on the CPU (counts, decisions) go by gloo, gradients on a GPU by NCCL.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _one_voice(store, rank):
        distributed.init_process_group(
            backend, store=PrefixStore("team", store), rank=rank, world_size=size, timeout=PATIENCE
        )
        team = Team(rank=rank, size=size)
        _take_device(team)
        yield team
        distributed.destroy_process_group()


def _rendezvous(processes: int) -> tuple[Any, int, int]:
    """The store where processes leave word for each other, this one's rank, and how many there are."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://")))
    except ValueError as error:
        raise BadRequest(
            f"WORLD_SIZE says {processes} processes, but this one cannot join them: {error}; start them with torchrun"
        ) from error
    return store, rank, size


def _take_device(team: Team) -> None:
    import torch

    device = team.device
    if device.type != "cuda":
        return
    if device.index >= torch.cuda.device_count():
        raise BadRequest(
            f"process {device.index + 1} of this machine has no GPU of its own: there are "
            f"{torch.cuda.device_count()}; start as many processes"
        )
    torch.cuda.set_device(device)


@contextmanager
def _one_voice(store: Any, rank: int) -> Iterator[None]:
    """Let the first failure of all processes through, and end quietly after it."""
    if rank:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # rank 0 says that all were told to stop
    try:
        yield
    except Exception as error:
        code = error.exit_code if isinstance(error, Failure) else Failure.exit_code
        first = _first_failure(store, f"{rank} {code}")
        if first == f"{rank} {code}":
            raise
        raise SystemExit(int(first.split()[1])) from error


def _first_failure(store: Any, mine: str) -> str:
    """Whose failure it is (`rank code`): this one's, if no other was there before."""
    try:
        first: bytes = store.compare_set("failure", "", mine)
    except RuntimeError:  # rank 0 kept the store, and is gone
        return f"0 {Failure.exit_code}"
    return first.decode()

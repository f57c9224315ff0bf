"""Everybody who is measured on one bundle: started by name, each in the same way, on the same cores."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.serving.contestants import OURS, Peer, plain
from benchmarks.serving.installing import install
from benchmarks.serving.running import Served, our_server, peer_server
from serving.bundle import Bundle
from serving.errors import Failure
from serving.schema import ROUTES

T = TypeVar("T")


@dataclass(frozen=True)
class Installed:
    """A peer, and where its programs are."""

    peer: Peer
    programs: Path


@dataclass(frozen=True)
class Contest:
    """Servers on `cores`, the generator on `generator`. `failed` says why a peer is not measured (any more)."""

    bundle: Bundle
    texts: tuple[str, ...]
    peers: Mapping[str, Installed]
    cores: tuple[int, ...]
    generator: tuple[int, ...]
    threads: int = 1
    python: str = sys.executable
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Ours first, then the peers that still run."""
        return (OURS, *(name for name in self.peers if name not in self.failed))

    def only(self, peers: Sequence[str]) -> "Contest":
        """The same without the other peers; one that fails here has failed for all."""
        return replace(self, peers={name: self.peers[name] for name in peers})

    def bodies(self, name: str) -> tuple[str, ...]:
        """Each text as this server reads it."""
        peer = self.peers[name].peer if name != OURS else _OURS
        return peer.bodies(self.texts)

    def server(self, name: str) -> AbstractContextManager[Served]:
        """Started, and once answered."""
        if name != OURS:
            one = self.peers[name]
            return peer_server(
                one.peer, programs=one.programs, bundle=self.bundle, cores=self.cores, text=self.texts[0]
            )
        return our_server(
            self.bundle,
            arguments=("--threads", str(self.threads)),
            cores=self.cores,
            body=self.bodies(OURS)[0],
            path=ROUTES[self.bundle.spec.task],
            ready=_OURS.ready,
            python=self.python,
        )

    def each(self, number: int, measure: Callable[[str], T], *, beside: Sequence[str] = ()) -> dict[str, T]:
        """`measure` for every name, and for those `beside`, in an order that changes with the round's number. A peer
        that fails is left out from then on; ours may not fail."""
        found = {}
        for name in rotated((*self.names, *beside), number):
            told(f"round {number + 1}: {name}")
            try:
                found[name] = measure(name)
            except Failure as failure:
                if name not in self.peers:
                    raise
                self.failed[name] = str(failure)
                told(f"{name} is left out: {failure}")
        return found


def rotated(names: Sequence[str], number: int) -> tuple[str, ...]:
    """Another one begins in every round, and who follows whom changes too."""
    at = number // 2 % len(names)
    turned = (*names[at:], *names[:at])
    return turned if number % 2 == 0 else turned[::-1]


def told(line: str) -> None:
    """How far it is, for who waits."""
    sys.stderr.write(f"{line}\n")


def installed(peers: Sequence[Peer], cache: Path) -> tuple[dict[str, Installed], dict[str, str]]:
    """By name those that are there now, and of the others why not."""
    found, failed = {}, {}
    for peer in peers:
        try:
            found[peer.name] = Installed(peer, install(peer, cache))
        except Failure as failure:
            failed[peer.name] = str(failure)
            told(f"{peer.name} is left out: {failure}")
    return found, failed


def best_score(answer: Any) -> float:
    """The highest number up to 1 in an answer, whatever its shape: of a classification the best label's score."""
    if isinstance(answer, dict):
        return max(map(best_score, answer.values()), default=0.0)
    if isinstance(answer, list):
        return max(map(best_score, answer), default=0.0)
    return answer if isinstance(answer, float) and answer <= 1 else 0.0


_OURS: Final = Peer(name=OURS, command=(), path="/classify", ready="/v2/health/ready", body=plain)

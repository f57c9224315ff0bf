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
    """Servers on `cores`, the generator on `generator`. `failed` says what was not measured and why: a peer that cannot
    be installed, and a round of anybody's."""

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
        """Ours first, then the peers."""
        return (OURS, *self.peers)

    def only(self, peers: Sequence[str]) -> "Contest":
        """The same without the other peers; what fails here is told among all failures."""
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

    def each(
        self, number: int, measure: Callable[[str], T], *, beside: Sequence[str] = (), part: str = ""
    ) -> dict[str, T]:
        """`measure` for every name, and for those `beside`, in an order that changes with the round's number. Who fails
        is tried once more; who fails again has no such round, and takes part in the next."""
        found, of = {}, f"{part} round {number + 1}".strip()
        for name in rotated((*self.names, *beside), number):
            for last in (False, True):
                told(f"{of}: {name}")
                try:
                    found[name] = measure(name)
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, it must cost one round only
                    told(f"{name} failed: {said(error)}; it is {'left out of this round' if last else 'tried again'}")
                    if last:
                        self.failed[f"{name}, {of}"] = said(error)
        return found

    def require_round(self, name: str, found: Mapping[str, Sequence[Any]], *, part: str = "") -> None:
        """Raises Failure: of this name not one round was found, and why."""
        if not found.get(name):
            of = f"{name}, {f'{part} round'.strip()} "
            why = [why for what, why in self.failed.items() if what.startswith(of)]
            raise Failure(f"{name} failed in every round, the last time with: {why[-1] if why else 'nothing said'}")


def rotated(names: Sequence[str], number: int) -> tuple[str, ...]:
    """Another one begins in every round, and who follows whom changes too."""
    at = number // 2 % len(names)
    turned = (*names[at:], *names[:at])
    return turned if number % 2 == 0 else turned[::-1]


def said(error: BaseException) -> str:
    """A failure's message is whole; that of anything else says too little without its kind."""
    return str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}".rstrip(": ")


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

"""Moves of an alias that are broken off at request 1, 2, 3, ..., and whether ledger and alias agree afterwards."""

import contextlib
import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from faults import Line, through
from offers import client_of, offer_of, versions_in
from registries import Registry
from registry.children import moments_of
from registry.cutting import NO_PAUSES, SHARES, Breaking, Fault, faults_of_each, take_environment

from pipeline.errors import Transient
from pipeline.moves import Move
from pipeline.promotion import move, rollback
from pipeline.settling import settle
from pipeline.tracking.client import talking_to
from pipeline.tracking.registering import register

ALIAS: Final = "champion"
VERSIONS: Final = ("1", "2", "3")
RollMend = Literal["settle", "again"]
Mend = Literal["settle", "move"]  # what is done after an interruption: settling, or the next move


def register_versions(registry: Registry, folder: Path, workspace: Path, name: str, count: int = len(VERSIONS)) -> None:
    for number in range(count):
        register(offer_of(folder, name=name, key=f"register-{number}"), uri=registry.uri, workspace=workspace)


def moving(uri: str, name: str, version: str, why: str = "it is better", who: str = "tests") -> int:
    """Promote, as the command does; the number of the ledger's entry."""
    with talking_to(uri) as client:
        return move(client, name, Move(ALIAS, version, why=why, who=who)).entry_number


def settling(uri: str, name: str) -> None:
    with talking_to(uri) as client:
        settle(client, name)


def entries_of(registry: Registry, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The ledger's valid entries with their heads, walked without any of its own code: each names the one before."""
    found, end = [], ""
    for version in versions_in(registry, f"{name}.ledger"):
        text = version.tags["retort.entry"]
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert version.tags["retort.entry_hash"] == digest
        if json.loads(text)["prev"] == end:
            found.append((f"{version.version}:{digest}", json.loads(text)))
            end = digest
    return found


def disagreements(registry: Registry, name: str) -> Iterator[str]:
    """Where ledger, aliases and the ledger's end beside the model do not say the same."""
    model = client_of(registry).get_registered_model(name)
    entries = entries_of(registry, name)
    said = {entry["alias"]: entry["to"] for _, entry in entries}
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    if aliases != said:
        yield f"aliases are {aliases}, and the ledger says {said}"
    numbers = [int(version.version) for version in versions_in(registry, f"{name}.ledger")]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"entries are numbered {numbers}"
    heads = {model.tags.get("retort.ledger_head")}
    heads |= {v.tags.get("retort.ledger_head") for v in versions_in(registry, name) if str(v.version) in said.values()}
    if entries and heads != {entries[-1][0]}:
        yield f"the ledger ends with {entries[-1][0]}, and is said to end with {heads}"


@dataclass
class Attempt(ABC):
    """Something that moves an alias, each time broken off; then it is mended, and looked at."""

    registry: Registry  # as seen through proxies
    line: Line
    name: str
    how: Breaking
    mend: str
    number: int = 0
    told: bool = False  # that the last one was made

    def __call__(self, number: int) -> None:
        self.number, self.told = number, False
        act = self.ready()
        self.line.clear(self.how.at(number))
        with contextlib.suppress(Transient):
            act()
            self.told = True

    def faults(self) -> list[str]:
        self.mended()
        made = [entry for _, entry in entries_of(self.registry, self.name) if entry["why"] == f"try {self.number}"]
        wrong = [f"{len(made)} entries count"] if len(made) > 1 or (self.told and not made) else []
        return [*wrong, *self.more_faults(made=len(made)), *disagreements(self.registry, self.name)]

    @abstractmethod
    def ready(self) -> Callable[[], object]:
        """Make all ready; what is to be broken off."""

    @abstractmethod
    def mended(self) -> None:
        """What is done after an interruption."""

    def more_faults(self, *, made: int) -> list[str]:
        """Where more can be asked than of any move; `made` is how many entries the last one has."""
        return []


@dataclass
class Moving(Attempt):
    """Moves an alias to and fro."""

    mend: Mend

    def ready(self) -> Callable[[], object]:
        to = another(named_now(self.registry, self.name))
        return partial(moving, self.registry.uri, self.name, to, why=f"try {self.number}")

    def mended(self) -> None:
        if self.mend == "settle":
            settling(self.registry.uri, self.name)
        else:
            now = named_now(self.registry, self.name)
            last = [entry["to"] for _, entry in entries_of(self.registry, self.name)][-1:]
            moving(self.registry.uri, self.name, another(now, *last), why="the next")


@dataclass
class Rolling(Attempt):
    """Takes an alias back from the last version to the one before; then settles, or does the same again where it was
    not made: it goes back by one."""

    mend: RollMend

    def ready(self) -> Callable[[], object]:
        for version in VERSIONS:
            if named_now(self.registry, self.name) != VERSIONS[-1]:
                moving(self.registry.uri, self.name, version)
        return self.back

    def back(self) -> None:
        with talking_to(self.registry.uri) as client:
            rollback(client, self.name, to=None, alias=ALIAS, why=f"try {self.number}", who="tests")

    def mended(self) -> None:
        agreed = not [*disagreements(self.registry, self.name)]
        complete = agreed and named_now(self.registry, self.name) != VERSIONS[-1]
        if self.mend == "settle":
            settling(self.registry.uri, self.name)
        elif not complete:  # else nobody can know that it is no second one
            self.back()

    def more_faults(self, *, made: int) -> list[str]:
        now = named_now(self.registry, self.name)
        if self.mend == "settle" or (made, now) == (1, VERSIONS[-2]):
            return []
        return [f"{made} entries count, and the alias names {now}"]


def named_now(registry: Registry, name: str) -> str:
    """The version that the alias names; MLflow's stores give its number in different types."""
    return str(client_of(registry).get_registered_model(name).aliases.get(ALIAS))


def another(*named: str) -> str:
    return next(version for version in VERSIONS if version not in named)


def broken_moves(
    registry: Registry, folder: Path, workspace: Path, how: Breaking, mend: Mend, requests: int, share: int
) -> list[Fault]:
    with versions_through(registry, folder, workspace, f"move-{how}-{mend}-{share}") as (seen, line, name):
        attempt = Moving(seen, line, name, how, mend)
        return faults_of_each(attempt, attempt.faults, line=line, requests=requests, share=share)


def broken_rollbacks(
    registry: Registry, folder: Path, workspace: Path, how: Breaking, mend: RollMend, requests: int, share: int
) -> list[Fault]:
    with versions_through(registry, folder, workspace, f"back-{how}-{mend}-{share}") as (seen, line, name):
        attempt = Rolling(seen, line, name, how, mend)
        return faults_of_each(attempt, attempt.faults, line=line, requests=requests, share=share)


@contextlib.contextmanager
def versions_through(
    registry: Registry, folder: Path, workspace: Path, name: str
) -> Iterator[tuple[Registry, Line, str]]:
    """A registry seen through proxies, the line that can be cut, and the name of a model that has versions there."""
    with through(registry) as (seen, line):
        take_environment({**seen.environment, **NO_PAUSES})
        register_versions(seen, folder, workspace, name)
        yield seen, line, name


def killed_moves(empty: Path, folder: Path, workspace: Path, moments: int, share: int) -> list[Fault]:
    """The same without a server: killed at change 1, 2, 3, ... of what is on disk. `empty` is a database's file."""
    place = workspace / f"share-{share}"
    place.mkdir()
    registry = Registry(f"sqlite:///{shutil.copy(empty, place)}")
    register_versions(registry, folder, place, "killed")
    wrong, number, clean = [], 1 + share, None
    while clean is None:
        now = named_now(registry, "killed")
        clean = moments_of(moving, registry.uri, "killed", another(now), below=place, last=number)
        settling(registry.uri, "killed")
        wrong += [Fault(number, "", what) for what in disagreements(registry, "killed")]
        number += SHARES
    assert number > moments
    return wrong

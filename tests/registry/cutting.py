"""What is tried and broken off at request 1, 2, 3, ... until one try gets through, and what is wrong after each.

The numbers are shared out among processes. Each has its own proxies, and breaks what has a name of its own.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from faults import Cut, Line, When, through
from offers import client_of, faults_in, leftovers_in, model_id_of, offer_of, versions_in
from registries import Registry
from registry.children import FORKS, moments_of, pool, register_in_child, register_or_say_why
from registry.dying import servers

from pipeline.errors import Transient
from pipeline.tracking.registering import KEY_TAG, Offer, register

SHARES: Final = 2
NO_PAUSES: Final = {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0"}


@dataclass(frozen=True)
class Breaking:
    """From a request on, or that one alone (`once`); before the server sees it or after it did it; with the connection
    the asking process may be killed."""

    when: When
    once: bool = False
    kill: bool = False

    def __str__(self) -> str:
        return f"{self.when}{'-once' * self.once}{'-kill' * self.kill}"

    def at(self, number: int, then: Callable[[], None] | None = None) -> Cut:
        return Cut(number, self.when, once=self.once, then=then)


@dataclass(frozen=True)
class Fault:
    """What was wrong after the try that broke at this request."""

    number: int
    request: str
    what: str


def faults_of_all(one_share: Callable[..., list[Fault]], *given: Any, requests: int) -> list[Fault]:
    """What `one_share(..., requests, share)` finds in so many processes; `requests` are what a try takes at least."""
    with pool(SHARES) as processes:
        waiting = [processes.submit(one_share, *given, requests, share) for share in range(SHARES)]
        return sorted((fault for each in waiting for fault in each.result()), key=lambda fault: fault.number)


def faults_of_each(
    attempt: Callable[[int], object], check: Callable[[], list[str]], *, line: Line, requests: int, share: int
) -> list[Fault]:
    """Attempts with the numbers of this share, and the faults found after each, until nothing broke one."""
    wrong = []
    for number in itertools.count(1 + share, SHARES):
        attempt(number)
        request = line.struck[0] if line.struck else ""
        line.clear()
        wrong += [Fault(number, request, what) for what in check()]
        if not request:
            assert number > requests, "so few requests cannot be all"
            return wrong
    raise AssertionError("unreachable: numbers do not end")


# -- registrations -----------------------------------------------------------------------------------------------------


@dataclass
class Registering:
    """Registers a folder under one new name after the other, each time broken off."""

    registry: Registry  # as seen through proxies
    line: Line
    folder: Path
    workspace: Path
    how: Breaking
    label: str
    offer: Offer | None = None
    unsaid: bool = False  # the last try was broken and told nobody

    def __call__(self, number: int) -> None:
        self.offer = offer_of(self.folder, name=f"{self.label}-{number}")
        if self.how.kill:
            self._in_a_process(number)
            return
        self.line.clear(self.how.at(number))
        self.unsaid = False
        with contextlib.suppress(Transient):
            register(self.offer, uri=self.registry.uri, workspace=self.workspace)
            self.unsaid = bool(self.line.struck)

    def _in_a_process(self, number: int) -> None:
        given = (self.offer, self.registry.uri, self.workspace, NO_PAUSES)
        process = FORKS.Process(target=register_or_say_why, args=given)
        self.line.clear(self.how.at(number, then=process.kill))
        process.start()
        process.join()
        self.unsaid = process.exitcode != (-9 if self.line.struck else 0)

    def faults(self) -> list[str]:
        """What is wrong now, and after the next try."""
        assert self.offer
        before = versions_in(self.registry, self.offer.name)
        wrong = ["it was broken off and did not say so"] if self.unsaid and not self.how.once else []
        wrong += [f"at once: {fault}" for fault in faults_in(self.registry, self.offer)]
        done = register(self.offer, uri=self.registry.uri, workspace=self.workspace)
        after = versions_in(self.registry, self.offer.name)
        if [(each.tags.get(KEY_TAG), str(each.version)) for each in after] != [(self.offer.key, done.version)]:
            wrong.append(f"{len(before)} versions, and {len(after)} after the next try, which names {done.version}")
        if done.new == bool(before):
            wrong.append(f"the next try says new={done.new} where there were {len(before)} versions")
        return wrong + faults_in(self.registry, self.offer) + leftovers_in(self.registry, self.offer)

    def unlinked(self) -> list[str]:
        """The versions that MLflow's page of their LoggedModel does not name."""
        assert self.offer
        models = [model_id_of(version) for version in versions_in(self.registry, self.offer.name)]
        tags = {each: client_of(self.registry).get_logged_model(each).tags for each in models}
        return [f"{each} names no version" for each, found in tags.items() if "mlflow.modelVersions" not in found]


def broken_registrations(
    registry: Registry, folder: Path, workspace: Path, how: Breaking, label: str, requests: int, share: int
) -> list[Fault]:
    with through(registry) as (seen, line):
        take_environment({**seen.environment, **NO_PAUSES})
        attempt = Registering(seen, line, folder, workspace, how, f"{label}-{how}")
        return faults_of_each(attempt, attempt.faults, line=line, requests=requests, share=share)


def killed_registrations(empty: Path, folder: Path, workspace: Path, moments: int, share: int) -> list[Fault]:
    """The same without a server: killed at change 1, 2, 3, ... of what is on disk. `empty` is a database's file."""
    place = workspace / f"share-{share}"
    place.mkdir()
    registry = Registry(f"sqlite:///{shutil.copy(empty, place)}")
    wrong = []
    for number in itertools.count(1 + share, SHARES):
        attempt = Registering(registry, Line(), folder, place, Breaking("before", kill=True), "moment")
        attempt.offer = offer_of(folder, name=f"moment-{number}")
        given = (attempt.offer, registry.uri, place, {})
        clean = moments_of(register_in_child, *given, below=place, last=number)
        wrong += [Fault(number, "", what) for what in attempt.faults()]
        if clean is not None:
            assert number > moments
            assert "commit" in clean
            return wrong
    raise AssertionError("unreachable: numbers do not end")


def registrations_of_dying_servers(empty: Path, folder: Path, workspace: Path, moments: int, share: int) -> list[Fault]:
    """The same where the server is killed before its commit 1, 2, 3, ..., and another one is started on what it left.
    `empty` is a database's file."""
    place = workspace / f"share-{share}"
    place.mkdir()
    take_environment(NO_PAUSES)
    wrong = []
    with servers(Path(shutil.copy(empty, place)), place / "artifacts") as of_place:
        for number in itertools.count(1 + share, SHARES):
            attempt = Registering(of_place.registry, Line(), folder, place, Breaking("before"), "dying")
            with of_place.killed_at(number) as died:
                attempt(number)
            with of_place.killed_at(None):
                wrong += [Fault(number, "", what) for what in (*attempt.faults(), *attempt.unlinked())]
            if died == [False]:
                assert number > moments
                return wrong
    raise AssertionError("unreachable: numbers do not end")


def take_environment(variables: Mapping[str, str]) -> None:
    """A process of the pool has the environment of the first test that forked one."""
    os.environ.update(variables)

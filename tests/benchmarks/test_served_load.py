"""The server scenario within a session: who is loaded, with what, on which cores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_bundle

from benchmarks import served_load
from benchmarks.machine import affinity
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import ServerResult
from benchmarks.plan import SessionPlan, Variant, plan_session
from benchmarks.receipt import Load
from benchmarks.served_load import server_scenario
from benchmarks.targets import OpenVino, OrtCpu
from serving.errors import BadRequest

FOUND = ServerResult("engine", bound_ms=20.0, percent=99, best_rps=100.0, points=())
ASKED = Plan(bound_ms=20.0)


@pytest.fixture
def session(tmp_path: Path) -> SessionPlan:
    tiny_bundle(tmp_path / "a")
    return plan_session(
        [Variant("a", OrtCpu(threads=1), tmp_path / "a")],
        items=[("good bad fine",), ("bright",)],
        out=tmp_path / "out",
        load=Load(lengths=(5,), n=10, processes=1, real=2),
        task="classification",
        progress=lambda _done, _what: None,
    )


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """Which of the two scenarios was asked, and how."""
    asked: list[tuple[str, Any, Any, dict[str, Any]]] = []

    def load(name: str) -> Any:
        def call(path: Path, items: Any, **settings: Any) -> ServerResult:
            settings.pop("tell")(1)
            asked.append((name, path, items, settings))
            return FOUND

        return call

    monkeypatch.setattr(served_load, "load_engine", load("engine"))
    monkeypatch.setattr(served_load, "load_bundle", load("http"))
    return asked


def test_the_engine_is_loaded_on_the_session_s_own_cores(session: SessionPlan, loaded: Any) -> None:
    assert server_scenario("engine", ASKED)(session, session.variants[0]) == FOUND
    settings = {"variant": "a", "plan": ASKED, "cores": session.cores, "threads": 1}
    assert loaded == [("engine", session.variants[0].path, session.real, settings)]


def test_the_server_has_all_cores_but_the_generator_s(
    session: SessionPlan, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_load, "affinity", lambda: (0, 1, 2))
    assert server_scenario("http", ASKED)(session, session.variants[0]) == FOUND
    settings = {"variant": "a", "plan": ASKED, "cores": (0, 1, 2), "threads": 1}
    assert loaded == [("http", session.variants[0].path, session.real, settings)]


@pytest.mark.parametrize(("threads", "given"), [(1, 1), (2, 2), (3, 2)])
def test_the_server_has_the_target_s_threads_as_far_as_there_are_cores_for_them(
    session: SessionPlan, loaded: Any, monkeypatch: pytest.MonkeyPatch, threads: int, given: int
) -> None:
    monkeypatch.setattr(served_load, "affinity", lambda: (0, 1, 2))
    server_scenario("http", ASKED)(replace(session, threads=threads), session.variants[0])
    assert loaded[0][3]["threads"] == given


def test_what_the_server_does_not_run_has_no_rate(session: SessionPlan, loaded: Any) -> None:
    other = Variant("a", OpenVino(threads=1), session.variants[0].path)
    assert server_scenario("engine", ASKED)(session, other) is None
    assert loaded == []


def test_one_core_is_too_few_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_load, "affinity", lambda: (0,))
    with pytest.raises(
        BadRequest, match="load over HTTP needs a core for the generator beside the server's; here is 1"
    ):
        server_scenario("http", ASKED)


def test_a_rate_that_cannot_be_judged_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(BadRequest, match="p99 at 1 requests/s takes"):
        server_scenario("engine", Plan(bound_ms=20.0, start_rps=1.0))


def test_a_bundle_s_engine_is_loaded_for_real(session: SessionPlan) -> None:
    asked = Plan(bound_ms=500.0, percent=50, start_rps=100.0, steps=1, seconds=0.5, warm_s=0.1)
    found = server_scenario("engine", asked)(session, session.variants[0])
    assert found is not None
    assert (found.scenario, len(found.points) >= 1, affinity()[:1]) == ("engine", True, session.cores)

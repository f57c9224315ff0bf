"""The server scenario as a part of a session: how each variant is loaded after its times were taken."""

from functools import partial

from benchmarks.machine import affinity
from benchmarks.openloop import plan as openloop
from benchmarks.openloop.results import Scenario, ServerResult
from benchmarks.openloop.scenarios import load_bundle, load_engine, split_cores
from benchmarks.plan import SessionPlan, Variant
from benchmarks.session import Serve
from benchmarks.targets import SERVED


def server_scenario(scenario: Scenario, asked: openloop.Plan) -> Serve:
    """Loads a variant over HTTP, against the real server, or its engine in process; one that the server cannot run
    (another target's) has no such figure. Requests are the session's texts as they come.

    Raises:
        BadRequest: the plan cannot be carried out here.
    """
    asked.require()
    if scenario == "http":
        split_cores(affinity())
    return partial(_serve, scenario=scenario, asked=asked)


def _serve(plan: SessionPlan, variant: Variant, *, scenario: Scenario, asked: openloop.Plan) -> ServerResult | None:
    if variant.target.kind != SERVED:
        return None
    items, tell = plan.real or plan.items, plan.note(f"{variant.name} under load")
    if scenario == "http":
        cores = affinity()
        _, left = split_cores(cores)
        return load_bundle(
            variant.path,
            items,
            variant=variant.name,
            plan=asked,
            cores=cores,
            threads=min(plan.threads, len(left)),
            tell=tell,
        )
    return load_engine(
        variant.path,
        items,
        variant=variant.name,
        plan=asked,
        cores=plan.cores,
        threads=plan.threads,
        tell=tell,
    )

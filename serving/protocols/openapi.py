"""GET /openapi.json: every route there is, made from the routes themselves, with its schemas, errors and limits.

What a route says of itself stands in its entry here; of one without an entry the first line of its handler's docstring
is told.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from serving.bundle import ServingSpec
from serving.desk import Desk
from serving.http import BODY_TIMEOUT_S, Asked, Reply, Route, told
from serving.models import Live
from serving.options import DEFAULT_BODY_BYTES
from serving.protocols.naming import VERSION, versions_of
from serving.protocols.open_inference import MODELS, READY
from serving.protocols.shapes import ref, schemas

PATH: Final = "/openapi.json"
ANY: Final = "*/*"
_JSON: Final = "application/json"
_ERRORS: Final = {
    400: "unreadable, or over a limit",
    401: "no key that is known",
    404: "not here: the model, its version, or its task",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is of a type that is not read here",
    422: "unreadable, or over a limit",
    499: "the client left",
    500: "the model failed on this request",
    503: "no room, or not ready; Retry-After says when to come again",
    504: "the time that X-Request-Timeout-Ms gave was up",
}
_MODEL_PATHS: Final = (f"{MODELS}{{model}}", f"{MODELS}{{model}}/versions/{{version}}")
_INFERS: Final = (401, 404, 408, 413, 422, 499, 500, 503, 504)
_TIMEOUT: Final = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "When the client stops waiting; work that cannot be done by then is not begun.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
}
_MINE: Final = {
    "X-Model-Version": "of the model that answered",
    "X-Model-Digest": "the same",
    "Server-Timing": "phases",
}


class Entry(NamedTuple):
    """What is said of one path and method; `given` and `answered` are schemas by media type."""

    summary: str
    answered: dict[str, Any]
    given: dict[str, Any] | None = None
    errors: Sequence[int] = ()
    error: str = "Failed"


def _of_models() -> Iterator[tuple[tuple[str, str], Entry]]:
    binary = {"type": "string", "contentMediaType": "application/octet-stream"}
    given = {_JSON: ref("Request"), "application/octet-stream": binary}
    answered = {_JSON: ref("Answer"), "application/octet-stream": binary}
    for model in _MODEL_PATHS:
        yield ("GET", model), Entry("Inputs and outputs.", {_JSON: ref("Metadata")}, errors=(401, 404))
        ready = Entry("Whether it answers.", {_JSON: ref("ModelReady")}, errors=(404, 503))
        yield ("GET", f"{model}{READY}"), ready
        yield ("POST", f"{model}/infer"), Entry("Answers, as tensors.", answered, given, errors=_INFERS)


_ENTRIES: Final[dict[tuple[str, str], Entry]] = {
    ("GET", "/v2/health/live"): Entry("The process turns, and finishes work.", {_JSON: ref("Live")}, errors=(503,)),
    ("GET", "/v2/health/ready"): Entry("A real inference came back just now.", {_JSON: ref("Ready")}, errors=(503,)),
    ("GET", "/ping"): Entry("The same, as SageMaker asks.", {_JSON: ref("Up")}, errors=(503,)),
    ("GET", "/health"): Entry("The same, as MLflow asks.", {_JSON: ref("Up")}, errors=(503,)),
    ("GET", "/version"): Entry("This server's version.", {"text/plain": {"type": "string"}}),
    ("GET", "/metrics"): Entry("Counts and times, for Prometheus.", {"text/plain": {"type": "string"}}),
    ("GET", "/v2"): Entry("The server.", {_JSON: ref("Server")}, errors=(401,)),
    ("GET", PATH): Entry("This description.", {_JSON: {"type": "object"}}, errors=(401,)),
    ("POST", "/invocations"): Entry(
        "Answers, as MLflow's scoring server gives them.",
        {_JSON: ref("Predictions")},
        {_JSON: ref("Body"), "text/csv": {"type": "string"}},
        errors=(400, 401, 404, 408, 413, 415, 500, 503, 504),
        error="MlflowFailed",
    ),
    **{
        ("POST", path): Entry("Answers.", {_JSON: ref("Results")}, {_JSON: ref("Texts")}, errors=_INFERS)
        for path in ("/classify", "/tag", "/embed")
    },
    **dict(_of_models()),
}


def routes(desk: Desk, others: Sequence[Route]) -> list[Route]:
    """That of this module, which tells of the others and of itself."""
    every: list[Route] = [*others]
    every.append(Route(PATH, partial(_document, desk, every)))
    return every[-1:]


async def _document(desk: Desk, every: Sequence[Route], asked: Asked) -> Reply:
    """This description."""
    live, versions = desk.models.current, versions_of(desk.models)
    return told(document(live, every, versions=versions, body_bytes=asked.most_bytes))


def document(
    live: Live, every: Sequence[Route], *, versions: Sequence[str] = (), body_bytes: int = DEFAULT_BODY_BYTES
) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes with this model; `versions` are those that a request may name, and `body_bytes` the
    most that it may hold."""
    named = {"model": [live.name], "version": [*(versions or (live.version,))]}
    paths: dict[str, dict[str, Any]] = {}
    for path, route in _expanded(every):
        entry = _ENTRIES.get((route.method, path)) or _plain(route)
        paths.setdefault(path, {})[route.method.lower()] = _operation(entry, path=path, route=route, named=named)
    keys = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Retort: {live.name}", "version": VERSION, "description": _limits(live.spec, body_bytes)},
        "paths": paths,
        "components": {"schemas": schemas(live.spec), "securitySchemes": keys},
        "security": [{}, {"bearer": []}, {"header": []}],
    }


def _expanded(every: Sequence[Route]) -> Iterator[tuple[str, Route]]:
    """Each route by the templates of its paths."""
    for route in every:
        if route.path != MODELS:
            yield f"{route.path}{{path}}" if route.below else route.path, route
            continue
        for model in _MODEL_PATHS:
            yield model + ("/infer" if route.infers else route.ends), route


def _plain(route: Route) -> Entry:
    handler = route.handler.func if isinstance(route.handler, partial) else route.handler
    summary = (inspect.getdoc(handler) or route.path).splitlines()[0]
    return Entry(summary, {ANY: {}}, errors=_INFERS if route.infers else () if route.open else (401,))


def _operation(entry: Entry, *, path: str, route: Route, named: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Without 405: that is of the methods that are not told."""
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [*named.get(name, [""])]}}
        for name in ("model", "version", "path")
        if f"{{{name}}}" in path
    ]
    said: dict[str, Any] = {"description": "As it says.", "content": _content(entry.answered)}
    responses = {"200": said, **{str(status): _error(status, entry) for status in entry.errors}}
    operation: dict[str, Any] = {"summary": entry.summary, "responses": responses}
    if entry.given is not None:
        operation["requestBody"] = {"required": True, "content": _content(entry.given)}
        parameters.append(_TIMEOUT)
        said["headers"] = {name: {"description": why, "schema": {"type": "string"}} for name, why in _MINE.items()}
    if parameters:
        operation["parameters"] = parameters
    return {**operation, "security": []} if route.open else operation


def _error(status: int, entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"description": _ERRORS[status], "content": _content({_JSON: ref(entry.error)})}
    if status == 503 and entry.given is not None:
        found["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found


def _content(shapes: dict[str, Any]) -> dict[str, Any]:
    return {media: {"schema": schema} for media, schema in shapes.items()}


def _limits(spec: ServingSpec, body_bytes: int) -> str:
    return (
        f"A request has at most {spec.max_items} items of {spec.max_characters} characters a text, and "
        f"{body_bytes} bytes, which arrive within {BODY_TIMEOUT_S:g} s. The model does {spec.task} and reads "
        f"{spec.max_length} tokens; of longer texts: {type(spec.long_texts).__name__.lower()}."
    )

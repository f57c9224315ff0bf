"""The command `retort load`: it parses, calls what offers the load, and prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
import typer

from pipeline.commands.bench import require_bound
from pipeline.commands.options import Json, echo, for_people
from pipeline.errors import BadRequest, Inconclusive
from pipeline.progress import Console, summary_console

if TYPE_CHECKING:
    from benchmarks.load import Loaded, Target
    from serving.bundle import Item

CACHE: Final = Path(".retort/cache")
OUT: Final = Path(".retort/load")
ROUTES: Final = {"retort": "/classify", "invocations": "/invocations"}

Url = Annotated[str, typer.Argument(metavar="URL", help="http://HOST:PORT of the server, or with the whole path.")]
ProtocolOption = Annotated[
    Literal["retort", "v2", "invocations"], typer.Option(help="How requests word texts: ours, Open Inference, MLflow.")
]
Route = Annotated[str | None, typer.Option(help="Where requests go; default: /classify or /invocations.")]
Data = Annotated[Path | None, typer.Option(help="Texts: a .txt, .jsonl, .csv or .parquet; sent in turn, one each.")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text, default text; of pairs two, as in a,b.")]
Template = Annotated[
    str | None, typer.Option(metavar="JSON", help="Another server's body: JSON with {{text}} where a text goes.")
]
Rps = Annotated[float, typer.Option(help="Requests a second, on average.")]
Seconds = Annotated[float | None, typer.Option(help="For how long; default 30, in a search 5 a rate.")]
FindPeak = Annotated[bool, typer.Option("--find-peak", help="Search for the highest rate within the bound.")]
WithinMs = Annotated[float, typer.Option(help="The bound of that search.")]
Percent = Annotated[int, typer.Option(help="The percentile that must keep it: 50, 90 or 99.")]
HeaderOption = Annotated[
    list[str] | None, typer.Option("--header", metavar="'NAME: VALUE'", help="Sent with each request. Repeatable.")
]
KeyFile = Annotated[Path | None, typer.Option(help="File with an API key, sent as Authorization: Bearer.")]
Connections = Annotated[int | None, typer.Option(min=1, help="At most so many; default: what the rate needs.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the schedule: the same seed offers the same gaps.")]
Out = Annotated[Path, typer.Option(help="Folder for report.html and load.json.")]


def load(
    url: Url,
    protocol: ProtocolOption = "retort",
    route: Route = None,
    data: Data = None,
    text: TextColumn = None,
    body_template: Template = None,
    rate: Rps = 100.0,
    seconds: Seconds = None,
    find_peak: FindPeak = False,
    within_ms: WithinMs = 25.0,
    percent: Percent = 99,
    header: HeaderOption = None,
    api_key_file: KeyFile = None,
    connections: Connections = None,
    seed: Seed = 0,
    out: Out = OUT,
    json_only: Json = False,
) -> None:
    """Load a server and say how it does: requests that arrive at random, as users' do, and do not wait for each other.

    A schedule is drawn before the first request is sent, and a latency counts from when its request was due: a server
    that stalls is charged for all who would have asked meanwhile. One without a good answer is slower than any other.

    Examples:

      retort load http://localhost:8080 --data texts.txt --rate 200 --seconds 30

      retort load http://localhost:8080 --data texts.txt --find-peak --within-ms 25

      retort load http://localhost:9000/v2/models/m/infer --protocol v2 --data texts.jsonl

      retort load http://localhost:9000/predict --body-template '{"input": {{text}}}' --data texts.txt

    Run it on another machine than the server's, or where the server leaves a core alone: a generator that comes late
    offered something else, its points are void, and a load of which nothing is known ends with 67. 64: the server does
    not understand the requests (its first answer is told); 75: it is not there.
    """
    from benchmarks.load import Target

    bodies = _bodies(data, text=text, template=body_template, protocol=protocol)
    at, sent = _address(url, route=route, protocol=protocol), _headers(header or (), api_key_file)
    target = Target(at, bodies, sent, connections, seed)
    loaded = _offered(target, rate=rate, seconds=seconds, bound_ms=within_ms if find_peak else None, percent=percent)
    with for_people(unless=json_only):
        _show(loaded, out)
    echo(msgspec.structs.replace(loaded, latencies_ms=()))
    if loaded.void:
        raise Inconclusive(f"the load says nothing about the server: {loaded.void}")


def _offered(target: "Target", *, rate: float, seconds: float | None, bound_ms: float | None, percent: int) -> "Loaded":
    """One rate, or with a bound the search for the highest."""
    from benchmarks.load import find_peak, load_rate
    from benchmarks.openloop.plan import Plan

    rps = require_bound(rate, option="--rate")
    held_s = require_bound(seconds if seconds is not None else 30.0 if bound_ms is None else 5.0, option="--seconds")
    if bound_ms is None:
        return load_rate(target, rps=rps, seconds=held_s)
    bound_ms = require_bound(bound_ms, option="--within-ms")
    plan = Plan(bound_ms=bound_ms, percent=percent, start_rps=rps, seconds=held_s, seed=target.seed)
    with Console().bar("rates", total=None, unit="rate") as bar:
        return find_peak(target, plan=plan, tell=lambda _: bar.advance())


def _address(url: str, *, route: str | None, protocol: str) -> str:
    """The route, where the URL has no path of its own."""
    from urllib.parse import urlsplit

    with_scheme = url if "://" in url else f"http://{url}"
    path = urlsplit(with_scheme).path.rstrip("/")
    if route is None and path:
        return with_scheme
    if route is None and protocol not in ROUTES:
        raise BadRequest(f"--protocol {protocol} needs the model's path: --route /v2/models/NAME/infer")
    found = route or ROUTES[protocol]
    return f"{with_scheme.rstrip('/')}{'' if found.startswith('/') else '/'}{found}"


def _bodies(data: Path | None, *, text: str | None, template: str | None, protocol: Any) -> tuple[str, ...]:
    from benchmarks.openloop.bodies import protocol_bodies, template_bodies

    if template is not None:
        return template_bodies(_items(data, text), template)
    if data is None:
        raise BadRequest("no texts: give them with --data FILE, or a body with --body-template")
    return protocol_bodies(_items(data, text), protocol)


def _items(data: Path | None, text: str | None) -> "tuple[Item, ...]":
    from pipeline.bench_inputs import read_unlabelled

    return () if data is None else read_unlabelled(data, text=text, cache=CACHE, what="--data").items


def _headers(given: Any, key_file: Path | None) -> tuple[tuple[str, str], ...]:
    found = [_header(each) for each in given]
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"--api-key-file {key_file} cannot be read: {error}") from error
        if not key or not key.isprintable():
            raise BadRequest(f"--api-key-file {key_file} holds no key: a single line is expected")
        found.append(("Authorization", f"Bearer {key}"))
    return tuple(found)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()) or not text.isprintable() or not text.isascii():
        raise BadRequest(f"--header {text!r}: expected 'NAME: VALUE' in ASCII")
    return name.strip(), value.strip()


def _show(loaded: "Loaded", out: Path) -> None:
    """The table, the finding, where the page is."""
    from benchmarks.load_page import phases_table, points_table, write_load_page
    from benchmarks.serving.shown import build_table

    out.mkdir(parents=True, exist_ok=True)
    write_load_page(loaded, out / "report.html")
    (out / "load.json").write_bytes(msgspec.json.encode(loaded) + b"\n")
    console = summary_console()
    for table in (points_table(loaded), phases_table(loaded)):
        if table.rows:
            console.print(build_table(table.headings, table.rows))
    console.print(f"load:       {loaded.told()}", soft_wrap=True, markup=False)
    console.print(f"report:     {out / 'report.html'}", soft_wrap=True, markup=False)

"""Where the milliseconds of a graph go, node by node, by onnxruntime's own profiler."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from serving.cpu import usable_threads
from serving.runtimes import ort_options

if TYPE_CHECKING:
    from pipeline.quantizing.given import Feed

NodeTimes = Mapping[tuple[str, str], float]  # by operator and node as they run, milliseconds of one forward
_WARM_UP: Final = 3
_RUNS: Final = 20
_KERNEL: Final = "_kernel_time"


def node_times(graph: Path, feed: "Feed", *, threads: int | None, scratch: Path) -> NodeTimes:
    """The median of each node's kernel over some forwards of one feed; nodes of one name are added up."""
    import onnxruntime

    options = ort_options(threads=threads or usable_threads(), on_cpu=True)
    options.enable_profiling, options.profile_file_prefix = True, str(scratch / "profile")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    read = {value.name: feed[value.name] for value in session.get_inputs()}
    for _ in range(_WARM_UP + _RUNS):
        session.run(None, read)
    told = Path(session.end_profiling())
    events = json.loads(told.read_bytes())
    told.unlink()
    return _by_node(events)


def saved_ms(before: NodeTimes, after: NodeTimes) -> float:
    """What a graph takes less than another of the same model: of the nodes that only one of the two has. Those that
    both have do the same work, and would add nothing but noise."""
    gone = sum(ms for node, ms in before.items() if node not in after)
    come = sum(ms for node, ms in after.items() if node not in before)
    return gone - come


def _by_node(events: list[dict[str, Any]]) -> NodeTimes:
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            node = event["args"]["op_name"], event["name"].removesuffix(_KERNEL)
            found.setdefault(node, []).append(event["dur"] / 1000)
    runs = _WARM_UP + _RUNS
    return {node: median(each[len(each) * _WARM_UP // runs :]) * len(each) / runs for node, each in found.items()}

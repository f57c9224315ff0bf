"""What every answer says beside its results: the model that gave it, and where the request's time went.

HTTP: X-Model-Version, X-Model-Digest and Server-Timing; gRPC: the same names as trailing metadata.
"""

import time
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, Final

from serving.desk import Done
from serving.metrics import Metrics
from serving.models import Live

Headers = tuple[tuple[bytes, bytes], ...]
_TIMING: Final = b"queue;dur=%.3f, tokenize;dur=%.3f, infer;dur=%.3f, total;dur=%.3f"
TRACE: Final = "retort.trace"
"""Where a request that is traced has its serving.tracing.Trace."""


def headers(metrics: Metrics, started_s: float, done: Done, *, scope: MutableMapping[str, Any]) -> Headers:
    """Those of an answer to a request whose head was read at `started_s` of time.perf_counter; its phases are counted.
    They are queue, tokenize, infer, and the total until now, in milliseconds."""
    if TRACE in scope:
        scope[TRACE].told(done)
    answer, live = done.result.answer, done.result.live
    total_ms = (time.perf_counter() - started_s) * 1e3
    metrics.observe(
        queue_ms=done.queue_ms,
        tokenize_ms=answer.tokenize_ms,
        infer_ms=answer.infer_ms,
        other_ms=max(0.0, total_ms - done.queue_ms - answer.tokenize_ms - answer.infer_ms),
    )
    timing = _TIMING % (done.queue_ms, answer.tokenize_ms, answer.infer_ms, total_ms)
    return ((b"server-timing", timing), *model_headers(live))


def model_headers(live: Live) -> Headers:
    """Which model answered."""
    return _headers_of(live.version, live.digest)


@lru_cache(maxsize=16)
def _headers_of(version: str, digest: str) -> Headers:
    return (b"x-model-version", version.encode()), (b"x-model-digest", digest.encode())

"""What the protocols ask: the name of a request, whether its key is known, and to have it written down."""

from typing import Any, Final

from serving.http import Asked
from serving.security.given import given
from serving.security.keys import Header, Keys, key_of
from serving.security.names import HEADER, Names
from serving.security.notes import Requests, Told

LOOKED_AT: Final = ("/ui/", "/metrics", "/v2/health/", "/health", "/ping")
"""Again and again, by machines and open pages."""


class Guard:
    """Without `keys` everybody is let in."""

    def __init__(self, *, keys: Keys | None, requests: Requests) -> None:
        self._keys, self._requests, self._names = keys, requests, Names()

    def name(self, asked: Asked) -> str:
        return self.named(asked.header)

    def require_key(self, asked: Asked) -> None:
        """Raises Unauthorized."""
        self.require(asked.header)

    def note(self, asked: Asked, *, status: int, outcome: str, seconds: float) -> None:
        if self._is_wanted(status, asked.path):
            self._write(
                asked.header,
                id=asked.id,
                method=asked.method,
                path=asked.path,
                status=status,
                seconds=seconds,
                outcome=outcome,
                client=_address(asked.scope.get("client")),
                given=given(asked.scope),
            )

    # -- for any protocol; `header` finds a header, or a call's metadata, by its name in lower case -------------------

    def named(self, header: Header) -> str:
        """What the request is called."""
        return self._names.name(header(HEADER))

    def require(self, header: Header) -> str:
        """The name of the caller's key, empty where none is needed; raises Unauthorized."""
        return self._keys.require(header) if self._keys is not None else ""

    def write(
        self,
        header: Header,
        *,
        id: str,  # noqa: A002 - the field's name in the log
        method: str,
        path: str,
        status: int,
        outcome: str,
        seconds: float,
        client: str = "",
    ) -> None:
        """A line, where this request is to have one."""
        if self._is_wanted(status, path):
            told = {"method": method, "path": path, "status": status, "outcome": outcome, "client": client}
            self._write(header, seconds=seconds, id=id, given=None, **told)

    def _is_wanted(self, status: int, path: str) -> bool:
        """What only looks at a server that is well has no line."""
        return not (status < 300 and path.startswith(LOOKED_AT)) and self._requests.wants(status)

    def _write(self, header: Header, *, seconds: float, **told: Any) -> None:
        key = self._keys.name_of(key_of(header)) if self._keys is not None else None
        self._requests.note(Told(key=key or "", ms=round(seconds * 1e3, 2), **told))


def _address(client: tuple[str, int] | None) -> str:
    return client[0] if client else ""

"""The start of each request's body, kept for its line in the log: only where --log-texts asks for it.

It lies between the HTTP server and the application, so that without it no request pays for it.
"""

from typing import Any, Final

from serving.exchange import App, Receive, Send

MOST_CHARACTERS: Final = 200
_KEY: Final = "retort.given"
_MOST_BYTES: Final = 4 * MOST_CHARACTERS


def given(scope: Any) -> str | None:
    """What was kept of a request's body; None where nothing is."""
    kept = scope.get(_KEY)
    return None if kept is None else bytes(kept).decode(errors="replace")[:MOST_CHARACTERS]


def keeping(app: App) -> App:
    """The application, with the start of each body kept in the request's scope."""

    async def kept(scope: Any, receive: Receive, send: Send) -> None:
        seen = scope[_KEY] = bytearray()

        async def received() -> Any:
            message = await receive()
            if len(seen) < _MOST_BYTES:
                seen.extend(message.get("body", b"")[: _MOST_BYTES - len(seen)])
            return message

        await app(scope, received, send)

    return kept

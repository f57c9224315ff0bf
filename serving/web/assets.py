"""The page's files, read once: bytes, media type and a tag by which a browser asks whether its copy is still right."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from serving.http import Asked, Reply

FOLDER: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
_MEDIA: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# No script, style or picture but these files, no text that becomes markup, and no frame of another site around it.
_POLICY: Final = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SAFE: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Asset(NamedTuple):
    """One file; `tag` is of its content."""

    body: bytes
    media: bytes
    tag: str

    def reply(self, asked: Asked) -> Reply:
        """The file, or that the browser has it already. It asks each time, so a new version is seen at once."""
        headers = ((b"etag", self.tag.encode()), (b"cache-control", b"no-cache"), *SAFE)
        known = asked.header(b"if-none-match") or ""
        if self.tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Reply(304, b"", self.media, headers)
        return Reply(200, self.body, self.media, headers)


@cache
def assets() -> dict[str, Asset]:
    """All of them by name."""
    return {path.name: _asset(path) for path in sorted(FOLDER.iterdir()) if path.suffix in _MEDIA}


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, _MEDIA[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:20]}"')

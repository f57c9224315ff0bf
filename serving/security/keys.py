"""API keys: a file of names and hashes, read again when it changes.

One line for each key, NAME:SHA256 in hex; `#` begins a comment. A name may have two lines while its key is changed. The
file says nothing of use to who reads it: a key has 256 random bits, so its hash need not be slow.

    python -m serving.security.keys new alice >> keys.txt        prints the key, once, where you see it
"""

import hashlib
import hmac
import logging
import re
import secrets
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from serving.errors import BadRequest
from serving.faults import Unauthorized

LOOK_S: Final = 1.0
PREFIX: Final = "retort_"
_LINE: Final = re.compile(r"([A-Za-z0-9._@-]{1,64}):([0-9a-f]{64})")
_USAGE: Final = "usage: python -m serving.security.keys new NAME >> KEYS_FILE"
_REFUSED: Final = "send a key that is valid here, as Authorization: Bearer KEY or X-API-Key: KEY"
_OF_NOTHING: Final = hashlib.sha256(b"").digest()
Header = Callable[[bytes], str | None]
_log = logging.getLogger(__name__)


class Known(NamedTuple):
    """A key's name and the SHA-256 of the key."""

    name: str
    sha256: bytes


def read_keys(path: Path) -> tuple[Known, ...]:
    """The keys of a file.

    Raises:
        BadRequest: it cannot be read, a line is none of NAME:SHA256 or of an empty key, or it has no key, which would
            let nobody in.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"the API keys in {path} cannot be read: {error}; {_USAGE}") from error
    known = []
    for number, line in enumerate(lines, start=1):
        told = line.partition("#")[0].strip()
        if not told:
            continue
        fits = _LINE.fullmatch(told)
        if fits is None:  # the line is not shown: somebody may have put the key itself there
            raise BadRequest(f"line {number} of {path} is not NAME:SHA256 (64 hex digits, lower case); {_USAGE}")
        known.append(Known(fits[1], bytes.fromhex(fits[2])))
        if known[-1].sha256 == _OF_NOTHING:
            raise BadRequest(f"line {number} of {path} is of an empty key, the SHA-256 of nothing; {_USAGE}")
    if not known:
        raise BadRequest(f"{path} has no API key, so nobody could use the server; {_USAGE}")
    return tuple(known)


def key_of(header: Header) -> str | None:
    """The key that a request shows."""
    told = header(b"authorization")
    if told is not None:
        scheme, _, key = told.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None
    return header(b"x-api-key")


class Keys:
    """The keys of a file, as it is now. A new file that cannot be used leaves the old keys in place, and is told of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._known = read_keys(path)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="api-keys", daemon=True)

    def start(self) -> None:
        """Look at the file every LOOK_S, in a thread: a slow file system must not hold up requests."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def name_of(self, key: str | None) -> str | None:
        """Whose key it is; of none or an empty one nobody's. Every hash is compared, each in the same time, so that a
        wrong key tells nothing."""
        if not key:
            return None
        shown = hashlib.sha256(key.encode("latin-1", "replace")).digest()
        found = None
        for known in self._known:
            if hmac.compare_digest(known.sha256, shown):
                found = known.name
        return found

    def require(self, header: Header) -> str:
        """Whose key a request shows; raises Unauthorized, which never says what was wrong with it."""
        name = self.name_of(key_of(header))
        if name is None:
            raise Unauthorized(_REFUSED)
        return name

    def look(self) -> None:
        """Read the file again where it was changed or replaced."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = read_keys(self._path)
        except BadRequest as unfit:
            _log.error("the API keys stay as they were: %s", unfit)
        else:
            _log.info("API keys read again: %s", ", ".join(sorted({known.name for known in self._known})))

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            self.look()


def _stamp(path: Path) -> tuple[int, ...]:
    """Another one where the file, or what a link to it names, is another or was written to."""
    try:
        seen = path.stat()
    except OSError:
        return ()
    return (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size)


def new_key(name: str) -> tuple[str, str]:
    """A new key, and its line for the file.

    Raises:
        BadRequest: the name is not fit for a line.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    if _LINE.fullmatch(line) is None:
        raise BadRequest(f"{name!r} is no name for a key; use 1 to 64 of A-Z a-z 0-9 . _ @ -")
    return key, line


def main() -> None:
    """The line goes to stdout, for the file, and the key to stderr, so that it is seen once and kept nowhere."""
    if len(sys.argv) != 3 or sys.argv[1] != "new":
        print(_USAGE, file=sys.stderr)
        raise SystemExit(BadRequest.exit_code)
    try:
        key, line = new_key(sys.argv[2])
    except BadRequest as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(refused.exit_code) from None
    print(line, flush=True)
    print(f"the key of {sys.argv[2]}, shown this once:\n{key}", file=sys.stderr)


if __name__ == "__main__":
    main()

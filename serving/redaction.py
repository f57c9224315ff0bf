"""What may be shown of an address: no user, no password, nothing else that opens a door.

One redactor for messages, for what is told of a model's sources, and for the settings that are sealed into manifests.
Where nothing says where a password ends, more is taken away than it may have been.
"""

import re
from typing import Final

HIDDEN: Final = "***"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40}://)")
_HOST: Final = r"(?:\[[^\]@]*\]|[^:@,\[\]]*)(?::\d*)?"
_HOSTS: Final = re.compile(rf"{_HOST}(?:,{_HOST})*")
_WORD: Final = re.compile(r"\S*")
_LINE_TO_AT: Final = re.compile(r"[^\n]*@\S*")
_AFTER: Final = ".,;:!'\")>]}"  # what a sentence puts behind an address
_FILES: Final = ("sqlite", "file")  # name no host, so no user either
_DATABASES: Final = ("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle")
_WORDS: Final = "(?:password|passwd|pwd|passphrase|secret|token|signature)"
_IN_TEXT: Final = re.compile(rf"({_WORDS}=)[^&\s;]+", re.IGNORECASE)
_IN_QUERY: Final = re.compile(
    rf"([?&;#](?:[\w.-]*{_WORDS}|credentials?|auth|sig|(?:[\w.-]*[_-])?key|[\w.-]*(?:api|access)key(?:id)?|x-amz-[\w-]+|"
    r"odbc_connect)=)[^&]*",
    re.IGNORECASE,
)


def without_secrets(text: str, *, queries: bool = True) -> str:
    """A text with each address in it less user, password, and the values of such parameters as may be a secret; without
    `queries` less all parameters."""
    before, *found = _SCHEME.split(text)
    shown = before
    for scheme, rest in zip(found[::2], found[1::2], strict=True):
        size = _size_of(rest)
        shown += redacted(scheme + rest[:size], queries=queries) + rest[size:]
    return _IN_TEXT.sub(rf"\1{HIDDEN}", shown)


def _size_of(rest: str) -> int:
    """Where an address ends in a text: at a space, unless what comes before it is no host, so that it may be a user and
    the beginning of a password; then after the last @ of its line."""
    first = _WORD.match(rest)
    assert first is not None
    authority = re.split(r"[/?#]", first[0], maxsplit=1)[0]
    if "@" in first[0] or any(_HOSTS.fullmatch(host) for host in (authority, authority.rstrip(_AFTER))):
        return first.end()
    longer = _LINE_TO_AT.match(rest)
    return first.end() if longer is None else longer.end()


def redacted(uri: str, *, queries: bool = True) -> str:
    """`without_secrets` of what is one address, whatever it holds."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return _IN_TEXT.sub(rf"\1{HIDDEN}", uri)
    kind = re.split(r"[+:]", scheme.lower())[0]
    plain = rest.lstrip("/")
    slashes, masked = rest[: len(rest) - len(plain)], _IN_QUERY.sub(rf"\1{HIDDEN}", plain)
    if kind not in _FILES and _names_a_user(plain, database=kind in _DATABASES):
        masked = masked.rpartition("@")[2] if "@" in masked else HIDDEN
    shown = slashes + (masked if queries else _without_query(masked, web=kind.startswith("http")))
    return _IN_TEXT.sub(rf"\1{HIDDEN}", scheme + mark + shown)


def _names_a_user(rest: str, *, database: bool) -> bool:
    """Whether what comes before an @ is a user. A password may itself hold an @ or, wrongly, what ends a host's name; a
    port is no password, unless of a database, whose own name has no @."""
    if "@" not in rest:
        return False
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return not _HOSTS.fullmatch(authority) or (database and "@" in re.split(r"\?[\w.-]+=", rest, maxsplit=1)[0])


def _without_query(rest: str, *, web: bool) -> str:
    """Elsewhere than on the web a question mark may be part of a pattern."""
    query = re.search(r"[?#]", rest) if web else re.search(r"[?#](?=[^?#]*=)", rest)
    return rest[: query.start()] if query else rest

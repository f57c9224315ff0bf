"""The port: taking it, and letting go of it so that nobody who came through it is sent away.

A listener that is closed resets what the kernel has connected and the process has not accepted: those clients were let
in, and lose their requests. So new ones are kept out first, by a filter in the kernel; those that are in are accepted;
then it is closed. A client that is kept out tries again, and finds it closed.
"""

import ctypes
import errno
import fcntl
import logging
import resource
import socket
import struct
import sys
import termios
from typing import Any, Final

from serving.errors import BadRequest, Transient

BACKLOG: Final = 128
_SPARE_FILES: Final = 256  # the model's, the registry's, and connections that are told there are too many
_ATTACH_FILTER: Final = 26  # SO_ATTACH_FILTER, which Python's socket module does not name
# Drops a packet that opens a connection (SYN without ACK), lets all others through: load the flags, mask, compare.
_NO_NEW_ONES: Final = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)
_log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Take the port without listening yet.

    Raises:
        Transient: somebody else has it.
        BadRequest: it cannot be had here at all.
    """
    way_out = "choose another with --port, or 0 for any that is free"
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise Transient(f"port {port} on {host} is taken; stop what holds it, or {way_out}") from error
        raise BadRequest(f"port {port} on {host} cannot be used: {error}; {way_out}") from error
    return listener


def listen(listener: socket.socket) -> None:
    """Let clients in.

    Raises:
        Transient: another process took the port since it was bound.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise Transient(f"port {port} on {host} was taken meanwhile; choose another with --port") from error


def address_of(listener: socket.socket) -> str:
    """The address as a client writes it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def keep_out(listener: socket.socket) -> bool:
    """Let nobody in any more who has not begun to connect; whether the kernel does that."""
    if not sys.platform.startswith("linux"):
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_NEW_ONES))
    program = struct.pack("HP", len(_NO_NEW_ONES), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
    except OSError as error:
        _log.info("clients that connect at this moment may be sent away: the kernel filters no packets (%s)", error)
        return False
    return True


def unread_bytes(connection: Any) -> int:
    """What the kernel holds of a connection that was not read yet."""
    (unread,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.FIONREAD, b"\0" * 4))
    return int(unread)


def allow_files(connections: int) -> None:
    """Let this process have a descriptor for each connection, as far as it may."""
    wanted = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        _log.warning("%d connections may be too many for the %d open files allowed; raise ulimit -n", connections, most)

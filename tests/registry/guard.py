"""Runs a server that ends with whoever started it: `guard.py SIGNAL USER SCRATCH COMMAND...`, standard input a pipe.

The pipe closes when the tests end, however they end (also by kill -9): the server's process group then gets SIGNAL, and
SIGKILL where that is not enough, and the folder SCRATCH is removed. USER is who the server runs as; "-" stands for
whoever runs this, and for no folder.
"""

import os
import shutil
import signal
import subprocess
import sys
from threading import Event, Thread

PATIENCE_S = 2.0


def end_group(leader: "subprocess.Popen[bytes]", gently: int) -> None:
    for number in (gently, signal.SIGKILL):
        try:
            os.killpg(leader.pid, number)
            leader.wait(PATIENCE_S)
        except ProcessLookupError:
            return  # nobody of the group is left
        except subprocess.TimeoutExpired:
            continue


def main(gently: str, user: str, scratch: str, *command: str) -> None:
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=None if user == "-" else user,
        group=None if user == "-" else user,
        extra_groups=None if user == "-" else [],
    )
    asked = Event()

    def end_with_server() -> None:
        code = server.wait()
        if not asked.is_set():
            os._exit(code % 256)

    Thread(target=end_with_server, daemon=True).start()
    sys.stdin.buffer.read()
    asked.set()
    end_group(server, int(gently))
    if scratch != "-":
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The first process of a container with ``--init``: waits for every child, passes signals on to the program, ends as it ends.

Runs on the threshold, as PID 1 of the container's namespace, in a Python of the host's: so it is confined like the program before it
waits, holds no descriptor at all, and cannot be looked into by anybody inside. Source: pid_namespaces(7), ``docker run --init`` (tini).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys

from contain.annotations import TYPE_CHECKING, NoReturn
from contain.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = b"contain-init"


def stay_as_init(confine: Callable[[], None], channel: socket.socket | None) -> None:
    """Fork: returns in the child, which is to become the program. ``confine``: gives up what the program gives up;
    ``channel``: ends when the starter does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # one that comes now is passed on later
    confined, open_until_then = os.pipe2(os.O_CLOEXEC)
    program = os.fork()
    if program == 0:
        os.close(open_until_then)
        os.read(confined, 1)  # nobody runs inside before this process can be seen; its end comes with the last descriptor's
        os.close(confined)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    os.chdir("/")
    _take_name()
    confine()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # credential changes clear it
    if channel is not None:
        watch = select.poll()
        watch.register(channel, select.POLLHUP)
        if watch.poll(0):
            os._exit(125)
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    _wait_for(program)


def _take_name() -> None:
    """Everybody inside reads this process's command line in /proc: ours would tell them what the host's user typed."""
    syscalls.prctl(syscalls.PR_SET_NAME, ctypes.cast(ctypes.c_char_p(_NAME), ctypes.c_void_p).value or 0)
    words = b"".join(os.fsencode(word) + b"\0" for word in sys.orig_argv)
    try:
        place = ctypes.c_void_p.in_dll(syscalls.libc, "program_invocation_name").value
    except ValueError:
        return
    if place is not None and ctypes.string_at(place, len(words)) == words:  # it is where the kernel put it (environ(7))
        ctypes.memmove(place, _NAME[: len(words) - 1].ljust(len(words), b"\0"), len(words))


def _wait_for(program: int) -> NoReturn:
    every = signal.valid_signals()
    while True:
        number = signal.sigwait(every)
        if number == signal.SIGCHLD:
            _reap(program)
        else:
            with contextlib.suppress(OSError):
                os.kill(program, number)


def _reap(program: int) -> None:
    """Everybody who has ended; the end, if the program is among them."""
    while True:
        try:
            process_id, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            os._exit(125)
        if process_id == 0:
            return
        if process_id == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(128 - code if code < 0 else code)

"""``run`` and ``exec`` without ``--detach``: stay until the process ends, pass signals on, and serve its terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty

from contain.linux import syscalls

_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
_CHUNK_BYTES = 65536


def become_parent() -> None:
    """What is started from here on comes back to this process when its own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def stay(process_id: int, terminal: int) -> int:
    """Wait for a process; the exit status as a shell has it. ``terminal``: the main side of its terminal, or -1."""
    descriptor = os.pidfd_open(process_id)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    if terminal >= 0:
        _serve(terminal, descriptor)
    status = _reap(process_id)
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _reap(process_id: int) -> int:
    while True:
        found, status = os.waitpid(-1, 0)
        if found == process_id:
            return status


def _copy_size(terminal: int) -> None:
    with contextlib.suppress(termios.error, OSError):
        termios.tcsetwinsize(terminal, termios.tcgetwinsize(0))


def _serve(terminal: int, process: int) -> None:
    before = termios.tcgetattr(0) if os.isatty(0) else None
    if before is not None:
        _copy_size(terminal)
        signal.signal(signal.SIGWINCH, lambda *_: _copy_size(terminal))
        tty.setraw(0)
    watch = select.poll()
    watch.register(terminal, select.POLLIN)
    watch.register(0, select.POLLIN)
    try:
        while True:
            for number, _ in watch.poll():
                try:
                    data = os.read(number, _CHUNK_BYTES)
                except OSError:  # EIO: nobody holds the inner side any more
                    data = b""
                if number == terminal:
                    if not data:
                        return
                    _write(sys.stdout.fileno(), data)
                elif data:
                    _write(terminal, data)
                else:
                    watch.unregister(0)
                    _write(terminal, b"\x04")
    finally:
        del process
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]

"""The caller's terminal joined to a container's: raw mode, window size, bytes both ways; restored whatever happens."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator

_CHUNK = 65536


@contextlib.contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """The terminal passes every byte on and interprets none, until the block is left. Nothing if it is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)  # what was typed ahead is for the program
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def copy_window_size(source: int, target: int) -> None:
    """Give ``target`` the size of ``source``; nothing if that has none."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8))


def relay(terminal: int, *, stdin: int | None, stdout: int, ended: Callable[[], bool], watch: int) -> None:
    """Copy between the caller and a container's terminal until the container has ended and all it wrote was copied.

    ``watch`` becomes readable at the end. Window size changes are passed on while this runs.
    """
    copy_window_size(stdout, terminal)
    before = signal.signal(signal.SIGWINCH, lambda *_: copy_window_size(stdout, terminal))
    try:
        sources = [terminal, watch] + ([stdin] if stdin is not None else [])
        while True:
            ready, _, _ = select.select(sources, [], [])
            if stdin is not None and stdin in ready:
                data = os.read(stdin, _CHUNK)
                if data:
                    write_all(terminal, data)
                else:
                    sources.remove(stdin)
                    write_all(terminal, b"\x04")  # end of input, as a terminal says it
            if terminal in ready:
                try:
                    data = os.read(terminal, _CHUNK)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    return  # nobody holds the other side any more
                write_all(stdout, data)
            elif watch in ready and ended():
                return
    finally:
        signal.signal(signal.SIGWINCH, before)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte."""
    while data:
        data = data[os.write(descriptor, data) :]

"""The caller's terminal: raw mode that is taken back whatever happens, its window size, bytes written whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def raw_mode(descriptor: int, resumed: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The terminal passes every byte on and interprets none, until the block is left. Nothing if it is no terminal.

    Who stops this process (SIGTSTP) gets the terminal as it was; when it goes on, the terminal is raw again and ``resumed`` called.
    """
    if not os.isatty(descriptor):
        yield
        return
    import tty

    before = termios.tcgetattr(descriptor)

    def restore() -> None:
        # TCSANOW: whoever waits for output to be taken waits for ever on a terminal that was stopped by ctrl-s
        with contextlib.suppress(termios.error):  # it may have been closed
            termios.tcsetattr(descriptor, termios.TCSANOW, before)

    def stop(_number: int, _frame: FrameType | None) -> None:
        restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # stops here until SIGCONT
        signal.signal(signal.SIGTSTP, stop)
        with contextlib.suppress(termios.error):
            tty.setraw(descriptor, termios.TCSANOW)
        resumed()

    try:
        tty.setraw(descriptor, termios.TCSANOW)  # what was typed ahead is for the program
        handler = signal.signal(signal.SIGTSTP, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, handler)
    finally:
        restore()


def window_size(descriptor: int) -> tuple[int, int] | None:
    """Rows and columns of a terminal; None for what is none, or has no size."""
    try:
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


def set_window_size(descriptor: int, rows: int, columns: int) -> None:
    """Give a terminal a size; nothing if it has gone."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", min(rows, 65535), min(columns, 65535), 0, 0))


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, also to a descriptor that somebody else made non-blocking."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            import select

            select.select([], [descriptor], [])

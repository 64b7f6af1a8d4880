"""The caller's standard streams joined to a container's by pipes.

A container gets pipes, never the caller's own files and terminals: root inside is the host's root for every file that it holds open,
and through ``/proc/self/fd`` it could open such a file again for writing, or change its mode. Copies bytes; keeps nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Callable, Mapping

from contain.container.launch import Launched
from contain.container.terminal import write_all

_CHUNK = 65536


def may_be_handed_over(descriptor: int) -> bool:
    """Whether a container may hold the caller's descriptor itself: a pipe or a socket, through which no file is reached; or the null
    device, which is replaced inside."""
    state = os.fstat(descriptor)
    null = stat.S_ISCHR(state.st_mode) and state.st_rdev == os.makedev(1, 3)
    return null or stat.S_ISFIFO(state.st_mode) or stat.S_ISSOCK(state.st_mode)


def writer_to(descriptor: int) -> Callable[[bytes], None]:
    """What copies bytes to a descriptor; a reader that went away does not disturb the container."""

    def write(data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            write_all(descriptor, data)

    return write


class JoinedStreams:
    """What a container gets as its descriptors 0 to 2, and the copying between them and the caller's.

    ``stdin``: where its input comes from. ``sinks``: for 1 and 2, where the output goes; for what is not in it, ``direct`` has the
    caller's own descriptor. Use as a context manager around the container's life; call `copy` once it runs.
    """

    def __init__(
        self, stdin: int, sinks: Mapping[int, Callable[[bytes], None]], *, direct: Mapping[int, int] | None = None
    ) -> None:
        self._opened: set[int] = set()
        self._outputs: dict[int, tuple[int, Callable[[bytes], None]]] = {}
        self._source, self._target = stdin, -1
        inner = {0: stdin, **(direct or {})}
        if not may_be_handed_over(stdin):
            inner[0], self._target = self._pipe()
        for number, sink in sinks.items():
            descriptor, inner[number] = self._pipe()
            self._outputs[number] = (descriptor, sink)
        self.inner = (inner[0], inner[1], inner[2])

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._opened.update(ends)
        return ends

    def _close(self, descriptor: int) -> None:
        if descriptor in self._opened:
            self._opened.discard(descriptor)
            os.close(descriptor)

    def __enter__(self) -> JoinedStreams:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in tuple(self._opened):
            self._close(descriptor)

    def copy(self, launched: Launched) -> None:
        """Copy until the container's first process has ended and all it wrote was copied."""
        for descriptor in self.inner:
            self._close(descriptor)
        sinks = dict(self._outputs.values())
        if launched.terminal is not None:  # then all output comes from there
            sinks = {launched.terminal: self._outputs[1][1]}
        for descriptor in sinks:
            os.set_blocking(descriptor, False)
        target, pending, over = self._target, b"", False
        if target >= 0:
            os.set_blocking(target, False)
        while sinks or not over:
            sources = [*sinks, *(() if over else (launched.fileno(),))]
            if target >= 0 and not pending and not over:
                sources.append(self._source)
            ready, writable, _ = select.select(sources, [target] if pending else [], [], 0 if over else None)
            if over and not ready:
                return  # a process that was left behind may hold the pipe; it is about to be killed with its namespace
            for descriptor in ready:
                if descriptor in sinks:
                    data = _read(descriptor)
                    if data:
                        sinks[descriptor](data)
                    else:
                        del sinks[descriptor]
            if target >= 0 and not over:
                if not pending and self._source in ready:
                    pending = _read(self._source)
                    gone = not pending
                else:
                    pending, gone = _write_some(target, pending) if writable else (pending, False)
                if gone:
                    self._close(target)
                    target, pending = -1, b""
            if launched.fileno() in ready and not over:
                launched.wait()
                over = True


def _read(descriptor: int) -> bytes:
    """What is there; empty at the end, which is EIO where the other side of a terminal is closed."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        raise
    except OSError:
        return b""


def _write_some(descriptor: int, data: bytes) -> tuple[bytes, bool]:
    """Write without waiting: what is left, and whether the reader is gone."""
    try:
        return data[os.write(descriptor, data) :], False
    except BlockingIOError:
        return data, False
    except BrokenPipeError:
        return b"", True

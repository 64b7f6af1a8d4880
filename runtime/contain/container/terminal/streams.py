"""The caller's standard streams joined to a container's by pipes.

A container gets pipes, never the caller's own files and terminals: root inside is the host's root for every file that it holds open,
and through ``/proc/self/fd`` it could open such a file again for writing, or change its mode. Copies bytes; keeps nothing.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable, Mapping

from contain.container.launch import Launched
from contain.container.lifecycle.loop import Loop
from contain.container.terminal.attachments import Attachments
from contain.container.terminal.terminal import write_all

_CHUNK = 65536
_LOOK_SECONDS = 0.25  # how often somebody who holds the output up is looked at


def may_be_handed_over(descriptor: int) -> bool:
    """Whether a container may hold the caller's descriptor itself: a pipe or a socket, through which no file is reached; or the null
    device, which is replaced inside."""
    state = os.fstat(descriptor)
    null = stat.S_ISCHR(state.st_mode) and state.st_rdev == os.makedev(1, 3)
    return null or stat.S_ISFIFO(state.st_mode) or stat.S_ISSOCK(state.st_mode)


def writer_to(descriptor: int) -> Callable[[bytes], None]:
    """What copies bytes to a descriptor. Raises BrokenPipeError when its reader went away."""
    return lambda data: write_all(descriptor, data)


class JoinedStreams:
    """What a container gets as its descriptors 0 to 2, and the copying between them and the caller's.

    ``stdin``: where its input comes from. ``sinks``: for 1 and 2, where the output goes; for what is not in it, ``direct`` has the
    caller's own descriptor. ``attachments``: who else gets the output; with ``fed``, what they type is the input, and ``stdin`` is
    not read. Use as a context manager around the container's life; call `copy` once it runs.
    """

    def __init__(
        self,
        stdin: int,
        sinks: Mapping[int, Callable[[bytes], None]],
        *,
        direct: Mapping[int, int] | None = None,
        attachments: Attachments | None = None,
        fed: bool = False,
    ) -> None:
        self._opened: set[int] = set()
        self._outputs: dict[int, int] = {}
        self._sinks = sinks
        self._attachments, self._fed = attachments, fed
        self._source, self._target = stdin, -1
        inner = {0: stdin, **(direct or {})}
        if fed or not may_be_handed_over(stdin):
            inner[0], self._target = self._pipe()
        for number in sinks:
            descriptor, inner[number] = self._pipe()
            self._outputs[descriptor] = number
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

    def copy(self, launched: Launched, *, beside: Loop | None = None) -> None:
        """Copy until the container's first process has ended and all it wrote was copied. ``beside``: what else is to be done
        meanwhile."""
        for descriptor in self.inner:
            self._close(descriptor)
        outputs = dict(self._outputs)
        target = self._target
        if launched.terminal is not None:  # then all output comes from there, and all input goes there
            outputs, target = {launched.terminal: 1}, launched.terminal if self._fed else -1
        for descriptor in (*outputs, target):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)
        others = self._attachments
        if others is not None:
            others.terminal = launched.terminal
        pending, over = b"", False
        while outputs or not over:
            held_up = others is not None and not over and others.holds_up()
            reads = [*(() if held_up else outputs), *(() if over else (launched.fileno(),))]
            writes = [] if others is None else others.writes()
            if target >= 0 and not over:
                if self._fed and others is not None:
                    if not pending:
                        pending, others.input = others.input, b""
                    if not pending and others.input_over:
                        pending = self._end_input(target, launched)
                        target = -1 if not pending else target
                elif not pending:
                    reads.append(self._source)
                if pending:
                    writes.append(target)
            if others is not None and not over:
                reads += others.reads()
            wait: float | None = 0 if over else _LOOK_SECONDS if held_up else None
            if beside is not None and not over:
                reads.append(beside.fileno())
                waits = [seconds for seconds in (wait, beside.seconds_left()) if seconds is not None]
                wait = min(waits, default=None)
            ready, writable, _ = select.select(reads, writes, [], wait)
            if beside is not None and not over:
                beside.turn(0)
            if over and not any(descriptor in outputs for descriptor in ready):
                return  # a process that was left behind may hold the pipe; it is about to be killed with its namespace
            for descriptor in ready:
                if descriptor in outputs:
                    data = _read(descriptor)
                    if not data:
                        del outputs[descriptor]
                        continue
                    try:
                        self._put_out(outputs[descriptor], data)
                    except BrokenPipeError:  # the program learns it as it would without a container, pipe(7)
                        del outputs[descriptor]
                        if descriptor != launched.terminal:
                            self._close(descriptor)
            if others is not None:
                for descriptor in {*ready, *writable}:
                    others.handle(descriptor)
            if target >= 0 and not over:
                gone = False
                if not self._fed and not pending and self._source in ready:
                    pending = _read(self._source)
                    gone = not pending
                elif target in writable:
                    pending, gone = _write_some(target, pending)
                if gone:
                    self._close(target)
                    target, pending = -1, b""
            if launched.fileno() in ready and not over:
                launched.wait()
                over = True

    def _put_out(self, number: int, data: bytes) -> None:
        self._sinks[number](data)
        if self._attachments is not None:
            self._attachments.output(number, data)

    def _end_input(self, target: int, launched: Launched) -> bytes:
        """End the container's input; on a terminal, what says so."""
        assert self._attachments is not None
        self._attachments.input_over = False
        if launched.terminal is not None:
            return b"\x04"
        self._close(target)
        return b""


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
    except OSError:  # nobody reads it any more
        return b"", True

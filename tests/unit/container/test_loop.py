"""The loop of a supervisor: who is called, in which order, and who is not. Pipes only; no test waits for time to pass."""

from __future__ import annotations

import os
from pathlib import Path

from contain.container.lifecycle.loop import Loop
from contain.container.lifecycle.wake import drain, open_wake, wake


def test_what_can_be_read_is_told_and_what_is_forgotten_is_not() -> None:
    read, write = os.pipe()
    seen: list[bytes] = []
    with Loop() as loop:
        loop.watch(read, lambda: seen.append(os.read(read, 10)))
        loop.turn(0)
        assert seen == []
        os.write(write, b"one")
        loop.turn()
        assert seen == [b"one"]
        os.write(write, b"two")
        loop.forget(read)
        loop.forget(read)
        loop.turn(0)
        assert seen == [b"one"]
    os.close(read)
    os.close(write)


def test_timers_fire_in_their_order_and_a_cancelled_one_never() -> None:
    seen: list[str] = []
    with Loop() as loop:
        loop.call_after(0.002, lambda: seen.append("second"))
        never = loop.call_after(0.0, lambda: seen.append("never"))
        loop.call_after(0.001, lambda: seen.append("first"))
        loop.cancel(never)
        while len(seen) < 2:
            loop.turn()
        assert seen == ["first", "second"]
        assert loop.seconds_left() is None


def test_a_loop_is_readable_when_something_that_it_watches_is() -> None:
    read, write = os.pipe()
    with Loop() as inner, Loop() as outer:
        seen: list[str] = []
        inner.watch(read, lambda: seen.append(os.read(read, 10).decode()))
        outer.watch(inner.fileno(), lambda: inner.turn(0))
        os.write(write, b"x")
        outer.turn()
        assert seen == ["x"]
    os.close(read)
    os.close(write)


def test_a_supervisor_is_woken_and_nobody_waits_where_there_is_none(tmp_path: Path) -> None:
    wake(tmp_path)
    listening = open_wake(tmp_path)
    seen: list[str] = []
    with Loop() as loop:

        def look() -> None:
            drain(listening)
            seen.append("woken")

        loop.watch(listening, look)
        for _ in range(70_000):  # far more than a pipe holds
            wake(tmp_path)
        loop.turn()
        loop.turn(0)
        assert seen == ["woken"]
    os.close(listening)
    wake(tmp_path)

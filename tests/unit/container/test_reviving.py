"""When the process beside a container is started again."""

from __future__ import annotations

from contain.container.lifecycle.reviving import MOST_IN_A_ROW, next_revival


def test_the_waits_grow_and_come_to_an_end() -> None:
    waits: list[float] = []
    row, wait = 0, 0.0
    while (following := next_revival(row, wait, lasted_seconds=0.5)) is not None:
        row, wait = following
        waits.append(wait)
    assert waits == sorted(waits)
    assert waits[0] <= 0.1
    assert waits[-1] > 30
    assert len(waits) == MOST_IN_A_ROW


def test_one_that_has_served_for_long_is_started_again_as_if_it_were_the_first() -> None:
    assert next_revival(MOST_IN_A_ROW, 51.2, lasted_seconds=3600.0) == (1, 0.1)
    assert next_revival(MOST_IN_A_ROW, 51.2, lasted_seconds=59.0) is None

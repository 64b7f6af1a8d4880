"""Restart policies: what is started again, after how long, and what is not understood. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.container.lifecycle.restarts import next_delay, parse_restart, should_come_back, should_restart
from contain.errors import UsageError
from contain.spec import RestartPolicy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", RestartPolicy()),
        ("no", RestartPolicy()),
        ("always", RestartPolicy(name="always")),
        ("unless-stopped", RestartPolicy(name="unless-stopped")),
        ("on-failure", RestartPolicy(name="on-failure")),
        ("on-failure:3", RestartPolicy(name="on-failure", retries=3)),
        ("on-failure:0", RestartPolicy(name="on-failure")),
    ],
)
def test_policies_are_read_as_docker_writes_them(text: str, policy: RestartPolicy) -> None:
    assert parse_restart(text) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sometimes", "invalid restart policy: unknown policy 'sometimes'"),
        (":3", "invalid restart policy format"),
        ("on-failure:1:2", "invalid restart policy format"),
        ("on-failure:x", "maximum retry count must be an integer"),
        ("on-failure:", "maximum retry count must be an integer"),
        ("on-failure:-1", "maximum retry count cannot be negative"),
        ("always:3", "maximum retry count can only be used with 'on-failure'"),
        ("Always", "unknown policy 'Always'"),
    ],
)
def test_others_are_refused_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        parse_restart(text)
    assert refused.value.code == "bad-restart-policy"


@pytest.mark.parametrize(
    ("policy", "status", "restarts", "again"),
    [
        ("no", 1, 0, False),
        ("always", 0, 99, True),
        ("unless-stopped", 0, 99, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 1, 99, True),
        ("on-failure:2", 1, 1, True),
        ("on-failure:2", 1, 2, False),
        ("on-failure:2", 137, 0, True),
    ],
)
def test_what_is_started_again(policy: str, status: int, restarts: int, again: bool) -> None:
    assert should_restart(parse_restart(policy), status=status, restarts=restarts, stop_asked=False) is again


@given(
    st.sampled_from(["no", "always", "unless-stopped", "on-failure", "on-failure:3"]), st.integers(0, 255), st.integers(0, 5)
)
def test_what_somebody_stopped_stays_stopped(policy: str, status: int, restarts: int) -> None:
    assert not should_restart(parse_restart(policy), status=status, restarts=restarts, stop_asked=True)


@pytest.mark.parametrize(
    ("policy", "started", "stop_asked", "back"),
    [
        ("always", True, False, True),
        ("always", True, True, True),
        ("always", False, False, False),
        ("unless-stopped", True, False, True),
        ("unless-stopped", True, True, False),
        ("on-failure", True, False, False),
        ("no", True, False, False),
    ],
)
def test_what_comes_back_when_the_machine_was_started(policy: str, started: bool, stop_asked: bool, back: bool) -> None:
    assert should_come_back(parse_restart(policy), started=started, stop_asked=stop_asked) is back


def test_the_wait_doubles_from_a_tenth_of_a_second_to_a_minute_and_begins_again_after_a_run_of_ten_seconds() -> None:
    waits, wait = [], 0.0
    for _ in range(12):
        wait = next_delay(wait, lasted_seconds=1.0)
        waits.append(wait)
    assert waits[:10] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]
    assert waits[10:] == [60.0, 60.0]
    assert next_delay(60.0, lasted_seconds=10.0) == 0.1


@given(st.lists(st.floats(0, 100), max_size=50))
def test_the_wait_never_leaves_its_bounds(lasted: list[float]) -> None:
    wait = 0.0
    for seconds in lasted:
        wait = next_delay(wait, lasted_seconds=seconds)
        assert 0.1 <= wait <= 60.0

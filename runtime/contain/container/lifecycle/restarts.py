"""Whether and when a container whose program has ended is started again. Pure.

Source: Docker's ``restartmanager``: 100 ms, doubled up to a minute, and from the beginning again once a run has lasted ten seconds.
``on-failure`` looks at the exit status; what somebody stopped stays stopped, with every policy.
"""

from __future__ import annotations

import re

from contain.errors import UsageError
from contain.spec import RestartPolicy

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 60.0
_FACTOR = 2.0
_LASTED_SECONDS = 10.0
NAMES = ("no", "on-failure", "always", "unless-stopped")


def parse_restart(text: str) -> RestartPolicy:
    """``--restart``. Raises `UsageError` in Docker's words."""
    name, colon, count = text.partition(":")
    if not text:
        return RestartPolicy()
    if ":" in count or (colon and not name):
        raise UsageError("invalid restart policy format", code="bad-restart-policy", remedy="for example on-failure:3")
    if name not in NAMES:
        raise UsageError(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            code="bad-restart-policy",
        )
    if not colon:
        return RestartPolicy(name=name)
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", count):
        raise UsageError(
            "invalid restart policy format: maximum retry count must be an integer",
            code="bad-restart-policy",
            remedy="for example on-failure:3",
        )
    if name != "on-failure":
        raise UsageError(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'", code="bad-restart-policy"
        )
    if int(count) < 0:
        raise UsageError("invalid restart policy: maximum retry count cannot be negative", code="bad-restart-policy")
    return RestartPolicy(name=name, retries=int(count))


def should_restart(policy: RestartPolicy, *, status: int, restarts: int, stop_asked: bool) -> bool:
    """Whether a program that ended with ``status`` after ``restarts`` new starts is started once more."""
    if stop_asked:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            return status != 0 and (policy.retries == 0 or restarts < policy.retries)
        case _:
            return False


def should_come_back(policy: RestartPolicy, *, started: bool, stop_asked: bool) -> bool:
    """Whether ``contain system start`` starts a container that does not run: with ``always`` also one that somebody stopped."""
    return started and (policy.name == "always" or (policy.name == "unless-stopped" and not stop_asked))


def next_delay(previous_seconds: float, *, lasted_seconds: float) -> float:
    """How long to wait before the next start. ``previous_seconds``: the wait before, 0 for the first."""
    if previous_seconds == 0 or lasted_seconds >= _LASTED_SECONDS:
        return FIRST_DELAY_SECONDS
    return min(previous_seconds * _FACTOR, LONGEST_DELAY_SECONDS)

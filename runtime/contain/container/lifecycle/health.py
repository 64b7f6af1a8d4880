"""Whether a container does its work: when its health is looked at, and what follows from what is seen. Pure, but for the file it is in.

Source: Docker's ``daemon/health.go`` and the Dockerfile reference (``HEALTHCHECK``). A check's exit status 0 is healthy, everything
else is not; the last five are kept with 4096 bytes of output each. The state is in ``health.json`` beside the record; it changes often
and is worth little, so it is not in the record.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence

from contain.errors import UsageError
from contain.oci import Healthcheck as ImageHealthcheck
from contain.paths import HostPath
from contain.spec import HealthCheck
from contain.values import asdict, dataclass, replace

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
KEPT_RESULTS = 5
KEPT_BYTES = 4096
_FILE = "health.json"
_NANOSECOND = 1e-9
_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthResult:
    """One look. Times are seconds since the epoch; ``status`` -1: it could not be run, or not in time."""

    began_seconds: float
    ended_seconds: float
    status: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known. ``streak``: failures in a row."""

    status: str = STARTING
    streak: int = 0
    results: tuple[HealthResult, ...] = ()


def advance(health: Health, result: HealthResult, check: HealthCheck, *, started_seconds: float) -> Health:
    """What is known after one more look. While it starts, failures do not count."""
    results = (*health.results, result)[-KEPT_RESULTS:]
    if result.status == 0:
        return Health(status=HEALTHY, results=results)
    in_start = health.status == STARTING and result.began_seconds - started_seconds < check.start_period_seconds
    if in_start:
        return replace(health, results=results)
    streak = health.streak + 1
    return Health(status=UNHEALTHY if streak >= check.retries else health.status, streak=streak, results=results)


def next_look_seconds(health: Health, check: HealthCheck, *, since_start_seconds: float) -> float:
    """How long from the end of one look, or from the start, to the next."""
    if health.status == STARTING and since_start_seconds < check.start_period_seconds:
        return min(check.start_interval_seconds, check.interval_seconds)
    return check.interval_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRequest:
    """``--health-*`` and ``--no-healthcheck``; None: as the image says."""

    command: str | None = None
    interval_seconds: float | None = None
    timeout_seconds: float | None = None
    retries: int | None = None
    start_period_seconds: float | None = None
    start_interval_seconds: float | None = None
    off: bool = False


def verify_request(request: HealthRequest) -> None:
    """Raises `UsageError` in Docker's words for what cannot be."""
    others = (
        request.interval_seconds,
        request.timeout_seconds,
        request.retries,
        request.start_period_seconds,
        request.start_interval_seconds,
    )
    if request.off and (request.command is not None or any(value is not None for value in others)):
        raise UsageError("--no-healthcheck conflicts with --health-* options", code="bad-health-check")
    for value, flag in zip(
        (*others[:2], *others[3:]),
        ("health-interval", "health-timeout", "health-start-period", "health-start-interval"),
        strict=True,
    ):
        if value is not None and value < 0:
            raise UsageError(f"--{flag} cannot be negative", code="bad-health-check")
        if value is not None and 0 < value < 0.001:
            raise UsageError(f"--{flag} cannot be less than 1ms", code="bad-health-check")
    if request.retries is not None and request.retries < 0:
        raise UsageError("--health-retries cannot be negative", code="bad-health-check")


def resolve_health(request: HealthRequest, image: ImageHealthcheck | None, shell: Sequence[str]) -> HealthCheck | None:
    """The check of a container, of what was asked and what its image has; None: it has none. 0 is the default, everywhere."""
    verify_request(request)
    if request.off:
        return None
    test = image.test if image is not None else ()
    if request.command is not None:
        test = ("CMD-SHELL", request.command) if request.command else ()
    if not test or test[0] == "NONE":
        return None
    command = (*(tuple(shell) or _SHELL), *test[1:]) if test[0] == "CMD-SHELL" else test[1:]
    if not command:
        return None
    default = HealthCheck(command=command)

    def pick(asked: float | None, nanoseconds: int, otherwise: float) -> float:
        return asked or nanoseconds * _NANOSECOND or otherwise

    return HealthCheck(
        command=command,
        interval_seconds=pick(request.interval_seconds, image.interval_nanoseconds if image else 0, default.interval_seconds),
        timeout_seconds=pick(request.timeout_seconds, image.timeout_nanoseconds if image else 0, default.timeout_seconds),
        retries=request.retries or (image.retries if image else 0) or default.retries,
        start_period_seconds=pick(
            request.start_period_seconds, image.start_period_nanoseconds if image else 0, default.start_period_seconds
        ),
        start_interval_seconds=pick(
            request.start_interval_seconds, image.start_interval_nanoseconds if image else 0, default.start_interval_seconds
        ),
    )


def write_health(place: HostPath, health: Health) -> None:
    """Replace what is known; a disk that is full keeps what was known before."""
    aside = place / f"{_FILE}.new"
    with contextlib.suppress(OSError):
        aside.write_text(json.dumps(asdict(health)))
        os.rename(aside, place / _FILE)


def read_health(place: HostPath) -> Health | None:
    """What is known of a container that has a check; None if nothing is."""
    try:
        value = json.loads((place / _FILE).read_text())
        results = tuple(HealthResult(**each) for each in value["results"])
        return Health(status=value["status"], streak=value["streak"], results=results)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def describe_health(health: Health, render_time: Callable[[float], str]) -> dict[str, object]:
    """``.State.Health`` of ``contain inspect``, in Docker's form. ``render_time``: of seconds since the epoch."""
    return {
        "Status": health.status,
        "FailingStreak": health.streak,
        "Log": [
            {
                "Start": render_time(result.began_seconds),
                "End": render_time(result.ended_seconds),
                "ExitCode": result.status,
                "Output": result.output,
            }
            for result in health.results
        ],
    }

"""Health: what follows from a look, when the next one comes, and which check a container has. Pure, but for one file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.container.lifecycle.health import (
    Health,
    HealthRequest,
    HealthResult,
    advance,
    next_look_seconds,
    read_health,
    resolve_health,
    write_health,
)
from contain.errors import UsageError
from contain.oci import Healthcheck as ImageHealthcheck
from contain.spec import HealthCheck

CHECK = HealthCheck(command=("true",), interval_seconds=30, retries=3, start_period_seconds=20, start_interval_seconds=2)


def result(status: int, began: float = 100.0) -> HealthResult:
    return HealthResult(began_seconds=began, ended_seconds=began + 1, status=status, output="")


def after(*results: HealthResult, check: HealthCheck = CHECK) -> Health:
    health = Health()
    for each in results:
        health = advance(health, each, check, started_seconds=0.0)
    return health


def test_one_success_makes_it_healthy_and_so_many_failures_in_a_row_unhealthy() -> None:
    assert after().status == "starting"
    assert after(result(0)).status == "healthy"
    assert after(result(0), result(1), result(1)).status == "healthy"
    assert after(result(0), result(1), result(1), result(1)).status == "unhealthy"
    assert after(result(1), result(1), result(0), result(1), result(1)).status == "healthy"
    assert after(result(1), result(-1), result(2)).status == "unhealthy"


def test_failures_do_not_count_while_it_starts() -> None:
    early = [result(1, began=float(second)) for second in range(10)]
    assert after(*early).status == "starting"
    assert after(*early).streak == 0
    assert after(*early, result(1), result(1)).status == "starting"
    assert after(*early, result(1), result(1), result(1)).status == "unhealthy"
    # once it was healthy, they count
    assert after(result(0, began=1.0), *early[:3]).status == "unhealthy"


@given(st.lists(st.integers(-1, 3), max_size=30))
def test_the_last_five_results_are_kept(statuses: list[int]) -> None:
    assert [each.status for each in after(*map(result, statuses)).results] == statuses[-5:]


def test_looks_come_more_often_while_it_starts() -> None:
    assert next_look_seconds(Health(), CHECK, since_start_seconds=1) == 2
    assert next_look_seconds(Health(), CHECK, since_start_seconds=21) == 30
    assert next_look_seconds(Health(status="healthy"), CHECK, since_start_seconds=1) == 30


@pytest.mark.parametrize(
    ("request_", "image", "expected"),
    [
        (HealthRequest(), None, None),
        (HealthRequest(), ImageHealthcheck(test=("NONE",)), None),
        (HealthRequest(off=True), ImageHealthcheck(test=("CMD", "check")), None),
        (HealthRequest(), ImageHealthcheck(test=("CMD", "check", "-x")), HealthCheck(command=("check", "-x"))),
        (HealthRequest(), ImageHealthcheck(test=("CMD-SHELL", "a | b")), HealthCheck(command=("/bin/sh", "-c", "a | b"))),
        (HealthRequest(command="curl x"), None, HealthCheck(command=("/bin/sh", "-c", "curl x"))),
        (
            HealthRequest(timeout_seconds=1.5, retries=0),
            ImageHealthcheck(test=("CMD", "check"), interval_nanoseconds=5 * 10**9, timeout_nanoseconds=10**9, retries=7),
            HealthCheck(command=("check",), interval_seconds=5.0, timeout_seconds=1.5, retries=7),
        ),
        (HealthRequest(retries=2), None, None),
    ],
)
def test_the_request_beats_the_image_and_the_image_the_defaults(
    request_: HealthRequest, image: ImageHealthcheck | None, expected: HealthCheck | None
) -> None:
    assert resolve_health(request_, image, ()) == expected


def test_a_check_for_a_shell_gets_the_images_own() -> None:
    check = resolve_health(HealthRequest(command="x"), None, ("/bin/bash", "-eo", "pipefail", "-c"))
    assert check is not None
    assert check.command == ("/bin/bash", "-eo", "pipefail", "-c", "x")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (HealthRequest(off=True, command="x"), "--no-healthcheck conflicts with --health-\\* options"),
        (HealthRequest(off=True, retries=1), "--no-healthcheck conflicts with --health-\\* options"),
        (HealthRequest(interval_seconds=-1), "--health-interval cannot be negative"),
        (HealthRequest(start_period_seconds=-1), "--health-start-period cannot be negative"),
        (HealthRequest(timeout_seconds=0.0001), "--health-timeout cannot be less than 1ms"),
        (HealthRequest(retries=-1), "--health-retries cannot be negative"),
    ],
)
def test_what_cannot_be_is_refused_in_dockers_words(request_: HealthRequest, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_health(request_, None, ())


def test_what_is_known_comes_back_from_disk_and_nonsense_is_nothing(tmp_path: Path) -> None:
    assert read_health(tmp_path) is None
    health = after(result(0), result(1))
    write_health(tmp_path, health)
    assert read_health(tmp_path) == health
    (tmp_path / "health.json").write_text('{"status": "healthy"')
    assert read_health(tmp_path) is None

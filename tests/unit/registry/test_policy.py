"""Repetition, redirects, resuming, proxies: decided on literals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from contain.errors import IntegrityError, RegistryError
from contain.registry.policy import (
    LONGEST_DELAY_SECONDS,
    MOST_ATTEMPTS,
    MOST_REDIRECTS,
    Failure,
    Redirect,
    Trouble,
    choose_proxy,
    parse_retry_after,
    plan_redirect,
    plan_resume,
    plan_retry,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def retry(
    trouble: Trouble = Trouble.STATUS, *, attempt: int = 1, jitter: float = 1.0, answered: bool = True, after: str = ""
) -> float | None:
    return plan_retry(Failure(trouble=trouble, answered=answered, retry_after=after), attempt=attempt, jitter=jitter, now=NOW)


def test_pauses_double_up_to_a_limit_and_end() -> None:
    assert [retry(attempt=attempt) for attempt in range(1, 6)] == [0.5, 1.0, 2.0, 4.0, None]
    assert all((retry(attempt=attempt) or 0) <= LONGEST_DELAY_SECONDS for attempt in range(1, MOST_ATTEMPTS))


def test_jitter_shortens_a_pause_by_half_at_most() -> None:
    assert (retry(jitter=0.0), retry(jitter=1.0)) == (0.25, 0.5)


def test_retry_after_is_obeyed_up_to_a_minute() -> None:
    assert retry(after="30") == 30
    assert retry(after="0") == 0.5
    assert retry(after="61") is None
    assert retry(after="Thu, 01 Jan 2026 00:00:20 GMT") == 20
    assert retry(after="nonsense") == 0.5


def test_who_was_never_reached_is_given_up_at_once_who_fell_silent_after_one_more_try() -> None:
    assert retry(Trouble.UNREACHABLE, answered=False) is None
    assert retry(Trouble.UNREACHABLE, answered=True) is not None
    assert retry(Trouble.BROKEN, answered=False) is not None
    assert retry(Trouble.BROKEN, answered=False, attempt=2) is None


@pytest.mark.parametrize("trouble", [Trouble.NOT_TLS, Trouble.CERTIFICATE])
def test_a_wrong_certificate_does_not_get_better_by_asking_again(trouble: Trouble) -> None:
    assert retry(trouble) is None


def test_a_date_in_the_past_means_now() -> None:
    assert parse_retry_after("Wed, 31 Dec 2025 00:00:00 GMT", now=NOW) == 0
    assert parse_retry_after("", now=NOW) is None
    assert parse_retry_after("9" * 30, now=NOW) is None


def redirect(location: str, *, first: str = "https://r.example/v2/x", url: str = "", hops: int = 0, **more: bool) -> Redirect:
    return plan_redirect(first_url=first, url=url or first, location=location, hops=hops, **more)


@pytest.mark.parametrize(
    ("location", "same"),
    [
        ("/other", True),
        ("https://r.example/other", True),
        ("https://R.EXAMPLE:443/other", True),
        ("//r.example/other", True),
        ("https://r.example:444/other", False),
        ("https://r.example.evil/other", False),
        ("https://cdn.example/other", False),
    ],
)
def test_only_the_same_scheme_host_and_port_are_the_same_origin(location: str, same: bool) -> None:
    assert redirect(location).same_origin is same


def test_who_left_the_origin_never_counts_as_inside_again() -> None:
    assert redirect("https://r.example/", url="https://cdn.example/", crossed=True).same_origin is False


def test_a_relative_redirect_is_relative_to_where_we_are() -> None:
    assert redirect("b?c=1", url="https://cdn.example/a/x").url == "https://cdn.example/a/b?c=1"


@pytest.mark.parametrize(
    "location",
    ["", "http://r.example/", "file:///etc/passwd", "ftp://x/", "https://user:pw@x/", "https://x:port/", "https://[x/"],
)
def test_a_redirect_to_no_safe_web_address_is_refused(location: str) -> None:
    with pytest.raises(RegistryError) as caught:
        redirect(location)
    assert caught.value.code == "registry-bad-redirect"


def test_plain_http_after_https_needs_permission() -> None:
    assert redirect("http://r.example/", insecure=True) == Redirect(url="http://r.example/", same_origin=False)


def test_redirects_end() -> None:
    redirect("/x", hops=MOST_REDIRECTS - 1)
    with pytest.raises(RegistryError):
        redirect("/x", hops=MOST_REDIRECTS)


def resume(offset: int, status: int, content_range: str = "", length: str = "") -> int:
    return plan_resume(offset=offset, size=100, status=status, content_range=content_range, content_length=length, label="x")


def test_a_partial_answer_must_start_where_we_stopped() -> None:
    assert resume(40, 206, "bytes 40-99/100", "60") == 0
    assert resume(40, 206, "bytes 40-99/*") == 0
    for wrong in ("bytes 39-99/100", "bytes 40-99/101", "", "bytes */100", "40-99"):
        with pytest.raises(IntegrityError):
            resume(40, 206, wrong)


def test_a_whole_answer_is_passed_over_up_to_where_we_stopped() -> None:
    assert resume(40, 200, length="100") == 40
    assert resume(0, 200) == 0


def test_too_long_an_answer_is_refused_before_it_is_read() -> None:
    for offset, status, content_range, length in ((0, 200, "", "101"), (40, 206, "bytes 40-99/100", "61")):
        with pytest.raises(IntegrityError):
            resume(offset, status, content_range, length)


PROXIES = {"HTTPS_PROXY": "proxy:3128", "http_proxy": "http://plain:1", "HTTP_PROXY": "http://ignored:1"}


@pytest.mark.parametrize(
    ("url", "no_proxy", "expected"),
    [
        ("https://r.example/", "", "http://proxy:3128"),
        ("http://r.example/", "", "http://plain:1"),
        ("https://localhost:5000/", "", ""),
        ("https://127.0.0.1/", "", ""),
        ("https://[::1]/", "", ""),
        ("https://r.example/", "*", ""),
        ("https://r.example/", "example", ""),
        ("https://r.example/", ".example", ""),
        ("https://r.example/", "*.example", ""),
        ("https://r.example/", "other, r.example", ""),
        ("https://r.example/", "ample", "http://proxy:3128"),
        ("https://r.example:5000/", "r.example:5000", ""),
        ("https://r.example/", "r.example:443", ""),
        ("https://r.example/", "r.example:5000", "http://proxy:3128"),
        ("https://10.1.2.3/", "10.0.0.0/8", ""),
        ("https://11.1.2.3/", "10.0.0.0/8", "http://proxy:3128"),
        ("https://[fd00::1]/", "fd00::/8", ""),
    ],
)
def test_proxies_are_chosen_as_docker_does(url: str, no_proxy: str, expected: str) -> None:
    assert choose_proxy(url, {**PROXIES, "NO_PROXY": no_proxy}) == expected


def test_all_proxy_is_the_last_resort() -> None:
    assert choose_proxy("https://x/", {"ALL_PROXY": "http://all:1"}) == "http://all:1"
    assert choose_proxy("https://x/", {}) == ""

"""Which containers ``contain ps`` shows, and which lines ``contain logs``. Values only."""

from __future__ import annotations

from typing import Any

import pytest

from contain.cli.container_listing import (
    Seen,
    container_row,
    join_lines,
    parse_filters,
    parse_moment,
    parse_tail,
    render_moment,
    select_containers,
)
from contain.container.lifecycle.records import ContainerRecord
from contain.errors import NotSupported, UsageError


def seen(name: str, state: str = "running", *, made: float = 0, paused: bool = False, **changes: Any) -> Seen:
    values: dict[str, Any] = {
        "container_id": (name * 64)[:64],
        "name": name,
        "image_name": "app",
        "image_digest": "sha256:1",
        "arguments": ("sh", "-c", "a long command"),
        "created_seconds": made,
        "state": state,
        "details": {},
    }
    return Seen(record=ContainerRecord(**{**values, **changes}), paused=paused)


ALL = (
    seen("web", made=5, details={"labels": [["a", "b"], ["c", ""]]}, started_seconds=6.0),
    seen("worker", paused=True, made=4, started_seconds=6.0, image_name="other", image_digest="sha256:2"),
    seen("old", "exited", made=3, status=3, finished_seconds=7.0),
    seen("older", "exited", made=2, status=0, finished_seconds=7.0),
    seen("new", "created", made=1),
)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ([], "web worker"),
        (["status=exited"], "old older"),
        (["status=paused"], "worker"),
        (["status=created", "status=paused"], "worker new"),
        (["exited=3"], "old"),
        (["name=w"], "web worker"),
        (["name=^/web$"], "web"),
        (["name=^we"], "web"),
        (["id=web"], "web"),
        (["label=a"], "web"),
        (["label=a=b", "label=c"], "web"),
        (["label=a=x"], ""),
        (["ancestor=other"], "worker"),
        (["status=exited", "exited=0"], "older"),
    ],
)
def test_filters_choose_containers_as_dockers_do(filters: list[str], names: str) -> None:
    chosen = select_containers(ALL, parse_filters(filters), everything=False)
    assert " ".join(each.record.name for each in chosen) == names


def test_the_last_ones_are_shown_in_whatever_state() -> None:
    chosen = select_containers(ALL, {}, everything=False, last=3)
    assert [each.record.name for each in chosen] == ["web", "worker", "old"]
    assert [each.record.name for each in select_containers(ALL, {}, everything=True, before=[4], since=[1])] == ["old", "older"]
    assert [each.record.name for each in select_containers(ALL, {"ancestor": ["x"]}, everything=True, images=["sha256:2"])] == [
        "worker"
    ]


@pytest.mark.parametrize("text", ["x", "x=1", "status=", "status=up", "exited=x", "name=("])
def test_a_filter_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_filters([text])


def test_filters_that_only_docker_has_are_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="ps --filter publish"):
        parse_filters(["publish=data"])


def test_a_row_tells_the_state_in_dockers_words() -> None:
    rows = [container_row(each, now=10.0, whole=False) for each in ALL]
    assert [row["Status"] for row in rows] == [
        *("Up 4 seconds", "Up 4 seconds (Paused)", "Exited (3) 3 seconds ago", "Exited (0) 3 seconds ago", "Created")
    ]
    assert (rows[0]["Command"], rows[0]["Labels"], rows[1]["State"]) == ('"sh -c a long comm…"', "a=b,c=", "paused")


@pytest.mark.parametrize(
    ("text", "moment"),
    [("10m", 400.0), ("1h30m", 1000 - 5400.0), ("1.5s", 998.5), ("12", 12.0), ("12.5", 12.5), ("1970-01-01T00:01:00Z", 60.0)],
)
def test_a_time_is_a_moment_or_how_long_ago(text: str, moment: float) -> None:
    assert parse_moment(text, flag="since", now=1000.0) == moment


@pytest.mark.parametrize("text", ["", "x", "10x", "m10", "2026-13-01T00:00:00Z", "10 m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_moment(text, flag="since", now=1000.0)


def test_the_number_of_lines() -> None:
    assert [parse_tail(text) for text in ("all", "-1", "0", "5")] == [None, None, 0, 5]
    with pytest.raises(UsageError):
        parse_tail("many")


def test_lines_are_joined_by_stream_with_the_time_of_their_beginning() -> None:
    rest: dict[str, tuple[float, str]] = {}
    pieces = [("stdout", 1.0, "a"), ("stderr", 2.0, "x\ny"), ("stdout", 3.0, "b\r\nc\n"), ("stdout", 4.0, "d")]
    assert list(join_lines(pieces, rest)) == [("stderr", 2.0, "x\n"), ("stdout", 1.0, "ab\r\n"), ("stdout", 3.0, "c\n")]
    assert rest == {"stderr": (2.0, "y"), "stdout": (4.0, "d")}
    assert list(join_lines([("stdout", 5.0, "\n")], rest)) == [("stdout", 4.0, "d\n")]


def test_a_time_is_shown_with_nine_digits() -> None:
    assert render_moment(1.5) == "1970-01-01T00:00:01.500000000Z"

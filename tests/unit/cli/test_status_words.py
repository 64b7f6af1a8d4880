"""The column STATUS of ``contain ps`` for containers that are started again, looked at, or lost. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from contain.cli.container_listing import Seen, parse_filters, render_status, select_containers
from contain.container.lifecycle.records import ContainerRecord
from contain.errors import UsageError


def seen(*, paused: bool = False, health: str = "", **changes: Any) -> Seen:
    values: dict[str, Any] = {
        "container_id": "c" * 64,
        "name": "web",
        "image_name": "app",
        "image_digest": "",
        "arguments": ("sh",),
        "created_seconds": 0.0,
        "details": {},
    }
    return Seen(record=ContainerRecord(**{**values, **changes}), paused=paused, health=health)


@pytest.mark.parametrize(
    ("each", "words"),
    [
        (seen(state="created"), "Created"),
        (seen(state="running", started_seconds=40.0), "Up "),
        (seen(state="running", started_seconds=40.0, health="healthy"), "(healthy)"),
        (seen(state="running", started_seconds=40.0, health="unhealthy"), "(unhealthy)"),
        (seen(state="running", started_seconds=40.0, health="starting"), "(health: starting)"),
        (seen(state="running", started_seconds=40.0, health="healthy", paused=True), "(Paused)"),
        (seen(state="restarting", finished_seconds=98.0, status=4), "Restarting (4) 2 seconds ago"),
        (seen(state="exited", finished_seconds=98.0, status=255), "Exited (255) 2 seconds ago"),
        (seen(state="dead"), "Dead"),
    ],
)
def test_status_is_told_in_dockers_words(each: Seen, words: str) -> None:
    text = render_status(each, 100.0)
    assert text.startswith(words) or text.endswith(words)


def test_what_is_between_two_starts_is_listed_with_what_runs() -> None:
    all_of_them = [seen(state="restarting"), seen(state="running"), seen(state="exited"), seen(state="dead")]
    assert [each.record.state for each in select_containers(all_of_them, {}, everything=False)] == ["restarting", "running"]


def test_containers_are_chosen_by_their_health() -> None:
    both = [seen(state="running", health="healthy"), seen(state="running")]
    for value, chosen in (("healthy", both[:1]), ("none", both[1:]), ("unhealthy", [])):
        assert list(select_containers(both, parse_filters([f"health={value}"]), everything=False)) == chosen
    with pytest.raises(UsageError, match="invalid filter 'health=well'"):
        parse_filters(["health=well"])

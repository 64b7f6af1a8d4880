"""What ``contain events`` shows of the journal."""

from __future__ import annotations

import pytest

from contain.cli.events import describe, parse_filters, passes, render_line
from contain.errors import UsageError
from contain.store.journal import Happening

DIED = Happening(
    time_ns=1_700_000_000_123_456_789,
    kind="container",
    action="die",
    identity="abc123",
    attributes={"name": "web", "image": "small", "exitCode": "3", "tier": "front"},
)
LOOKED = Happening(time_ns=1, kind="container", action="health_status: healthy", identity="abc123", attributes={"name": "web"})
TAGGED = Happening(time_ns=1, kind="image", action="tag", identity="sha256:1", attributes={"name": "small"})


@pytest.mark.parametrize(
    ("filters", "passed"),
    [
        ([], (True, True, True)),
        (["container=web"], (True, True, False)),
        (["container=abc"], (True, True, False)),
        (["container=we"], (False, False, False)),
        (["type=image"], (False, False, True)),
        (["type=image", "type=container"], (True, True, True)),
        (["event=die"], (True, False, False)),
        (["event=health_status"], (False, True, False)),
        (["image=small"], (True, False, True)),
        (["image=sma"], (False, False, False)),
        (["label=tier"], (True, False, False)),
        (["label=tier=front"], (True, False, False)),
        (["label=tier=front", "label=nope"], (False, False, False)),
        (["event=die", "container=other"], (False, False, False)),
    ],
)
def test_filters_let_through(filters: list[str], passed: tuple[bool, bool, bool]) -> None:
    parsed = parse_filters(filters)
    assert tuple(passes(each, parsed) for each in (DIED, LOOKED, TAGGED)) == passed


def test_an_image_may_be_named_without_its_tag() -> None:
    tagged = Happening(
        time_ns=1, kind="image", action="tag", identity="sha256:1", attributes={"name": "registry.example:5000/app:1"}
    )
    for text, passed in (
        ("registry.example:5000/app", True),
        ("registry.example:5000/app:1", True),
        ("registry.example", False),
        ("sha256:1", True),
        ("app", False),
    ):
        assert passes(tagged, parse_filters([f"image={text}"])) is passed


def test_what_happens_to_a_network_is_not_what_happens_to_its_container() -> None:
    joined = Happening(
        time_ns=1, kind="network", action="connect", identity="77", attributes={"container": "abc", "name": "net"}
    )
    assert not passes(joined, parse_filters(["container=abc"]))
    assert passes(joined, parse_filters(["network=net", "event=connect"]))


@pytest.mark.parametrize("text", ["", "x", "type=", "=x", "nope=1"])
def test_a_filter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_filters([text])


def test_json_has_dockers_fields() -> None:
    assert describe(DIED) == {
        "status": "die",
        "id": "abc123",
        "from": "small",
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": "abc123", "Attributes": dict(DIED.attributes)},
        "scope": "local",
        "time": 1_700_000_000,
        "timeNano": 1_700_000_000_123_456_789,
    }


def test_a_line_is_dockers() -> None:
    line = render_line(DIED)
    assert ".123456789" in line
    assert line.endswith("container die abc123 (exitCode=3, image=small, name=web, tier=front)")


def test_a_label_cannot_write_to_the_terminal() -> None:
    evil = Happening(time_ns=1, kind="container", action="die", identity="x", attributes={"name": "\x1b[2J\n"})
    assert "\x1b" not in render_line(evil)
    assert "\n" not in render_line(evil)

"""``--add-host`` and ``--dns``: what is taken, and what resolv.conf becomes."""

from __future__ import annotations

import pytest

from contain.container.network.etc_files import render_resolver
from contain.container.network.hosts import parse_add_host, parse_dns
from contain.errors import NotSupported, UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db:10.0.0.1", ("db", "10.0.0.1")),
        ("db=10.0.0.1", ("db", "10.0.0.1")),
        ("db.example.org:::1", ("db.example.org", "::1")),
        ("db:[::1]", ("db", "::1")),
        ("host.docker.internal:host-gateway", ("host.docker.internal", "host-gateway")),
    ],
)
def test_a_line_of_hosts_is_read(text: str, expected: tuple[str, str]) -> None:
    assert parse_add_host(text) == expected


@pytest.mark.parametrize(
    "text", ["", "db", "db:", ":10.0.0.1", "db:x", "a b:10.0.0.1", "db:10.0.0.1\n10.0.0.2 evil", "d\nb:10.0.0.1"]
)
def test_what_is_no_line_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_add_host(text)
    assert caught.value.code == "bad-add-host"


@pytest.mark.parametrize(("values", "kind"), [(["x"], UsageError), (["192.0.2.1"] * 4, UsageError), (["::1"], NotSupported)])
def test_what_is_no_name_server_is_refused(values: list[str], kind: type[UsageError]) -> None:
    with pytest.raises(kind):
        parse_dns(values)


def test_name_servers_replace_the_hosts_and_leave_the_rest() -> None:
    text = "search example.org\noptions ndots:2\nnameserver 192.0.2.1\n"
    assert render_resolver(text, parse_dns(["192.0.2.53"])) == "search example.org\noptions ndots:2\nnameserver 192.0.2.53\n"
    assert render_resolver(text, ()) == text

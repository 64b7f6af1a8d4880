"""What ``-p`` and ``-P`` mean, and how published ports are shown. Without a kernel."""

from __future__ import annotations

import json

import pytest

from contain.cli.ports import render_ports
from contain.container.network.ports import parse_publish, resolve_ports
from contain.errors import NotSupported, UsageError
from contain.linux.leases import Lease, NetworkRecord, Owner, PublishedPort, decode_record, encode_record
from contain.spec import PortRequest


def row(request: PortRequest) -> tuple[str, int, int, int, str]:
    return request.host_address, request.first_host_port, request.last_host_port, request.container_port, request.protocol


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("", 0, 0, 80, "tcp")]),
        ("8080:80", [("", 8080, 8080, 80, "tcp")]),
        ("5353:53/UDP", [("", 5353, 5353, 53, "udp")]),
        ("127.0.0.1:8080:80", [("127.0.0.1", 8080, 8080, 80, "tcp")]),
        ("127.0.0.1::80", [("127.0.0.1", 0, 0, 80, "tcp")]),
        ("8000-8001:80-81", [("", 8000, 8000, 80, "tcp"), ("", 8001, 8001, 81, "tcp")]),
        ("0.0.0.0:80:80", [("0.0.0.0", 80, 80, 80, "tcp")]),
        ("[::1]:8080:80", [("::1", 8080, 8080, 80, "tcp")]),
        ("[fd00:0::1]::53/udp", [("fd00::1", 0, 0, 53, "udp")]),
        ("[::]:80:80", [("::", 80, 80, 80, "tcp")]),
        ("::1:8080:80", [("::1", 8080, 8080, 80, "tcp")]),
        ("8000-8009:80", [("", 8000, 8009, 80, "tcp")]),
        ("80-81", [("", 0, 0, 80, "tcp"), ("", 0, 0, 81, "tcp")]),
    ],
)
def test_ports_are_read_as_docker_reads_them(text: str, expected: list[tuple[str, int, int, int, str]]) -> None:
    assert [row(request) for request in parse_publish(text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port specified"),
        ("8080:", "no port specified"),
        ("0", "invalid containerPort: 0"),
        ("x", "invalid containerPort: x"),
        ("80-70", "invalid containerPort: 80-70"),
        ("65536", "invalid containerPort: 65536"),
        ("-5:80", "invalid hostPort: -5"),
        ("99999:80", "invalid hostPort: 99999"),
        ("8000-8001:80-85", "invalid ranges specified for container and host Ports: 80-85 and 8000-8001"),
        ("80/icmp", "invalid proto: icmp"),
        ("80/", "invalid proto: "),
        ("localhost:80:80", "invalid IP address: localhost"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("a:b:c:80:80", "invalid IP address: a:b:c"),
        ("\u0663:80", "invalid hostPort"),
    ],
)
def test_nonsense_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")) as caught:
        parse_publish(text)
    assert caught.value.code == "bad-port"


@pytest.mark.parametrize("text", ["target=80,published=8080", "80/sctp"])
def test_what_docker_has_and_this_has_not_is_refused_by_name(text: str) -> None:
    with pytest.raises(NotSupported) as caught:
        parse_publish(text)
    assert caught.value.code == "port-not-supported"


def test_all_exposed_ports_but_the_named_ones_are_published_at_any_port() -> None:
    named = parse_publish("8080:80")
    found = resolve_ports((*named, *named), exposed=("80/tcp", "53/udp", "9000"), publish_all=True)
    assert [row(request)[1:] for request in found] == [(8080, 8080, 80, "tcp"), (0, 0, 53, "udp"), (0, 0, 9000, "tcp")]
    assert resolve_ports(named, exposed=("53/udp",), publish_all=False) == named


def published(host_port: int, container_port: int, protocol: str = "tcp") -> PublishedPort:
    return PublishedPort(protocol=protocol, host_address="0.0.0.0", host_port=host_port, container_port=container_port)


def test_ports_in_a_row_are_shown_as_a_range() -> None:
    ports = [published(8001, 81), published(8000, 80), published(9000, 90), published(5353, 53, "udp")]
    assert render_ports(ports) == "0.0.0.0:8000-8001->80-81/tcp, 0.0.0.0:9000->90/tcp, 0.0.0.0:5353->53/udp"
    assert render_ports([]) == ""


def test_the_lease_file_keeps_ports_and_reads_files_without_them() -> None:
    lease = Lease(address=0xAC1E0002, owner=Owner(process_id=7, start_ticks=8), ports=(published(8000, 80),))
    record = NetworkRecord(leases={"a": lease})
    assert decode_record(encode_record(record)) == record
    old = json.loads(encode_record(record))
    old["leases"]["a"] = old["leases"]["a"][:3]
    del old["settings"]
    read = decode_record(json.dumps(old).encode())
    assert read is not None
    assert read.leases["a"].ports == ()

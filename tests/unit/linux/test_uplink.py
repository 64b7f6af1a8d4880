"""What the programs that carry packets are told."""

from __future__ import annotations

from contain.linux.leases import PublishedPort
from contain.linux.uplink import Namespaces, namespaces_of, plan_pasta, plan_slirp

PORTS = (
    PublishedPort(protocol="tcp", host_address="0.0.0.0", host_port=8080, container_port=80),
    PublishedPort(protocol="tcp", host_address="::", host_port=8080, container_port=80),
    PublishedPort(protocol="tcp", host_address="0.0.0.0", host_port=8081, container_port=80),
    PublishedPort(protocol="tcp", host_address="127.0.0.1", host_port=8443, container_port=443),
    PublishedPort(protocol="tcp", host_address="::1", host_port=8444, container_port=443),
)


CONTAINER = namespaces_of(7)


def values(command: tuple[str, ...], option: str) -> list[str]:
    return [command[index + 1] for index, word in enumerate(command) if word == option]


def test_pasta_publishes_what_was_asked_at_the_address_that_was_asked_and_nothing_else() -> None:
    command = plan_pasta("/bin/pasta", CONTAINER, "/ready", PORTS)
    assert values(command, "-t") == ["8080:80", "0.0.0.0/8081:80", "127.0.0.1/8443:443", "::1/8444:443"]
    assert values(command, "-u") == ["none"]
    assert values(command, "-T") == values(command, "-U") == ["none"]
    assert command[-4:] == ("--userns", "/proc/7/ns/user", "--netns", "/proc/7/ns/net")


def test_neither_lets_a_container_reach_the_machines_loopback() -> None:
    assert "--no-map-gw" in plan_pasta("/bin/pasta", CONTAINER, "/ready", ())
    assert "--disable-host-loopback" in plan_slirp("/bin/slirp4netns", CONTAINER, 3, "api")


def test_a_namespace_of_the_callers_own_user_namespace_is_entered_without_another_user_namespace() -> None:
    own = Namespaces(network="/run/net")
    command = plan_pasta("/bin/pasta", own, "/ready", ())
    assert command[-3:] == ("--netns-only", "--netns", "/run/net")
    assert "--userns" not in command
    assert not [word for word in plan_slirp("/bin/slirp4netns", own, 3, "api") if word.startswith("--userns-path")]

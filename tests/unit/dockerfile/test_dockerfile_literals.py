from __future__ import annotations

import pytest

from contain.dockerfile import (
    MountKind,
    RunMount,
    Sharing,
    parse_chmod,
    parse_duration_nanoseconds,
    parse_mount,
    parse_port_spec,
    parse_signal,
    parse_size_bytes,
    resolve_mount,
)
from contain.errors import UsageError

UNSET: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("5s", 5_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("+3ms", 3_000_000),
        ("-3ms", -3_000_000),
        ("100us", 100_000),
        ("100\u00b5s", 100_000),
        ("1ns", 1),
        ("2562047h47m16.854775807s", 2**63 - 1),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration_nanoseconds(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", ".s", "-", "+", "1d", "1s ", " 1s", "1,5s", "\u0661s", "2562047h47m16.854775808s", "9" * 5000 + "s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration_nanoseconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("1k", 1024), ("64m", 64 << 20), ("64MB", 64 << 20), ("1.5GiB", 3 << 29), ("2 g", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1e3", "1.m", "1x", "1 000"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size_bytes(text)


@pytest.mark.parametrize(
    ("text", "ports", "published"),
    [
        ("80", ("80/tcp",), ""),
        ("80/UDP", ("80/udp",), ""),
        ("53/sctp", ("53/sctp",), ""),
        ("3333-3335/udp", ("3333/udp", "3334/udp", "3335/udp"), ""),
        ("8-8", ("8/tcp",), ""),
        ("1234:80", ("80/tcp",), "1234"),
        ("0.0.0.0:1234-1235:3333-3334/tcp", ("3333/tcp", "3334/tcp"), "0.0.0.0:1234-1235"),
        ("8000-9000:80", ("80/tcp",), "8000-9000"),
        ("[2001:4860:0:2001::68]::333", ("333/tcp",), "[2001:4860:0:2001::68]:"),
        ("[::1]:80:80", ("80/tcp",), "[::1]:80"),
        ("::1:80:80", ("80/tcp",), "::1:80"),
    ],
)
def test_ports(text: str, ports: tuple[str, ...], published: str) -> None:
    spec = parse_port_spec(text)
    assert (spec.ports, spec.published) == (ports, published)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/tcp",
        "0.0.0.0:1234-1235:/tcp",
        "0.0.0.0:1234:",
        "localhost:1234:1234/tcp",
        "80/icmp",
        "70000",
        "9-8",
        "80-",
        "-80",
        "a",
        "1-2:1-3:1-4",
        "\u0668",
    ],
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(UsageError):
        parse_port_spec(text)


@pytest.mark.parametrize(
    ("text", "mode", "is_directory", "expected"),
    [
        ("755", 0o600, False, 0o755),
        ("0644", 0o777, True, 0o644),
        ("7777", 0, False, 0o7777),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o666, False, 0o444),
        ("go=", 0o777, False, 0o700),
        ("g=u", 0o741, False, 0o771),
        ("o+g", 0o750, False, 0o755),
        ("u+s,g+s", 0o755, False, 0o6755),
        ("+t", 0o777, True, 0o1777),
        ("u=rw+x-w", 0o000, False, 0o500),
        ("u=rwx", 0o4755, False, 0o755),
    ],
)
def test_file_modes(text: str, mode: int, is_directory: bool, expected: int) -> None:
    assert parse_chmod(text).apply(mode, is_directory=is_directory) == expected


@pytest.mark.parametrize("text", ["", "8", "77777", "u", "rwx", "u=rwz", "u=rw,", "u~x", "-1x", "0o755", "ug=uo"])
def test_what_is_no_file_mode(text: str) -> None:
    with pytest.raises(UsageError):
        parse_chmod(text)


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("SIGTERM", 15), ("term", 15), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("RTMIN", 34)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNOPE", "RTMIN-1", "RTMAX+1", "-9", "SIG_DFL"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(UsageError):
        parse_signal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/a,source=b", RunMount(kind=MountKind.BIND, target="/a", source="b", read_only=True)),
        ("TYPE=bind,dst=/a,src=b,from=c,rw", RunMount(kind=MountKind.BIND, target="/a", source="b", from_stage="c")),
        ("type=cache,target=/a", RunMount(kind=MountKind.CACHE, target="/a", id="/a", sharing=Sharing.SHARED)),
        (
            "type=cache,id=i,target=/a,sharing=locked,mode=0750,uid=5,gid=6,ro",
            RunMount(
                kind=MountKind.CACHE,
                target="/a",
                id="i",
                sharing=Sharing.LOCKED,
                mode=0o750,
                user_id=5,
                group_id=6,
                read_only=True,
            ),
        ),
        ("type=tmpfs,target=/a,size=1m", RunMount(kind=MountKind.TMPFS, target="/a", size_bytes=1 << 20)),
        ("type=secret,id=k", RunMount(kind=MountKind.SECRET, target="/run/secrets/k", id="k", mode=0o400, read_only=True)),
        (
            "type=secret,target=/x/k,required",
            RunMount(kind=MountKind.SECRET, target="/x/k", id="k", mode=0o400, read_only=True, required=True),
        ),
        ("type=secret,id=k,env=K", RunMount(kind=MountKind.SECRET, target="", id="k", env="K", mode=0o400, read_only=True)),
        ("type=ssh", RunMount(kind=MountKind.SSH, target="", id="default", mode=0o600, read_only=True)),
        ('"target=/a,b"', RunMount(kind=MountKind.BIND, target="/a,b", read_only=True)),
    ],
)
def test_mounts(text: str, expected: RunMount) -> None:
    assert resolve_mount(parse_mount(text), UNSET.get) == expected


@pytest.mark.parametrize("text", ["from=binaries", "type=bind", "type=cache,id=a", "type=tmpfs"])
def test_a_mount_without_a_target_is_at_the_working_directory(text: str) -> None:
    assert resolve_mount(parse_mount(text), UNSET.get).target == "."


def test_mount_values_expand_when_variables_are_known() -> None:
    flag = parse_mount("type=$KIND,target=$HOME/.cache,uid=${U:-7}")
    mount = resolve_mount(flag, {"KIND": "cache", "HOME": "/root"}.get)
    assert (mount.kind, mount.target, mount.user_id) == (MountKind.CACHE, "/root/.cache", 7)


@pytest.mark.parametrize(
    "text",
    [
        "type=nope,target=/a",
        "target",
        "target=/a,nope=1",
        "target=/a,mode=0755",
        "type=cache,target=/a,mode=9",
        "type=cache,target=/a,size=5",
        "type=cache,target=/a,uid=x",
        "type=cache,target=/a,uid=99999999999",
        "type=cache,target=/a,sharing=often",
        "target=/a,rw=maybe",
        "target=/a,rw,ro",
        "target=/a,required",
        "type=secret",
        "type=secret,id=a,source=b",
        "type=secret,id=a,from=b",
        "type=secret,id=a,sharing=locked",
        'target="/a',
        '"target=/a"x',
    ],
)
def test_what_is_no_mount(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mount(text)

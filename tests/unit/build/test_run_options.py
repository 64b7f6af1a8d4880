from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contain.build.run.emulation import Interpreter, can_execute, elf_header, parse_registration, read_interpreters
from contain.build.run.masking import Mask
from contain.build.run.open_mounts import read_secret, remove_stubs
from contain.build.run.options import (
    SecretSource,
    SshSource,
    parse_build_network,
    parse_entitlements,
    parse_extra_host,
    parse_resource_limit,
    parse_secret,
    parse_shared_memory,
    parse_ssh,
)
from contain.build.run.special_arguments import SPECIAL, arguments_without_effect
from contain.build.run.ssh_forward import may_pass, split_messages
from contain.errors import UsageError
from contain.registry.platform import parse_platform
from contain.spec import ResourceLimit


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("id=a,src=/f", SecretSource(id="a", path="/f")),
        ("id=a,source=/f", SecretSource(id="a", path="/f")),
        ("type=file,id=a,src=/f", SecretSource(id="a", path="/f")),
        ("id=a,env=V", SecretSource(id="a", variable="V")),
        ("type=env,id=a,src=V", SecretSource(id="a", variable="V")),
        ("type=env,id=a,env=V", SecretSource(id="a", variable="V")),
        ("ID=a", SecretSource(id="a")),
        ('id=a,"src=/with,comma"', SecretSource(id="a", path="/with,comma")),
    ],
)
def test_secrets_are_spelled_as_docker_spells_them(text: str, source: SecretSource) -> None:
    assert parse_secret(text) == source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("default", SshSource(id="default")),
        ("default=/sock", SshSource(id="default", paths=("/sock",))),
        ("k=/a,/b", SshSource(id="k", paths=("/a", "/b"))),
    ],
)
def test_agents_are_spelled_as_docker_spells_them(text: str, source: SshSource) -> None:
    assert parse_ssh(text) == source


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("a:1.2.3.4", ("a", "1.2.3.4")),
        ("a=1.2.3.4", ("a", "1.2.3.4")),
        ("a:::1", ("a", "::1")),
        ("a:[2001:db8::1]", ("a", "2001:db8::1")),
        ("a=::1", ("a", "::1")),
        ("a:host-gateway", ("a", "host-gateway")),
    ],
)
def test_hosts_are_spelled_as_docker_spells_them(text: str, host: tuple[str, str]) -> None:
    assert parse_extra_host(text) == host


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=10:20", ResourceLimit(name="nofile", soft=10, hard=20)),
        ("nofile=10", ResourceLimit(name="nofile", soft=10, hard=10)),
        ("core=0:-1", ResourceLimit(name="core", soft=0, hard=-1)),
        ("memlock=-1:-1", ResourceLimit(name="memlock", soft=-1, hard=-1)),
    ],
)
def test_limits_are_spelled_as_docker_spells_them(text: str, limit: ResourceLimit) -> None:
    assert parse_resource_limit(text) == limit


def test_permissions_may_stand_together_or_apart() -> None:
    assert parse_entitlements(["network.host, security.insecure"]) == parse_entitlements(["security.insecure", "network.host"])
    assert parse_entitlements([]) == frozenset()
    assert parse_shared_memory("1g") == 1 << 30


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_secret, "x"),
        (parse_secret, ""),
        (parse_secret, "src=/f"),
        (parse_secret, "id=a,src=/f,env=V"),
        (parse_secret, "id=a,type=vault"),
        (parse_secret, "id=a,type=file,env=V"),
        (parse_secret, '"id=a'),
        (parse_ssh, ""),
        (parse_ssh, "=x"),
        (parse_ssh, "a="),
        (parse_ssh, "a=/s,raw=true"),
        (parse_extra_host, "a"),
        (parse_extra_host, ":1.2.3.4"),
        (parse_extra_host, "a:1.2.3"),
        (parse_extra_host, "a b:1.2.3.4"),
        (parse_extra_host, "a\nb:1.2.3.4"),
        (parse_resource_limit, "nofile"),
        (parse_resource_limit, "nofile=x"),
        (parse_resource_limit, "nofile=20:10"),
        (parse_resource_limit, "nofile=-1:10"),
        (parse_resource_limit, "nofile=-2"),
        (parse_resource_limit, "nofiles=1"),
        (parse_build_network, "bridge"),
        (parse_shared_memory, "0"),
        (lambda text: parse_entitlements([text]), "network.hots"),
        (lambda text: parse_entitlements([text]), "device"),
    ],
)
def test_nonsense_is_refused_with_a_way_out(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "bad-arguments"
    assert caught.value.remedy or "more than 0" in caught.value.message


def test_a_secret_without_a_source_is_a_variable_of_its_name_else_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "TOKEN").write_text("of the file")
    monkeypatch.chdir(tmp_path)
    assert read_secret(SecretSource(id="TOKEN"), {"TOKEN": "of the variable"}) == b"of the variable"
    assert read_secret(SecretSource(id="TOKEN"), {}) == b"of the file"


# -- what is printed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_secret_is_masked_however_it_is_cut_up(size: int) -> None:
    mask = Mask([b"hunter2hunter2\n", b"abc"])
    text = "a hunter2hunter2 b hunter2hunt hunter2hunter2hunter2hunter2 abc hunter2"
    shown = "".join(mask.feed(text[start : start + size]) for start in range(0, len(text), size)) + mask.feed("", final=True)
    assert shown == "a **** b hunter2hunt ******** abc hunter2"


def test_each_line_of_a_secret_is_one() -> None:
    assert Mask([b"first-line\nsecond-line\n}\n"]).feed("second-line }", final=True) == "**** }"


def test_without_secrets_text_passes_at_once() -> None:
    assert Mask().feed("anyth") == "anyth"


# -- agents ---------------------------------------------------------------------------------------------------------------------


def message(kind: int, rest: bytes = b"") -> bytes:
    return (1 + len(rest)).to_bytes(4, "big") + bytes([kind]) + rest


def test_messages_are_found_in_a_stream() -> None:
    stream = message(11) + message(13, b"data") + message(17)[:3]
    assert split_messages(stream) == ([message(11), message(13, b"data")], message(17)[:3])


@pytest.mark.parametrize("kind", [number for number in range(256) if number not in (11, 13)])
def test_only_lists_and_signatures_are_asked_of_an_agent(kind: int) -> None:
    assert not may_pass(message(kind))
    assert may_pass(message(11))
    assert may_pass(message(13))


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_a_message_of_no_size_or_too_large_a_one_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        split_messages(data)


# -- mount points ---------------------------------------------------------------------------------------------------------------


def test_only_empty_names_are_taken_away_and_no_link_is_followed(tmp_path: Path) -> None:
    upper, victim = tmp_path / "upper", tmp_path / "victim"
    for directory in (upper / "a" / "b", upper / "kept", victim / "d"):
        directory.mkdir(parents=True)
    (upper / "file").write_text("")
    (upper / "full").write_text("x")
    (upper / "kept" / "f").write_text("x")
    (upper / "link").symlink_to(victim)
    (upper / "last").symlink_to(victim / "d")
    remove_stubs(upper, ["a/b", "link/d", "a", "file", "full", "kept", "last", "absent/x"])
    assert sorted(path.name for path in upper.iterdir()) == ["full", "kept", "last", "link"]
    assert (victim / "d").is_dir()


# -- other platforms ------------------------------------------------------------------------------------------------------------

AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
AMD64 = parse_platform("linux/amd64")


def interpreter(text: str) -> Interpreter:
    parsed = parse_registration(text)
    assert parsed is not None
    return parsed


def test_an_interpreter_serves_the_platform_it_is_registered_for() -> None:
    found = (interpreter(AARCH64),)
    assert can_execute(parse_platform("linux/arm64"), AMD64, found)
    assert not can_execute(parse_platform("linux/arm64"), AMD64)
    assert not can_execute(parse_platform("linux/s390x"), AMD64, found)
    assert not can_execute(parse_platform("linux/riscv64"), AMD64, found)
    assert not can_execute(parse_platform("windows/arm64"), AMD64, found)


@pytest.mark.parametrize(
    "text",
    [AARCH64.replace("enabled", "disabled"), AARCH64.replace("flags: POCF", "flags: POC"), AARCH64.replace("b700", "b800")],
)
def test_one_that_is_off_or_not_there_in_a_container_or_for_another_processor_does_not(text: str) -> None:
    assert not can_execute(parse_platform("linux/arm64"), AMD64, (interpreter(text),))


def test_what_the_processor_executes_itself_needs_none() -> None:
    assert can_execute(AMD64, AMD64)
    assert can_execute(parse_platform("linux/386"), AMD64)
    assert not can_execute(AMD64, parse_platform("linux/386"))


def test_registrations_by_extension_and_nonsense_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "jar").write_text("enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n")
    (tmp_path / "odd").write_text("enabled\nmagic zz\n")
    (tmp_path / "aarch64").write_text(AARCH64)
    assert [each.path for each in read_interpreters(tmp_path)] == ["/usr/libexec/qemu-binfmt/aarch64-binfmt-P"]
    assert read_interpreters(tmp_path / "absent") == ()


def test_a_big_endian_program_is_known_by_its_header() -> None:
    header = elf_header(parse_platform("linux/s390x"))
    assert header is not None
    assert header[:6] == b"\x7fELF\x02\x02"
    assert header[18:20] == b"\x00\x16"


# -- special arguments ----------------------------------------------------------------------------------------------------------


def test_a_special_argument_has_an_effect_or_is_named() -> None:
    given = {
        "BUILDKIT_SYNTAX": "docker/dockerfile:1",
        "BUILDKIT_INLINE_CACHE": "0",
        "BUILDKIT_CACHE_MOUNT_NS": "x",
        "OTHER": "1",
    }
    (text,) = arguments_without_effect(given)
    assert "BUILDKIT_SYNTAX" in text
    assert set(given) - SPECIAL == {"OTHER"}

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from contain.container.request.resolve import DEFAULT_PATH, RunRequest, check_name, parse_signal, resolve_command, resolve_spec
from contain.errors import UsageError
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.oci import ImageConfig
from contain.spec import ContainerSpec, Identity, Network

IDENTIFIER = "0123456789ab" + "c" * 52


def resolve(config: ImageConfig = ImageConfig(command=("sh",)), **wanted: Any) -> ContainerSpec:  # noqa: B008  frozen
    return resolve_spec(
        RunRequest(image="app", **wanted),
        container_id=IDENTIFIER,
        name="quiet_otter",
        image_digest="sha256:" + "1" * 64,
        config=config,
        layers=(Path("/layer"),),
        upper=None,
        identity=Identity(),
        home="/root",
    )


# Docker's table: docs.docker.com/reference/dockerfile, "Understand how CMD and ENTRYPOINT interact"
@pytest.mark.parametrize(
    ("entrypoint", "command", "arguments", "given", "expected"),
    [
        (None, ("c", "1"), (), None, ("c", "1")),
        (None, ("c", "1"), ("x", "2"), None, ("x", "2")),
        (("e",), None, (), None, ("e",)),
        (("e", "0"), ("c", "1"), (), None, ("e", "0", "c", "1")),
        (("e",), ("c", "1"), ("x",), None, ("e", "x")),
        (("e",), ("c", "1"), (), "g", ("g",)),  # another entrypoint drops the image's command
        (("e",), ("c", "1"), ("x",), "g", ("g", "x")),
        (("e",), ("c", "1"), ("x",), "", ("x",)),  # an empty one resets it
        ((), ("c",), (), None, ("c",)),
        (("e",), (), (), None, ("e",)),
        (None, None, ("x",), None, ("x",)),
    ],
)
def test_entrypoint_and_command_combine_as_in_docker(
    entrypoint: tuple[str, ...] | None,
    command: tuple[str, ...] | None,
    arguments: tuple[str, ...],
    given: str | None,
    expected: tuple[str, ...],
) -> None:
    assert resolve_command(ImageConfig(entrypoint=entrypoint, command=command), arguments, given) == expected


@pytest.mark.parametrize(
    ("config", "given"),
    [(ImageConfig(), None), (ImageConfig(entrypoint=("e",), command=("c",)), ""), (ImageConfig(command=("",)), None)],
)
def test_no_program_at_all_is_an_error_in_dockers_words(config: ImageConfig, given: str | None) -> None:
    with pytest.raises(UsageError, match="no command specified"):
        resolve_command(config, (), given)


def test_the_environment_is_the_images_under_the_requests() -> None:
    config = ImageConfig(command=("sh",), environment=(("PATH", "/image"), ("A", "image"), ("B", "image")))
    spec = resolve(config, environment=(("B", "asked"), ("C", "asked"), ("EMPTY", "")))
    assert spec.environment == (
        ("PATH", "/image"),
        ("HOSTNAME", "0123456789ab"),
        ("HOME", "/root"),
        ("A", "image"),
        ("B", "asked"),
        ("C", "asked"),
        ("EMPTY", ""),
    )


def test_without_any_there_are_path_host_name_and_home_and_nothing_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/of/the/caller")
    monkeypatch.setenv("SECRET", "x")
    assert dict(resolve().environment) == {"PATH": DEFAULT_PATH, "HOSTNAME": "0123456789ab", "HOME": "/root"}


def test_a_terminal_brings_its_kind_along() -> None:
    assert dict(resolve(terminal=True).environment)["TERM"] == "xterm"
    assert dict(resolve(terminal=True, environment=(("TERM", "vt100"),)).environment)["TERM"] == "vt100"


def test_the_host_name_is_the_short_id_unless_given() -> None:
    assert resolve().hostname == "0123456789ab"
    assert resolve(hostname="web").hostname == "web"
    assert dict(resolve(hostname="web").environment)["HOSTNAME"] == "web"


def test_the_working_directory_is_the_images_unless_given() -> None:
    config = ImageConfig(command=("sh",), working_directory="/app")
    assert str(resolve(config).working_directory) == "/app"
    assert str(resolve(config, working_directory="/other").working_directory) == "/other"
    assert str(resolve().working_directory) == "/"


@pytest.mark.parametrize(
    "directory", ["app", "./app", "/proc", "/proc/self/fd/7", "//proc/self/fd/7", "/./proc/1/cwd", "/a/../proc"]
)
def test_a_working_directory_that_could_lead_outside_is_refused(directory: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(working_directory=directory)
    assert caught.value.code == "bad-workdir"


def test_labels_of_image_and_request_come_together() -> None:
    config = ImageConfig(command=("sh",), labels={"a": "image", "b": "image"})
    assert dict(resolve(config, labels=(("b", "asked"),)).labels) == {"a": "image", "b": "asked"}


def test_the_stop_signal_is_the_images() -> None:
    assert resolve().stop_signal == signal.SIGTERM
    assert resolve(ImageConfig(command=("sh",), stop_signal="SIGINT")).stop_signal == signal.SIGINT


def test_the_rest_is_docker_s_default() -> None:
    spec = resolve()
    assert (spec.network, spec.read_only, spec.capabilities) == (Network.BRIDGE, False, DEFAULT_CAPABILITIES)
    assert (spec.limits.memory_bytes, spec.limits.cpus, spec.limits.pids) == (None, None, 2048)


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("34", 34), ("64", 64)])
def test_signals_by_name_or_number(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "SIG", "NOPE", "1.5", "\u00b2", "9 ", "9" * 5000])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_signal(text)
    assert caught.value.code == "bad-signal"


@pytest.mark.parametrize("name", ["ab", "Web_1.x-y", "0a", "a" * 200])
def test_names_as_dockers(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a", "-ab", ".ab", "_ab", "a b", "a/b", "../x", "ab\n", "\u00e4b", "a\0b"])
def test_other_names_are_refused_in_dockers_words(name: str) -> None:
    with pytest.raises(UsageError, match="Invalid container name"):
        check_name(name)


@pytest.mark.parametrize("hostname", ["a" * 65, "-a", "a-", "a b", "a\n127.0.0.1 evil", "\u00e4"])
def test_odd_host_names_are_refused(hostname: str) -> None:
    with pytest.raises(UsageError, match="invalid hostname format"):
        resolve(hostname=hostname)


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(command=("sh", "a\0b")),
        ImageConfig(command=("sh",), environment=(("A", "b\0c"),)),
        ImageConfig(command=("sh",), environment=(("A\0", "b"),)),
        ImageConfig(command=("sh",), working_directory="/a\0b"),
    ],
)
def test_what_no_program_can_be_given_is_refused_before_anything_starts(config: ImageConfig) -> None:
    with pytest.raises(UsageError, match="NUL"):
        resolve(config)


def test_a_stop_signal_of_an_image_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="invalid signal"):
        resolve(ImageConfig(command=("sh",), stop_signal="SIGNOPE"))

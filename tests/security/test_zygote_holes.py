"""A test is not trusted: what it sends, keeps, forks, fills and leaves open ends with it, and reaches nothing of its session."""

from __future__ import annotations

import array
import json
import os
import pickle
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from contain.linux.cgroups import probe_hierarchies
from pytest_contain.channel import Channel, Decoder
from pytest_contain.lane import Child

if TYPE_CHECKING:
    from contain.container.session.session import Sandbox
    from tests.conftest import Ground, Suite

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root")


def packed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def message(**fields: object) -> bytes:
    return packed(json.dumps({"type": "files", **fields}).encode())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


# -- what it sends -------------------------------------------------------------------------------------------------------------


class Payload:
    """An object that, unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_test_sends_is_never_unpickled(tmp_path: Path, protocol: int) -> None:
    decoder = Decoder()
    assert decoder.feed(packed(pickle.dumps(Payload(tmp_path / "made"), protocol))) == []
    assert decoder.error is not None
    assert not (tmp_path / "made").exists()


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    decoder = Decoder()
    assert decoder.feed(struct.pack(">I", 0xFFFFFFFF)) == []
    assert decoder.error is not None
    assert decoder.error.code == "message-too-large"


def test_a_test_that_floods_its_pipe_is_no_longer_heard(ends: tuple[Channel, socket.socket]) -> None:
    ours, theirs = ends
    ours.allow(1000)
    heard = 0
    for _ in range(100):
        if ours.error is not None:
            break
        theirs.sendall(message() * 10)
        heard += len(ours.receive_ready())
    assert heard < 100
    assert ours.error is not None
    assert ours.error.code == "too-much-sent"


def send_descriptors(connection: socket.socket, data: bytes, count: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        rights = array.array("i", [null] * count)
        connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    finally:
        os.close(null)


def test_descriptors_sent_without_end_do_not_use_up_those_of_the_session(ends: tuple[Channel, socket.socket]) -> None:
    ours, theirs = ends
    before, limits = open_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        for _ in range(60):
            send_descriptors(theirs, message(), 10)
            ours.receive_ready()
        assert ours.error is not None
        assert open_descriptors() <= before + 16
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_files_that_a_test_sends_over_and_over_are_closed(ends: tuple[Channel, socket.socket]) -> None:
    ours, theirs = ends
    child = Child(1, ours, cast("Sandbox", None))  # nothing is asked of its sandbox
    before = open_descriptors()
    for _ in range(50):
        send_descriptors(theirs, message(fds=2, names=["out", "err"]), 2)
        for each in ours.receive_ready():
            child.take_files(each["names"], ours.take_fds(each["fds"]))
    assert set(child.files) == {"out", "err"}
    assert open_descriptors() == before + 2
    for names in (["out"], ["out", "out"], []):
        send_descriptors(theirs, message(fds=2, names=names), 2)
        for each in ours.receive_ready():
            with pytest.raises(ValueError, match="files"):
                child.take_files(each["names"], ours.take_fds(each["fds"]))
    assert open_descriptors() == before + 2
    for number in child.files.values():
        os.close(number)


# -- what it makes -------------------------------------------------------------------------------------------------------------


@pytest.mark.root
@NEEDS_ROOT
def test_forks_beyond_the_limit_fail_in_the_test(suite: Suite) -> None:
    """Two hundred forks, no more: where nothing limits them, they hurt nobody."""
    if not any("pids" in hierarchy.controllers for hierarchy in probe_hierarchies()):
        pytest.skip("this machine has no pids control group controller")
    source = """
import os, signal
made = 0
for _ in range(200):
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        signal.pause()
        os._exit(0)
    made += 1
print(made < 40)
"""
    run, verdict = suite.test(source)
    assert run.out == "True\n"
    assert verdict.pids_limit_reached
    assert verdict.leftover_processes >= 10


@pytest.mark.root
@NEEDS_ROOT
def test_files_beyond_the_limit_cannot_be_made(ground: Ground) -> None:
    with ground.open_suite(scratch_bytes=4 << 20) as suite:
        run, _ = suite.test(
            "import os\ntry:\n    for n in range(20000):\n        os.close(os.open(f'/f{n}', os.O_CREAT | os.O_WRONLY))\n"
            "    print('made')\nexcept OSError as error:\n    print(error.strerror)",
            seconds=30,
        )
        assert run.out == "No space left on device\n"


# -- what it finds -------------------------------------------------------------------------------------------------------------

SEARCH = """
import re
wanted = re.compile(rb"TOKEN_OF_THE_HOS[T]=")
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        span, mode, *_ = line.split()
        if not mode.startswith("r") or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
            continue
        first, last = (int(word, 16) for word in span.split("-"))
        try:
            memory.seek(first)
            found += len(wanted.findall(memory.read(last - first)))
        except (OSError, OverflowError):
            pass
print(found)
"""


@pytest.mark.root
@NEEDS_ROOT
def test_a_secret_in_the_hosts_environment_is_nowhere_in_a_tests_memory(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_HOST", "secret")
    with ground.open_suite() as suite:
        assert suite.test(SEARCH)[0].out == "0\n"
        assert suite.in_worker(SEARCH).out == "0\n"

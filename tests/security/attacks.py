"""What the attacks of these tests have in common: containers that stay, programs sent after them, links that flip."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contain.container.execute import ExecRequest, execute
from contain.container.launch import Launched
from contain.container.lifecycle.records import ContainerRecord, Records
from contain.container.lifecycle.verbs import remove_container, run_detached
from contain.errors import ContainError
from contain.spec import Identity

if TYPE_CHECKING:
    from tests.conftest import Ground, Outcome

ROOT = Identity()
WORKER = Identity(user_id=1000, group_id=1000, groups=(2000,))


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def untouched(outside: Path) -> bool:
    return os.listdir(outside) == ["canary"] and (outside / "canary").read_text() == "alive"


def attempt(ground: Ground, script: str, **changes: Any) -> Outcome | None:
    """Run a script; None where the container is refused with an error of ours."""
    try:
        return ground.sh(script, **changes)
    except ContainError:
        return None


@contextlib.contextmanager
def detached(ground: Ground, *arguments: str, **changes: Any) -> Iterator[tuple[Records, ContainerRecord]]:
    spec = ground.spec(*arguments, **changes)
    identifier = run_detached(spec, store_home=ground.home, home=ground.run_home, remove=False)
    records = Records(ground.home)
    try:
        yield records, records.find(identifier)
    finally:
        remove_container(records, records.find(identifier), force=True)


def exec_in(
    record: ContainerRecord, *arguments: str, output: int | None = None, identity: Identity = ROOT, cwd: str = "/"
) -> int:
    request = ExecRequest(
        arguments=arguments, environment=(("PATH", "/bin:/usr/bin"),), working_directory=cwd, identity=identity
    )
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return execute(record, request, stdin=null, stdout=null if output is None else output, stderr=null).status
    finally:
        os.close(null)


def output_of(record: ContainerRecord, *arguments: str, identity: Identity = ROOT) -> str:
    read, write = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(read) as reader:
        try:
            exec_in(record, *arguments, output=write, identity=identity)
        finally:
            os.close(write)
        return reader.read()


def read_terminal(launched: Launched) -> str:
    assert launched.terminal is not None
    data = b""
    while True:
        try:
            piece = os.read(launched.terminal, 4096)
        except OSError:
            return data.decode()
        data += piece


@contextlib.contextmanager
def flipping(first: Path, second: Path) -> Iterator[None]:
    """Two names that a process of its own exchanges, over and over; never is either of them missing."""
    libc = ctypes.CDLL(None)
    names = os.fsencode(first), os.fsencode(second)
    child = os.fork()
    if child == 0:
        try:
            while True:
                libc.renameat2(-100, names[0], -100, names[1], 2)  # RENAME_EXCHANGE
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def left_open(path: Path, number: int) -> Iterator[None]:
    """A descriptor of a file or directory of the machine, not closed at exec, as if somebody had forgotten it."""
    descriptor = os.open(path, os.O_RDONLY)
    os.dup2(descriptor, number)
    os.close(descriptor)
    try:
        yield
    finally:
        os.close(number)

"""Environments made by ``contain``: the image from its Dockerfile, one session of containers in it, the files that run inside.

A doer on `contain.engine.Engine`; what a container is and how it is made is decided there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from contain.declared import EnvironmentSettings
from contain.engine import Engine, ReadyImage
from contain.errors import UsageError
from contain.linux.cgroups import can_limit
from contain.paths import ContainerPath
from contain.progress import Progress
from contain.spec import Bind, CopyOnWrite
from pytest_contain import inside
from pytest_contain.backend import PreparedEnvironment, Suite
from pytest_contain.lending import lend_pytest

INSIDE = ContainerPath("/run/contain/inside")
LENT = ContainerPath("/run/contain/pytest")
SCRATCH_BYTES = 4 << 30
"""What one test may write to its container's disk. It is memory, used as it is written."""

BACKSTOP_SHARE = 0.75
"""Without a declared memory limit: this share of what is available now, so that a test that eats all memory dies, not the machine."""

HOST_VARIABLES = ("PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""What the environment ``host`` takes over from this process: where its programs are, and how it speaks."""

_PYTHONS = ("python3", "python")


def available_memory_bytes(meminfo: str) -> int | None:
    """``MemAvailable`` of /proc/meminfo (proc(5))."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def find_python(ready: ReadyImage, environment: Mapping[str, str]) -> str:
    """The Python that the image's own ``PATH`` names. Raises `UsageError` (code ``no-python``)."""
    from contain.store import Kind, RootView

    view = RootView(ready.trees)
    for directory in environment.get("PATH", "").split(":"):
        for name in _PYTHONS:
            path = posixpath.join(directory, name)
            if not path.startswith("/"):
                continue
            entry = view.lookup(path)
            if entry is not None and entry.kind is Kind.FILE and entry.mode & 0o111:
                return path
    raise UsageError(
        f"the image of environment {ready.name!r} has no Python on its PATH ({environment.get('PATH', '')})",
        code="no-python",
        remedy="install Python 3.8 or newer in the image; tests run on the image's own Python",
    )


class ContainBackend:
    """The `pytest_contain.backend.Backend` of every run that no plugin gives another one."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @contextlib.contextmanager
    def open(self, settings: EnvironmentSettings, suite: Suite, progress: Progress) -> Iterator[PreparedEnvironment]:
        """See `pytest_contain.backend.Backend.open`."""
        with Engine.open(progress=progress) as engine:
            started = time.monotonic()
            ready = engine.environment_image(settings)
            build_seconds = time.monotonic() - started
            request = engine.environment_request(settings, ready)
            limits = request.limits
            if limits.memory_bytes is None and can_limit("memory"):
                available = available_memory_bytes(Path("/proc/meminfo").read_text(encoding="ascii"))
                if available is not None:
                    limits = replace(limits, memory_bytes=int(available * BACKSTOP_SHARE))
            variables = dict(request.environment)
            if settings.is_host:
                variables = {name: os.environ[name] for name in HOST_VARIABLES if name in os.environ} | variables
            request = replace(
                request,
                entrypoint="",
                environment=tuple(variables.items()),
                limits=limits,
                working_directory=str(suite.working_directory),
                mounts=(
                    CopyOnWrite(sources=(suite.project_directory,), target=ContainerPath(suite.project_directory)),
                    Bind(source=Path(inside.__file__).parent, target=INSIDE, read_only=True),
                    Bind(source=lend_pytest(engine.home / "pytest"), target=LENT, read_only=True),
                ),
            )
            with engine.test_session(request, ready, scratch_bytes=SCRATCH_BYTES) as session:
                environment = session.configuration.spec.environment
                python = sys.executable if settings.is_host else find_python(ready, dict(environment))
                digest = ready.image.digest
                yield PreparedEnvironment(
                    name=settings.name,
                    summary=render_summary(settings, ready)
                    + ("" if can_limit("pids") else "; no limits: no control group for them"),
                    digest=digest,
                    build_seconds=build_seconds,
                    session=session,
                    worker_command=(python, str(INSIDE / "worker.py")),
                    worker_environment=environment,
                    pytest_directory=str(LENT),
                    capture=functools.partial(
                        engine.capture, settings.name, directory=(settings.declared_in or Path.cwd() / "x").parent
                    ),
                )


def render_summary(settings: EnvironmentSettings, ready: ReadyImage) -> str:
    """The image's short digest, and its name where that says more than the environment's."""
    if settings.is_host:
        return "this machine's own root, read-only"
    digest = ready.image.digest
    short = f"{digest.partition(':')[0]}:{digest.partition(':')[2][:12]}"
    return f"{settings.image} {short}" if settings.image is not None else short

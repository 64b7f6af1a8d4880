"""What the fixtures hand to tests on the host: the engine, an image, a container that runs programs and remembers what they said."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pytest

from contain.container.launch import CommandNotStarted
from contain.container.run import run as run_container
from contain.engine import Engine, ReadyImage, RunRequest
from contain.errors import ContainError
from contain.paths import HostPath
from pytest_contain.environments import choose_environments

_SHOWN_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A program that ran. ``exit_status`` is what ``docker run`` would exit with: 127 for a program that is not there."""

    arguments: tuple[str, ...]
    exit_status: int
    stdout: str
    stderr: str
    reason: str = ""  # why it ended, where that was not its own doing: a signal, its memory limit

    def render(self) -> str:
        """For a report: command, output, status."""
        lines = ["$ " + " ".join(self.arguments)]
        lines += [text.rstrip("\n")[-_SHOWN_CHARACTERS:] for text in (self.stdout, self.stderr) if text]
        if self.exit_status:
            lines.append(f"(exit status {self.exit_status}{', ' + self.reason if self.reason else ''})")
        return "\n".join(lines)


@dataclass(slots=True, eq=False)
class Container:
    """One container's file system; each `run` is a set of processes of its own in it."""

    image: ReadyImage
    _engine: Engine
    _request: RunRequest
    _upper: HostPath
    results: list[Result] = field(default_factory=list)

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        input: str = "",  # noqa: A002 - the name that subprocess.run gave it
        user: str | None = None,
        workdir: str | None = None,
    ) -> Result:
        """Run a program to its end. The image's entrypoint is not used: what is named is what runs.

        ``env``: variables besides the image's and the environment's. Raises `contain.errors.HostError` if this machine cannot.
        """
        request = replace(
            self._request,
            arguments=arguments,
            entrypoint="",
            environment=(*self._request.environment, *(env or {}).items()),
            user=user if user is not None else self._request.user,
            working_directory=workdir if workdir is not None else self._request.working_directory,
        )
        spec = replace(self._engine.specify(request, self.image, recorded=False), upper=self._upper)
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            source.write(input.encode())
            source.seek(0)
            reason, note = "", ""
            try:
                state = run_container(
                    spec, stdin=source.fileno(), stdout=out.fileno(), stderr=err.fileno(), home=self._engine.run_home
                )
                status = state.status
                if state.signal is not None or state.out_of_memory:
                    reason = state.describe()
            except CommandNotStarted as error:
                status, note = error.exit_status, f"{error}\n"
            finally:
                # An overlay's work directory serves one mount; the next run gets a new one over the same upper directory.
                shutil.rmtree(self._upper.with_name(f"{self._upper.name}.work"), ignore_errors=True)
            out.seek(0)
            err.seek(0)
            result = Result(
                arguments=arguments,
                exit_status=status,
                stdout=out.read().decode("utf-8", "replace"),
                stderr=err.read().decode("utf-8", "replace") + note,
                reason=reason,
            )
        self.results.append(result)
        return result

    def render(self) -> str:
        """Everything that ran in it, for a report."""
        return "\n".join(result.render() for result in self.results)


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """The engine of the session's tests."""
    with Engine.open() as engine:
        yield engine


def ready_image(engine: Engine, config: pytest.Config) -> ReadyImage:
    """The run's environment, built from cache or looked up. A failure to build is a failure to set up, with the builder's words."""
    try:
        return engine.environment_image(choose_environments(config)[0])
    except ContainError as error:
        pytest.fail(f"{error} ({error.code})", pytrace=False)


@contextlib.contextmanager
def open_container(engine: Engine, ready: ReadyImage, config: pytest.Config) -> Iterator[Container]:
    """A container for one test."""
    request = engine.environment_request(choose_environments(config)[0], ready)
    with engine.store.scratch("container") as upper:
        yield Container(ready, engine, request, upper)

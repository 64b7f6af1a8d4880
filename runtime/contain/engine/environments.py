"""The engine's environments: their image and containers, their facts, and two of them compared."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.errors import ContainError, NotFound, UsageError
from contain.paths import HostPath
from contain.spec import Limits, Network
from contain.values import replace

if TYPE_CHECKING:
    from contain.container.request.resolve import RunRequest
    from contain.declared import EnvironmentSettings
    from contain.environment import Environment, EnvironmentDiff
from contain.engine.containers import Containers
from contain.engine.opened import HOST_IMAGE, ReadyImage

_PROBE_LIMIT_BYTES = 16 << 20


class Environments(Containers):
    """What can be done to environments, and to what they are made of."""

    def environment_image(self, settings: EnvironmentSettings) -> ReadyImage:
        """The image of a declared environment, built from cache or looked up."""
        from contain.build.host_root import image_trees
        from contain.build.request import BuildRequest

        if settings.dockerfile is not None:
            context = settings.context or settings.dockerfile.parent
            result = self.build(
                BuildRequest(
                    context=context,
                    dockerfile=settings.dockerfile,
                    target=settings.target,
                    build_args=dict(settings.build_args),
                )
            )
            trees = image_trees(result.image, self.store)
            return ReadyImage(name=settings.name, image=result.image, trees=trees, source="build")
        return self.image(settings.image or HOST_IMAGE)

    def environment_request(self, settings: EnvironmentSettings, ready: ReadyImage) -> RunRequest:
        """How a container of a declared environment is run."""
        from contain.container.request.resolve import RunRequest

        passed = tuple((name, os.environ[name]) for name in settings.pass_env if name in os.environ)
        limits = Limits(memory_bytes=settings.memory_bytes, cpus=settings.cpus)
        if settings.pids_limit is not None:
            limits = replace(limits, pids=settings.pids_limit)
        return RunRequest(
            image=ready.name,
            environment=(*passed, *settings.env),
            user=settings.user,
            network=Network.NONE,
            limits=limits,
        )

    def capture(self, place: str, *, directory: HostPath | None = None) -> Environment:
        """The facts of ``host``, a declared environment, an image, or a file that `contain capture` wrote.

        Names of environments are looked up in the ``pyproject.toml`` of ``directory`` (default: the present one) first.
        """
        from contain.container.request.resolve import RunRequest
        from contain.declared import find_environment, read_environments
        from contain.environment import load_environment

        path = Path(place)
        if place != HOST_IMAGE and path.is_file():
            return load_environment(path.read_bytes())
        directory = directory or Path.cwd()
        settings = None
        with contextlib.suppress(NotFound):
            settings = find_environment(place, directory, read_environments(directory / "pyproject.toml"))
        if settings is not None and not (settings.is_host and place == HOST_IMAGE):
            ready = self.environment_image(settings)
            return self._capture_image(replace(ready, name=place), self.environment_request(settings, ready))
        if place == HOST_IMAGE:
            return self._capture_host()
        try:
            ready = self.image(place)
        except NotFound as error:
            raise UsageError(
                f"{place!r} is no environment, image or file of captured facts",
                code="no-such-place",
                remedy="name an environment of pyproject.toml, an image (`contain images`), `host`, or a file that `contain "
                "capture` wrote",
            ) from error
        return self._capture_image(ready, RunRequest(image=place, network=Network.NONE))

    def _capture_host(self) -> Environment:
        """This machine as this process sees it."""
        import sys

        from contain.environment import probe_here, read_secret_key, with_runtime

        key = read_secret_key(self.home)
        told = probe_here((sys.executable,), secret_key=key)
        return with_runtime(self._capture_host_files(HOST_IMAGE, key), told.facts, told.missing)

    def _capture_host_files(self, name: str, key: bytes) -> Environment:
        from contain.environment import capture_host

        with self.store.file_digests() as digests:
            return capture_host(name=name, secret_key=key, skip=(str(self.home), str(self.run_home)), digests=digests)

    def _capture_image_files(self, ready: ReadyImage, key: bytes) -> Environment:
        from contain.environment import capture_image
        from contain.store import RootView

        with self.store.file_digests() as digests:
            return capture_image(
                ready.image, RootView(ready.trees), name=ready.name, secret_key=key, source=ready.source, digests=digests
            )

    def _capture_image(self, ready: ReadyImage, request: RunRequest) -> Environment:
        """An image's files, and what a probe in a container of it says. On the machine's own root, its files are the machine's."""
        from contain.build.host_root import is_on_host
        from contain.environment import PROBE_COMMAND, SHELL_PROBE, parse_probe, python_probe, read_secret_key, with_runtime

        key = read_secret_key(self.home)
        on_host = is_on_host(ready.config)
        captured = self._capture_host_files(ready.name, key) if on_host else self._capture_image_files(ready, key)
        probe = replace(request, entrypoint="/bin/sh", arguments=("-c", PROBE_COMMAND))
        try:
            done = self.run_captured(probe, ready=ready, stdin=python_probe(key).encode())
            if done.stdout.strip() == b"no-python":
                done = self.run_captured(replace(probe, arguments=("-c", SHELL_PROBE)), ready=ready)
            told = parse_probe(done.stdout[:_PROBE_LIMIT_BYTES], secret_key=key)
        except ContainError as error:
            why = f"the probe did not run in a container of it: {error.message}"
            return with_runtime(captured, {}, {"runtime": why})
        return with_runtime(captured, told.facts, told.missing)

    def diff(self, a: str, b: str, *, directory: HostPath | None = None) -> EnvironmentDiff:
        """What differs between two places: `contain.environment.compare`."""
        from contain.environment import compare

        return compare(self.capture(a, directory=directory), self.capture(b, directory=directory))

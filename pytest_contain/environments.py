"""Which environments a run is meant for: the command line first, then the ini file, then what the project declares.

Decides; reads ``pyproject.toml``, builds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contain.declared import DEFAULT_NAME, EnvironmentSettings, default_environment, find_environment, read_environments
from contain.errors import UsageError


def choose_environments(config: pytest.Config) -> tuple[EnvironmentSettings, ...]:
    """The environments of a run, in the order in which they were named, each once. Raises `contain.errors.ContainError`."""
    declared = read_environments(config.rootpath / "pyproject.toml")
    names = list(dict.fromkeys(config.getoption("--contain-env") or config.getini("contain_env")))
    file, target, image = (config.getoption(f"--contain-{name}") for name in ("file", "target", "image"))
    if image is not None and (file is not None or target is not None):
        raise UsageError("--contain-image excludes --contain-file and --contain-target", code="conflicting-options")
    if len(names) > 1 and (file, target, image) != (None, None, None):
        raise UsageError(
            "--contain-file, --contain-target and --contain-image need one environment", code="conflicting-options"
        )
    if image is not None or file is not None:
        base = find_environment(names[0], config.rootpath, declared) if names else EnvironmentSettings(name=DEFAULT_NAME)
        if image is not None:
            return (replace(base, image=image, dockerfile=None, context=None, target=None, build_args=()),)
        path = Path(config.invocation_params.dir) / file
        if not path.is_file():
            raise UsageError(f"--contain-file: there is no file {path}", code="no-dockerfile")
        context = base.context if base.context is not None else config.rootpath
        return (replace(base, dockerfile=path, context=context, image=None, target=target or base.target),)
    if not names:
        chosen = [default_environment(config.rootpath, declared)]
    else:
        chosen = [find_environment(name, config.rootpath, declared) for name in names]
    if target is not None:
        if chosen[0].dockerfile is None:
            raise UsageError(f"--contain-target: environment {chosen[0].name!r} has no Dockerfile", code="no-dockerfile")
        chosen[0] = replace(chosen[0], target=target)
    return tuple(chosen)

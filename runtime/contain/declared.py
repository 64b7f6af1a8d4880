"""Environments as a project declares them: ``[tool.contain.environments.NAME]`` in its ``pyproject.toml``.

Text to values. Builds nothing and looks at no image. Without a declaration, the ``Dockerfile`` beside ``pyproject.toml`` (or the
pytest root directory) is the environment ``default``; without that, the machine's own root is the environment ``host``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from contain.annotations import Any
from contain.errors import NotFound, NotSupported, UsageError
from contain.paths import HostPath
from contain.values import dataclass, replace

DEFAULT_NAME = "default"
HOST_NAME = "host"

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_SIZE = r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?"
_LARGEST_SIZE_BYTES = 1 << 62
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_KEYS = (
    "dockerfile",
    "target",
    "image",
    "context",
    "build_args",
    "env",
    "memory",
    "cpus",
    "pids_limit",
    "network",
    "pass_env",
    "user",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """One declared environment. Exactly one of ``dockerfile`` and ``image`` is set; both None means the machine's own root."""

    name: str
    dockerfile: HostPath | None = None
    context: HostPath | None = None  # None: the Dockerfile's directory
    target: str | None = None
    image: str | None = None
    build_args: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pass_env: tuple[str, ...] = ()  # names of the caller's variables that are passed in
    memory_bytes: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None  # None: contain's default
    user: str | None = None  # None: the image's
    declared_in: HostPath | None = None

    @property
    def is_host(self) -> bool:
        """Whether this is the machine's own root."""
        return self.dockerfile is None and self.image is None


def parse_size_bytes(value: str | int, *, what: str) -> int:
    """``512m``, ``1.5g``, ``1024``: bytes, with the binary suffixes of ``docker run --memory``. `UsageError` if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value > 0:
            return value
    elif isinstance(value, str):
        match = re.fullmatch(_SIZE, value.strip(), re.IGNORECASE)
        size = float(match[1]) * _SIZE_UNITS[match[2].lower()] if match else 0
        if 0 < size <= _LARGEST_SIZE_BYTES:
            return int(size)
    raise UsageError(f"{what}: {value!r} is not a size", code="bad-environment", remedy="write a number of bytes, or 512m, 2g")


def read_environments(pyproject: HostPath) -> dict[str, EnvironmentSettings]:
    """What ``pyproject`` declares, in its order; empty if there is no such file or no such table. `UsageError` if it is wrong."""
    try:
        text = pyproject.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise UsageError(f"{pyproject} is not UTF-8: {error}", code="bad-environment") from error
    return parse_environments(text, file=pyproject)


def parse_environments(text: str, *, file: HostPath) -> dict[str, EnvironmentSettings]:
    """The environments in the text of a ``pyproject.toml``; paths in it are relative to ``file``'s directory."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: {error}", code="bad-environment") from error
    tool = document.get("tool", {})
    table = tool.get("contain", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"{file}: tool.contain must be a table", code="bad-environment")
    _refuse_unknown(table, ("environments",), where="tool.contain", file=file)
    environments = table.get("environments", {})
    if not isinstance(environments, dict):
        raise UsageError(f"{file}: tool.contain.environments must be a table", code="bad-environment")
    return {name: _parse_one(name, fields, file=file) for name, fields in environments.items()}


def _parse_one(name: str, fields: Any, *, file: HostPath) -> EnvironmentSettings:
    where = f"tool.contain.environments.{name}"
    if not isinstance(fields, dict):
        raise UsageError(f"{file}: {where}: must be a table", code="bad-environment")

    def bad(message: str, remedy: str = "") -> UsageError:
        return UsageError(f"{file}: {where}: {message}", code="bad-environment", remedy=remedy)

    def text(key: str) -> str | None:
        value = fields.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise bad(f"{key} must be a non-empty string")
        return value

    def pairs(key: str) -> tuple[tuple[str, str], ...]:
        value = fields.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(item, (str, int, float)) for item in value.values()):
            raise bad(f"{key} must be a table of strings", f'for example {key} = {{ TZ = "UTC" }}')
        return tuple((inner, str(item).lower() if isinstance(item, bool) else str(item)) for inner, item in value.items())

    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"{file}: {name!r} is not a name for an environment",
            code="bad-environment",
            remedy="use letters, digits, '-', '_', '.'",
        )
    _refuse_unknown(fields, _KEYS, where=where, file=file)
    dockerfile, image = text("dockerfile"), text("image")
    if dockerfile is not None and image is not None:
        raise bad("dockerfile and image exclude each other")
    if image is not None:
        for key in ("target", "context", "build_args"):
            if key in fields:
                raise bad(f"{key} needs a dockerfile, not an image")
    if dockerfile is None and image is None:
        dockerfile = "Dockerfile"
    network = fields.get("network", "none")
    if network != "none":
        message = f"{file}: {where}: network = {network!r} is not supported yet; a test reaches only its own loopback"
        raise NotSupported(message, code="bad-environment", remedy='leave network out, or write "none"')
    cpus = fields.get("cpus")
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, (int, float)) or cpus <= 0):
        raise bad("cpus must be a positive number")
    pids_limit = fields.get("pids_limit")
    if pids_limit is not None and (isinstance(pids_limit, bool) or not isinstance(pids_limit, int) or pids_limit <= 0):
        raise bad("pids_limit must be a positive whole number")
    pass_env = fields.get("pass_env", [])
    if not isinstance(pass_env, list) or not all(isinstance(item, str) for item in pass_env):
        raise bad("pass_env must be a list of names of variables")
    memory = fields.get("memory")
    user = fields.get("user")
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if user is not None and not isinstance(user, str):
        raise bad("user must be a string, as in the Dockerfile's USER")
    base = file.parent
    context = text("context")
    return EnvironmentSettings(
        name=name,
        dockerfile=base / dockerfile if dockerfile is not None else None,
        context=base / context if context is not None else (base if dockerfile is not None else None),
        target=text("target"),
        image=image if image != HOST_NAME else None,
        build_args=pairs("build_args"),
        env=pairs("env"),
        pass_env=tuple(pass_env),
        memory_bytes=parse_size_bytes(memory, what=f"{file}: {where}: memory") if memory is not None else None,
        cpus=float(cpus) if cpus is not None else None,
        pids_limit=pids_limit,
        user=user,
        declared_in=file,
    )


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], *, where: str, file: HostPath) -> None:
    for key in table:
        if key not in known:
            close = _close_matches(key, known)
            remedy = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
            raise UsageError(f"{file}: {where}: unknown key {key!r}", code="bad-environment", remedy=remedy)


def _close_matches(word: str, candidates: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(word, candidates, n=1)


def default_environment(directory: HostPath, declared: Mapping[str, EnvironmentSettings]) -> EnvironmentSettings:
    """The environment that is meant when none is named: a declared ``default``, the only declared one, the ``Dockerfile`` in
    ``directory``, or the host. Several declared without a ``default`` are a `UsageError`."""
    if DEFAULT_NAME in declared:
        return declared[DEFAULT_NAME]
    if len(declared) == 1:
        return next(iter(declared.values()))
    dockerfile = directory / "Dockerfile"
    if declared:
        names = ", ".join(declared)
        message = f"several environments are declared ({names}) and none is called {DEFAULT_NAME!r}"
        raise UsageError(message, code="which-environment", remedy="name one: --contain-env NAME")
    if dockerfile.is_file():
        return EnvironmentSettings(name=DEFAULT_NAME, dockerfile=dockerfile, context=directory)
    return EnvironmentSettings(name=HOST_NAME)


def find_environment(name: str, directory: HostPath, declared: Mapping[str, EnvironmentSettings]) -> EnvironmentSettings:
    """The environment called ``name``; ``host`` and ``default`` need no declaration. `NotFound` with a suggestion otherwise."""
    if name in declared:
        return declared[name]
    if name == HOST_NAME:
        return EnvironmentSettings(name=HOST_NAME)
    if name == DEFAULT_NAME and not declared:
        return replace(default_environment(directory, declared), name=DEFAULT_NAME)
    close = _close_matches(name, [*declared, HOST_NAME])
    known = ", ".join(declared) or "none"
    remedy = f"did you mean {close[0]!r}?" if close else f"declared are: {known}"
    raise NotFound(f"no environment is called {name!r}", code="no-such-environment", remedy=remedy)

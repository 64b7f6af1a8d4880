"""``--change`` of ``contain commit``: one instruction of a Dockerfile applied to an image's config. Pure.

The instructions that Docker takes there (docker/cli ``docs/reference/commandline/container_commit.md``); values are words as a shell
splits them, or JSON where the instruction has that form. Variables in them are not replaced.
"""

from __future__ import annotations

import json
import posixpath
import shlex

from contain.errors import NotSupported, UsageError
from contain.oci import ImageConfig
from contain.values import replace

_SHELL = ("/bin/sh", "-c")


def _bad(text: str, why: str) -> UsageError:
    return UsageError(f"--change {text!r}: {why}", code="bad-change", remedy="for example --change 'CMD [\"sh\"]'")


def _words(text: str, rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise _bad(text, str(error)) from None


def _pairs(text: str, rest: str) -> dict[str, str]:
    words = _words(text, rest)
    if words and "=" not in words[0]:  # the old form: NAME and then all the rest
        name, _, value = rest.partition(" ")
        words = [f"{name}={value.strip()}"]
    pairs = dict(word.partition("=")[::2] for word in words)
    if not pairs or "" in pairs or any("=" not in word for word in words):
        raise _bad(text, "write NAME=VALUE")
    return pairs


def _list(rest: str) -> tuple[str, ...] | None:
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except ValueError:
        return None
    return tuple(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def apply_change(config: ImageConfig, text: str) -> ImageConfig:
    """Raises `UsageError` (code ``bad-change``), `NotSupported` for HEALTHCHECK."""
    name, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if name.upper() == "HEALTHCHECK":
        raise NotSupported("--change HEALTHCHECK is not supported yet", code="flag-not-supported")
    if not rest:
        raise _bad(text, "it has no value")
    shell = config.shell or _SHELL
    match name.upper():
        case "CMD":
            return replace(config, command=_list(rest) or (*shell, rest))
        case "ENTRYPOINT":
            return replace(config, entrypoint=_list(rest) or (*shell, rest))
        case "ENV":
            return replace(config, environment=tuple({**dict(config.environment), **_pairs(text, rest)}.items()))
        case "LABEL":
            return replace(config, labels={**config.labels, **_pairs(text, rest)})
        case "EXPOSE":
            ports = [word if "/" in word else f"{word}/tcp" for word in _words(text, rest)]
            if not all(port.partition("/")[0].isdigit() for port in ports):
                raise _bad(text, "a port is a number, or a number and /tcp or /udp")
            return replace(config, exposed_ports=tuple(dict.fromkeys((*config.exposed_ports, *ports))))
        case "VOLUME":
            paths = _list(rest) or tuple(_words(text, rest))
            return replace(config, volumes=tuple(dict.fromkeys((*config.volumes, *paths))))
        case "USER":
            return replace(config, user=rest)
        case "WORKDIR":
            return replace(config, working_directory=posixpath.normpath(posixpath.join(config.working_directory or "/", rest)))
        case "STOPSIGNAL":
            return replace(config, stop_signal=rest)
        case "ONBUILD":
            return replace(config, on_build=(*config.on_build, rest))
    raise _bad(text, f"{name} cannot be changed so")

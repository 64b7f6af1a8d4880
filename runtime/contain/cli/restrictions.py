"""Flags of ``run`` and ``create`` that say what the program gets from its surroundings: variables from files, capabilities, limits.

Source: docker/cli ``docs/reference/commandline/container_run.md``, ``opts/file.go``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
from contain.spec import SHARED_MEMORY_BYTES, ResourceLimit


def add_restriction_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's names and defaults."""
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="variables, NAME=VALUE a line each")
    parser.add_argument("--cap-add", action="append", default=[], metavar="NAME", help="after --cap-drop: keep this one")
    parser.add_argument("--cap-drop", action="append", default=[], metavar="NAME", help="a capability, or ALL")
    parser.add_argument("--shm-size", metavar="SIZE", help="size of /dev/shm (default 64m)")
    parser.add_argument("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="for example nofile=1024")
    parser.add_argument("--stop-signal", metavar="SIGNAL", help="that `contain stop` sends, instead of the image's")


def read_env_files(paths: list[str]) -> tuple[tuple[str, str], ...]:
    """Lines ``NAME=VALUE``, taken as they are; ``NAME`` alone takes the caller's value; ``#`` begins a comment line."""
    pairs: list[tuple[str, str]] = []
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError(f"the env file {path} is not UTF-8 text", code="bad-env-file") from None
        except OSError as error:
            raise UsageError(f"open {path}: {error.strerror}", code="bad-env-file") from None
        for line in map(str.lstrip, text.splitlines()):
            if not line or line.startswith("#"):
                continue
            name, equals, value = line.partition("=")
            name = name.rstrip() if not equals else name
            if not name or any(character.isspace() for character in name):
                raise UsageError(
                    f"invalid env file ({path}): "
                    + (f"variable '{name}' contains whitespaces" if name else f"no variable name on line '{line}'"),
                    code="bad-env-file",
                )
            if equals:
                pairs.append((name, value))
            elif name in os.environ:
                pairs.append((name, os.environ[name]))
    return tuple(pairs)


def parse_resources(options: argparse.Namespace) -> tuple[tuple[ResourceLimit, ...], int]:
    """``--ulimit``, and ``--shm-size`` in bytes."""
    if not options.ulimit and options.shm_size is None:
        return (), SHARED_MEMORY_BYTES
    from contain.build.run.options import parse_resource_limit, parse_shared_memory

    size = SHARED_MEMORY_BYTES if options.shm_size is None else parse_shared_memory(options.shm_size)
    return tuple(map(parse_resource_limit, options.ulimit)), size


def _capability(text: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in CAPABILITY_NUMBERS:
        raise UsageError(f'invalid capability: "{text}"', code="bad-capability", remedy="see capabilities(7)")
    return name


def parse_capabilities(added: list[str], dropped: list[str]) -> frozenset[str]:
    """What the program may have. Docker's rule: ``--cap-add`` beats ``--cap-drop``. Raises `NotSupported` for a capability beyond
    the default ones: the system calls that it is for stay forbidden."""
    add, drop = {_capability(text) for text in added}, {_capability(text) for text in dropped}
    beyond = sorted(add - DEFAULT_CAPABILITIES)
    if beyond:
        raise NotSupported(f"run --cap-add {beyond[0]} is not supported yet", code="flag-not-supported")
    kept = frozenset() if "ALL" in drop else DEFAULT_CAPABILITIES - drop
    return kept | add

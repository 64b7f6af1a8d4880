"""The machine's or user's configuration file: where it is, and its tables as plain values.

Decides the path and reads the TOML. Never interprets a table: each part of contain checks its own (``registries``, ``debian``).
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from contain.annotations import Any
from contain.errors import HostError, UsageError
from contain.home import caller_id
from contain.paths import HostPath

TABLES = ("registries", "debian", "build")


def configuration_path(environ: Mapping[str, str] | None = None, *, user_id: int | None = None) -> HostPath:
    """``$CONTAIN_CONFIG``, else ``/etc/contain/config.toml`` for root, else ``$XDG_CONFIG_HOME/contain/config.toml``.

    Source: XDG Base Directory Specification (default ``~/.config``; relative values are ignored).
    """
    environ = os.environ if environ is None else environ
    user_id = caller_id() if user_id is None else user_id
    if environ.get("CONTAIN_CONFIG"):
        return Path(environ["CONTAIN_CONFIG"]).absolute()
    if user_id == 0:
        return Path("/etc/contain/config.toml")
    configured = environ.get("XDG_CONFIG_HOME", "")
    home = Path(environ.get("HOME", os.path.expanduser("~")))
    return (Path(configured) if configured.startswith("/") else home / ".config") / "contain/config.toml"


def parse_tables(text: str, *, file: str) -> Mapping[str, Mapping[str, Any]]:
    """The tables of a configuration text. Raises `UsageError` (code ``bad-configuration``) for what is not one of `TABLES`."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}", code="bad-configuration") from error
    for name, table in found.items():
        if name not in TABLES:
            near = difflib.get_close_matches(name, TABLES, n=1)
            remedy = f"did you mean [{near[0]}]?" if near else f"known tables: {', '.join(TABLES)}"
            raise UsageError(f"{file}: unknown setting {name!r}", code="bad-configuration", remedy=remedy)
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {name!r} must be a table", code="bad-configuration")
    return found


def read_tables(path: HostPath | None = None) -> Mapping[str, Mapping[str, Any]]:
    """The tables of the file at ``path`` (default `configuration_path`). No file, no tables; but a file that
    ``$CONTAIN_CONFIG`` names must be there."""
    path = configuration_path() if path is None else path
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get("CONTAIN_CONFIG") and path == configuration_path():
            raise UsageError(
                f"{path}: no such file, though $CONTAIN_CONFIG names it",
                code="bad-configuration",
                remedy="unset CONTAIN_CONFIG",
            ) from None
        return {}
    except OSError as error:
        raise HostError("cannot read the configuration", call="open", path=str(path), errno=error.errno or 0) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}", code="bad-configuration") from error
    return parse_tables(text, file=str(path))

"""An `Environment` as versioned JSON, and back.

``load_environment`` reads files that anybody may have written: it raises `IntegrityError` (code ``bad-environment``) or, for
a newer schema, `UsageError` (code ``environment-schema``), never anything else.
"""

from __future__ import annotations

import json
import re

from contain.annotations import Any
from contain.environment.facts import (
    DIMENSIONS,
    FACT_DIMENSIONS,
    MANAGERS,
    RUNTIME,
    Environment,
    FileFact,
    Identity,
    Package,
    frozen,
)
from contain.environment.runtime import check_facts
from contain.errors import IntegrityError, UsageError

SCHEMA = 1
FORMAT = "contain-environment"

_COLUMNS = ("path", "kind", "mode", "uid", "gid", "size", "digest", "target", "device", "capabilities", "package")
_KINDS = frozenset({"file", "directory", "symlink", "char", "block", "fifo", "socket"})
_PLACES = frozenset({"image", "host", "container", "directory"})
_SCOPES = frozenset({"all", "packages-only", "none"})


def dump_environment(environment: Environment) -> bytes:
    """The one JSON text of an environment: keys sorted, files as rows under named columns, ASCII, one newline at the end."""
    identity = environment.identity
    value: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA,
        "name": environment.name,
        "kind": environment.kind,
        "identity": {
            "manifest_digest": identity.manifest_digest,
            "config_digest": identity.config_digest,
            "layer_digests": list(identity.layer_digests),
            "diff_ids": list(identity.diff_ids),
            "source": identity.source,
        },
        "packages": {
            manager: {
                name: [{"version": found.version, "place": found.place, "note": found.note} for found in installs]
                for name, installs in packages.items()
            }
            for manager, packages in environment.packages.items()
        },
        "facts": {dimension: dict(facts) for dimension, facts in environment.facts.items()},
        "file_scope": environment.file_scope,
        "file_skips": list(environment.file_skips),
        "files": {"columns": list(_COLUMNS), "rows": [_row(path, fact) for path, fact in environment.files.items()]},
        "missing": dict(environment.missing),
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _row(path: str, fact: FileFact) -> list[str | int]:
    row: list[str | int] = [
        path,
        fact.kind,
        f"{fact.mode:04o}",
        fact.uid,
        fact.gid,
        fact.size_bytes,
        fact.digest,
        fact.target,
        fact.device,
        fact.capabilities,
        fact.package,
    ]
    return row


def _bad(why: str) -> IntegrityError:
    return IntegrityError(f"not an environment file: {why}", code="bad-environment")


def load_environment(data: bytes, *, name: str = "") -> Environment:
    """The environment in a file; ``name`` overrides the one that it was captured under."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _bad(f"not JSON ({str(error)[:100]})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _bad(f'it does not say "format": "{FORMAT}"')
    schema = value.get("schema")
    if type(schema) is not int or schema < 1:
        raise _bad("it has no schema number")
    if schema > SCHEMA:
        raise UsageError(
            f"this environment file has schema {schema}, this version of contain reads schema {SCHEMA}",
            code="environment-schema",
            remedy="capture it again with this version, or compare with the newer one",
        )
    try:
        return _environment(value, name)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise _bad(str(error)[:200]) from error


def _environment(value: dict[str, Any], name: str) -> Environment:
    identity = _mapping(value["identity"], "identity")
    files = _mapping(value["files"], "files")
    if files.get("columns") != list(_COLUMNS):
        raise ValueError("the columns of files are not those of schema 1")
    rows = files["rows"]
    if not isinstance(rows, list):
        raise ValueError("rows must be a list")
    missing = _mapping(value["missing"], "missing")
    if not all(key.partition("/")[0] in {RUNTIME, *DIMENSIONS} for key in missing):
        raise ValueError("missing names an unknown dimension")
    return Environment(
        name=name or _text(value["name"], "name"),
        kind=_one_of(value["kind"], _PLACES, "kind"),
        identity=Identity(
            manifest_digest=_text(identity["manifest_digest"], "manifest_digest"),
            config_digest=_text(identity["config_digest"], "config_digest"),
            layer_digests=_texts(identity["layer_digests"], "layer_digests"),
            diff_ids=_texts(identity["diff_ids"], "diff_ids"),
            source=_text(identity["source"], "source"),
        ),
        packages=frozen(
            {
                _one_of(manager, frozenset(MANAGERS), "package manager"): frozen(
                    {package: _installs(installs) for package, installs in _mapping(found, manager).items()}
                )
                for manager, found in _mapping(value["packages"], "packages").items()
            }
        ),
        facts=frozen(check_facts(value["facts"], FACT_DIMENSIONS)),
        files=frozen(dict(_file(row) for row in rows)),
        file_scope=_one_of(value["file_scope"], _SCOPES, "file_scope"),
        file_skips=_texts(value["file_skips"], "file_skips"),
        missing=frozen({key: _text(why, "missing") for key, why in missing.items()}),
    )


def _installs(found: Any) -> tuple[Package, ...]:
    if not isinstance(found, list) or not found:
        raise ValueError("a package must list its installations")
    rows = [_mapping(row, "package") for row in found]
    return tuple(
        Package(
            version=_text(row["version"], "version"),
            place=_text(row["place"], "place"),
            note=_text(row.get("note", ""), "note"),
        )
        for row in rows
    )


def _file(row: Any) -> tuple[str, FileFact]:
    if not isinstance(row, list) or len(row) != len(_COLUMNS):
        raise ValueError("a file's row does not fit the columns")
    path, kind, mode, uid, gid, size, digest, target, device, capabilities, package = row
    if not re.fullmatch(r"[0-7]{4}", _text(mode, "mode")):
        raise ValueError("a file's mode must be four octal digits")
    if not _text(path, "path").startswith("/"):
        raise ValueError("a file's path must be absolute")
    fact = FileFact(
        kind=_one_of(kind, _KINDS, "kind of file"),
        mode=int(mode, 8),
        uid=_number(uid, "uid"),
        gid=_number(gid, "gid"),
        size_bytes=_number(size, "size"),
        digest=_text(digest, "digest"),
        target=_text(target, "target"),
        device=_text(device, "device"),
        capabilities=_text(capabilities, "capabilities"),
        package=_text(package, "package"),
    )
    return path, fact


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{what} must be a list of texts")
    return tuple(value)


def _number(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{what} must be a number of at least 0")
    return value


def _one_of(value: Any, allowed: frozenset[str], what: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"unknown {what} {str(value)[:40]!r}")
    return value

"""The lock file: a `Lock` as JSON text and back. Pure.

JSON, because the standard library writes it and everything reads it; one package, file or digest on each line and all keys sorted,
so that a review shows what moved and two branches merge. What is read is checked field by field: it may have been merged by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import Any
from contain.build.lock.compare import Lock, LockedBase, LockedStage, LockedStep, Versions
from contain.errors import UsageError
from contain.oci import digest_of, is_digest

FORMAT = 1
LARGEST_BYTES = 64 << 20
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONFLICT = re.compile(r"^(<<<<<<<|=======|>>>>>>>)", re.MULTILINE)


def render_lock(lock: Lock) -> str:
    """The file's text. The same lock gives the same text."""
    value: dict[str, Any] = {
        "lock": FORMAT,
        "contain": lock.version,
        "image": lock.image,
        "dockerfile": lock.dockerfile,
        "target": lock.target,
        "platform": lock.platform,
        "source_date_epoch": lock.epoch_seconds,
        "build_args": dict(sorted(lock.build_args.items())),
        "options": dict(sorted(lock.options.items())),
        "bases": {name: _render_base(base) for name, base in sorted(lock.bases.items())},
        "sources": dict(sorted(lock.sources.items())),
        "stages": [
            {"name": stage.name, "base": stage.base, "steps": [_render_step(step) for step in stage.steps]}
            for stage in lock.stages
        ],
        "unread": dict(sorted(lock.unread.items())),
    }
    text = json.dumps({key: row for key, row in value.items() if row or key in _ALWAYS}, indent=1, ensure_ascii=False)
    # Bytes of a file's name that are no text: as JSON's escapes, which the file can hold.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


_ALWAYS = ("lock", "image", "platform", "source_date_epoch", "stages")
_FIELDS = (*_ALWAYS, "dockerfile", "target", "build_args", "options", "bases", "sources", "unread", "contain")


def _render_base(base: LockedBase) -> dict[str, Any]:
    value: dict[str, Any] = {"digest": base.digest, "platform": base.platform, "source": base.source}
    if base.state:
        value["state"] = base.state
    if base.packages:
        value["packages"] = _render_versions(base.packages)
    return value


def _render_step(step: LockedStep) -> dict[str, Any]:
    value: dict[str, Any] = {"instruction": step.text}
    if step.layer:
        value["layer"] = step.layer
    if step.from_context:
        value["context"] = True
    for name, versions in (("packages", step.packages), ("removed", step.removed)):
        if versions:
            value[name] = _render_versions(versions)
    if step.files:
        value["files"] = dict(sorted(step.files.items()))
    return value


def _render_versions(versions: Versions) -> dict[str, dict[str, str]]:
    return {manager: dict(sorted(rows.items())) for manager, rows in sorted(versions.items()) if rows}


def parse_lock(data: bytes, *, path: str) -> Lock:
    """A lock from a file's bytes. Raises `UsageError` (code ``bad-lock``) that says what is wrong and where."""
    read = _Reader(path)
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=read.pairs)
    except UnicodeDecodeError as error:
        raise read.bad(f"it is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        if _CONFLICT.search(data.decode("utf-8", "replace")):
            raise read.bad("it has marks of a merge conflict") from error
        raise read.bad(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise read.bad("it is nested too deeply") from error
    row = read.mapping(value, "the file")
    if row.get("lock") != FORMAT:
        if "lock" not in row:
            raise read.bad('it is no lock of contain: there is no "lock"')
        raise read.bad(f"its format is {row['lock']!r}, and this contain knows {FORMAT}")
    read.known(row, "the file", *_FIELDS)
    epoch = row.get("source_date_epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise read.bad("source_date_epoch must be a whole number of at least 0")
    options = read.mapping(row.get("options", {}), "options")
    if not all(isinstance(each, bool) for each in options.values()):
        raise read.bad("options must be true or false")
    arguments = read.mapping(row.get("build_args", {}), "build_args")
    if not all(each is None or isinstance(each, str) for each in arguments.values()):
        raise read.bad("build_args must be texts or null")
    return Lock(
        image=read.digest(row.get("image"), "image"),
        dockerfile=read.text(row.get("dockerfile", ""), "dockerfile"),
        target=read.text(row.get("target", ""), "target"),
        platform=read.text(row.get("platform"), "platform"),
        epoch_seconds=epoch,
        build_args=MappingProxyType(arguments),
        options=MappingProxyType(options),
        bases=MappingProxyType(
            {name: read.base(base, f"bases: {name}") for name, base in read.mapping(row.get("bases", {}), "bases").items()}
        ),
        sources=read.texts(row.get("sources", {}), "sources"),
        stages=tuple(
            read.stage(stage, f"stages: {number}") for number, stage in enumerate(read.list(row.get("stages"), "stages"), 1)
        ),
        unread=read.texts(row.get("unread", {}), "unread"),
        version=read.text(row.get("contain", ""), "contain"),
        path=path,
        digest=digest_of(data),
    )


class _Reader:
    """Typed look-ups in a file that people edit; every mismatch is a `UsageError` that names the place."""

    def __init__(self, path: str) -> None:
        self._path = path

    def bad(self, why: str) -> UsageError:
        return UsageError(
            f"{self._path} cannot be used as a lock: {why}", code="bad-lock", remedy="write it again with `contain lock`"
        )

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise self.bad(f"{twice!r} is there twice, as after a merge")
        return value

    def mapping(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.bad(f"{name} must be an object")
        return value

    def list(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.bad(f"{name} must be a list")
        return value

    def text(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise self.bad(f"{name} must be a text")
        return value

    def texts(self, value: Any, name: str) -> Mapping[str, str]:
        return MappingProxyType({key: self.text(each, f"{name}: {key}") for key, each in self.mapping(value, name).items()})

    def digest(self, value: Any, name: str) -> str:
        text = self.text(value, name)
        if not is_digest(text):
            raise self.bad(f"{name} is not a sha256 digest: {text[:80]!r}")
        return text

    def known(self, row: Mapping[str, Any], where: str, *names: str) -> None:
        unknown = sorted(set(row) - set(names))
        if unknown:
            raise self.bad(f"{where} has an unknown field {unknown[0]!r}")

    def versions(self, value: Any, name: str) -> Versions:
        rows = self.mapping(value, name)
        return MappingProxyType({manager: self.texts(each, f"{name}: {manager}") for manager, each in rows.items()})

    def base(self, value: Any, name: str) -> LockedBase:
        row = self.mapping(value, name)
        self.known(row, name, "digest", "platform", "source", "state", "packages")
        return LockedBase(
            digest=self.digest(row.get("digest"), f"{name}: digest"),
            platform=self.text(row.get("platform"), f"{name}: platform"),
            source=self.text(row.get("source", ""), f"{name}: source"),
            state=self.text(row.get("state", ""), f"{name}: state"),
            packages=self.versions(row.get("packages", {}), f"{name}: packages"),
        )

    def stage(self, value: Any, name: str) -> LockedStage:
        row = self.mapping(value, name)
        self.known(row, name, "name", "base", "steps")
        steps = self.list(row.get("steps"), f"{name}: steps")
        return LockedStage(
            name=self.text(row.get("name"), f"{name}: name"),
            base=self.text(row.get("base"), f"{name}: base"),
            steps=tuple(self.step(step, f"{name}: steps: {number}") for number, step in enumerate(steps, 1)),
        )

    def step(self, value: Any, name: str) -> LockedStep:
        row = self.mapping(value, name)
        self.known(row, name, "instruction", "layer", "context", "packages", "removed", "files")
        layer = row.get("layer", "")
        return LockedStep(
            text=self.text(row.get("instruction"), f"{name}: instruction"),
            layer=self.digest(layer, f"{name}: layer") if layer else "",
            from_context=row.get("context") is True,
            packages=self.versions(row.get("packages", {}), f"{name}: packages"),
            removed=self.versions(row.get("removed", {}), f"{name}: removed"),
            files=self.texts(row.get("files", {}), f"{name}: files"),
        )

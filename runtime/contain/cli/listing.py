"""What ``contain images`` and ``contain history`` show: which images, and the fields of each row. Pure.

Source of names and words: docker/cli ``docs/reference/commandline/{image_ls,image_history,image_inspect}.md``; patterns of
references: Go's ``path.Match``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath

from contain.annotations import TYPE_CHECKING, Any
from contain.cli.filters import has_label
from contain.cli.output import render_age, render_size
from contain.errors import NotSupported, UsageError
from contain.reference import Reference, parse_reference
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.oci import Image
    from contain.store import NameRecord, StoredImage

IMAGE_HEADINGS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Source": "SOURCE",
}
HISTORY_HEADINGS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
NAME_HEADINGS = {"Digest": "IMAGE ID", "Since": "SINCE", "Source": "SOURCE", "State": "STATE"}
_FILTERS = ("before", "dangling", "label", "reference", "since")
_NONE = "<none>"
_EMPTY_CONFIG: Mapping[str, Any] = {
    "User": "",
    "Env": None,
    "Cmd": None,
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
_MISSING = "<missing>"
_COMMAND_WIDTH = 45
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFilters:
    """What ``--filter`` and the argument of ``contain images`` ask for; several values of one key: any of them, but all labels."""

    references: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    dangling: bool | None = None
    before: tuple[str, ...] = ()
    since: tuple[str, ...] = ()


def parse_filters(values: Sequence[str], reference: str | None = None) -> ImageFilters:
    """``KEY=VALUE`` texts. Raises `UsageError` (code ``bad-filter``), `NotSupported` for keys that only Docker has."""
    found: dict[str, list[str]] = {key: [] for key in _FILTERS}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"bad format of filter {text!r} (expected name=value)", code="bad-filter")
        if key == "until":
            raise NotSupported("images --filter until is not supported yet", code="flag-not-supported")
        if key not in found:
            raise UsageError(f"invalid filter {key!r}", code="bad-filter", remedy=f"there are {', '.join(_FILTERS)}")
        found[key].append(value)
    dangling = None
    for value in found["dangling"]:
        if value.lower() not in ("true", "1", "false", "0"):
            raise UsageError(f"invalid filter 'dangling={value}'", code="bad-filter", remedy="write true or false")
        dangling = value.lower() in ("true", "1")
    return ImageFilters(
        references=(*found["reference"], *((reference,) if reference else ())),
        labels=tuple(found["label"]),
        dangling=dangling,
        before=tuple(found["before"]),
        since=tuple(found["since"]),
    )


def select_rows(
    images: Sequence[StoredImage], filters: ImageFilters, *, before: Sequence[int] = (), since: Sequence[int] = ()
) -> tuple[tuple[StoredImage, Reference | None], ...]:
    """Each image with each of its names, as far as the filters let through. ``before``, ``since``: when the images that those
    filters name came into the store, in seconds since 1970."""
    rows: list[tuple[StoredImage, Reference | None]] = []
    for image in images:
        if filters.dangling is not None and filters.dangling == bool(image.names):
            continue
        if not all(has_label(image.labels, label) for label in filters.labels):
            continue
        if any(image.created_seconds >= moment for moment in before) or any(
            image.created_seconds <= moment for moment in since
        ):
            continue
        references: list[Reference | None] = [parse_reference(name) for name in image.names] or [None]
        if filters.references:
            references = [name for name in references if name and any(_matches(name, text) for text in filters.references)]
        rows += [(image, reference) for reference in references]
    return tuple(rows)


def _matches(reference: Reference, pattern: str) -> bool:
    """Against the name that people type, with its tag or without."""
    bare = Reference(domain=reference.domain, path=reference.path, tag=None).familiar
    expression = _glob(pattern)
    return any(expression.fullmatch(text) for text in (reference.familiar, bare))


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's ``path.Match``: ``*`` and ``?`` stop at ``/``; ``[a-z]``, ``[^a]``; a backslash quotes."""
    parts, position = [], 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[" and (end := pattern.find("]", position + 1)) > 0:
            inner = pattern[position:end]
            negated, inner = inner.startswith("^"), inner.removeprefix("^")
            inner = re.sub(r"([^-\w])", r"\\\1", inner)
            parts.append(f"[^{inner}]" if negated else f"[{inner}]")
            position = end + 1
        else:
            if character == "\\" and position < len(pattern):
                character = pattern[position]
                position += 1
            parts.append(re.escape(character))
    try:
        return re.compile("".join(parts))
    except re.error as error:
        raise UsageError(f"invalid pattern {pattern!r}", code="bad-filter") from error


def image_row(image: StoredImage, reference: Reference | None, *, now: float, whole: bool) -> dict[str, object]:
    """The fields of one row of ``contain images``."""
    bare = Reference(domain=reference.domain, path=reference.path, tag=None).familiar if reference else _NONE
    return {
        "Repository": bare,
        "Tag": (reference.tag if reference else None) or _NONE,
        "Digest": image.digest,
        "ID": image.digest if whole else image.digest.removeprefix("sha256:")[:12],
        "CreatedSince": f"{render_age(now - image.created_seconds)} ago",
        "CreatedAt": _time_text(image.created_seconds),
        "Size": render_size(image.size_bytes),
        "Source": image.source,
    }


def history_rows(image: Image, sizes: Sequence[int], *, now: float, whole: bool, human: bool) -> list[dict[str, object]]:
    """The rows of ``contain history``, the newest first; ``sizes``: of the layers, lowest first, in bytes. Layers without a
    row of history get one."""
    remaining = list(sizes)
    rows: list[dict[str, object]] = []
    for step in image.config.history:
        size = 0 if step.empty_layer or not remaining else remaining.pop(0)
        created = step.created_by.replace("\t", " ")
        if not whole and len(created) > _COMMAND_WIDTH:
            created = created[: _COMMAND_WIDTH - 1] + "…"
        moment = parse_time(step.created)
        rows.append(
            {
                "ID": _MISSING,
                "CreatedSince": _since(moment, now) if human else step.created or "N/A",
                "CreatedAt": step.created or "N/A",
                "CreatedBy": created,
                "Size": render_size(size) if human else str(size),
                "Comment": step.comment,
            }
        )
    for size in remaining:
        text = render_size(size) if human else str(size)
        rows.append({"ID": _MISSING, "CreatedSince": "N/A", "CreatedAt": "N/A", "CreatedBy": "", "Size": text, "Comment": ""})
    rows.reverse()
    if rows:
        rows[0]["ID"] = image.digest if whole else image.digest.removeprefix("sha256:")[:12]
    return rows


def name_rows(records: Sequence[NameRecord], *, now: float, whole: bool) -> list[dict[str, object]]:
    """The rows of ``contain tag --history``, the newest first."""
    rows: list[dict[str, object]] = []
    for index, record in enumerate(records):
        shown = _NONE if record.digest is None else record.digest if whole else record.digest.removeprefix("sha256:")[:12]
        state = "" if record.digest is None else "here" if record.present else "removed"
        rows.append(
            {
                "Digest": shown,
                "Since": f"{render_age(now - record.set_seconds)} ago",
                "Source": record.source,
                "State": "current" if index == 0 and record.present else state,
            }
        )
    return rows


def image_document(
    image: Image, stored: StoredImage, written: Mapping[str, Any], tagged_seconds: float, trees: Sequence[PurePath] = ()
) -> dict[str, Any]:
    """What ``contain image inspect`` says, under Docker's keys; ``Source`` and ``Layers`` are ours. ``written``: the config as
    its author wrote it, so that nothing is lost that we do not know; ``trees``: where its layers are unpacked, lowest first."""
    references = [parse_reference(name) for name in stored.names]
    repositories = dict.fromkeys(Reference(domain=name.domain, path=name.path, tag=None).familiar for name in references)
    platform = image.config.platform
    inner = dict(written.get("config") or {})
    return {
        "Id": image.digest,
        "RepoTags": [name.familiar for name in references if name.tag],
        "RepoDigests": [f"{repository}@{image.digest}" for repository in repositories],
        "Parent": "",
        "Comment": image.config.history[-1].comment if image.config.history else "",
        "Created": image.config.created,
        "DockerVersion": str(written.get("docker_version", "")),
        "Author": image.config.author,
        "Config": {**_EMPTY_CONFIG, **inner},
        "Architecture": platform.architecture,
        **({"Variant": platform.variant} if platform.variant else {}),
        "Os": platform.os,
        "Size": stored.size_bytes,
        "VirtualSize": stored.size_bytes,
        "GraphDriver": {"Name": "overlay", "Data": _overlay_data(trees)},
        "RootFS": {"Type": "layers", "Layers": list(image.config.diff_ids)},
        "Metadata": {"LastTagTime": datetime.fromtimestamp(tagged_seconds, UTC).isoformat() if tagged_seconds else ""},
        "Descriptor": {"mediaType": image.manifest.media_type, "digest": image.digest},
        "Layers": [layer.digest for layer in image.manifest.layers],
        "Source": stored.source,
    }


def _overlay_data(trees: Sequence[PurePath]) -> dict[str, str]:
    """Where an image's files are, in the words of Docker's driver: the topmost layer, and those below it from the top down."""
    if not trees:
        return {}
    *lower, upper = map(str, trees)
    return {**({"LowerDir": ":".join(reversed(lower))} if lower else {}), "UpperDir": upper}


def parse_time(text: str) -> float | None:
    """RFC 3339 with any number of digits as seconds since 1970, None for what is no time."""
    try:
        return datetime.fromisoformat(_FRACTION.sub(r".\1", text.replace("Z", "+00:00"))).timestamp()
    except (ValueError, OverflowError):
        return None


def _since(moment: float | None, now: float) -> str:
    return "N/A" if moment is None else f"{render_age(now - moment)} ago"


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")

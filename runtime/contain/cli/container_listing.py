"""What ``contain ps`` and ``contain logs`` show: which containers, the fields of a row, which lines. Pure.

Source of names and words: docker/cli ``docs/reference/commandline/container_{ls,logs}.md``; durations: Go's ``time.ParseDuration``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from contain.cli.filters import has_label
from contain.cli.listing import parse_time
from contain.cli.output import render_age, render_size
from contain.container.lifecycle.records import ContainerRecord
from contain.errors import NotSupported, UsageError
from contain.values import dataclass

CONTAINER_HEADINGS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}
_OTHER_HEADINGS = {"CreatedAt": "CREATED AT", "State": "STATE", "Labels": "LABELS", "Networks": "NETWORKS", "Size": "SIZE"}
_OTHER_HEADINGS |= {"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES"}
ALL_HEADINGS = {**CONTAINER_HEADINGS, **_OTHER_HEADINGS}
_FILTERS = ("ancestor", "before", "exited", "health", "id", "label", "name", "network", "since", "status", "volume")
_DOCKERS_FILTERS = ("expose", "isolation", "is-task", "publish")
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH = ("starting", "healthy", "unhealthy", "none")
_COMMAND_WIDTH = 20
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_filters(values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUE`` texts by key. Raises `UsageError` (code ``bad-filter``), `NotSupported` for keys that only Docker has."""
    found: dict[str, tuple[str, ...]] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"bad format of filter {text!r} (expected name=value)", code="bad-filter")
        if key in _DOCKERS_FILTERS:
            raise NotSupported(f"ps --filter {key} is not supported yet", code="flag-not-supported")
        if key not in _FILTERS:
            raise UsageError(f"invalid filter {key!r}", code="bad-filter", remedy=f"there are {', '.join(_FILTERS)}")
        if key == "status" and value not in _STATES:
            raise UsageError(f"invalid filter 'status={value}'", code="bad-filter", remedy=f"there are {', '.join(_STATES)}")
        if key == "health" and value not in _HEALTH:
            raise UsageError(f"invalid filter 'health={value}'", code="bad-filter", remedy=f"there are {', '.join(_HEALTH)}")
        if key == "exited" and not value.lstrip("-").isdigit():
            raise UsageError(f"invalid filter 'exited={value}'", code="bad-filter", remedy="write a number")
        if key == "name":
            try:
                re.compile(value)
            except re.error as error:
                raise UsageError(f"invalid filter 'name={value}': {error}", code="bad-filter") from error
        found[key] = (*found.get(key, ()), value)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container as it is shown: its record, and what the kernel says of it."""

    record: ContainerRecord
    paused: bool = False
    ports: str = ""
    networks: tuple[str, ...] = ()
    health: str = ""  # starting, healthy, unhealthy, or nothing for one without a check
    sizes: tuple[int, int] | None = None  # bytes that it wrote, and of its whole root

    @property
    def state(self) -> str:
        """Docker's word."""
        return "paused" if self.paused else self.record.state


def select_containers(
    seen: Sequence[Seen],
    filters: Mapping[str, Sequence[str]],
    *,
    everything: bool,
    last: int = -1,
    before: Sequence[float] = (),
    since: Sequence[float] = (),
    images: Sequence[str] = (),
    networks: Sequence[str] = (),
) -> tuple[Seen, ...]:
    """Those that are shown, in the given order (newest first). ``last`` 0 or more: only so many, in whatever state. ``before``,
    ``since``: when the containers of those filters were made. ``images``: digests that the filter ``ancestor`` means; ``networks``:
    names that the filter ``network`` means."""
    everything = everything or last >= 0 or "status" in filters or "exited" in filters
    chosen = []
    for each in seen:
        record = each.record
        labels = {str(name): str(value) for name, value in record.details.get("labels", ())}
        tests: dict[str, Callable[[str], bool]] = {
            "id": record.container_id.startswith,
            "name": partial(_matches_name, record.name),
            "status": each.state.__eq__,
            "exited": partial(_ended_with, record),
            "health": (each.health or "none").__eq__,
            "ancestor": partial(_stands_on, record, images),
            "volume": partial(_has_mount, record),
        }
        if (
            (everything or record.state in ("running", "restarting"))
            and all(any(map(test, filters[key])) for key, test in tests.items() if key in filters)
            and all(has_label(labels, value) for value in filters.get("label", ()))
            and ("network" not in filters or any(name in networks for name in each.networks))
            and all(record.created_seconds < moment for moment in before)
            and all(record.created_seconds > moment for moment in since)
        ):
            chosen.append(each)
    return tuple(chosen[:last] if last >= 0 else chosen)


def _matches_name(name: str, pattern: str) -> bool:
    """Docker's names begin with a slash, which nobody types."""
    return re.search(pattern.removeprefix("/"), name) is not None or re.search(pattern, f"/{name}") is not None


def _ended_with(record: ContainerRecord, status: str) -> bool:
    return record.state == "exited" and record.status == int(status)


def _mounts(record: ContainerRecord) -> list[tuple[str, str]]:
    """Name or source, and place inside, of volumes and host paths."""
    return [
        (str(mount.get("name") or mount["source"]), str(mount["target"]))
        for mount in record.details.get("mounts", ())
        if "source" in mount
    ]


def _has_mount(record: ContainerRecord, wanted: str) -> bool:
    return any(wanted in pair for pair in _mounts(record))


def _stands_on(record: ContainerRecord, images: Sequence[str], name: str) -> bool:
    return record.image_name == name or record.image_digest in images


def render_status(seen: Seen, now: float) -> str:
    """The column STATUS."""
    record = seen.record
    match record.state:
        case "running" if record.started_seconds:
            health = "health: starting" if seen.health == "starting" else seen.health
            remark = "Paused" if seen.paused else health
            return f"Up {render_age(now - record.started_seconds)}" + (f" ({remark})" if remark else "")
        case "restarting":
            return f"Restarting ({record.status}) {render_age(now - (record.finished_seconds or now))} ago"
        case "exited":
            ago = render_age(now - (record.finished_seconds or now))
            return f"Exited ({record.status}) {ago} ago" + (" (out of memory)" if record.out_of_memory else "")
        case "dead":
            return "Dead (its supervisor is gone)"
        case state:
            return state.capitalize()


def container_row(seen: Seen, *, now: float, whole: bool) -> dict[str, object]:
    """The fields of one row of ``contain ps``."""
    record = seen.record
    command = '"' + " ".join(record.arguments).replace("\n", " ") + '"'
    if not whole and len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 2] + '…"'
    return {
        "ID": record.container_id if whole else record.container_id[:12],
        "Image": record.image_name,
        "Command": command,
        "CreatedAt": datetime.fromtimestamp(record.created_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
        "RunningFor": f"{render_age(now - record.created_seconds)} ago",
        "Ports": seen.ports,
        "Networks": ",".join(seen.networks),
        "State": seen.state,
        "Status": render_status(seen, now),
        "Names": record.name,
        "Labels": ",".join(f"{name}={value}" for name, value in record.details.get("labels", ())),
        "Mounts": ",".join(name for name, _ in _mounts(record)),
        "LocalVolumes": str(sum("anonymous" in mount for mount in record.details.get("mounts", ()))),
        "Size": "0B" if seen.sizes is None else f"{render_size(seen.sizes[0])} (virtual {render_size(seen.sizes[1])})",
    }


def parse_moment(text: str, *, flag: str, now: float) -> float:
    """A time in seconds since 1970: RFC 3339, a Unix time, or how long ago (``10m``, ``1h30m``). Raises `UsageError`."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return now - sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    moment = parse_time(text) if re.match(r"\d{4}-\d\d-\d\d", text) else None
    if moment is None:
        raise UsageError(
            f'invalid value for "{flag}": failed to parse value as time or duration: {text!r}',
            code="bad-moment",
            remedy="for example 10m, 2026-01-31T12:00:00Z or 1767225600",
        )
    return moment


def parse_tail(text: str) -> int | None:
    """``--tail``: how many lines, or None for all. Raises `UsageError`."""
    if text == "all" or re.fullmatch(r"-\d+", text):
        return None
    if not text.isdigit():
        raise UsageError(f"invalid value for --tail: {text!r}", code="bad-arguments", remedy="a number of lines, or all")
    return int(text)


Piece = tuple[str, float, str]
"""Stream, time in seconds since 1970, text."""


def join_lines(pieces: Iterable[Piece], rest: dict[str, tuple[float, str]]) -> Iterator[Piece]:
    """Whole lines of each stream, with the time at which each began. ``rest``: what has no end yet, by stream; changed."""
    for stream, moment, text in pieces:
        began, before = rest.pop(stream, (moment, ""))
        for line in _LINE.findall(before + text):
            if line.endswith("\n"):
                yield stream, began, line
                began = moment
            else:
                rest[stream] = (began, line)


def render_moment(moment: float) -> str:
    """As ``logs -t`` shows it, with nine digits of which the log knows six."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"

"""``contain events``: what happens to containers, images, volumes and networks, as it happens. Reads the journal; writes nothing to it.

Source: docker/cli ``docs/reference/commandline/system_events.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from contain.annotations import TYPE_CHECKING
from contain.errors import UsageError

if TYPE_CHECKING:
    from contain.store.journal import Happening

_FILTERS = ("container", "event", "image", "label", "network", "scope", "type", "volume")


def add_events_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("--since", metavar="TIME", help="also what was before: from a time, or how long ago (10m)")
    parser.add_argument("--until", metavar="TIME", help="end there: a time, or how long ago")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=f"keys: {', '.join(_FILTERS)}")
    parser.add_argument("--format", metavar="TEMPLATE", help="json, or a template such as '{{.Type}} {{.Action}}'")


def parse_filters(values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUE`` texts by key. Raises `UsageError` (code ``bad-filter``)."""
    found: dict[str, tuple[str, ...]] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"bad format of filter {text!r} (expected name=value)", code="bad-filter")
        if key not in _FILTERS:
            raise UsageError(f"invalid filter {key!r}", code="bad-filter", remedy=f"there are {', '.join(_FILTERS)}")
        found[key] = (*found.get(key, ()), value)
    return found


def _without_tag(name: str) -> str:
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def passes(happening: Happening, filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether the filters let it through: any of several values of a key, but all labels."""
    attributes = happening.attributes

    def is_one(kind: str, wanted: str) -> bool:
        if kind == "image":  # also of containers; a tag may be left out, as with Docker
            name = attributes.get("name" if happening.kind == "image" else "image", "")
            known = (
                name,
                _without_tag(name),
                *((happening.identity, _without_tag(happening.identity)) * (happening.kind == "image")),
            )
            return wanted in known or (happening.kind == "image" and happening.identity.startswith(wanted))
        return happening.kind == kind and (happening.identity.startswith(wanted) or attributes.get("name") == wanted)

    def test(key: str, wanted: str) -> bool:
        match key:
            case "event":
                return happening.action == wanted or happening.action.startswith(f"{wanted}:")
            case "type":
                return happening.kind == wanted
            case "scope":
                return wanted == "local"
            case "label":
                name, equals, value = wanted.partition("=")
                return name in attributes and (not equals or attributes[name] == value)
        return is_one(key, wanted)

    return all((all if key == "label" else any)(test(key, wanted) for wanted in values) for key, values in filters.items())


def describe(happening: Happening) -> dict[str, object]:
    """Docker's fields."""
    actor = {"ID": happening.identity, "Attributes": dict(happening.attributes)}
    row: dict[str, object] = {}
    if happening.kind in ("container", "image"):
        row = {"status": happening.action, "id": happening.identity}
        if happening.kind == "container":
            row["from"] = happening.attributes.get("image", "")
    return {
        **row,
        "Type": happening.kind,
        "Action": happening.action,
        "Actor": actor,
        "scope": "local",
        "time": happening.time_ns // 1_000_000_000,
        "timeNano": happening.time_ns,
    }


def render_line(happening: Happening) -> str:
    """Docker's line: time, kind, action, id, and the attributes."""
    seconds, rest = divmod(happening.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds).astimezone()
    zone = moment.strftime("%z")
    stamp = f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{rest:09}{zone[:3]}:{zone[3:]}"
    attributes = ", ".join(f"{name}={value}" for name, value in sorted(happening.attributes.items()))
    shown = f"{stamp} {happening.kind} {happening.action} {happening.identity}" + (f" ({attributes})" if attributes else "")
    return "".join(character if character.isprintable() else "?" for character in shown)


def _template_fields(happening: Happening) -> dict[str, object]:
    described = describe(happening)
    return described | {
        "ID": happening.identity,
        "Status": happening.action,
        "From": happening.attributes.get("image", ""),
        "Scope": "local",
        "Time": described["time"],
        "TimeNano": described["timeNano"],
    }


def events(options: argparse.Namespace) -> int:
    """Until it is interrupted, or the time of ``--until`` has come."""
    from contain.cli.container_listing import parse_moment
    from contain.cli.templates import check_template, render_template
    from contain.paths import store_home
    from contain.store.journal import read_journal

    now = time.time()
    since = None if options.since is None else parse_moment(options.since, flag="since", now=now)
    until = None if options.until is None else parse_moment(options.until, flag="until", now=now)
    filters = parse_filters(options.filter)
    check_template(options.format)
    follow = until is None or until > now
    for happening in read_journal(store_home(), past=since is not None or not follow, follow=follow):
        if happening is None:
            if until is not None and time.time() > until:
                break
            continue
        moment = happening.time_ns / 1e9
        if until is not None and moment > until:
            break
        if (since is not None and moment < since) or not passes(happening, filters):
            continue
        if options.format is None:
            line = render_line(happening)
        elif options.format in ("json", "{{json .}}"):
            line = json.dumps(describe(happening), separators=(",", ":"), ensure_ascii=False)
        else:
            line = render_template(options.format.replace("\\t", "\t").replace("\\n", "\n"), _template_fields(happening))
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0

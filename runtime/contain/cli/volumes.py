"""``contain volume create``, ``ls``, ``inspect``, ``rm``, ``prune``. Words and columns: docker/cli ``volume_*.md``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from contain.annotations import TYPE_CHECKING
from contain.cli.arguments import parse_labels
from contain.cli.filters import has_label, matches_name, parse_filters, passes_labels
from contain.cli.names import each_name
from contain.cli.output import render_size, render_table
from contain.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from contain.container.files.volumes import VolumeRecord

HEADINGS = {"Driver": "DRIVER", "Name": "VOLUME NAME"}
_FILTERS = ("dangling", "driver", "label", "name")
_PRUNE_FILTERS = ("all", "label", "label!")
_BOOLEANS = (("true", "1", "false", "0"), "write true or false")
CHOICES = {"dangling": _BOOLEANS, "all": _BOOLEANS}


def add_volume_create_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.usage = "contain volume create [OPTIONS] [VOLUME]"
    parser.add_argument("-d", "--driver", default="local", metavar="DRIVER", help="only local")
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="label")
    parser.add_argument("-o", "--opt", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("volume", nargs="?", default="", metavar="VOLUME", help="its name; without: one is made up")


def volume_create(options: argparse.Namespace) -> int:
    """Print the name."""
    from contain.container.request.mounts import check_driver
    from contain.engine import Engine

    check_driver(options.driver)
    if options.opt:
        raise NotSupported("volume create --opt is not supported yet", code="flag-not-supported")
    if options.name and options.volume:
        raise UsageError("conflicting options: either specify --name or provide positional arg, not both", code="bad-arguments")
    with Engine.open() as engine:
        record = engine.volumes.create(options.volume or options.name, labels=parse_labels(options.label))
    sys.stdout.write(f"{record.name}\n")
    return 0


def select_volumes(
    records: Sequence[VolumeRecord], filters: Mapping[str, Sequence[str]], users: Mapping[str, Sequence[str]]
) -> tuple[VolumeRecord, ...]:
    """Those that the filters let through: all labels, any of several values of another key."""

    def passes(record: VolumeRecord) -> bool:
        labels = dict(record.labels)
        wanted = [value.lower() in ("true", "1") for value in filters["dangling"]]
        return (
            (not wanted or (record.name not in users) in wanted)
            and (not filters["driver"] or "local" in filters["driver"])
            and (not filters["name"] or any(matches_name(record.name, text) for text in filters["name"]))
            and all(has_label(labels, text) for text in filters["label"])
        )

    return tuple(filter(passes, records))


def volume_row(record: VolumeRecord, links: int) -> dict[str, object]:
    """The fields of ``contain volume ls``."""
    return {
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Labels": ",".join(f"{name}={value}" for name, value in record.labels),
        "Links": str(links),
        "Mountpoint": str(record.data),
        "Name": record.name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
    }


def volume_document(record: VolumeRecord) -> dict[str, object]:
    """What ``contain volume inspect`` says of one."""
    moment = datetime.fromtimestamp(record.created_seconds, UTC)
    return {
        "CreatedAt": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Driver": "local",
        "Labels": dict(record.labels) or None,
        "Mountpoint": str(record.data),
        "Name": record.name,
        "Options": None,
        "Scope": "local",
    }


def add_volume_ls_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=f"keys: {', '.join(_FILTERS)}")
    parser.add_argument("--format", metavar="TEMPLATE", help="json, table TEMPLATE, or a template such as '{{.Name}}'")


def volume_ls(options: argparse.Namespace) -> int:
    """A table, sorted by name."""
    from contain.engine import Engine

    filters = parse_filters(options.filter, _FILTERS, choices=CHOICES)
    with Engine.open() as engine:
        users = engine.volume_users()
        records = select_volumes(engine.volumes.all(), filters, users)
    if options.quiet:
        sys.stdout.write("".join(f"{record.name}\n" for record in records))
        return 0
    rows = [volume_row(record, len(users.get(record.name, ()))) for record in records]
    if options.format:
        from contain.cli.templates import render_rows

        sys.stdout.write(render_rows(options.format, rows, headings=HEADINGS))
        return 0
    cells = [[str(row[field]) for field in HEADINGS] for row in rows]
    sys.stdout.write(render_table(list(HEADINGS.values()), cells))
    return 0


def add_volume_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.Mountpoint}}'")
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")


def volume_inspect(options: argparse.Namespace) -> int:
    """A JSON list of those that are there; an error for each that is not."""
    from contain.cli.inspecting import show_documents
    from contain.engine import Engine

    with Engine.open() as engine:
        return show_documents(options.volumes, lambda name: volume_document(engine.volumes.find(name)), options.format)


def add_volume_rm_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--force", action="store_true", help="no error for one that is not there")
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")


def volume_rm(options: argparse.Namespace) -> int:
    """One that a container has stays, whether it runs or not."""
    from contain.engine import Engine

    with Engine.open() as engine:
        volumes = engine.volumes
        return each_name(options.volumes, lambda name: volumes.remove(name, engine.volume_users), missing_ok=options.force)


def add_volume_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--all", action="store_true", help="those with a name too")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("--filter", action="append", default=[], metavar="KEY=VALUE", help=f"keys: {', '.join(_PRUNE_FILTERS)}")


def _wanted(filters: Mapping[str, Sequence[str]]) -> Callable[[VolumeRecord], bool]:
    def wanted(record: VolumeRecord) -> bool:
        return passes_labels(dict(record.labels), filters["label"], filters["label!"])

    return wanted


def volume_prune(options: argparse.Namespace) -> int:
    """Only volumes without a name, unless all were asked for."""
    from contain.cli.pruning import confirmed, note_prune, show_deleted
    from contain.engine import Engine

    filters = parse_filters(options.filter, _PRUNE_FILTERS, choices=CHOICES)
    everything = options.all or any(value.lower() in ("true", "1") for value in filters["all"])
    which = "all" if everything else "anonymous"
    question = f"This will remove {which} local volumes not used by at least one container."
    if not confirmed(question, force=options.force):
        return 1
    with Engine.open() as engine:
        removed, freed = engine.volumes.prune(engine.volume_users, everything=everything, wanted=_wanted(filters))
        note_prune(engine, "volume", freed)
    show_deleted("Volumes", removed)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0

"""``contain inspect``: everything known of containers, images, networks and volumes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from contain.annotations import TYPE_CHECKING, Any
from contain.errors import ContainError, NotFound

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord
    from contain.engine import Engine
    from contain.paths import HostPath

KINDS = ("container", "image", "network", "volume")


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags; names of containers, images, networks or volumes."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.Config.Cmd}}'")
    parser.add_argument("-s", "--size", action="store_true", help="of containers: how much they wrote, and hold")
    parser.add_argument("--type", choices=KINDS, metavar="KIND", help=f"look for one of these only: {', '.join(KINDS)}")
    parser.add_argument("names", nargs="+", metavar="NAME")


def inspect(options: argparse.Namespace) -> int:
    """A JSON list of those that are there; an error for each that is not."""
    from contain.cli.templates import check_template, render_template
    from contain.engine import Engine

    template = options.format
    check_template(template)
    found: list[dict[str, Any]] = []
    status = 0
    with Engine.open() as engine:
        for name in options.names:
            try:
                found.append(_find(engine, name, options.type, sizes=options.size))
            except ContainError as error:
                sys.stdout.flush()
                sys.stderr.write(f"Error: {error}\n")
                status = 1
    if template in (None, "", "json"):
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    else:
        text = template.replace("\\t", "\t").replace("\\n", "\n")
        sys.stdout.writelines(f"{render_template(text, document)}\n" for document in found)
    return status


def _find(engine: Engine, name: str, kind: str | None, *, sizes: bool) -> dict[str, Any]:
    finders: dict[str, Callable[[], dict[str, Any]]] = {
        "container": lambda: describe_container(engine, engine.records.find(name), sizes=sizes),
        "image": lambda: _describe_image(engine, name),
        "network": lambda: _describe_network(engine, name),
        "volume": lambda: _describe_volume(engine, name),
    }
    if kind is not None:
        try:
            return finders[kind]()
        except NotFound:
            raise NotFound(f"No such {kind}: {name}", code="no-such-object") from None
    for finder in finders.values():
        with suppress(NotFound):
            return finder()
    raise NotFound(f"No such object: {name}", code="no-such-object")


def _describe_image(engine: Engine, name: str) -> dict[str, Any]:
    from contain.cli.listing import image_document
    from contain.errors import UsageError

    try:
        return image_document(*engine.look_at_image(name))
    except UsageError:  # no name of an image at all, but perhaps one of something else
        raise NotFound(f"No such image: {name}", code="no-such-image") from None


def _describe_network(engine: Engine, name: str) -> dict[str, Any]:
    from contain.cli.networks import find_network, network_document

    return network_document(find_network(engine, name))


def _describe_volume(engine: Engine, name: str) -> dict[str, Any]:
    from contain.cli.volumes import volume_document

    return volume_document(engine.volumes.find(name))


def describe_container(engine: Engine, record: ContainerRecord, *, sizes: bool = False) -> dict[str, Any]:
    """One container in Docker's shape."""
    from contain.cli.container_listing import render_moment
    from contain.cli.inspection import container_document
    from contain.cli.ports import describe_network
    from contain.container.effective import read_effective
    from contain.container.lifecycle.health import Health, describe_health, read_health
    from contain.container.processes import is_paused
    from contain.container.request.mounts import describe_mounts

    records = engine.records
    place = records.place(record.container_id)
    config = None
    with suppress(ContainError):
        config = engine.store.image(record.image_digest).config
    health = None
    if record.details.get("health"):
        health = describe_health(read_health(place) or Health(), render_moment)
    return container_document(
        record,
        place,
        paused=is_paused(record),
        health=health,
        image=config,
        network=describe_network(record, engine.run_home),
        mounts=describe_mounts(record.details),
        effective=read_effective(record),
        sizes=container_sizes(engine, record) if sizes else None,
    )


def container_sizes(engine: Engine, record: ContainerRecord) -> tuple[int, int]:
    """Bytes in the files that a container wrote, and those with its image's. What one on this machine's root holds is 0."""
    from contain.container.files.contents import measure_written

    written = measure_written(engine.records, record, tree_bytes)
    base = 0
    with suppress(ContainError):
        base = next((row.size_bytes for row in engine.images() if row.digest == record.image_digest), 0)
    return written, written + base


def tree_bytes(place: HostPath) -> int:
    """What the files below a directory hold, each once; by descriptors, since a container may write meanwhile."""
    seen: set[int] = set()
    total = 0
    with suppress(FileNotFoundError):
        for _, _, names, directory in os.fwalk(place):
            for each in names:
                with suppress(OSError):
                    found = os.stat(each, dir_fd=directory, follow_symlinks=False)
                    if found.st_ino not in seen:
                        seen.add(found.st_ino)
                        total += found.st_size
    return total


def show_documents(names: Sequence[str], find: Callable[[str], dict[str, Any]], template: str | None) -> int:
    """A JSON list of those that are there, or a template of each; an error for each that is not, and then status 1."""
    found, status = [], 0
    for name in names:
        try:
            found.append(find(name))
        except NotFound as error:
            sys.stderr.write(f"Error: {error}\n")
            status = 1
    if template in (None, "json"):
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    else:
        from contain.cli.templates import render_rows

        sys.stdout.write(render_rows(template, found, headings={}))
    return status

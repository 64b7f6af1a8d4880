"""``contain container prune``, ``image prune`` and ``system prune``: what is left over, after a question.

Words: docker/cli ``docs/reference/commandline/{container,image,system}_prune.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from contain.annotations import TYPE_CHECKING
from contain.cli.filters import passes_labels
from contain.cli.output import render_size
from contain.errors import ContainError, UsageError

if TYPE_CHECKING:
    from contain.engine import Engine


def confirmed(question: str, *, force: bool) -> bool:
    """Whether somebody says yes; where nobody answers, that is a no, as with Docker: what is removed is gone."""
    if force:
        return True
    sys.stdout.write(f"WARNING! {question}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def parse_prune_filters(values: Sequence[str], *, now: float) -> tuple[float | None, Callable[[Mapping[str, str]], bool]]:
    """``until=TIME`` as seconds since 1970, and whether labels pass ``label=`` and ``label!=``."""
    from contain.cli.container_listing import parse_moment

    until: float | None = None
    labels: dict[str, list[str]] = {"label": [], "label!": []}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"bad format of filter {text!r} (expected name=value)", code="bad-filter")
        if key == "until":
            until = parse_moment(value, flag="until", now=now)
        elif key in labels:
            labels[key].append(value)
        else:
            raise UsageError(f"invalid filter {key!r}", code="bad-filter", remedy="there are label, label! and until")
    return until, lambda own: passes_labels(own, labels["label"], labels["label!"])


def add_container_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="until=TIME, label=K[=V], label!=K[=V]"
    )


def container_prune(options: argparse.Namespace) -> int:
    """All that do not run."""
    from contain.engine import Engine

    until, passes = parse_prune_filters(options.filter, now=time.time())
    if not confirmed("This will remove all stopped containers.", force=options.force):
        return 1
    with Engine.open() as engine:
        freed = _prune_containers(engine, until, passes)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0


def _prune_containers(engine: Engine, until: float | None, passes: Callable[[Mapping[str, str]], bool]) -> int:
    """Remove those that do not run and say so; the bytes that they had written."""
    from contain.cli.inspecting import tree_bytes
    from contain.container.lifecycle.verbs import remove_container

    removed, freed, records = [], 0, engine.records
    for record in records.all():
        own = {str(name): str(value) for name, value in record.details.get("labels", ())}
        late = until is not None and record.created_seconds > until
        if record.state not in ("created", "exited", "dead") or late or not passes(own):
            continue
        size = tree_bytes(records.place(record.container_id) / "upper")
        with suppress(ContainError):  # somebody starts it at this moment
            remove_container(records, record, force=False)
            removed.append(record.container_id)
            freed += size
    if removed:
        sys.stdout.write("Deleted Containers:\n" + "".join(f"{each}\n" for each in removed) + "\n")
    return freed


def add_image_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("-a", "--all", action="store_true", help="also images with names that no container uses")


def image_prune(options: argparse.Namespace) -> int:
    """Images without a name, with layers and cache that nothing uses; with ``-a`` also those that no container uses."""
    from contain.cli.images import prune_images
    from contain.engine import Engine

    what = "without at least one container associated to them" if options.all else "without a name"
    if not confirmed(f"This will remove all images {what}.", force=options.force):
        return 1
    with Engine.open() as engine:
        if options.all:
            _untag_unused(engine)
        freed = prune_images(engine)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0


def _untag_unused(engine: Engine) -> None:
    """Take the names of images away that no container uses."""
    from contain.reference import parse_reference

    used = {record.image_digest for record in engine.records.all()}
    for row in engine.images():
        if row.digest not in used:
            for name in row.names:
                engine.store.untag(parse_reference(name))
                sys.stdout.write(f"untagged: {parse_reference(name).familiar}\n")


def add_system_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "-a", "--all", action="store_true", help="all images that no container uses, not only those without a name"
    )
    parser.add_argument("--volumes", action="store_true", help="also volumes without a name that no container has")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="containers and networks: until=TIME, label[!]=K[=V]",
    )


def system_prune(options: argparse.Namespace) -> int:
    """Stopped containers, networks and images that nobody uses, and what only they needed."""
    from contain.cli.images import prune_images
    from contain.cli.networks import prune_networks
    from contain.engine import Engine

    until, passes = parse_prune_filters(options.filter, now=time.time())
    images = "all images without at least one container associated to them" if options.all else "all images without a name"
    parts = ["all stopped containers", "all networks not used by at least one container"]
    parts += ["all volumes without a name that no container has"] if options.volumes else []
    parts += [images, "layers and build cache that nothing uses"]
    if not confirmed("This will remove:" + "".join(f"\n  - {part}" for part in parts) + "\n", force=options.force):
        return 1
    with Engine.open() as engine:
        freed = _prune_containers(engine, until, passes)
        prune_networks(engine, until, passes)
        if options.volumes:
            volumes, volume_bytes = engine.prune_volumes()
            freed += volume_bytes
            if volumes:
                sys.stdout.write("Deleted Volumes:\n" + "".join(f"{name}\n" for name in volumes) + "\n")
        if options.all:
            _untag_unused(engine)
        freed += prune_images(engine)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0

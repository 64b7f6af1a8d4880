"""``contain container prune``, ``image prune`` and ``system prune``: what is left over, after a question.

Words: docker/cli ``docs/reference/commandline/{container,image,system}_prune.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from contain.annotations import TYPE_CHECKING
from contain.cli.filters import parse_filters, passes_labels
from contain.cli.output import render_size
from contain.errors import ContainError, UsageError
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.engine import Engine

_TRUE = ("true", "1")
_CHOICES = {"dangling": (("true", "1", "false", "0"), "write true or false")}


def confirmed(question: str, *, force: bool) -> bool:
    """Whether somebody says yes; where nobody answers, that is a no, as with Docker: what is removed is gone."""
    if force:
        return True
    sys.stdout.write(f"WARNING! {question}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneFilters:
    """What ``--filter`` of a prune lets go. ``until``: only what was made by then, in seconds since 1970; ``dangling``: only images
    without a name, or all that no container uses, or None where nothing was said."""

    until: float | None = None
    labels: tuple[str, ...] = ()
    unwanted_labels: tuple[str, ...] = ()
    dangling: bool | None = None
    texts: tuple[str, ...] = ()

    def passes(self, labels: Mapping[str, str], created_seconds: float) -> bool:
        """Whether a thing with these labels, made at that time, may go."""
        late = self.until is not None and created_seconds > self.until
        return not late and passes_labels(labels, self.labels, self.unwanted_labels)


def parse_prune_filters(
    values: Sequence[str], *, now: float, keys: Sequence[str] = ("label", "label!", "until")
) -> PruneFilters:
    """``KEY=VALUE`` texts. Raises `UsageError` (codes ``bad-filter``, ``bad-moment``)."""
    from contain.cli.container_listing import parse_moment

    found: dict[str, list[str]] = {key: [] for key in ("label", "label!", "until", "dangling")}
    found |= parse_filters(values, keys, choices=_CHOICES)
    for key in ("label", "label!"):
        if "" in found[key]:
            raise UsageError(f"bad format of filter '{key}=' (expected name=value)", code="bad-filter")
    if len(found["until"]) > 1:
        raise UsageError("more than one until filter specified", code="bad-filter", remedy="the earliest of them is enough")
    return PruneFilters(
        until=parse_moment(found["until"][0], flag="until", now=now) if found["until"] else None,
        labels=tuple(found["label"]),
        unwanted_labels=tuple(found["label!"]),
        dangling=all(value.lower() in _TRUE for value in found["dangling"]) if found["dangling"] else None,
        texts=tuple(values),
    )


def add_filter_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """``--filter``, which may be repeated."""
    parser.add_argument("--filter", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_container_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    add_filter_argument(parser, "until=TIME, label=K[=V], label!=K[=V]")


def container_prune(options: argparse.Namespace) -> int:
    """All that do not run."""
    from contain.engine import Engine

    filters = parse_prune_filters(options.filter, now=time.time())
    if not confirmed("This will remove all stopped containers.", force=options.force):
        return 1
    with Engine.open() as engine:
        freed = _prune_containers(engine, filters)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0


def _prune_containers(engine: Engine, filters: PruneFilters) -> int:
    """Remove those that do not run and say so; the bytes that they had written."""
    from contain.cli.inspecting import tree_bytes
    from contain.container.lifecycle.verbs import remove_container

    removed, freed, records = [], 0, engine.records
    for record in records.all():
        own = {str(name): str(value) for name, value in record.details.get("labels", ())}
        if record.state not in ("created", "exited", "dead") or not filters.passes(own, record.created_seconds):
            continue
        size = tree_bytes(records.place(record.container_id) / "upper")
        with suppress(ContainError):  # somebody starts it at this moment
            remove_container(records, record, force=False)
            removed.append(record.container_id)
            freed += size
    show_deleted("Containers", removed)
    note_prune(engine, "container", freed)
    return freed


def add_image_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("-a", "--all", action="store_true", help="also images with names that no container uses")
    add_filter_argument(parser, "until=TIME, label=K[=V], label!=K[=V], dangling=true|false")


def image_prune(options: argparse.Namespace) -> int:
    """Images without a name, with layers and cache that nothing uses; with ``-a`` also those that no container uses."""
    from contain.engine import Engine

    filters = parse_prune_filters(options.filter, now=time.time(), keys=("dangling", "label", "label!", "until"))
    everything = options.all or filters.dangling is False
    what = "without at least one container associated to them" if everything else "without a name"
    if not confirmed(f"This will remove all images {what}.", force=options.force):
        return 1
    with Engine.open() as engine:
        freed = _prune_images(engine, filters, everything=everything)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0


def _prune_images(engine: Engine, filters: PruneFilters, *, everything: bool) -> int:
    """Remove images that no container uses and that have no name (``everything``: whatever they are called), and say so; the bytes
    that are free now. Without filters also what else nothing needs and nobody used within the last hour.

    An image's time is that of its coming into the store, which ``contain images`` shows: times within images are clamped.
    """
    from contain.cli.images import prune_images, show_removed
    from contain.reference import parse_reference

    used = {record.image_digest for record in engine.records.all()}
    chosen = []
    for row in engine.images():
        if row.digest in used or not filters.passes(row.labels, row.created_seconds):
            continue
        if row.names and not everything:
            continue
        for name in row.names:
            reference = parse_reference(name)
            if engine.store.untag(reference) is not None:
                engine.note("image", "untag", row.digest, {**row.labels, "name": reference.familiar})
                sys.stdout.write(f"untagged: {reference.familiar}\n")
        chosen.append(row.digest)
    report = engine.store.prune_unnamed(chosen)
    for digest in report.images:
        engine.note("image", "delete", digest, {"name": digest})
    show_removed(report)
    freed = report.freed_bytes + (0 if filters.texts else prune_images(engine))
    note_prune(engine, "image", freed)
    return freed


def show_deleted(kind: str, names: Sequence[str]) -> None:
    """What went, under a heading; nothing where nothing did."""
    if names:
        sys.stdout.write(f"Deleted {kind}:\n" + "".join(f"{name}\n" for name in names) + "\n")


def note_prune(engine: Engine, kind: str, freed_bytes: int) -> None:
    """Tell `contain events` that things of a kind were pruned."""
    engine.note(kind, "prune", "", {"reclaimed": str(freed_bytes)})


def add_system_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "-a", "--all", action="store_true", help="all images that no container uses, not only those without a name"
    )
    parser.add_argument("--volumes", action="store_true", help="also volumes without a name that no container has")
    add_filter_argument(parser, "until=TIME, label=K[=V], label!=K[=V]")


def system_prune(options: argparse.Namespace) -> int:
    """Stopped containers, networks and images that nobody uses, and what only they needed."""
    from contain.cli.networks import prune_networks
    from contain.engine import Engine

    filters = parse_prune_filters(options.filter, now=time.time())
    if options.volumes and filters.until is not None:
        raise UsageError(
            'The "until" filter is not supported with "--volumes"', code="bad-filter", remedy="leave one of them out"
        )
    images = "all images without at least one container associated to them" if options.all else "all images without a name"
    parts = ["all stopped containers", "all networks not used by at least one container"]
    parts += ["all volumes without a name that no container has"] if options.volumes else []
    parts += [images] if filters.texts else [images, "layers and build cache that nothing uses"]
    question = "This will remove:" + "".join(f"\n  - {part}" for part in parts) + "\n"
    if filters.texts:
        question += "\n  Items to be pruned will be filtered with:" + "".join(f"\n  - {text}" for text in filters.texts) + "\n"
    if not confirmed(question, force=options.force):
        return 1
    with Engine.open() as engine:
        freed = _prune_containers(engine, filters)
        prune_networks(engine, filters)
        if options.volumes:
            volumes, volume_bytes = engine.prune_volumes(lambda record: filters.passes(dict(record.labels), 0))
            freed += volume_bytes
            note_prune(engine, "volume", volume_bytes)
            show_deleted("Volumes", volumes)
        freed += _prune_images(engine, filters, everything=options.all)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed)}\n")
    return 0

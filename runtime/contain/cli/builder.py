"""``contain builder prune``, and the flags of ``contain build`` that concern its cache."""

from __future__ import annotations

import argparse
import sys

from contain.annotations import TYPE_CHECKING
from contain.cli.output import render_size
from contain.errors import UsageError

if TYPE_CHECKING:
    from contain.build.cache.policy import CachePolicy


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags, buildah's ``--cache-ttl``, and ``--explain``."""
    parser.add_argument(
        "--explain", action="store_true", help="say of each step why it was or was not cached; with --plan, do nothing else"
    )
    parser.add_argument(
        "--no-cache-filter",
        action="append",
        default=[],
        metavar="STAGE",
        help="carry out every step of these stages (commas between them; may be repeated)",
    )
    parser.add_argument("--cache-ttl", metavar="DURATION", help="take no step from the cache that is older: 24h, 30m, 1h30m")
    parser.add_argument("--pull", action="store_true", help="look every base image up anew, in its registry")
    parser.add_argument(
        "--cache-from",
        action="append",
        default=[],
        metavar="PLACE",
        help="take steps from there: type=registry,ref=NAME, type=local,src=DIRECTORY, or NAME; may be repeated",
    )
    parser.add_argument(
        "--cache-to",
        action="append",
        default=[],
        metavar="PLACE",
        help="put the steps there: type=registry,ref=NAME or type=local,dest=DIRECTORY; behind it ,mode=max (steps of all stages), "
        ",compression=zstd|gzip|uncompressed and ,ignore-error=true; may be repeated",
    )


def read_cache_policy(options: argparse.Namespace) -> CachePolicy:
    """What the flags say. Raises `UsageError`, `NotSupported`."""
    from contain.build.cache.places import parse_cache_from, parse_cache_to
    from contain.build.cache.policy import CachePolicy

    stages = tuple(name.strip() for text in options.no_cache_filter for name in text.split(","))
    if not all(stages):
        raise UsageError("--no-cache-filter needs the name of a stage", code="bad-arguments")
    return CachePolicy(
        explain=options.explain,
        refused_stages=stages,
        lifetime_seconds=None if options.cache_ttl is None else parse_lifetime(options.cache_ttl, flag="--cache-ttl"),
        refresh_bases=options.pull,
        sources=tuple(parse_cache_from(text) for text in options.cache_from),
        destinations=tuple(parse_cache_to(text) for text in options.cache_to),
    )


def parse_lifetime(text: str, *, flag: str) -> float:
    """A duration as Go writes them, in seconds. Raises `UsageError`."""
    from contain.dockerfile.literals import parse_duration_nanoseconds

    try:
        seconds = parse_duration_nanoseconds(text) / 1e9
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {error.message}", code="bad-arguments", remedy="write 90s, 30m, 24h") from error
    if seconds < 0:
        raise UsageError(f"{flag} {text}: a time before now is meant", code="bad-arguments", remedy="leave the minus out")
    return seconds


def add_builder_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument(
        "-a", "--all", action="store_true", help="everything that nobody is using, not only what was superseded"
    )
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--keep-storage", "--max-used-space", metavar="SIZE", help="stop when the cache takes no more than this: 500MB, 10GB"
    )
    parser.add_argument(
        "--filter", action="append", default=[], metavar="until=DURATION", help="only what was not used for so long: until=24h"
    )


def builder_prune(options: argparse.Namespace) -> int:
    """What only the build cache has, the least recently used first."""
    from contain.cli.pruning import confirmed
    from contain.container.workspaces import sweep
    from contain.declared import parse_size_bytes
    from contain.engine import Engine

    unused_for_seconds = 0.0
    for text in options.filter:
        name, _, value = text.partition("=")
        if name != "until" or not value:
            raise UsageError(f"--filter {text}: not known", code="bad-arguments", remedy="there is until=DURATION")
        unused_for_seconds = max(unused_for_seconds, parse_lifetime(value, flag="--filter until"))
    keep_bytes = 0
    if options.keep_storage is not None and options.keep_storage != "0":
        try:
            keep_bytes = parse_size_bytes(options.keep_storage, what="--keep-storage")
        except UsageError as error:
            raise UsageError(error.message, code="bad-arguments", remedy="write 500MB, 10GB") from error
    what = "all build cache that nobody is using" if options.all else "the build cache that was superseded"
    if not confirmed(f"This will remove {what}.", force=options.force):
        return 1
    limited = options.keep_storage is not None
    with Engine.open() as engine:
        sweep(engine.run_home)  # what killed builds left takes space, too
        report = engine.store.prune_cache(
            keep_bytes=keep_bytes,
            unused_for_seconds=unused_for_seconds,
            only_superseded=not options.all and not limited,
            forget=options.all and not limited,
        )
    for layer in report.layers:
        sys.stdout.write(f"Deleted: {layer}\n")
    for mount in report.mounts:
        sys.stdout.write(f"Deleted: cache mount {mount}\n")
    sys.stdout.write(f"Total reclaimed space: {render_size(report.freed_bytes)}\n")
    return 0

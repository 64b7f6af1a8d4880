"""The flags of ``contain build`` that concern its cache."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from contain.errors import UsageError

if TYPE_CHECKING:
    from contain.build.cache_policy import CachePolicy


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
        help="put the steps there: type=registry,ref=NAME or type=local,dest=DIRECTORY[,mode=min|max][,compression="
        "zstd|gzip|uncompressed][,ignore-error=true]",
    )


def read_cache_policy(options: argparse.Namespace) -> CachePolicy:
    """What the flags say. Raises `UsageError`, `NotSupported`."""
    from contain.build.cache_places import parse_cache_from, parse_cache_to
    from contain.build.cache_policy import CachePolicy

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

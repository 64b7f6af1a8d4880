"""``contain images``, ``import``, ``tag``, ``rmi``, ``prune``."""

from __future__ import annotations

import argparse
import sys
import time

from contain.cli.output import TerminalProgress, render_age, render_size, render_table
from contain.errors import ContainError, UsageError


def add_images_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-q", "--quiet", action="store_true", help="digests only")
    parser.add_argument("--no-trunc", action="store_true", help="whole digests")


def images(options: argparse.Namespace) -> int:
    """A row for each name; newest first."""
    from contain.engine import Engine
    from contain.reference import parse_reference

    with Engine.open() as engine:
        stored = engine.images()
    rows = []
    for image in stored:
        shown = image.digest if options.no_trunc else image.digest.removeprefix("sha256:")[:12]
        if options.quiet:
            sys.stdout.write(shown + "\n")
            continue
        for name in image.names or ("",):
            reference = parse_reference(name) if name else None
            repository = reference.familiar.rsplit(":", 1)[0].split("@")[0] if reference and reference.tag else name or "<none>"
            tag = (reference.tag if reference else None) or "<none>"
            age = render_age(time.time() - image.created_seconds)
            rows.append((repository, tag, shown, f"{age} ago", render_size(image.size_bytes), image.source))
    if not options.quiet:
        sys.stdout.write(render_table(("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SOURCE"), rows))
    return 0


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """As Docker's."""
    parser.add_argument("archive", metavar="TARBALL", help="tar, plain or compressed; '-' for standard input")
    parser.add_argument("name", metavar="NAME", help="name of the image")


def import_(options: argparse.Namespace) -> int:
    """One layer, no config."""
    from contain.engine import Engine

    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            if options.archive == "-":
                image = engine.import_image(sys.stdin.buffer, options.name)
            else:
                try:
                    with open(options.archive, "rb") as file:
                        image = engine.import_image(file, options.name)
                except (FileNotFoundError, IsADirectoryError) as error:
                    raise UsageError(f"{options.archive}: {error.strerror}", code="bad-archive") from error
        finally:
            progress.close()
    sys.stdout.write(f"{image.digest}\n")
    return 0


def add_tag_arguments(parser: argparse.ArgumentParser) -> None:
    """As Docker's."""
    parser.add_argument("source", metavar="IMAGE")
    parser.add_argument("target", metavar="NAME")


def tag(options: argparse.Namespace) -> int:
    """The image keeps its other names."""
    from contain.engine import Engine

    with Engine.open() as engine:
        engine.tag(options.source, options.target)
    return 0


def add_rmi_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="also with several names, or used by a container")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def rmi(options: argparse.Namespace) -> int:
    """Names first; the image goes with its last name."""
    from contain.engine import Engine

    status = 0
    with Engine.open() as engine:
        for name in options.images:
            try:
                for line in engine.remove_image(name, force=options.force):
                    sys.stdout.write(line + "\n")
            except ContainError as error:
                sys.stderr.write(f"Error: {error}\n")
                status = 1
    return status


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def prune(options: argparse.Namespace) -> int:
    """What no name, container or cache row in use reaches."""
    from contain.engine import Engine

    if not options.force and sys.stdin.isatty():
        sys.stdout.write("This removes all images without a name, and layers and cache that nothing uses. Go on? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 1
    with Engine.open() as engine:
        report = engine.prune()
    for digest in report.images:
        sys.stdout.write(f"Deleted: {digest}\n")
    sys.stdout.write(f"Total reclaimed space: {render_size(report.freed_bytes)}\n")
    return 0

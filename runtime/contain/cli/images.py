"""``contain images``, ``history``, ``manifest``, ``import``, ``tag``, ``rollback``, ``rmi``, ``prune``."""

from __future__ import annotations

import argparse
import json
import sys
import time

from contain.annotations import TYPE_CHECKING
from contain.cli.output import TerminalProgress, render_size, render_table
from contain.errors import ContainError, NotFound, NotSupported, UsageError

if TYPE_CHECKING:
    from contain.engine import Engine
    from contain.store import PruneReport


def add_images_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--all", action="store_true", help="no difference: no intermediate images are kept")
    parser.add_argument("--digests", action="store_true", help="a column of digests")
    parser.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="dangling=true|false, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE",
    )
    parser.add_argument("--format", metavar="TEMPLATE", help="json, table, or a template such as '{{.Repository}}:{{.Tag}}'")
    parser.add_argument("-q", "--quiet", action="store_true", help="digests only")
    parser.add_argument("--no-trunc", action="store_true", help="whole digests")
    parser.add_argument("reference", nargs="?", metavar="REPOSITORY[:TAG]", help="only these; may hold * and ?")


def images(options: argparse.Namespace) -> int:
    """A row for each name; newest first."""
    from contain.cli.listing import IMAGE_HEADINGS, image_row, parse_filters, select_rows
    from contain.cli.templates import render_rows
    from contain.engine import Engine

    filters = parse_filters(options.filter, options.reference)
    with Engine.open() as engine:
        stored = engine.images()
        times = {image.digest: image.created_seconds for image in stored}
        before, since = (
            [times[engine.store.find_image(name).digest] for name in names] for names in (filters.before, filters.since)
        )
    chosen = select_rows(stored, filters, before=before, since=since)
    now = time.time()
    rows = [image_row(image, reference, now=now, whole=options.no_trunc) for image, reference in chosen]
    if options.quiet:
        sys.stdout.write("".join(f"{shown}\n" for shown in dict.fromkeys(str(row["ID"]) for row in rows)))
    elif options.format:
        sys.stdout.write(render_rows(options.format, rows, headings=IMAGE_HEADINGS))
    else:
        fields = ["Repository", "Tag", *(["Digest"] if options.digests else []), "ID", "CreatedSince", "Size", "Source"]
        cells = [[str(row[field]) for field in fields] for row in rows]
        sys.stdout.write(render_table([IMAGE_HEADINGS[field] for field in fields], cells))
    return 0


def add_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-H", "--human", "--human=true", "-H=true", action="store_true", default=True, help="the default")
    parser.add_argument("--human=false", "-H=false", dest="human", action="store_false", help="bytes, and times as written")
    parser.add_argument("--no-trunc", action="store_true", help="whole commands and digests")
    parser.add_argument("-q", "--quiet", action="store_true", help="digests only")
    parser.add_argument("--format", metavar="TEMPLATE", help="json, table, or a template such as '{{.CreatedBy}}'")
    parser.add_argument("image", metavar="IMAGE")


def history(options: argparse.Namespace) -> int:
    """A row for each step, the newest first."""
    from contain.cli.listing import HISTORY_HEADINGS, history_rows
    from contain.cli.templates import render_rows
    from contain.engine import Engine

    with Engine.open() as engine:
        image = engine.store.find_image(options.image)
        sizes = [engine.store.layer_size(diff_id) for diff_id in image.config.diff_ids]
    rows = history_rows(image, sizes, now=time.time(), whole=options.no_trunc, human=options.human)
    if options.quiet:
        sys.stdout.write("".join(f"{row['ID']}\n" for row in rows))
    elif options.format:
        sys.stdout.write(render_rows(options.format, rows, headings=HISTORY_HEADINGS))
    else:
        fields = ["ID", "CreatedSince" if options.human else "CreatedAt", "CreatedBy", "Size", "Comment"]
        cells = [[str(row[field]) for field in fields] for row in rows]
        sys.stdout.write(render_table([HISTORY_HEADINGS[field] for field in fields], cells))
    return 0


def add_manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's subcommand for looking."""
    parser.add_argument("verb", metavar="inspect")
    parser.add_argument("-v", "--verbose", action="store_true", help="with name, descriptor and platform")
    parser.add_argument("image", metavar="IMAGE")


def manifest(options: argparse.Namespace) -> int:
    """The manifest of an image in the store, as JSON."""
    from contain.engine import Engine

    if options.verb in ("annotate", "create", "push", "rm"):
        raise NotSupported(f"contain manifest {options.verb} is not supported yet", code="flag-not-supported")
    if options.verb != "inspect":
        raise UsageError(f"contain manifest: no command {options.verb!r}; there is inspect", code="unknown-command")
    with Engine.open() as engine:
        value = engine.describe_manifest(options.image, verbose=options.verbose)
    sys.stdout.write(json.dumps(value, indent=3, ensure_ascii=False) + "\n")
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
    """As Docker's, and the history of a name."""
    parser.add_argument("--history", metavar="NAME", help="what a name pointed at, the newest first")
    parser.add_argument("--format", metavar="TEMPLATE", help="of --history: json, table, or a template")
    parser.add_argument("--no-trunc", action="store_true", help="of --history: whole digests")
    parser.add_argument("source", nargs="?", metavar="IMAGE")
    parser.add_argument("target", nargs="?", metavar="NAME")


def tag(options: argparse.Namespace) -> int:
    """The image keeps its other names."""
    from contain.engine import Engine

    if options.history is not None:
        if options.source is not None:
            raise UsageError("--history takes one name and nothing else", code="bad-arguments")
        return _name_history(options)
    if options.target is None:
        missing = "NAME" if options.source else "IMAGE and NAME"
        raise UsageError(f'"contain tag" requires {missing}', code="bad-arguments", remedy="see `contain tag --help`")
    with Engine.open() as engine:
        engine.tag(options.source, options.target)
    return 0


def _name_history(options: argparse.Namespace) -> int:
    from contain.cli.listing import NAME_HEADINGS, name_rows
    from contain.cli.templates import render_rows
    from contain.engine import Engine
    from contain.reference import parse_reference

    reference = parse_reference(options.history)
    with Engine.open() as engine:
        records = engine.store.name_history(reference)
    if not records:
        raise NotFound(f"No such image: {reference.familiar}, now or before", code="image-not-found")
    rows = name_rows(records, now=time.time(), whole=options.no_trunc)
    if options.format:
        sys.stdout.write(render_rows(options.format, rows, headings=NAME_HEADINGS))
        return 0
    fields = list(NAME_HEADINGS)
    cells = [[str(row[field]) for field in fields] for row in rows]
    sys.stdout.write(render_table([NAME_HEADINGS[field] for field in fields], cells))
    return 0


def add_rollback_arguments(parser: argparse.ArgumentParser) -> None:
    """A name, and perhaps which of its images."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--to", metavar="DIGEST", help="or its beginning; default: the image before the present one")


def rollback(options: argparse.Namespace) -> int:
    """The name points at what it pointed at before; again, at what it pointed at before that."""
    from contain.engine import Engine
    from contain.reference import parse_reference

    reference = parse_reference(options.name)
    with Engine.open() as engine:
        before, after = engine.store.rollback(reference, to=options.to)
        engine.note_image("tag", engine.store.image(after), reference.familiar)
    sys.stdout.write(f"{after}\n")
    sys.stderr.write(f"{reference.familiar}: {after}; was {before or 'taken away'}\n")
    return 0


def add_rmi_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="also with several names, or used by a container")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def rmi(options: argparse.Namespace) -> int:
    """Names first; the image goes with its last name."""
    from contain.engine import Engine

    status = 0
    with Engine.open(progress=TerminalProgress()) as engine:
        for name in options.images:
            try:
                for line in engine.remove_image(name, force=options.force):
                    sys.stdout.write(line + "\n")
            except ContainError as error:
                sys.stderr.write(f"Error: {error}\n")
                status = 1
    return status


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("--volumes", action="store_true", help="also volumes without a name that no container has")


def prune(options: argparse.Namespace) -> int:
    """What no name, container or cache row in use reaches."""
    from contain.cli.pruning import confirmed
    from contain.engine import Engine

    what = (
        "all images without a name, among them those that names pointed at before, and layers and cache that nothing uses"
        f"{', and volumes without a name that no container has' if options.volumes else ''}"
    )
    if not confirmed(f"This will remove {what}.", force=options.force):
        return 1
    with Engine.open() as engine:
        volumes, freed_bytes = engine.prune_volumes() if options.volumes else ([], 0)
        if volumes:
            sys.stdout.write("Deleted Volumes:\n" + "".join(f"{name}\n" for name in volumes) + "\n")
        freed_bytes += prune_images(engine)
    sys.stdout.write(f"Total reclaimed space: {render_size(freed_bytes)}\n")
    return 0


def prune_images(engine: Engine) -> int:
    """Remove images without a name that are not young, and what nothing needs, and say so; the bytes that are free now."""
    report = engine.prune()
    show_removed(report)
    return report.freed_bytes


def show_removed(report: PruneReport) -> None:
    """A line for each image that went, and for each name that can no longer be rolled back to it."""
    from contain.reference import parse_reference

    names: dict[str, list[str]] = {}
    for digest, name in report.former_names:
        names.setdefault(digest, []).append(parse_reference(name).familiar)
    for digest in report.images:
        sys.stdout.write(f"Deleted: {digest}\n")
        for name in names.get(digest, ()):
            sys.stdout.write(f"  {name} cannot be rolled back to it any more\n")

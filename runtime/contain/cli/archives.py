"""``contain save`` and ``load``: images as files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.cli.output import TerminalProgress
from contain.errors import UsageError

if TYPE_CHECKING:
    from contain.archive.plan import FileFormat

_FORMATS = ("docker", "oci", "oci-dir")
_OTHER_NAMES = {"docker-archive": "docker", "oci-archive": "oci"}  # podman's
_COMPRESSIONS = ("none", "gzip", "zstd")


def add_save_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's and podman's flags."""
    parser.add_argument("-o", "--output", metavar="FILE", help="instead of standard output")
    parser.add_argument(
        "--format", default="docker", metavar="|".join(_FORMATS), help="docker (default) is an OCI layout and Docker's in one"
    )
    parser.add_argument(
        "--compression", metavar="|".join(_COMPRESSIONS), help="repack layers (changes the digest); default: as they are"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def save(options: argparse.Namespace) -> int:
    """To a file, which appears when it is whole, or to standard output."""
    from contain.engine import Engine

    form = _format(options.format)
    if options.compression is not None:
        from contain.registry.packing import parse_compression

        parse_compression(options.compression)
    if options.output in (None, "-"):
        if form.value == "oci-dir":
            raise UsageError("a directory needs a name", code="bad-output", remedy="use -o DIRECTORY")
        if sys.stdout.isatty():
            raise UsageError("cowardly refusing to save to a terminal", code="bad-output", remedy="use the -o flag or redirect")
    elif not Path(options.output).absolute().parent.is_dir():
        raise UsageError(
            f"invalid output path: directory {str(Path(options.output).parent)!r} does not exist", code="bad-output"
        )
    output = sys.stdout.buffer if options.output in (None, "-") else Path(options.output)
    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            engine.save(options.images, output, form=form, compression=options.compression)
        finally:
            progress.close()
    return 0


def _format(text: str) -> FileFormat:
    from contain.archive.plan import FileFormat

    text = _OTHER_NAMES.get(text, text)
    if text not in _FORMATS:
        raise UsageError(f"unknown format {text!r}", code="bad-arguments", remedy=f"one of {', '.join(_FORMATS)}")
    return FileFormat(text)


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-i", "--input", metavar="FILE", help="instead of standard input; also an OCI layout's directory")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="which image of several (default: this machine's)")


def load(options: argparse.Namespace) -> int:
    """All images of a file, or none of them; a line for each name."""
    from contain.engine import Engine

    if options.input in (None, "-"):
        if sys.stdin.isatty():
            raise UsageError("requested load from stdin, but stdin is empty", code="bad-arguments", remedy="use -i FILE")
        source = sys.stdin.buffer
    else:
        source = Path(options.input)
    progress = TerminalProgress(quiet=options.quiet)
    with Engine.open(progress=progress) as engine:
        try:
            loaded = engine.load(source, platform=options.platform)
        finally:
            progress.close()
    for item in loaded:
        for name, before in item.replaced:
            sys.stderr.write(f"{name.familiar} was {before}; `contain rollback {name.familiar}` puts it back\n")
        for name in item.names:
            sys.stdout.write(f"Loaded image: {name.familiar}\n")
        if not item.names:
            sys.stdout.write(f"Loaded image ID: {item.image.digest}\n")
    return 0

"""``contain sbom`` and ``contain provenance``: what an image consists of, and how it was made, for other people's tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contain.errors import HostError


def add_sbom_arguments(parser: argparse.ArgumentParser) -> None:
    """An image, and what becomes of the bill."""
    parser.add_argument("image", metavar="IMAGE", help="an image of the local store")
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of standard output")
    parser.add_argument("--attach", action="store_true", help="keep the bill with the image; `contain push` takes it along")


def sbom(options: argparse.Namespace) -> int:
    """The bill that is attached to the image, or a new one."""
    from contain.engine import Engine

    with Engine.open() as engine:
        document = engine.sbom(options.image, attach=options.attach)
    write_document(document, options.output)
    return 0


def add_provenance_arguments(parser: argparse.ArgumentParser) -> None:
    """An image."""
    parser.add_argument("image", metavar="IMAGE", help="an image that was built with --provenance")
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of standard output")


def provenance(options: argparse.Namespace) -> int:
    """The statement that is attached to the image: nobody can tell afterwards how an image was made."""
    from contain.engine import Engine

    with Engine.open() as engine:
        document = engine.provenance(options.image)
    write_document(document, options.output)
    return 0


def write_document(document: bytes, output: str | None) -> None:
    """To a file, or to standard output. Raises `HostError` (code ``output-io``)."""
    if not output or output == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
        return
    try:
        Path(output).write_bytes(document)
    except OSError as error:
        raise HostError(f"cannot write {output}", path=output, errno=error.errno or 0, code="output-io") from error

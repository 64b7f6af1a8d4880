"""``contain pull``: what talks to registries."""

from __future__ import annotations

import argparse
import sys

from contain.cli.output import TerminalProgress


def add_pull_arguments(parser: argparse.ArgumentParser) -> None:
    """A name."""
    parser.add_argument("name", metavar="NAME", help="for example python:3.12-slim, or debian:bookworm")


def pull(options: argparse.Namespace) -> int:
    """From a registry, or made by a base provider where no registry has it; says which."""
    from contain.engine import Engine
    from contain.errors import NotFound, RegistryError

    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            try:
                ready = engine.image(options.name, pull="always")
            except (NotFound, RegistryError) as error:
                if error.code not in ("registry-unreachable", "image-not-in-registry"):
                    raise
                ready = engine.image(options.name)
        finally:
            progress.close()
    sys.stdout.write(f"{ready.image.digest}\n")
    sys.stderr.write(f"{options.name}: from {ready.source}\n")
    return 0

"""``contain oci``: the command line of `contain.oci_runtime.program`, which a shell reaches without this module."""

from __future__ import annotations

import argparse


def add_oci_arguments(parser: argparse.ArgumentParser) -> None:
    """All words belong to the runtime."""
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...")


def oci(options: argparse.Namespace) -> int:
    """Carry them out."""
    from contain.oci_runtime.program import run_oci

    return run_oci(options.command_line)

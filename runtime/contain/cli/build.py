"""``contain build``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contain.cli.arguments import parse_pairs
from contain.cli.output import TerminalProgress
from contain.errors import BuildStepFailed, NotSupported, UsageError


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument(
        "context", metavar="CONTEXT", help="directory whose files COPY and ADD may use; '-' is not supported yet"
    )
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME", help="name of the image; may be repeated")
    parser.add_argument("-f", "--file", metavar="FILE", help="the Dockerfile (default: CONTEXT/Dockerfile)")
    parser.add_argument("--target", metavar="STAGE", help="build this stage (default: the last)")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="K=V", help="value of an ARG; K alone takes the caller's"
    )
    parser.add_argument("--no-cache", action="store_true", help="carry out every step")
    parser.add_argument("--plan", action="store_true", help="show stages and steps, and do nothing")
    parser.add_argument("--iidfile", metavar="FILE", help="write the image's digest to FILE")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the digest")


def build(options: argparse.Namespace) -> int:
    """Build, and print the digest last."""
    import os

    from contain.build.request import BuildRequest
    from contain.engine import Engine
    from contain.reference import parse_reference

    if options.context == "-" or "://" in options.context:
        raise NotSupported(
            f"a build context of {options.context!r} is not supported yet", code="context", remedy="name a directory"
        )
    context = Path(options.context)
    if not context.is_dir():
        raise UsageError(
            f"the build context {str(context)!r} is not a directory", code="context", remedy="name a directory, often '.'"
        )
    arguments: list[tuple[str, str]] = []
    for value in options.build_arg:
        if "=" in value:
            arguments += parse_pairs([value], flag="--build-arg")
        elif value in os.environ:
            arguments.append((value, os.environ[value]))
    request = BuildRequest(
        context=context,
        dockerfile=Path(options.file) if options.file else None,
        target=options.target,
        build_args=dict(arguments),
        tags=tuple(parse_reference(name) for name in options.tag),
        no_cache=options.no_cache,
    )
    progress = TerminalProgress(quiet=options.quiet)
    with Engine.open(progress=progress) as engine:
        if options.plan:
            sys.stdout.write(engine.plan_build(request))
            return 0
        try:
            result = engine.build(request)
        except BuildStepFailed as error:
            if options.quiet and error.log_tail:
                sys.stderr.write(error.log_tail)
            raise
        finally:
            progress.close()
    if options.iidfile:
        Path(options.iidfile).write_text(result.digest)
    sys.stdout.write(result.digest + "\n")
    return 0

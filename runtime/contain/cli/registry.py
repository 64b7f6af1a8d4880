"""``contain pull``, ``push``, ``login``, ``logout``: what talks to registries."""

from __future__ import annotations

import argparse
import getpass
import sys

from contain.annotations import TYPE_CHECKING
from contain.cli.output import TerminalProgress
from contain.errors import NotFound, RegistryError, UsageError

if TYPE_CHECKING:
    from contain.engine import Engine, ReadyImage
    from contain.oci import Platform
    from contain.reference import Reference


def _reference(name: str, *, all_tags: bool) -> Reference:
    from contain.reference import parse_reference

    reference = parse_reference(name)
    if all_tags and (reference.digest is not None or name.endswith(f":{reference.tag}")):
        raise UsageError("tag can't be used with --all-tags/-a", code="bad-arguments", remedy="leave out the tag")
    return reference


def add_pull_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the image's name only, no progress")
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="default: this machine's")
    parser.add_argument("name", metavar="NAME[:TAG|@DIGEST]", help="for example python:3.12-slim, or debian:bookworm")


def pull(options: argparse.Namespace) -> int:
    """From a registry, or made by a base provider where no registry has it; says which."""
    from contain.engine import Engine
    from contain.registry.platform import parse_platform

    reference = _reference(options.name, all_tags=options.all_tags)
    platform = parse_platform(options.platform) if options.platform else None
    progress = TerminalProgress(quiet=options.quiet)
    with Engine.open(progress=progress) as engine:
        try:
            if options.all_tags:
                names = engine.tags(options.name)
                if not names:
                    raise NotFound(f"{reference.domain}/{reference.path} has no tags", code="image-not-in-registry")
            else:
                names = (options.name,)
            for name in names:
                ready = _pull_one(engine, name, platform)
                sys.stdout.write(f"{_full_name(name)}\n" if options.quiet else f"{ready.image.digest}\n")
                sys.stdout.flush()
                progress.close()
                if not options.quiet:
                    sys.stderr.write(f"{name}: from {ready.source}\n")
        finally:
            progress.close()
    return 0


def _full_name(name: str) -> str:
    from contain.reference import parse_reference

    return str(parse_reference(name))


def _pull_one(engine: Engine, name: str, platform: Platform | None) -> ReadyImage:
    try:
        return engine.pull(name, platform=platform)
    except (NotFound, RegistryError) as error:
        # `debian:bookworm` on a machine that reaches no registry. What the store merely has under that name is not taken for
        # pulled.
        if error.code not in ("registry-unreachable", "image-not-in-registry") or platform is not None:
            raise
        ready = engine.provide(name)
        if ready is None:
            raise
        return ready


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags, and how layers are sent."""
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the image's name only, no progress")
    parser.add_argument(
        "--compression",
        metavar="gzip|zstd|none",
        default="",
        help="all layers so; this may make another image, with another digest (default: the image as it is)",
    )
    parser.add_argument(
        "--chunk-size", metavar="SIZE", help="upload in chunks, for example 32m (default: in one piece where that works)"
    )
    parser.add_argument("name", metavar="NAME[:TAG]", help="for example localhost:5000/app")


def push(options: argparse.Namespace) -> int:
    """The image as it is, unless a compression is asked for; the last line of each tag is its digest in the registry."""
    from contain.engine import Engine

    reference = _reference(options.name, all_tags=options.all_tags)
    chunk_bytes = 0
    if options.chunk_size is not None:
        from contain.declared import parse_size_bytes

        chunk_bytes = parse_size_bytes(options.chunk_size, what="--chunk-size")
    progress = TerminalProgress(quiet=options.quiet)
    with Engine.open(progress=progress) as engine:
        try:
            names = engine.names_of(options.name) if options.all_tags else (options.name,)
            for name in names:
                engine.store.find_image(name)
            if not options.quiet:
                sys.stdout.write(f"The push refers to repository [{reference.domain}/{reference.path}]\n")
                sys.stdout.flush()
            for name in names:
                pushed = engine.push(name, compression=options.compression, chunk_bytes=chunk_bytes)
                progress.close()
                if options.quiet:
                    sys.stdout.write(f"{_full_name(name)}\n")
                else:
                    size = pushed.manifest_bytes
                    sys.stdout.write(f"{pushed.reference.tag}: digest: {pushed.digest} size: {size}\n")
                sys.stdout.flush()
        finally:
            progress.close()
    return 0


def add_login_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-u", "--username", metavar="NAME", help="default: asked for")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("-p", "--password", metavar="TEXT", help="visible to everybody on this machine; better:")
    secret.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("server", metavar="SERVER", nargs="?", default="", help="host[:port] (default: docker.io)")


def login(options: argparse.Namespace) -> int:
    """Nothing is stored that the registry did not accept."""
    from contain.registry.login import existing_login, log_in, parse_server

    server = parse_server(options.server)
    progress = TerminalProgress()
    username, password = options.username or "", options.password or ""
    if options.password_stdin:
        if not username:
            raise UsageError("Must provide --username with --password-stdin", code="bad-arguments")
        password = sys.stdin.read().rstrip("\r\n")
    elif options.password is not None:
        progress.warn("a password on the command line is seen by every process of this machine; use --password-stdin")
    if not username and not password and (known := existing_login(server, progress=progress)):
        sys.stderr.write(f"Authenticating with existing credentials... [Username: {known}]\n")
        try:
            log_in(server, progress=progress)
        except RegistryError as error:
            if error.code != "login-denied" or not sys.stdin.isatty():
                raise
            sys.stderr.write(f"Login did not succeed: {error.message}\n")
        else:
            sys.stdout.write("Login Succeeded\n")
            return 0
    if not username or not password:
        if not sys.stdin.isatty():
            raise UsageError(
                "Cannot perform an interactive login from a non TTY device",
                code="bad-arguments",
                remedy="give --username and --password-stdin",
            )
        username = username or input("Username: ").strip()
        password = password or getpass.getpass("Password: ")
    if not username or not password:
        raise UsageError("username and password must not be empty", code="bad-arguments")
    log_in(server, username=username, password=password, progress=progress)
    sys.stdout.write("Login Succeeded\n")
    return 0


def add_logout_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's argument."""
    parser.add_argument("server", metavar="SERVER", nargs="?", default="", help="host[:port] (default: docker.io)")


def logout(options: argparse.Namespace) -> int:
    """Also where nobody was logged in: then it says so, and that is no error."""
    from contain.registry.login import log_out, parse_server

    server = parse_server(options.server)
    if log_out(server, progress=TerminalProgress()):
        sys.stdout.write(f"Removing login credentials for {server.name}\n")
    else:
        sys.stdout.write(f"Not logged in to {server.name}\n")
    return 0

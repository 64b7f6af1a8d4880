"""``contain run`` and ``contain exec``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from contain.annotations import TYPE_CHECKING
from contain.cli.arguments import parse_variables
from contain.cli.attachment import add_attachment_arguments, add_detach_keys_argument, parse_joined, tell_detached
from contain.cli.network_options import add_network_arguments, parse_networks
from contain.cli.output import TerminalProgress
from contain.errors import HostError, UsageError
from contain.values import replace

if TYPE_CHECKING:
    from contain.container.lifecycle.ended import ExitState
    from contain.container.request.mounts import MountRequest, VolumesFrom
    from contain.engine import Engine, ReadyImage, RunRequest


class NoTerminal(UsageError):
    """A terminal is to be joined, and there is none. Docker's client says this itself: status 1."""

    code = "no-terminal"
    exit_status = 1


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags; everything after IMAGE is the program's."""
    parser.usage = "contain run [OPTIONS] IMAGE [COMMAND] [ARG...]"
    parser.add_argument("-d", "--detach", action="store_true", help="print the id and leave it running")
    add_attachment_arguments(parser)
    parser.add_argument("--plan", action="store_true", help="show what would be asked of the kernel, and do nothing")
    _add_container_arguments(parser)


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``run`` that say what the container is."""
    parser.usage = "contain create [OPTIONS] IMAGE [COMMAND] [ARG...]"
    _add_container_arguments(parser)


def _add_container_arguments(parser: argparse.ArgumentParser) -> None:
    from contain.cli.keeping import add_keeping_arguments
    from contain.cli.limits import add_first_limit_arguments, add_limit_arguments
    from contain.cli.restrictions import add_restriction_arguments

    add_restriction_arguments(parser)
    add_keeping_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument("--rm", action="store_true", help="remove the container when it has ended")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="K=V", help="variable; K alone takes the caller's")
    parser.add_argument(
        *("-v", "--volume"),
        action="append",
        default=[],
        metavar="[SRC:]DST[:ro]",
        help="volume (by name, or without one) or host path at a path inside",
    )
    parser.add_argument(
        "--mount", action="append", default=[], metavar="KEY=VALUE,...", help="type=volume|bind|tmpfs,source=...,target=..."
    )
    parser.add_argument(
        "--tmpfs", action="append", default=[], metavar="DST[:OPTIONS]", help="memory file system, for example /run:size=64m"
    )
    parser.add_argument(
        "--volumes-from", action="append", default=[], metavar="CONTAINER[:ro]", help="the mounts of another container too"
    )
    parser.add_argument("-w", "--workdir", metavar="DIR", help="working directory")
    parser.add_argument("-u", "--user", metavar="USER", help="name, uid, name:group or uid:gid")
    parser.add_argument("-h", "--hostname", metavar="NAME", help="its host name")
    add_limit_arguments(parser)
    add_first_limit_arguments(parser)
    parser.add_argument("--userns", default="", metavar="MODE", help="auto[:size=N]: ids of its own; host: no user namespace")
    parser.add_argument("--read-only", action="store_true", help="a root that cannot be written")
    parser.add_argument("--name", metavar="NAME", help="name of the container")
    parser.add_argument("--entrypoint", metavar="X", help="program instead of the image's entrypoint")
    parser.add_argument("-l", "--label", action="append", default=[], metavar="K=V", help="label")
    parser.add_argument("--replace", action="store_true", help="remove a container that has its name first")
    parser.add_argument("--pull", default="missing", metavar="WHEN", help="always, missing (default) or never")
    parser.add_argument("--platform", metavar="OS/ARCH", help="of the image, for example linux/arm64")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing about where the image comes from")
    parser.add_argument("--cidfile", metavar="FILE", help="write the container's id to a file that is not there yet")
    parser.add_argument("image", metavar="IMAGE", help="name or digest of an image, or `host`")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="COMMAND", help="program and arguments instead of the image's"
    )


def parse_mounts(options: argparse.Namespace) -> tuple[MountRequest, ...]:
    """``-v``, ``--mount`` and ``--tmpfs``."""
    if not (options.volume or options.mount or options.tmpfs):
        return ()
    from contain.container.request.mounts import parse_mount, parse_tmpfs, parse_volume

    return (
        *map(parse_volume, options.volume),
        *map(parse_mount, options.mount),
        *map(parse_tmpfs, options.tmpfs),
    )


def parse_volumes_from(values: list[str]) -> tuple[VolumesFrom, ...]:
    """``--volumes-from``."""
    if not values:
        return ()
    from contain.container.request.mounts import parse_volumes_from

    return tuple(map(parse_volumes_from, values))


def run(options: argparse.Namespace) -> int:
    """The exit status is the program's."""
    if options.detach and options.rm and options.plan:
        raise UsageError("--plan excludes -d", code="bad-arguments")
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise NoTerminal("the input device is not a TTY", remedy="leave out -t")
    joined = parse_joined(options, stdin=options.interactive)
    with _opened(options) as (engine, request, ready):
        if options.plan:
            sys.stdout.write(engine.plan_run(request, ready))
            return 0
        if options.detach:
            sys.stdout.write(engine.run_detached(request, ready, remove=options.rm) + "\n")
            return 0
        state = engine.run(request, ready, remove=options.rm, joined=joined)
    if state is None:
        return tell_detached()
    if state.out_of_memory:
        sys.stderr.write(f"contain: {state.describe()}\n")
    return state.status


def create(options: argparse.Namespace) -> int:
    """Print the id of a container that ``contain start`` starts."""
    with _opened(options) as (engine, request, ready):
        sys.stdout.write(engine.create(request, ready, remove=options.rm) + "\n")
    return 0


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[tuple[Engine, RunRequest, ReadyImage]]:
    """The engine, what was asked and its image; the id is in the file that was asked for while the container may be there."""
    from contain.engine import Engine

    if options.pull not in ("always", "missing", "never"):
        raise UsageError(
            f'invalid pull option: \'{options.pull}\': must be one of "always", "missing" or "never"', code="bad-arguments"
        )
    request = _parse_request(options)
    progress = TerminalProgress(quiet=options.quiet)
    with Engine.open(progress=progress) as engine, contextlib.ExitStack() as cleanup:
        if options.cidfile is not None and not getattr(options, "plan", False):
            request = replace(request, container_id=cleanup.enter_context(_id_file(options.cidfile, engine)))
        try:
            ready = engine.image(options.image, pull=options.pull, platform=options.platform)
        finally:
            progress.close()
        if not getattr(options, "plan", False):
            if options.replace:
                _remove_namesake(engine, request)
            if options.volume:
                _make_sources(request)
        yield engine, request, ready


def _make_sources(request: RunRequest) -> None:
    """The host directories of ``-v`` that are not there, as Docker makes them. Raises `HostError`."""
    from contain.container.request.mounts import MountRequest

    for mount in request.mounts:
        if isinstance(mount, MountRequest) and mount.makes_source and not os.path.exists(mount.source):
            try:
                os.makedirs(mount.source, exist_ok=True)
            except OSError as error:
                raise HostError(
                    "error while creating mount source path",
                    path=mount.source,
                    errno=error.errno or 0,
                    code="bad-volume",
                    remedy="create it first",
                ) from error


@contextlib.contextmanager
def _id_file(path: str, engine: Engine) -> Iterator[str]:
    """A new container's id, written to a file. The file goes again if no such container was made."""
    from contain.container.run import new_container_id

    identifier = new_container_id()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise UsageError(
            f"container ID file found, make sure the other container isn't running or delete {path}", code="cidfile"
        ) from None
    except OSError as error:
        raise UsageError(f"failed to create the container ID file: open {path}: {error.strerror}", code="cidfile") from None
    try:
        os.write(descriptor, identifier.encode())
    finally:
        os.close(descriptor)
    try:
        yield identifier
    except BaseException as error:
        made = getattr(error, "code", "") == "command-not-started" or engine.records.place(identifier).exists()
        if not made:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def _remove_namesake(engine: Engine, request: RunRequest) -> None:
    """podman's ``--replace``."""
    from contain.container.lifecycle.verbs import remove_container

    if request.name is None:
        raise UsageError("cannot replace container without --name being set", code="bad-arguments")
    for record in engine.records.all():
        if record.name == request.name:
            remove_container(engine.records, record, force=True)


def _parse_request(options: argparse.Namespace) -> RunRequest:
    """What was asked, of a command line."""
    from contain.cli.keeping import parse_keeping
    from contain.cli.limits import parse_limits
    from contain.cli.restrictions import (
        parse_capabilities,
        parse_resources,
        parse_surroundings,
        read_env_files,
        read_labels,
    )
    from contain.container.request.idmapping import parse_user_namespace
    from contain.engine import RunRequest

    resource_limits, shared_memory_bytes = parse_resources(options)
    return RunRequest(
        capabilities=parse_capabilities(options),
        surroundings=parse_surroundings(options),
        resource_limits=resource_limits,
        shared_memory_bytes=shared_memory_bytes,
        stop_signal=options.stop_signal,
        keeping=parse_keeping(options),
        image=options.image,
        arguments=tuple(options.arguments),
        entrypoint=options.entrypoint,
        environment=(*read_env_files(options.env_file), *parse_variables(options.env, flag="-e, --env")),
        mounts=parse_mounts(options),
        volumes_from=parse_volumes_from(options.volumes_from),
        working_directory=options.workdir,
        user=options.user,
        hostname=os.uname().nodename if options.uts == "host" else options.hostname,
        name=options.name,
        limits=parse_limits(options),
        read_only=options.read_only,
        user_namespace=parse_user_namespace(options.userns),
        terminal=options.tty,
        interactive=options.interactive,
        input_once=options.interactive and not getattr(options, "detach", False),
        labels=read_labels(options),
        **parse_networks(options),
    )


def add_exec_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags; everything after COMMAND is the program's."""
    parser.usage = "contain exec [OPTIONS] CONTAINER COMMAND [ARG...]"
    parser.add_argument("-d", "--detach", action="store_true", help="leave it running, and show nothing of it")
    add_detach_keys_argument(parser)
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="a file of variables")
    parser.add_argument(
        "--privileged",
        action="store_true",
        help="all capabilities of the container's user namespace, and no system call filter",
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="K=V", help="variable; K alone takes the caller's")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="working directory")
    parser.add_argument("-u", "--user", metavar="USER", help="name, uid, name:group or uid:gid")
    parser.add_argument("container", metavar="CONTAINER", help="name or id")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND", help="program and arguments")


def exec_(options: argparse.Namespace) -> int:
    """The exit status is the program's."""
    from contain.cli.restrictions import read_env_files
    from contain.container.execute import execute, execute_apart, execute_on_terminal
    from contain.container.lifecycle.states import Event
    from contain.container.processes import decide_for
    from contain.engine import Engine

    if not options.arguments:
        raise UsageError('"contain exec" requires COMMAND', code="no-command", remedy="see `contain exec --help`")
    joined = parse_joined(options, stdin=options.interactive)
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise NoTerminal("the input device is not a TTY", remedy="leave out -t")
    variables = dict((*read_env_files(options.env_file), *parse_variables(options.env, flag="-e, --env")))
    with Engine.open() as engine:
        record = engine.records.find(options.container)
        decide_for(record, Event.EXEC)
        request = engine.specify_exec(
            record,
            options.arguments,
            environment=variables,
            user=options.user,
            working_directory=options.workdir,
            terminal=options.tty and not options.detach,
            privileged=options.privileged,
        )
        records, program = engine.records, " ".join(options.arguments)
        exec_id = {"execID": os.urandom(32).hex()}
        records.tell(record, f"exec_create: {program}", exec_id)

        def told(state: ExitState | None) -> None:
            if state is None:
                records.tell(record, f"exec_start: {program}", exec_id)
            else:
                records.tell(record, "exec_die", {**exec_id, "exitCode": str(state.status)})

        if options.detach:
            execute_apart(record, request, told=told)
            return 0
        if options.tty:
            state = execute_on_terminal(record, request, joined=joined, told=told)
            return tell_detached() if state is None else state.status
        stdin = 0 if options.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return execute(record, request, stdin=stdin, stdout=1, stderr=2, told=told).status

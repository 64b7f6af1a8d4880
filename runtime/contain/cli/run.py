"""``contain run`` and ``contain exec``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from contain.cli.arguments import parse_pairs
from contain.cli.attachment import add_attachment_arguments, add_detach_keys_argument, parse_joined, tell_detached
from contain.cli.output import TerminalProgress
from contain.declared import parse_size_bytes
from contain.errors import Conflict, NotSupported, UsageError
from contain.spec import DEFAULT_PIDS_LIMIT, Limits, Network

if TYPE_CHECKING:
    from contain.container.mounts import MountRequest, VolumesFrom
    from contain.engine import RunRequest
    from contain.spec import PortRequest

_SMALLEST_MEMORY_BYTES = 6 << 20
_LARGEST_MEMORY_BYTES = 1 << 56


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
    from contain.cli.restrictions import add_restriction_arguments

    add_restriction_arguments(parser)
    add_keeping_arguments(parser)
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
    parser.add_argument("-m", "--memory", metavar="N", help="memory limit, for example 512m")
    parser.add_argument("--cpus", type=float, metavar="N", help="CPU limit, for example 1.5")
    parser.add_argument("--pids-limit", type=int, metavar="N", help=f"process limit (default {DEFAULT_PIDS_LIMIT}; -1: none)")
    parser.add_argument(
        "--network", "--net", default="bridge", metavar="none|host|bridge", help="what it can reach (default bridge)"
    )
    parser.add_argument("--add-host", action="append", default=[], metavar="NAME:IP", help="a line of /etc/hosts")
    parser.add_argument("--dns", action="append", default=[], metavar="IP", help="a name server instead of this machine's")
    parser.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[IP:][HOST:]PORT[/udp]",
        help="make a port of it one of this machine",
    )
    parser.add_argument("-P", "--publish-all", action="store_true", help="publish each exposed port at a free one")
    parser.add_argument("--userns", default="", metavar="MODE", help="auto[:size=N]: ids of its own; host: no user namespace")
    parser.add_argument("--read-only", action="store_true", help="a root that cannot be written")
    parser.add_argument("--name", metavar="NAME", help="name of the container")
    parser.add_argument("--entrypoint", metavar="X", help="program instead of the image's entrypoint")
    parser.add_argument("-l", "--label", action="append", default=[], metavar="K=V", help="label")
    parser.add_argument(
        "--pull", choices=("always", "missing", "never"), default="missing", help="whether to look beyond the store"
    )
    parser.add_argument("image", metavar="IMAGE", help="name or digest of an image, or `host`")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="COMMAND", help="program and arguments instead of the image's"
    )


def parse_variables(values: list[str]) -> tuple[tuple[str, str], ...]:
    """``-e``: ``K=V``, or ``K`` for the caller's value where it has one."""
    pairs: list[tuple[str, str]] = []
    for value in values:
        if "=" in value:
            pairs += parse_pairs([value], flag="--env")
        elif value in os.environ:
            pairs.append((value, os.environ[value]))
    return tuple(pairs)


def parse_mounts(options: argparse.Namespace) -> tuple[MountRequest, ...]:
    """``-v``, ``--mount`` and ``--tmpfs``."""
    from contain.container.mounts import parse_mount, parse_tmpfs, parse_volume

    return (
        *map(parse_volume, options.volume),
        *map(parse_mount, options.mount),
        *map(parse_tmpfs, options.tmpfs),
    )


def parse_volumes_from(values: list[str]) -> tuple[VolumesFrom, ...]:
    """``--volumes-from``."""
    if not values:
        return ()
    from contain.container.mounts import parse_volumes_from

    return tuple(map(parse_volumes_from, values))


def parse_limits(options: argparse.Namespace) -> Limits:
    """``--memory``, ``--cpus``, ``--pids-limit``."""
    memory = None if options.memory is None else parse_size_bytes(options.memory, what="--memory")
    if memory is not None and memory > _LARGEST_MEMORY_BYTES:
        raise UsageError(f"--memory: {options.memory[:20]!r} is more than any machine has", code="bad-limit")
    if memory is not None and memory < _SMALLEST_MEMORY_BYTES:
        raise UsageError("Minimum memory limit allowed is 6MB", code="bad-limit")
    if options.cpus is not None and not 0 < options.cpus <= (os.cpu_count() or 1):
        raise UsageError(
            f"range of CPUs is from 0.01 to {os.cpu_count()}, as there are only {os.cpu_count()} CPUs available",
            code="bad-limit",
        )
    pids = DEFAULT_PIDS_LIMIT if options.pids_limit is None else None if options.pids_limit <= 0 else options.pids_limit
    return Limits(memory_bytes=memory, cpus=options.cpus, pids=pids)


def parse_network(value: str) -> Network:
    """``--network``."""
    try:
        return Network(value)
    except ValueError:
        raise NotSupported(
            f"the network {value!r} is not supported yet", code="network-not-supported", remedy="use none, host or bridge"
        ) from None


def parse_published(options: argparse.Namespace) -> tuple[PortRequest, ...]:
    """``--publish``, which needs a network of the container's own."""
    from contain.container.ports import parse_publish

    found = tuple(request for value in options.publish for request in parse_publish(value))
    if options.network == "host" and (found or options.publish_all):
        sys.stderr.write("WARNING: Published ports are discarded when using host network mode\n")
    if options.network == "none" and (found or options.publish_all):
        raise UsageError(
            "conflicting options: port publishing and the network mode none",
            code="port-without-network",
            remedy="leave out -p, or --network none",
        )
    return found


def run(options: argparse.Namespace) -> int:
    """The exit status is the program's."""
    from contain.engine import Engine

    if options.detach and options.rm and options.plan:
        raise UsageError("--plan excludes -d", code="bad-arguments")
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise UsageError("the input device is not a TTY", code="no-terminal", remedy="leave out -t")
    joined = parse_joined(options, stdin=options.interactive)
    request = _parse_request(options)
    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            ready = engine.image(options.image, pull=options.pull)
        finally:
            progress.close()
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
    from contain.engine import Engine

    request = _parse_request(options)
    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            ready = engine.image(options.image, pull=options.pull)
        finally:
            progress.close()
        sys.stdout.write(engine.create(request, ready, remove=options.rm) + "\n")
    return 0


def _parse_request(options: argparse.Namespace) -> RunRequest:
    """What was asked, of a command line."""
    from contain.cli.keeping import parse_keeping
    from contain.cli.restrictions import parse_capabilities, parse_resources, read_env_files
    from contain.container.hosts import parse_add_host, parse_dns
    from contain.container.idmapping import parse_user_namespace
    from contain.engine import RunRequest

    resource_limits, shared_memory_bytes = parse_resources(options)
    return RunRequest(
        capabilities=parse_capabilities(options.cap_add, options.cap_drop),
        resource_limits=resource_limits,
        shared_memory_bytes=shared_memory_bytes,
        stop_signal=options.stop_signal,
        keeping=parse_keeping(options),
        image=options.image,
        arguments=tuple(options.arguments),
        entrypoint=options.entrypoint,
        environment=(*read_env_files(options.env_file), *parse_variables(options.env)),
        mounts=parse_mounts(options),
        volumes_from=parse_volumes_from(options.volumes_from),
        working_directory=options.workdir,
        user=options.user,
        hostname=options.hostname,
        name=options.name,
        network=parse_network(options.network),
        limits=parse_limits(options),
        read_only=options.read_only,
        user_namespace=parse_user_namespace(options.userns),
        terminal=options.tty,
        interactive=options.interactive,
        input_once=options.interactive and not getattr(options, "detach", False),
        labels=parse_pairs(options.label, flag="--label"),
        publish=parse_published(options),
        publish_all=options.publish_all,
        extra_hosts=tuple(parse_add_host(value) for value in options.add_host),
        name_servers=parse_dns(options.dns),
    )


def add_exec_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags; everything after COMMAND is the program's."""
    parser.usage = "contain exec [OPTIONS] CONTAINER COMMAND [ARG...]"
    parser.add_argument("-d", "--detach", action="store_true", help="leave it running, and show nothing of it")
    add_detach_keys_argument(parser)
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="a file of variables")
    parser.add_argument("--privileged", action="store_true", help=argparse.SUPPRESS)
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
    from contain.container.processes import is_paused
    from contain.engine import Engine

    if not options.arguments:
        raise UsageError('"contain exec" requires COMMAND', code="no-command", remedy="see `contain exec --help`")
    if options.privileged:
        raise NotSupported(
            "exec --privileged: what a container may do is decided when it is made, and nothing in it may do more",
            code="flag-not-supported",
            remedy="make the container with the capabilities it needs (--cap-add)",
        )
    joined = parse_joined(options, stdin=options.interactive)
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise UsageError("the input device is not a TTY", code="no-terminal", remedy="leave out -t")
    with Engine.open() as engine:
        record = engine.records.find(options.container)
        if is_paused(record):
            raise Conflict(
                f"Container {record.name} is paused, unpause the container before exec",
                code="paused",
                remedy=f"contain unpause {record.name}",
            )
        request = engine.specify_exec(
            record,
            options.arguments,
            environment=dict((*read_env_files(options.env_file), *parse_variables(options.env))),
            user=options.user,
            working_directory=options.workdir,
            terminal=options.tty and not options.detach,
        )
        if options.detach:
            execute_apart(record, request)
            return 0
        if options.tty:
            state = execute_on_terminal(record, request, joined=joined)
            return tell_detached() if state is None else state.status
        stdin = 0 if options.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return execute(record, request, stdin=stdin, stdout=1, stderr=2).status

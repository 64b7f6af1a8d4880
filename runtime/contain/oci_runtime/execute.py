"""``exec``: a further process in a container that runs, joined to its namespaces and groups."""

from __future__ import annotations

import os

from contain.bundle_operations import BundleOperation, OpenConsole
from contain.errors import Conflict, UsageError
from contain.oci_runtime.control import groups_of
from contain.oci_runtime.create import (
    compile_filter,
    grant_capabilities,
    hand_over_terminal,
    listen_descriptors,
    refuse_absent_profile,
    write_pid_file,
)
from contain.oci_runtime.groups import open_joins
from contain.oci_runtime.launch import GOING, Launching, Surroundings, launch_further, open_namespaces_of
from contain.oci_runtime.plan import plan_affinity, plan_identity
from contain.oci_runtime.records import CREATED, RUNNING, Place, Record, read_start_time
from contain.runtime_spec.configuration import Configuration, parse_document
from contain.runtime_spec.process import Process, capability_mask, parse_process, refuse_labels
from contain.values import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """What the command line of ``exec`` says; ``process_file`` replaces all that describes the process."""

    process_file: str = ""
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    directory: str = ""
    user: str = ""
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    terminal: bool = False
    no_new_privileges: bool = False
    pid_file: str = ""
    console_socket: str = ""
    detach: bool = False
    preserve_fds: int = 0


def parse_user(text: str) -> tuple[int, int]:
    """``UID[:GID]``. Raises `UsageError`: names belong to the engine above, which knows the image."""
    user, colon, group = text.partition(":")
    numbers = []
    for part in (user, group if colon else "0"):
        if not part.isascii() or not part.isdigit() or len(part) > 10 or int(part) > 2**32 - 2:
            raise UsageError(f"--user takes UID[:GID] in numbers, not {text!r}", code="bundle-configuration")
        numbers.append(int(part))
    return numbers[0], numbers[1]


def resolve_process(request: ExecRequest, config: Configuration) -> Process:
    """The process that is asked for: of a file, or the container's own with what the command line changes."""
    if request.process_file:
        try:
            with open(request.process_file, "rb") as file:
                process = parse_process(parse_document(file.read(), request.process_file))
        except OSError as error:
            raise UsageError(
                f"--process: {request.process_file}: {os.strerror(error.errno or 0)}", code="bundle-configuration"
            ) from None
        refuse_labels(process)
        return process
    if not request.arguments:
        raise UsageError("exec needs a program, or --process", code="bundle-configuration")
    own = config.process
    if own is None:
        raise UsageError("the container has no process whose rights a further one could have", code="bundle-configuration")
    user_id, group_id = parse_user(request.user) if request.user else (own.user_id, own.group_id)
    sets = own.capabilities
    if request.capabilities and sets is not None:
        more = capability_mask(request.capabilities, "--cap")
        sets = replace(sets, bounding=sets.bounding | more, effective=sets.effective | more, permitted=sets.permitted | more)
    return replace(
        own,
        arguments=request.arguments,
        environment=(*own.environment, *request.environment),
        directory=request.directory or own.directory,
        user_id=user_id,
        group_id=group_id,
        groups=request.groups or own.groups,
        capabilities=sets,
        terminal=request.terminal,
        no_new_privileges=own.no_new_privileges or request.no_new_privileges,
    )


def execute(place: Place, request: ExecRequest) -> tuple[Record, Launching]:
    """Start the process; it waits for `Launching.say`("commit"). Raises `Conflict` where the container does not run."""
    record = place.read_record()
    status = place.read_status(record)
    if status not in (RUNNING, CREATED):
        raise Conflict(f"cannot exec in a {status} container", code="bundle-state-conflict")
    config = place.read_configuration()
    process = grant_capabilities(config, resolve_process(request, config))
    if process.terminal and request.detach and not request.console_socket:
        raise UsageError("cannot allocate tty if the runtime will detach without setting console socket", code="bundle-console")
    refuse_absent_profile(process)
    program, flags = compile_filter(config.seccomp)
    kept, environment = listen_descriptors(request.preserve_fds)
    identity = plan_identity(process, new_keyring=False, filter_program=program, filter_flags=flags)
    console: tuple[BundleOperation, ...] = ()
    if process.terminal:
        height, width = process.console_size or (0, 0)
        console = (OpenConsole(height=height, width=width, user_id=process.user_id, node=False),)
    spaces = open_namespaces_of(record.process_id)
    if read_start_time(record.process_id) != record.start_time:  # after they are open: they are the container's
        raise Conflict("container not running", code="bundle-state-conflict")
    joins = open_joins(groups_of(record))
    around = Surroundings(
        joins=tuple(joins),
        spaces=spaces,
        kept=kept,
        oom_score_adjustment=process.oom_score_adjustment,
        environment=environment,
    )
    launching = launch_further(
        (*plan_affinity(process.first_affinity), *console, *plan_affinity(process.final_affinity)),
        identity,
        process,
        around,
    )
    for descriptor in (*joins, *(number for _, number in spaces)):
        os.close(descriptor)
    launching.program = process.arguments[0]
    try:
        launching.hear(b"ready")
        if request.console_socket:
            hand_over_terminal(request.console_socket, launching)
        if request.pid_file:
            write_pid_file(request.pid_file, launching.process_id)
    except BaseException:
        launching.close()
        raise
    return record, launching


def let_go(launching: Launching) -> None:
    """The word to become the program; returns when it has. Raises what it raised."""
    launching.say(b"commit")
    launching.hear(GOING)
    launching.hear(b"")

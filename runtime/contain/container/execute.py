"""``contain exec``: one more program in a running container, with the container's own restrictions.

The process joins the container's control groups first, then its user namespace, then the others (setns(2)), forks into the PID
namespace, and gives up credentials exactly as the container's first process did.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

from contain.annotations import Any
from contain.container.confine import filter_for
from contain.container.launch import (
    SAID_BYTES,
    Launched,
    describe_failure,
    die_with_parent,
    die_with_starter,
    enter_as_root,
    hand_over_pipes,
    place_descriptors,
    raise_failure,
    raise_refused,
    reset_signals,
)
from contain.container.lifecycle.ended import ExitState, exit_state
from contain.container.lifecycle.left_behind import leave_behind
from contain.container.lifecycle.records import ContainerRecord, open_process
from contain.container.lifecycle.respecify import parse_confinement
from contain.container.plan import DEFAULT_UMASK, plan_giving_up
from contain.container.terminal.attachments import Attachments, open_pair
from contain.container.terminal.joined import Joined
from contain.container.terminal.streams import JoinedStreams, may_be_handed_over, writer_to
from contain.container.terminal.terminal import set_window_size, window_size
from contain.errors import Conflict, InternalError, NotSupported
from contain.linux import syscalls
from contain.linux.capabilities import CAPABILITY_NUMBERS
from contain.linux.cgroups import EVERY, PARENT, CgroupCounters, probe_hierarchies
from contain.linux.perform import GOING, Performer
from contain.operations import BecomeUser, ChangeDirectory, Execute, Operation, SetResourceLimit, SetUmask, StartSession
from contain.paths import run_home
from contain.spec import SECCOMP_UNCONFINED, Identity, IdMapping, Sharing
from contain.values import dataclass, replace

_JOINED = (
    ("user", syscalls.CLONE_NEWUSER),
    ("mnt", syscalls.CLONE_NEWNS),
    ("net", syscalls.CLONE_NEWNET),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("cgroup", syscalls.CLONE_NEWCGROUP),
    ("pid", syscalls.CLONE_NEWPID),
    ("time", syscalls.CLONE_NEWTIME),
)
_PACKET = 65536

Told = Callable[[ExitState | None], None]
"""Called when a program has started, with None, and with how it ended; perhaps in another process."""


def _tell_nobody(_: ExitState | None) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """What ``contain exec`` was asked, resolved: nothing left open. ``privileged``: all capabilities of the container's user namespace,
    and no filter."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    working_directory: str
    identity: Identity
    terminal: bool = False
    privileged: bool = False


def plan_exec(request: ExecRequest, details: dict[str, Any]) -> tuple[Operation, ...]:
    """The operations of the new program, from the container's own record: what holds the container's program holds it too, but for
    what `ExecRequest.privileged` gives. Raises `NotSupported` for that where it would be the machine's privileges."""
    confinement, capabilities = parse_confinement(details), details["capabilities"]
    if request.privileged and not confinement.privileged:
        if details.get("user_namespace", {}).get("mapping") == IdMapping.HOST.value:
            raise NotSupported(
                "exec --privileged in a container without a user namespace: its capabilities would be this machine's",
                code="flag-not-supported",
                remedy="make the container with --privileged, or without --userns=host",
            )
        confinement, capabilities = replace(confinement, seccomp=SECCOMP_UNCONFINED), tuple(CAPABILITY_NUMBERS)
    seccomp = filter_for(confinement.seccomp, capabilities, run_home())
    umask = details.get("umask", DEFAULT_UMASK)
    return (
        StartSession(terminal=request.terminal),
        ChangeDirectory(path=request.working_directory),
        *(SetResourceLimit(**limit) for limit in details.get("resource_limits", ())),
        *((SetUmask(mask=umask),) if umask != DEFAULT_UMASK else ()),
        *plan_giving_up(request.identity, capabilities, confinement, seccomp),
        Execute(arguments=request.arguments, environment=request.environment),
    )


def _enter(
    namespaces: Sequence[tuple[int, int]],
    joins: Sequence[int],
    plan: Sequence[Operation],
    channel: socket.socket,
    reports: socket.socket,
    stdio: Sequence[int],
    window: tuple[int, int] | None,
    first_id: int,
    score: int,
) -> None:
    operation: Operation | None = None
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # this memory and this program are the host's (CVE-2016-9962)
        hand_over_pipes(plan, stdio, first_id=first_id)
        performer = Performer()  # reads /proc, so before that is the container's
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(str(score).encode())
        for descriptor in joins:
            os.write(descriptor, b"0")
        for descriptor, kind in namespaces:
            if kind == syscalls.CLONE_NEWUSER:
                enter_as_root(descriptor)
            else:
                syscalls.setns(descriptor, kind)
        os.chdir("/")
        child = os.fork()
        if child:
            channel.close()
            socket.send_fds(reports, [b"pid %d" % child], [os.pidfd_open(child)])  # not reaped yet, so it is there
            os.closerange(0, reports.fileno())  # whoever waits for the end of a pipe does not wait for this process
            os.closerange(reports.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
            _, status = os.waitpid(child, 0)
            reports.send(b"status %d" % status)
            os._exit(0)
        channel = socket.socket(fileno=place_descriptors(stdio, (), channel.detach()))
        performer.terminal_socket = channel
        performer.prepare_springboard(channel.fileno())
        for operation in plan:
            performer.perform(operation)
            if isinstance(operation, BecomeUser):
                die_with_starter(channel)  # a filter may forbid to ask for it
            if isinstance(operation, StartSession) and operation.terminal and window is not None:
                set_window_size(0, *window)
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(b"e" + describe_failure(error, operation))
    finally:
        os._exit(125)


def _launch(
    cleanup: contextlib.ExitStack,
    record: ContainerRecord,
    request: ExecRequest,
    stdio: Sequence[int],
    window: tuple[int, int] | None = None,
    *,
    group: str = "",
) -> Launched:
    """Start the program in the container; what is open meanwhile is closed with ``cleanup``."""
    plan = plan_exec(request, record.details)

    def opened(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        cleanup.callback(os.close, descriptor)
        return descriptor

    cleanup.callback(os.close, open_process(record))  # while it is held, the number stays this process's
    try:
        verify_own_root(record)
        namespaces = []
        for name, kind in _JOINED:
            shared = os.readlink(f"/proc/{record.process_id}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
            if not shared:
                namespaces.append((opened(f"/proc/{record.process_id}/ns/{name}", os.O_RDONLY), kind))
        first_id = 0
        if record.details.get("user_namespace", {}).get("mapping") == IdMapping.AUTO.value:
            with open(f"/proc/{record.process_id}/uid_map") as file:
                first_id = int(file.read().split()[1])
        if record.details.get("ipc") == Sharing.CONTAINER.value:  # another user namespace's: only from outside of this one
            namespaces.sort(key=lambda pair: pair[1] != syscalls.CLONE_NEWIPC)
    except FileNotFoundError:
        raise Conflict(f"container {record.container_id[:12]} has just ended", code="not-running") from None
    joins = []
    for hierarchy in probe_hierarchies(EVERY):
        path = f"{hierarchy.mount}/{PARENT}/{record.container_id}/{group}/{hierarchy.join_file}"
        if os.path.exists(path):
            joins.append(opened(path, os.O_WRONLY))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    caller = os.getpid()
    score = record.details.get("out_of_memory_score") or 0
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            die_with_parent(caller)
            reset_signals()
            ours.close()
            channel.close()
            _enter(namespaces, joins, plan, inner, theirs, stdio, window, first_id, score)
        finally:
            os._exit(125)
    theirs.close()
    inner.close()
    terminal: int | None = None
    try:
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, _PACKET, 1)
            if data == b"t" and descriptors:
                terminal = descriptors[0]
                continue
            if data == GOING:
                raise_refused(channel.recv(SAID_BYTES), request.arguments[0])
                break
            if data.startswith(b"e"):
                raise_failure(data[1:], request.arguments[0])
            break
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ours.close()
        raise
    finally:
        channel.close()
    first, descriptors, _, _ = socket.recv_fds(ours, _PACKET, 1)
    if not first.startswith(b"pid ") or not descriptors:
        ours.close()
        raise InternalError("the program's starter ended before it had started anything")
    launched = Launched(
        process_id=int(first.split()[1]),
        process_descriptor=descriptors[0],
        monitor_id=child,
        _reports=ours,
        terminal=terminal,
    )
    cleanup.callback(launched.close)
    return launched


def verify_own_root(record: ContainerRecord) -> None:
    """`Conflict` while a container that is being started still has this machine's root: nobody may enter it then."""
    theirs, ours = os.stat(f"/proc/{record.process_id}/root/"), os.stat("/")
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
        raise Conflict(f"container {record.name} is just being started", code="container-busy", remedy="try again in a moment")


def execute(
    record: ContainerRecord,
    request: ExecRequest,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    group: str = "",
    told: Told = _tell_nobody,
) -> ExitState:
    """Run a program without a terminal in a running container on the caller's descriptors until it ends. ``group``: a control
    group below the container's that is there already, for the program.

    Raises `Conflict` if the container does not run, `CommandNotStarted` (126 or 127).
    """
    sinks = {
        number: writer_to(descriptor) for number, descriptor in ((1, stdout), (2, stderr)) if not may_be_handed_over(descriptor)
    }
    direct = {number: descriptor for number, descriptor in ((1, stdout), (2, stderr)) if number not in sinks}
    with contextlib.ExitStack() as cleanup:
        streams = cleanup.enter_context(JoinedStreams(stdin, sinks, direct=direct))
        launched = _launch(cleanup, record, request, streams.inner, group=group)
        told(None)
        streams.copy(launched)
        state = exit_state(launched.wait(), CgroupCounters(), None)
        told(state)
        return state


def execute_apart(
    record: ContainerRecord,
    request: ExecRequest,
    *,
    first: socket.socket | None = None,
    window: tuple[int, int] | None = None,
    told: Told = _tell_nobody,
) -> None:
    """Run a program in a running container that goes on without the caller: a small process stays with it. ``first``: who is attached
    to it; ``window``: rows and columns of his terminal. Raises what the start raised."""
    leave_behind(
        lambda ready: _hold(record, request, first, window, ready, told), kept=() if first is None else (first.fileno(),)
    )


def _hold(
    record: ContainerRecord,
    request: ExecRequest,
    first: socket.socket | None,
    window: tuple[int, int] | None,
    started: Callable[[], None],
    told: Told,
) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.ExitStack() as cleanup:
        attachments = cleanup.enter_context(Attachments(None, first=first, once=True))
        sinks = {number: lambda _: None for number in (1, 2)} if first is not None else {}
        null = {} if first is not None else {1: 1, 2: 2}
        streams = cleanup.enter_context(JoinedStreams(0, sinks, direct=null, attachments=attachments, fed=first is not None))
        launched = _launch(cleanup, record, request, streams.inner, window)
        told(None)
        started()
        streams.copy(launched)
        state = exit_state(launched.wait(), CgroupCounters(), None)
        told(state)
        attachments.tell_end(state)


def execute_on_terminal(
    record: ContainerRecord, request: ExecRequest, *, joined: Joined, told: Told = _tell_nobody
) -> ExitState | None:
    """Run a program with a terminal in a running container; None when the caller let go of it, and it goes on."""
    from contain.container.terminal.attach import attach

    stdin, stdout, stderr = joined.descriptors
    ours, theirs = open_pair()
    with ours:
        with theirs:
            execute_apart(record, request, first=theirs, window=window_size(1), told=told)
        end = attach(ours, stdin=stdin, stdout=stdout, stderr=stderr, terminal=True, keys=joined.keys)
    if end.state is None and not end.detached:
        raise Conflict(f"container {record.container_id[:12]} has ended", code="not-running")
    return end.state

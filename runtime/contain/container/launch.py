"""Start one container from its plan, and wait for it.

Theory of operation. Three processes take part:

    caller  --fork-->  starter  --clone(CLONE_PARENT)-->  first process of the container (PID 1 inside), a child of the caller

1. The starter makes a user namespace and says so; the caller writes its id maps (user_namespaces(7): the writer must stand outside).
2. The starter joins the control groups, makes the other namespaces, clones, tells the caller the first process's id, and ends.
3. The caller attaches the network, writes the files of /etc, and says go. The first process performs the plan. It either becomes the
   program, which closes the set-up channel, or sends the error over it.
4. The caller waits for it. So what stays beside a container is its supervisor alone.

Starter and first process die with the caller (PR_SET_PDEATHSIG): a caller killed by SIGKILL takes its container along. Between fork
and exec nothing is imported and no lock is taken.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence

from contain.container.plan import LaunchPlan
from contain.container.terminal.terminal import set_window_size
from contain.errors import Conflict, ContainError, HostError, InternalError, NotFound, NotSupported, UsageError
from contain.linux import syscalls
from contain.linux.idmap import make_mapped_namespace
from contain.linux.perform import GOING, Performer, ProgramNotStarted, not_executed
from contain.operations import BecomeUser, ChangeDirectory, ConfigureInterface, Operation, StartSession, render_operation
from contain.spec import IdMapping, Network
from contain.values import dataclass, field

NAMESPACES = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWCGROUP
)
SHAREABLE = {"ipc": syscalls.CLONE_NEWIPC, "uts": syscalls.CLONE_NEWUTS, "cgroup": syscalls.CLONE_NEWCGROUP}
_MESSAGE_LIMIT = 65536
SAID_BYTES = 16  # more than a springboard says
_SHOWN_LIMIT = 2000  # characters of a step or path in an error: all of it fits into one message, escaped too

Configure = Callable[[str, str, int, str], None]
"""Sets up an interface from within: name, address, prefix, gateway."""

_OUT_OF_THE_WAY = 200
_OURS: Mapping[str, Callable[..., ContainError]] = {
    each.__name__: each for each in (Conflict, HostError, InternalError, NotFound, NotSupported, UsageError)
}
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)


class CommandNotStarted(ContainError):
    """The container is ready but its program cannot be started: status 127 if there is no such program, else 126."""

    code = "command-not-started"

    def __init__(self, program: str, number: int, reason: str) -> None:
        super().__init__(f'exec: "{program}": {reason}')
        self.exit_status = 127 if number == errno.ENOENT else 126


@dataclass(slots=True, kw_only=True)
class Launched:
    """A started container: what its caller holds of it."""

    process_id: int  # of the container's first process, as the caller's namespace numbers it
    process_descriptor: int
    monitor_id: int = 0  # who waits for the process and reports, where it is no child of the caller's
    _reports: socket.socket | None = None
    terminal: int | None = None  # the main side of its pseudo terminal
    wait_status: int | None = field(default=None)

    def wait(self) -> int:
        """Block until the first process has ended; its wait status (waitpid(2))."""
        if self._reports is None:
            if self.wait_status is None:
                _, self.wait_status = os.waitpid(self.process_id, 0)
            return self.wait_status
        while self.wait_status is None:
            data = self._reports.recv(_MESSAGE_LIMIT)
            if data.startswith(b"status "):
                self.wait_status = int(data.split()[1])
            elif not data:  # the monitor was killed, and with it the program; but for one that it had just forked
                self.send_signal(signal.SIGKILL)
                self.wait_status = signal.SIGKILL
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.monitor_id, 0)
        return self.wait_status

    def fileno(self) -> int:
        """Readable when the status has come."""
        return self.process_descriptor if self._reports is None else self._reports.fileno()

    def send_signal(self, number: int) -> None:
        """Send a signal to the first process; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process_descriptor, number)

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._reports is not None:
            self._reports.close()
        os.close(self.process_descriptor)
        if self.terminal is not None:
            os.close(self.terminal)


def map_identity(process_id: int) -> None:
    """Give a user namespace the ids that its maker sees, one to one (user_namespaces(7))."""
    for name in ("uid", "gid"):
        with open(f"/proc/self/{name}_map") as file:
            lines = [line.split() for line in file]
        text = "".join(f"{inside} {inside} {count}\n" for inside, _, count in lines)
        with open(f"/proc/{process_id}/{name}_map", "w") as file:
            file.write(text)


def die_with_parent(parent_id: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death, and check that it has not died before."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_id and os.getppid() != parent_id:
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_starter(channel: socket.socket) -> None:
    """`die_with_parent` for a process whose parent is outside of its PID namespace: there getppid(2) says 0 whether the parent lives
    or not, so the set-up channel is asked, which ends with the starter."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    watch = select.poll()
    watch.register(channel, select.POLLHUP)
    if watch.poll(0):
        os._exit(125)


def reset_signals() -> None:
    """Default dispositions and an empty mask, as a program expects them after exec."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)  # what the caller ignores would stay ignored across execve(2)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def describe_failure(error: BaseException, operation: Operation | None) -> bytes:
    """An error of the threshold as bytes for the other side."""
    if type(error).__name__ in _OURS and isinstance(error, ContainError):
        told = {
            "kind": "ours",
            "type": type(error).__name__,
            "message": error.message,
            "remedy": error.remedy,
            "code": error.code,
        }
        return json.dumps(told).encode()
    return json.dumps(
        {
            "errno": getattr(error, "errno", 0) or 0,
            "message": (getattr(error, "strerror", None) or str(error))[:_SHOWN_LIMIT],
            "path": str(getattr(error, "filename", "") or "")[:_SHOWN_LIMIT],
            "operation": render_operation(operation)[:_SHOWN_LIMIT] if operation is not None else "",
            "kind": "program" if isinstance(error, ProgramNotStarted) else type(error).__name__,
        }
    ).encode()


def raise_refused(data: bytes, program: str) -> None:
    """`CommandNotStarted` if the data are what the springboard says when execve(2) failed; nothing for other messages."""
    refused = not_executed(data)
    if refused is not None:
        raise CommandNotStarted(program, refused.errno or 0, refused.strerror or "")


def raise_failure(data: bytes, program: str) -> None:
    """The error that `describe_failure` wrote, as an exception of ours."""
    failure = json.loads(data)
    if failure["kind"] == "program":
        raise CommandNotStarted(program, failure["errno"], failure["message"])
    if failure["kind"] == "ours":
        raise _OURS[failure["type"]](failure["message"], remedy=failure["remedy"], code=failure["code"])
    if failure["operation"].startswith(f"{ChangeDirectory.__name__} ") and failure["errno"] in _NO_DIRECTORY:
        raise CommandNotStarted(program, failure["errno"], f"chdir to {failure['path']} failed: {failure['message'].lower()}")
    where = f" in step {failure['operation'][:300]}" if failure["operation"] else ""
    if failure["errno"]:
        from contain.linux.obstacles import explain_step

        found = explain_step(failure["operation"] or failure["message"], failure["errno"])
        cause, remedy = (f": {found.cause}", found.remedy) if found is not None else ("", "")
        if not remedy and failure["errno"] in (errno.EPERM, errno.ENOSYS):
            remedy = "run `contain doctor`: it names what this machine lacks"
        raise HostError(
            f"the container could not be set up{cause}: {failure['message']}{where}",
            path=failure["path"],
            errno=failure["errno"],
            remedy=remedy,
            code="container-set-up",
        )
    raise InternalError(f"the container could not be set up: {failure['kind']}: {failure['message']} {failure['operation']}")


def _first_process(
    plan: LaunchPlan, channel: socket.socket, stdio: Sequence[int], kept: Sequence[int], configure: Configure | None
) -> None:
    operation: Operation | None = None
    try:
        go = json.loads(channel.recv(_MESSAGE_LIMIT))
        performer = Performer()
        performer.configure_interface = configure
        for operation in plan.root:
            performer.perform(operation)
        if go.get("interface"):
            operation = ConfigureInterface(**go["interface"])
            performer.perform(operation)
        channel = socket.socket(fileno=place_descriptors(stdio, kept, channel.detach()))
        performer.terminal_socket = channel
        performer.prepare_springboard(channel.fileno())
        for operation in plan.start:
            performer.perform(operation)
            if isinstance(operation, BecomeUser):
                die_with_starter(channel)  # credential changes clear it; a filter may forbid to ask for it
            if isinstance(operation, StartSession) and operation.terminal and go.get("window"):
                set_window_size(0, *go["window"])  # before the program can ask for it
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(b"e" + describe_failure(error, operation))
    os._exit(125)


def place_descriptors(stdio: Sequence[int], kept: Sequence[int], channel: int) -> int:
    """Standard descriptors at 0 to 2, ``kept`` from 3 on, both inheritable; everything else is closed (CVE-2024-21626), but for
    ``channel``, whose new number is returned and which closes at exec."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for descriptor in (*stdio, *kept, channel)]
    for number, copy in enumerate(high[:-1]):
        os.dup2(copy, number)
    os.closerange(len(high) - 1, high[-1])
    os.closerange(high[-1] + 1, os.sysconf("SC_OPEN_MAX"))
    return high[-1]


def enter_as_root(namespace: int) -> None:
    """Enter a user namespace whose ids are others than outside, and be its root: before that this process is nobody there."""
    syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def hand_over_pipes(start: Sequence[Operation], stdio: Sequence[int], *, first_id: int) -> None:
    """The pipes become the program's user's, who else could not open them by ``/dev/stdout``. ``first_id``: who root is outside."""
    for operation in start:
        if isinstance(operation, BecomeUser) and (first_id or operation.user_id):
            for descriptor in stdio:
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                    with contextlib.suppress(OSError):  # the caller's own, which is another user's
                        os.fchown(descriptor, first_id + operation.user_id, first_id + operation.group_id)


def _starter(
    plan: LaunchPlan,
    reports: socket.socket,
    channel: socket.socket,
    joins: Sequence[int],
    network: Network,
    stdio: Sequence[int],
    kept: Sequence[int],
    configure: Configure | None,
    joined: Sequence[int],
    ipc: int | None,
) -> None:
    operation: Operation | None = None
    try:
        caller = os.getppid()
        namespace = -1 if plan.ids is None else make_mapped_namespace(plan.ids)
        hand_over_pipes(plan.start, stdio, first_id=0 if plan.ids is None else plan.ids.first)
        if plan.outside:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            performer = Performer()
            performer.translation = namespace
            for operation in plan.outside:
                performer.perform(operation)
            operation = None
        if ipc is not None:
            syscalls.setns(ipc, syscalls.CLONE_NEWIPC)  # as below
        if joined:
            syscalls.setns(joined[0], syscalls.CLONE_NEWNET)  # while this process may: the namespace is another container's
        if plan.ids is not None:
            enter_as_root(namespace)
            os.close(namespace)
            die_with_parent(caller)  # the change of user cleared it
        elif joined[1:]:
            enter_as_root(joined[1])  # whoever shares a network shares what its user namespace allows there
            die_with_parent(caller)
        elif plan.mapping is not IdMapping.HOST:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            reports.send(b"user")
            if reports.recv(_MESSAGE_LIMIT) != b"mapped":
                os._exit(125)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        for descriptor in joins:
            os.write(descriptor, b"0")
        shared = sum(SHAREABLE[kind] for kind in plan.shared)
        own_network = network not in (Network.HOST, Network.CONTAINER)
        syscalls.unshare(NAMESPACES & ~shared | (syscalls.CLONE_NEWNET if own_network else 0))
        if os.path.exists("/proc/self/ns/time"):
            syscalls.unshare(syscalls.CLONE_NEWTIME)
        child = syscalls.fork_beside()
        if child == 0:
            reports.close()
            _first_process(plan, channel, stdio, kept, configure)
        reports.send(b"pid %d" % child)
    except (OSError, HostError) as error:
        with contextlib.suppress(OSError):
            reports.send(b"e" + describe_failure(error, operation))
    finally:
        os._exit(0)


def launch(
    plan: LaunchPlan,
    *,
    program: str,
    stdio: tuple[int, int, int],
    kept: Sequence[int] = (),
    joins: Sequence[int],
    network: Network,
    prepare: Callable[[int], dict[str, object]],
    terminal: bool = False,
    configure: Configure | None = None,
    joined: Sequence[int] = (),
    ipc: int | None = None,
) -> Launched:
    """Start the plan's program. ``prepare`` is called with the first process's id while it waits; it returns what to add to the go
    message (``interface``). ``joined``: with `Network.CONTAINER`, the network namespace to be in, and its user namespace. ``ipc``: the
    IPC namespace to be in. Raises `CommandNotStarted`, `HostError`; then nothing is left running.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, inner_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    caller = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.disable()
    starter = os.fork()
    if starter == 0:
        try:
            os.setpgid(0, 0)  # the caller's Ctrl-C is the caller's to pass on
            die_with_parent(caller)
            reset_signals()
            ours.close()
            channel.close()
            _starter(plan, theirs, inner_channel, joins, network, stdio, kept, configure, joined, ipc)
        finally:
            os._exit(125)
    gc.enable()
    theirs.close()
    inner_channel.close()
    process_id = 0
    descriptor = -1
    main_terminal: int | None = None
    try:
        while not process_id:
            data = ours.recv(_MESSAGE_LIMIT)
            if data == b"user":
                map_identity(starter)
                ours.send(b"mapped")
            elif data.startswith(b"pid "):
                process_id = int(data.split()[1])
                os.waitpid(starter, 0)
            elif data.startswith(b"e"):
                raise_failure(data[1:], program)
            else:
                raise InternalError("the container's starter ended before it had started anything")
        descriptor = os.pidfd_open(process_id)
        channel.send(json.dumps(prepare(process_id)).encode())
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_LIMIT, 1)
            if data == b"t" and descriptors:
                main_terminal = descriptors[0]
                continue
            if data == GOING:
                raise_refused(channel.recv(SAID_BYTES), program)
                break
            if data.startswith(b"e"):
                raise_failure(data[1:], program)
            break
        if terminal and main_terminal is None:
            raise InternalError("the container made no terminal")
    except BaseException:
        number = process_id or starter
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(number, 0)
        for opened in (descriptor, main_terminal):
            if opened is not None and opened >= 0:
                os.close(opened)
        raise
    finally:
        ours.close()
        channel.close()
    return Launched(process_id=process_id, process_descriptor=descriptor, terminal=main_terminal)

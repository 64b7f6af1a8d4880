"""Make a bundle's first process, up to the point where it waits for the word to start; and a further process for ``exec``.

Theory of operation::

    runtime --fork--> stage --fork--> first process
       |                |                  |
       |  (joins groups, namespaces,       |
       |   makes the new ones)             |
       |<-- "user" ------|                 |     runtime writes the id maps; "mapped"
       |<-- "pid N" -----|  ends           |     from here on the first process belongs to the caller's subreaper
       |                                   |     performs plan.root
       |<-- "mounted" ---------------------|     if there are any: runtime runs prestart and createRuntime hooks
       |--- "hooked" --------------------->|     createContainer hooks, plan.enter, plan.become, looks the program up
       |<-- "ready" -----------------------|     runtime writes the record and the pid file
       |--- "commit" --------------------->|     waits on start.sock; no tie to the runtime any more

Before "commit" the end of the channel ends the first process, so that a runtime killed in the middle leaves none behind. After it,
``start`` connects to the socket (once: the first process takes one connection and closes the socket), and hears either an error or the
end of the stream, which the program's execve(2) brings about. The first process holds no privilege then that its program will not have.

Between fork and exec nothing is imported, no lock is taken; descriptors other than the container's own are closed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from contain.bundle_operations import BundleOperation
from contain.errors import ContainError, HostError, InternalError
from contain.linux import syscalls
from contain.linux.perform_bundle import BundlePerformer
from contain.linux.springboard import open_springboard
from contain.oci_runtime.hooks import HookFailed, run_hooks
from contain.oci_runtime.plan import BundlePlan, IdentityPlan
from contain.oci_runtime.programs import ProgramNotStarted, add_home, environment_of, find_program
from contain.oci_runtime.records import WAITING_NAME
from contain.runtime_spec.configuration import NAMESPACE_FILES, NAMESPACES, Configuration, Hook
from contain.runtime_spec.document import parse_json, render_json
from contain.runtime_spec.mounts import IdMap
from contain.runtime_spec.process import Process
from contain.values import dataclass

_MESSAGE_LIMIT = 65536
GOING = b"going"  # the last word before a program is executed
_SHOWN_LIMIT = 4000
_NEWUSER, _NEWPID, _NEWTIME, _NEWCGROUP = NAMESPACES["user"], NAMESPACES["pid"], NAMESPACES["time"], NAMESPACES["cgroup"]
_NSFS_TYPE = 0xB703  # NS_GET_NSTYPE, ioctl_ns(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Descriptors and words for a process to be made. ``spaces``: (CLONE_NEW flag, descriptor) of namespaces to join."""

    joins: tuple[int, ...] = ()
    spaces: tuple[tuple[int, int], ...] = ()
    listener: int = -1
    kept: int = 0  # inherited descriptors from 3 on
    oom_score_adjustment: int | None = None
    environment: tuple[str, ...] = ()


def open_namespaces(config: Configuration) -> tuple[tuple[int, int], ...]:
    """Descriptors of the namespaces that a configuration names by path, each checked to be of its kind. Raises `HostError`."""
    found = []
    for kind, path in config.namespaces:
        if not path:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            actual = fcntl.ioctl(descriptor, _NSFS_TYPE)
        except OSError as error:
            raise HostError(
                f"linux.namespaces: the {kind} namespace cannot be opened",
                call="open",
                path=path,
                errno=error.errno or 0,
                code="bundle-namespace",
            ) from error
        if actual != NAMESPACES[kind]:
            raise HostError(f"linux.namespaces: {path} is no {kind} namespace", code="bundle-namespace")
        found.append((NAMESPACES[kind], descriptor))
    return tuple(found)


def open_namespaces_of(process_id: int) -> tuple[tuple[int, int], ...]:
    """Descriptors of those namespaces of a process that are not ours too."""
    found = []
    for kind, flag in NAMESPACES.items():
        name = NAMESPACE_FILES.get(kind, kind)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(f"/proc/{process_id}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            theirs, ours = os.fstat(descriptor), os.stat(f"/proc/self/ns/{name}")
            if theirs.st_ino == ours.st_ino:
                os.close(descriptor)
            else:
                found.append((flag, descriptor))
    return tuple(found)


def _describe(error: BaseException, operation: BundleOperation | None) -> bytes:
    """An error of the threshold, as bytes for the other side."""
    if isinstance(error, ContainError):
        return render_json({"kind": type(error).__name__, "message": error.message[:_SHOWN_LIMIT]}).encode()
    what = type(operation).__name__ if operation is not None else ""
    target = str(getattr(operation, "target", "") or getattr(operation, "path", "") or getattr(operation, "name", ""))
    return render_json(
        {
            "kind": "OSError" if isinstance(error, OSError) else type(error).__name__,
            "errno": getattr(error, "errno", 0) or 0,
            "message": str(getattr(error, "strerror", None) or error)[:_SHOWN_LIMIT],
            "path": str(getattr(error, "filename", None) or "")[:_SHOWN_LIMIT],
            "step": f"{what} {target}".strip()[:_SHOWN_LIMIT],
        }
    ).encode()


def raise_described(data: bytes) -> None:
    """The error that the other side described."""
    found = parse_json(data)
    match found["kind"]:
        case "ProgramNotStarted":
            raise ProgramNotStarted(found["message"])
        case "HookFailed":
            raise HookFailed(found["message"])
        case "OSError":
            where = f" in step {found['step']}" if found["step"] else ""
            path = found["path"] if found["path"] not in found["step"] else ""
            raise HostError(
                f"unable to start container process: {found['message']}{f': {path}' if path else ''}{where}",
                code="bundle-set-up",
                remedy="run `contain doctor`: it names what this machine lacks"
                if found["errno"] in (errno.EPERM, errno.ENOSYS)
                else "",
            )
    raise InternalError(f"{found['kind']}: {found['message']}")


# -- the stage -----------------------------------------------------------------------------------------------------------------


def _reset_signals() -> None:
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGPIPE,
        signal.SIGCHLD,
        signal.SIGXFSZ,
        signal.SIGWINCH,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _join_namespaces(spaces: Sequence[tuple[int, int]]) -> bool:
    """Join all: those of ours first, then the user namespace, then what only its root may join. True if a user namespace was joined."""
    rest = []
    user = [pair for pair in spaces if pair[0] == _NEWUSER]
    for flag, descriptor in spaces:
        if flag == _NEWUSER:
            continue
        try:
            syscalls.setns(descriptor, flag)
        except OSError as error:
            if error.errno != errno.EPERM or not user:
                raise
            rest.append((flag, descriptor))
    for flag, descriptor in (*user, *rest):
        syscalls.setns(descriptor, flag)
    return bool(user)


def _become_inner_root() -> None:
    """The id 0 of the user namespace, where it has one."""
    with contextlib.suppress(OSError):
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _write_time_offsets(offsets: Sequence[tuple[str, int, int]]) -> None:
    if offsets:
        with open("/proc/self/timens_offsets", "w") as file:
            file.write("".join(f"{clock} {seconds} {nanoseconds}\n" for clock, seconds, nanoseconds in offsets))


def _stage(
    reports: socket.socket,
    around: Surroundings,
    made: int,
    offsets: Sequence[tuple[str, int, int]],
    run_first: Callable[[], None],
) -> None:
    """In the stage: everything that a process must do to itself before its child is born into the new namespaces."""
    try:
        _reset_signals()
        for descriptor in around.joins:
            os.write(descriptor, b"0")
        if around.oom_score_adjustment is not None:
            _set_oom_score(around.oom_score_adjustment)
        if _join_namespaces(around.spaces):
            _become_inner_root()
        if made & _NEWUSER:
            syscalls.unshare(_NEWUSER)
            reports.send(b"user")
            if reports.recv(_MESSAGE_LIMIT) != b"mapped":
                os._exit(1)
            _become_inner_root()
        syscalls.unshare(made & ~_NEWUSER)
        _write_time_offsets(offsets)
        child = os.fork()
        if child == 0:
            try:
                run_first()
            finally:
                os._exit(1)
        reports.send(b"pid %d" % child)
    except OSError as error:
        with contextlib.suppress(OSError):
            reports.send(b"e" + _describe(error, None))
    finally:
        os._exit(0)


def _set_oom_score(value: int) -> None:
    with open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) != value:
            file.seek(0)
            try:
                file.write(str(value))
                file.flush()
            except OSError as error:
                raise OSError(error.errno, f"oomScoreAdj {value}: {error.strerror}") from None


# -- the first process ---------------------------------------------------------------------------------------------------------


def _channel_number(kept: int) -> int:
    """Where a process of a container has the channel to the outside: known beforehand, for the springboard, and low, for the bundle's
    limit on descriptors."""
    return 3 + kept


def _keep_only(kept: int, *others: int) -> list[int]:
    """Close every descriptor but 0 to 2, the ``kept`` ones after them, and ``others``, which get `_channel_number` and those after it.
    Those close at exec (CVE-2024-21626)."""
    first = _channel_number(kept)
    above = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, first + len(others)) for descriptor in others]
    for number, descriptor in enumerate(above, first):
        os.dup2(descriptor, number, inheritable=False)
    os.closerange(first + len(others), os.sysconf("SC_OPEN_MAX"))
    for number in range(3, 3 + kept):
        with contextlib.suppress(OSError):
            os.set_inheritable(number, True)
    return list(range(first, first + len(others)))


def _execute(springboard: int, channel: socket.socket, path: str, process: Process, environment: dict[str, str]) -> None:
    """Become the program, over the springboard; an error comes from it over the channel (see `raise_not_executed`)."""
    os.set_inheritable(channel.fileno(), True)  # the springboard closes it
    channel.send(GOING)
    try:
        os.execve(springboard, (path, *process.arguments), environment)
    except OSError as error:
        reason = "refused by the bundle's seccomp filter?" if error.errno in (errno.EPERM, errno.ENOSYS) else ""
        raise OSError(error.errno, f"execveat: {os.strerror(error.errno or 0)} {reason}".strip()) from None


def raise_not_executed(data: bytes, name: str) -> None:
    """The error for what came instead of the end of the channel: the springboard's errno, or a description."""
    if len(data) == 4:
        reason = os.strerror(int.from_bytes(data, sys.byteorder)).lower()
        raise ProgramNotStarted(f'exec: "{name}": {reason}')
    raise_described(data[1:])


def _first_process(
    plan: BundlePlan,
    process: Process | None,
    around: Surroundings,
    inner: int,
    springboard: int,
    state: Callable[[str], bytes],
    hooks_outside: bool,
    inside_hooks: tuple[tuple[Hook, ...], tuple[Hook, ...]],
) -> None:
    operation: BundleOperation | None = None
    channel_number, listener_number, springboard = _keep_only(around.kept, inner, around.listener, springboard)
    channel = socket.socket(fileno=channel_number)
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        os.setsid()
        performer = BundlePerformer()
        performer.channel = channel
        if process is not None and process.apparmor_profile:
            performer.open_profile_file()
        for operation in plan.root:
            performer.perform_bundle(operation)
        operation = None
        if hooks_outside:
            channel.send(b"mounted")
            _expect(channel, b"hooked")
        if inside_hooks[0]:
            run_hooks("createContainer", inside_hooks[0], state("creating"))
        for operation in (*plan.enter, *plan.identity.become):
            performer.perform_bundle(operation)
        operation = None
        path, environment = "", {}
        if process is not None:
            environment = environment_of(process, around.environment)
            add_home(environment)
            path = find_program(process, environment)
        syscalls.set_process_name(WAITING_NAME)
        for operation in plan.identity.drop:
            performer.perform_bundle(operation)
        operation = None
        channel.send(b"ready")
        _expect(channel, b"commit")
        channel.close()
        listener = socket.socket(fileno=listener_number)
        channel, _ = (
            listener.accept()
        )  # below a directory of root's alone, so it is the runtime; the lowest number is free again
        assert channel.fileno() == channel_number
        listener.close()
        if process is None:
            raise ProgramNotStarted("config.json has no process, so there is nothing to start")
        if inside_hooks[1]:
            run_hooks("startContainer", inside_hooks[1], state("created"))
        for operation in plan.identity.last:
            performer.perform_bundle(operation)
        _execute(springboard, channel, path, process, environment)
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(b"e" + _describe(error, operation))
    finally:
        os._exit(1)


def _expect(channel: socket.socket, word: bytes) -> None:
    if channel.recv(_MESSAGE_LIMIT) != word:
        os._exit(1)


# -- the runtime's side --------------------------------------------------------------------------------------------------------


def write_id_maps(process_id: int, users: tuple[IdMap, ...], groups: tuple[IdMap, ...]) -> None:
    """Map the ids of a new user namespace (user_namespaces(7)). Raises `HostError`."""
    own = os.geteuid()
    try:
        if own != 0:
            with open(f"/proc/{process_id}/setgroups", "w") as file:
                file.write("deny")
        for name, maps in (("uid_map", users), ("gid_map", groups)):
            with open(f"/proc/{process_id}/{name}", "w") as file:
                file.write("".join(f"{each.inside} {each.outside} {each.size}\n" for each in maps))
    except OSError as error:
        raise HostError(
            "linux.uidMappings: the ids cannot be mapped",
            call="write",
            path=f"{name}",
            errno=error.errno or 0,
            code="bundle-namespace",
        ) from error


class Launching:
    """A first process under way: the runtime's end of the channel."""

    __slots__ = ("channel", "process_id", "program", "terminal", "terminal_name")

    def __init__(self, channel: socket.socket, process_id: int) -> None:
        self.channel = channel
        self.process_id = process_id
        self.program = ""
        self.terminal = -1
        self.terminal_name = ""

    def say(self, word: bytes) -> None:
        """A word to the first process; it may have ended, which `hear` tells."""
        with contextlib.suppress(BrokenPipeError):
            self.channel.send(word)

    def hear(self, word: bytes) -> None:
        """Wait for a word, taking a terminal that comes before it. Raises what the other side raised."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.channel, _MESSAGE_LIMIT, 1)
            if data[:1] == b"t" and descriptors:
                self.terminal, self.terminal_name = descriptors[0], data[1:].decode()
                continue
            if data == word:
                return
            if not word and data:
                raise_not_executed(data, self.program)
            if data[:1] == b"e":
                raise_described(data[1:])
            raise HostError("the container's first process was killed while it was set up", code="bundle-set-up")

    def close(self) -> None:
        """Let go."""
        self.channel.close()
        if self.terminal >= 0:
            os.close(self.terminal)


def fork_stage(
    around: Surroundings,
    *,
    made: int,
    users: tuple[IdMap, ...] = (),
    groups: tuple[IdMap, ...] = (),
    offsets: Sequence[tuple[str, int, int]] = (),
    first: Callable[[int], None],
) -> Launching:
    """Start the stage and wait until it has made the first process, which runs ``first`` with its end of the channel and never returns.

    Raises `HostError`; then nothing is left running.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    gc.disable()
    stage = os.fork()
    if stage == 0:
        ours.close()
        channel.close()
        _stage(theirs, around, made, offsets, lambda: first(inner.fileno()))
    theirs.close()
    inner.close()
    try:
        while True:
            data = ours.recv(_MESSAGE_LIMIT)
            if data == b"user":
                write_id_maps(stage, users, groups)
                ours.send(b"mapped")
            elif data.startswith(b"pid "):
                return Launching(channel, int(data.split()[1]))
            elif data[:1] == b"e":
                raise_described(data[1:])
            else:
                raise HostError("the container's first process was killed while it was set up", code="bundle-set-up")
    except BaseException:
        channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(stage, signal.SIGKILL)
        raise
    finally:
        ours.close()
        os.waitpid(stage, 0)


def has_hooks_outside(config: Configuration) -> bool:
    """Whether the runtime has something to run between the mounts and the change of root."""
    return bool(config.hooks_of("prestart") or config.hooks_of("createRuntime"))


def launch_first(
    plan: BundlePlan, config: Configuration, around: Surroundings, *, state: Callable[[int, str], bytes]
) -> Launching:
    """The first process of a bundle's container, under way to "ready". ``state`` renders the container's state for hooks."""
    made = sum(NAMESPACES[kind] for kind, path in config.namespaces if not path)
    hooks = (config.hooks_of("createContainer"), config.hooks_of("startContainer"))
    outside = has_hooks_outside(config)
    springboard = open_springboard(_channel_number(around.kept))

    def first(inner: int) -> None:
        own = os.getpid()
        _first_process(plan, config.process, around, inner, springboard, lambda status: state(own, status), outside, hooks)

    try:
        return fork_stage(
            around, made=made, users=config.user_map, groups=config.group_map, offsets=config.time_offsets, first=first
        )
    finally:
        os.close(springboard)


def launch_further(
    before_identity: tuple[BundleOperation, ...], identity: IdentityPlan, process: Process, around: Surroundings
) -> Launching:
    """A further process in a container's namespaces; it says "ready" when only the program is missing, and waits for "commit"."""

    springboard = open_springboard(_channel_number(around.kept))
    before = os.umask(0o022)
    performer = BundlePerformer()  # here: inside, /proc is whatever the container says it is
    os.umask(before)
    processes = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def first(inner: int) -> None:
        operation: BundleOperation | None = None
        channel_number, board, attributes = _keep_only(around.kept, inner, springboard, processes)
        channel = socket.socket(fileno=channel_number)
        try:
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
            os.setsid()
            performer.channel = channel
            if process.apparmor_profile:
                performer.open_profile_file(attributes)
            os.close(attributes)
            for operation in (*before_identity, *identity.become):
                performer.perform_bundle(operation)
            operation = None
            environment = environment_of(process, around.environment)
            add_home(environment)
            path = find_program(process, environment)
            for operation in identity.drop:
                performer.perform_bundle(operation)
            operation = None
            channel.send(b"ready")
            _expect(channel, b"commit")
            for operation in identity.last:
                performer.perform_bundle(operation)
            _execute(board, channel, path, process, environment)
        except BaseException as error:
            with contextlib.suppress(OSError):
                channel.send(b"e" + _describe(error, operation))
        finally:
            os._exit(1)

    try:
        return fork_stage(around, made=0, first=first)
    finally:
        os.close(springboard)
        os.close(processes)

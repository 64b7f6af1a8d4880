"""The two processes behind a test session: the keeper outside, the builder inside. Executed, never forked from pytest.

Theory of operation::

    pytest --exec--> keeper --fork--> (user namespace) --fork--> builder: PID 1 of the session's PID namespace
                                                                   |-- worker   the image's Python, suite collected
                                                                   |-- init     of sandbox 1, paused
                                                                   |-- init     of sandbox 2, paused ...

The *keeper* holds the session's directory by its lock and waits for pytest to end, in whatever way: then it kills the builder, with
which the kernel kills every process of the session, and removes control groups and directory.

The *builder* is small, so that its forks are cheap. On request it starts the worker, or makes a sandbox: control group, namespaces,
overlay over the image (and over what the worker wrote while collecting), pivot_root; its forked child then pauses as PID 1 of the
sandbox. The builder hands out descriptors of the sandbox's namespaces and of its control groups; the test's process joins through
them (``pytest_contain/inside/entry.py``). A finished sandbox's init is killed, and the kernel with it kills what the test left.

Messages are one JSON object per packet on a SOCK_SEQPACKET socket. The configuration comes pickled on standard input from pytest,
which is trusted; nothing that comes from inside an image is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import pickle
import select
import signal
import socket
import sys

from contain.annotations import Any
from contain.beneath import open_beneath
from contain.container.launch import describe_failure, die_with_parent, map_identity, place_descriptors, reset_signals
from contain.container.plan import Workspace, plan_credentials, plan_outside, plan_root
from contain.container.workspaces import make_held_directory, memory_takes_attributes, remove_groups, remove_held_directory
from contain.errors import HostError
from contain.linux import syscalls
from contain.linux.cgroups import Cgroup, CgroupCounters, Hierarchy, make_cgroup, processes_in, read_counters, remove_cgroup
from contain.linux.perform import GOING, Performer, not_executed
from contain.operations import ChangeDirectory, Execute, MakeHostDirectory, Operation, StartSession, WriteHostFile
from contain.paths import HostPath
from contain.spec import ContainerSpec, CopyOnWrite, Limits
from contain.store.durable import remove_tree
from contain.values import dataclass, replace

HELD = ("SYS_ADMIN", "SYS_CHROOT")
"""Capabilities that the worker keeps permitted, not effective, so that its children can join their sandboxes (setns(2))."""

_NAMESPACES = (
    ("mnt", syscalls.CLONE_NEWNS),
    ("net", syscalls.CLONE_NEWNET),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("cgroup", syscalls.CLONE_NEWCGROUP),
)
_ALL = sum(flag for _, flag in _NAMESPACES)
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PACKET = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfiguration:
    """What a session is made from. ``spec`` describes the sandboxes; the worker's differs in program and limits only."""

    session_id: str
    directory: HostPath
    spec: ContainerSpec
    etc: tuple[tuple[str, str], ...]
    hierarchies: tuple[Hierarchy, ...]
    scratch_bytes: int
    scratch_inodes: int
    seccomp: bytes
    worker_seccomp: bytes
    links: tuple[tuple[str, str], ...] = ()  # symbolic links of the root that no layer has
    tty_group: bool = True  # whether there is a group 5 for terminals
    on_disk: bool = False  # keep what is written on the store's disk although memory would do


class _Builder:
    def __init__(self, configuration: SessionConfiguration, control: socket.socket) -> None:
        self.configuration = configuration
        self.control = control
        self.spec = configuration.spec
        self.skeleton = configuration.directory / "skeleton"
        self.worker_home = configuration.directory / "worker"
        self.inits: dict[int, int] = {}  # process id -> sandbox number
        self.cgroups: dict[int, Cgroup] = {}
        self.dying: set[int] = set()
        self.finished: set[int] = set()  # told to end, not dead yet
        self.pid_namespaces: dict[int, int] = {}  # sandbox number -> its inode
        self.counted: dict[int, CgroupCounters] = {}  # of sandboxes that died before they were told to
        self.frozen = False
        self.number = 0
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
        syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC, "")
        self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.in_memory = keeps_in_memory(configuration)
        if self.in_memory:
            size = f"size={configuration.scratch_bytes},mode=755"
            syscalls.mount("contain", str(self.worker_home), "tmpfs", syscalls.MS_NOSUID, size)

    # -- the loop ------------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the other side is gone."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.freeze()
        gc.disable()
        while True:
            ready, _, _ = select.select([self.control.fileno(), wake_read], [], [], 0.2 if self.dying else None)
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
            self.reap()
            if self.control.fileno() in ready:
                data, descriptors, _, _ = socket.recv_fds(self.control, _PACKET, 8)
                if not data:
                    return
                self.answer(json.loads(data), descriptors)

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Carry out one request."""
        try:
            match request["do"]:
                case "worker":
                    self.start_worker(request, descriptors)
                case "sandbox":
                    self.make_sandbox()
                case "finish":
                    self.finish(request["sandbox"], tell=request["tell"])
        except (OSError, HostError) as error:
            self.send({"kind": "error", "failure": json.loads(describe_failure(error, None))})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """One packet to pytest."""
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], descriptors or [])
        except BrokenPipeError:
            os._exit(0)

    def reap(self) -> None:
        """Collect dead children; the groups of dead sandboxes go."""
        while True:
            try:
                process_id, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not process_id:
                break
            number = self.inits.pop(process_id, None)
            if number is not None:
                self.dying.add(number)
                if number in self.finished:
                    self.finished.discard(number)
                else:  # the memory limit may have taken its init; the groups do not wait for the question why
                    self.counted[number] = read_counters(self.cgroups[number])
            else:
                self.send({"kind": "ended", "pid": process_id, "status": status})
        for number in tuple(self.dying):
            if remove_cgroup(self.cgroups[number], patience_seconds=0):
                self.dying.discard(number)
                del self.cgroups[number]
                self.pid_namespaces.pop(number, None)
                if not self.in_memory:
                    with contextlib.suppress(OSError):
                        remove_tree(self.sandbox_place(number))

    # -- the worker ----------------------------------------------------------------------------------------------------------

    def start_worker(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Fork the worker: the image's root over a directory that the sandboxes later see; exec."""
        self.number += 1
        configuration = self.configuration
        spec = replace(
            self.spec,
            arguments=tuple(request["arguments"]),
            environment=tuple((name, value) for name, value in request["environment"]),
        )
        workspace = Workspace(directory=self.worker_home, skeleton=self.skeleton)
        os.makedirs(workspace.etc, exist_ok=True)
        root = self.plan_etc(workspace) + plan_root(
            spec, workspace, configuration.hierarchies, tty_group=configuration.tty_group
        )
        start: list[Operation] = [
            StartSession(terminal=False),
            ChangeDirectory(path=str(spec.working_directory)),
            *plan_credentials(spec, configuration.worker_seccomp, held=HELD),
            Execute(arguments=spec.arguments, environment=spec.environment),
        ]
        cgroup = make_cgroup(
            configuration.hierarchies, f"{configuration.session_id}/worker", Limits(memory_bytes=None, cpus=None, pids=None)
        )
        kept, stdio = descriptors[3:], descriptors[:3]
        result_read, result_write = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            operation: Operation | None = None
            try:
                die_with_parent(0)
                reset_signals()
                join(cgroup)
                syscalls.unshare(_ALL)
                performer = Performer()
                for operation in root:
                    performer.perform(operation)
                result_write = place_descriptors(stdio, kept, result_write)
                performer.prepare_springboard(result_write)
                for operation in start[:-1]:
                    performer.perform(operation)
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                operation = start[-1]
                performer.perform(operation)
            except BaseException as error:
                os.write(result_write, describe_failure(error, operation))
            os._exit(125)
        os.close(result_write)
        failure = read_all(result_read)
        before, said, after = failure.partition(GOING)
        failure = after if said else before
        refused = not_executed(failure)
        if refused is not None:
            failure = describe_failure(refused, None)
        if failure:
            os.waitpid(child, 0)
            self.send({"kind": "error", "failure": json.loads(failure)})
            return
        self.send({"kind": "worker", "pid": child, "kept": list(range(3, 3 + len(kept)))}, [os.pidfd_open(child)])

    def plan_etc(self, workspace: Workspace) -> list[Operation]:
        """The files of /etc, made anew in each workspace, so that a test may write them."""
        return [WriteHostFile(path=str(workspace.etc / name), text=text) for name, text in self.configuration.etc]

    # -- sandboxes -----------------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """What the worker wrote becomes layers of the sandboxes' own roots: hard links, so nothing is copied."""
        self.frozen = True
        layers = self.spec.layers
        frozen = self.worker_home / "frozen"
        frozen.mkdir()
        if link_tree(self.worker_home / "upper", frozen / "root"):
            layers = (*layers, frozen / "root")
        mounts = list(self.spec.mounts)
        for number, mount in enumerate(sorted(self.spec.mounts, key=lambda mount: len(mount.target.parts))):
            if isinstance(mount, CopyOnWrite) and link_tree(self.worker_home / f"upper{number}", frozen / f"project{number}"):
                mounts[mounts.index(mount)] = replace(mount, sources=(frozen / f"project{number}", *mount.sources))
        self.spec = replace(self.spec, layers=layers, mounts=tuple(mounts))
        if self.in_memory:
            self.sandbox_plan = self.plan_sandbox(self.configuration.directory / "sandbox")

    def plan_sandbox(self, place: HostPath) -> list[Operation]:
        """The root of a sandbox that keeps what is written at ``place``: memory mounted there, or the directory itself."""
        configuration = self.configuration
        workspace = Workspace(
            directory=place,
            skeleton=self.skeleton,
            scratch=place if self.in_memory else None,
            scratch_bytes=configuration.scratch_bytes,
            scratch_inodes=configuration.scratch_inodes,
            volatile=True,
        )
        plan = plan_root(self.spec, workspace, configuration.hierarchies, tty_group=configuration.tty_group)
        first = 2 if self.in_memory else 1  # private mounts, the memory, then the files of /etc in it
        return [*plan[:first], MakeHostDirectory(path=str(workspace.etc)), *self.plan_etc(workspace), *plan[first:]]

    def sandbox_place(self, number: int) -> HostPath:
        """A sandbox's own directory on disk."""
        return self.configuration.directory / "sandbox" / str(number)

    def make_sandbox(self) -> None:
        """One sandbox, ready to be joined."""
        if not self.frozen:
            self.freeze()
        self.number += 1
        number = self.number
        configuration = self.configuration
        cgroup = make_cgroup(configuration.hierarchies, f"{configuration.session_id}/{number}", self.spec.limits)
        self.cgroups[number] = cgroup
        if not self.in_memory:
            self.sandbox_place(number).mkdir()
            self.sandbox_plan = self.plan_sandbox(self.sandbox_place(number))
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        syscalls.setns(self.own_pid_namespace, syscalls.CLONE_NEWPID)  # else fork gives ENOMEM once the last init is dead
        syscalls.unshare(syscalls.CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            os.close(go_write)
            become_init(self.sandbox_plan, cgroup, ready_write, go_read)
        os.close(ready_write)
        os.close(go_read)
        failure = read_all(ready_read)
        self.inits[child] = number
        if failure != b"ready":
            os.close(go_write)
            died = OSError(errno.ECHILD, "the sandbox's first process died while it was set up")
            self.send({"kind": "error", "failure": json.loads(failure or describe_failure(died, None))})
            return
        opened = [os.open(f"/proc/{child}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("pid", *dict(_NAMESPACES))]
        os.close(go_write)
        self.pid_namespaces[number] = os.fstat(opened[0]).st_ino
        joins = cgroup.open_joins()
        self.send({"kind": "sandbox", "sandbox": number, "joins": len(joins)}, [*opened, *joins])
        for descriptor in (*opened, *joins):
            os.close(descriptor)

    def processes_of(self, number: int) -> list[int]:
        """The processes of a sandbox without control groups, by its PID namespace."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}/ns/pid").st_ino == self.pid_namespaces.get(number):
                    found.append(int(name))
        return found

    def finish(self, number: int, *, tell: bool) -> None:
        """Say what happened in a sandbox, and end it."""
        process_id = next((pid for pid, owner in self.inits.items() if owner == number), None)
        cgroup = self.cgroups.get(number)
        counters = self.counted.pop(number, None)
        if tell:
            if counters is None and cgroup is not None:
                counters = read_counters(cgroup)
            inside = processes_in(cgroup) if cgroup is not None and cgroup.places else self.processes_of(number)
            alive = [pid for pid in inside if pid != process_id]
            self.send(
                {
                    "kind": "verdict",
                    "sandbox": number,
                    "out_of_memory_kills": counters.out_of_memory_kills if counters else 0,
                    "memory_peak_bytes": counters.memory_peak_bytes if counters else None,
                    "pids_limit_hits": counters.pids_limit_hits if counters else 0,
                    "leftover_processes": len(alive),
                    "init_alive": process_id is not None,
                }
            )
        if process_id is not None:
            self.finished.add(number)
            os.kill(process_id, signal.SIGKILL)


def become_init(plan: list[Operation], cgroup: Cgroup, ready: int, go: int) -> None:
    """In the forked child: make the sandbox, say so, and once ``go`` ends, pause as its PID 1 until killed.

    Before ``go``, the builder opens this process's namespaces; after it, nobody inside can look into it (PR_SET_DUMPABLE)."""
    try:
        signal.set_wakeup_fd(-1)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        join(cgroup)
        syscalls.unshare(_ALL)
        performer = Performer()
        operation: Operation | None = None
        try:
            for operation in plan:
                performer.perform(operation)
        except BaseException as error:
            os.write(ready, describe_failure(error, operation))
            os._exit(1)
        os.write(ready, b"ready")
        os.close(ready)
        os.read(go, 1)
        os.closerange(0, 1024)
        syscalls.capset(0, 0)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are reaped by the kernel
        while True:
            signal.pause()
    finally:
        os._exit(1)


def keeps_in_memory(configuration: SessionConfiguration) -> bool:
    """Whether what the session's containers write is kept in memory, or else on the store's disk."""
    return not configuration.on_disk and memory_takes_attributes()


def join(cgroup: Cgroup) -> None:
    """Move this process into a container's groups."""
    for descriptor in cgroup.open_joins():
        os.write(descriptor, b"0")
        os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    """What comes until the end of file; closes."""
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def link_tree(source: HostPath, target: HostPath) -> bool:
    """Repeat a tree with hard links for everything but directories; False, and nothing made, if it is empty.

    Keeps owners, modes and ``user.overlay.*`` attributes of directories; whiteouts are links like all else. By descriptors: the
    container whose tree it is may exchange a directory for a link meanwhile.
    """
    if not source.is_dir() or not any(source.iterdir()):
        return False
    os.mkdir(target)
    roots = [os.open(path, _DIRECTORY_FLAGS) for path in (source, target)]
    try:
        waiting = [""]
        while waiting:
            path = waiting.pop()
            opened = [open_beneath(root, path, _DIRECTORY_FLAGS, links=False) for root in roots]
            try:
                waiting += [f"{path}/{name}" for name in _link_directory(opened[0], opened[1])]
            finally:
                for descriptor in opened:
                    os.close(descriptor)
    finally:
        for descriptor in roots:
            os.close(descriptor)
    return True


def _link_directory(source: int, target: int) -> list[str]:
    """Link what is in one directory; the names of the directories in it, which are made."""
    state = os.fstat(source)
    os.fchown(target, state.st_uid, state.st_gid)
    os.fchmod(target, state.st_mode & 0o7777)
    for name in os.listxattr(source):
        if name.startswith("user.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    directories = []
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(entry.name, dir_fd=target)
                directories.append(entry.name)
            else:
                os.link(entry.name, entry.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    return directories


def make_directories(configuration: SessionConfiguration) -> None:
    """The session's directories: mount points for scratch memory, and the skeleton."""
    from contain.container.files.host_view import make_links
    from contain.container.run import make_skeleton

    for name in ("worker", "sandbox"):
        (configuration.directory / name).mkdir()
    make_skeleton(configuration.directory / "skeleton", configuration.spec)
    make_links(configuration.directory / "skeleton", configuration.links)


def _inside(configuration: SessionConfiguration, control: socket.socket, channel: socket.socket) -> None:
    """In the child: user namespace, the session's own namespaces, and the builder as PID 1."""
    directory = configuration.directory
    scratch = directory / "sandbox" if keeps_in_memory(configuration) else None
    workspace = Workspace(directory=directory, skeleton=directory / "skeleton", scratch=scratch)
    spec, outside = plan_outside(configuration.spec, workspace)
    if outside:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        performer = Performer()
        for operation in outside:
            performer.perform(operation)
    configuration = replace(configuration, spec=spec)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    channel.send(b"user")
    if channel.recv(16) != b"mapped":
        os._exit(1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.unshare(_ALL & ~syscalls.CLONE_NEWCGROUP | syscalls.CLONE_NEWPID)
    builder = os.fork()
    if builder == 0:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        channel.close()
        try:
            _Builder(configuration, control).serve()
        except OSError as error:
            with contextlib.suppress(OSError):
                control.send(json.dumps({"kind": "error", "failure": json.loads(describe_failure(error, None))}).encode())
        os._exit(0)
    control.close()
    os.waitpid(builder, 0)
    os._exit(0)


def main() -> None:
    """The keeper: ``argv`` is the number of the control socket; the configuration is on standard input."""
    control = socket.socket(fileno=int(sys.argv[1]))
    parent = os.pidfd_open(os.getppid())
    configuration: SessionConfiguration = pickle.load(sys.stdin.buffer)  # noqa: S301  from pytest, our own parent
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    held = make_held_directory(configuration.directory)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = 0
    try:
        make_directories(configuration)
        keeper = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                die_with_parent(keeper)
                ours.close()
                os.close(held)
                os.close(parent)
                _inside(configuration, control, theirs)
            except OSError as error:
                with contextlib.suppress(OSError):
                    control.send(json.dumps({"kind": "error", "failure": json.loads(describe_failure(error, None))}).encode())
            finally:
                os._exit(1)
        theirs.close()
        control.close()
        if ours.recv(16) == b"user":
            map_identity(child)
            ours.send(b"mapped")
        descriptor = os.pidfd_open(child)
        select.select([parent, descriptor, sys.stdin.fileno()], [], [])  # standard input ends when pytest closes the session
    finally:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
        remove_groups(configuration.session_id, configuration.hierarchies)
        remove_held_directory(configuration.directory, held)


if __name__ == "__main__":
    main()

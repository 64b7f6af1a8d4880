"""``create`` and ``start``: from a bundle to a waiting process, and from there to its program (runtime.md "Lifecycle")."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import time

from contain.errors import Conflict, ContainError, HostError, UsageError
from contain.oci_runtime.groups import Groups, kill_all, make_groups, open_joins, place_groups, remove_groups
from contain.oci_runtime.hooks import run_hooks
from contain.oci_runtime.launch import (
    GOING,
    Launching,
    Surroundings,
    has_hooks_outside,
    launch_first,
    open_namespaces,
    raise_not_executed,
)
from contain.oci_runtime.plan import plan_bundle
from contain.oci_runtime.records import (
    CREATED,
    CREATING,
    RUNNING,
    START_SOCKET,
    STOPPED,
    Place,
    Record,
    is_alive,
    is_paused,
    read_start_time,
)
from contain.oci_runtime.state import render_state
from contain.runtime_spec.configuration import Configuration, parse_configuration
from contain.runtime_spec.process import Process, grant, name_capabilities
from contain.runtime_spec.reading import refused
from contain.values import dataclass, replace

_MESSAGE_LIMIT = 65536
_CONFIGURATION_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What the command line of ``create`` says."""

    root: str
    container_id: str
    bundle: str
    pid_file: str = ""
    console_socket: str = ""
    no_pivot: bool = False
    no_new_keyring: bool = False
    preserve_fds: int = 0
    keep_terminal: bool = False  # `run`: the caller takes the terminal itself


def read_bundle(bundle: str) -> tuple[bytes, Configuration, str]:
    """The configuration's bytes, their meaning, and the absolute root directory. Raises `UsageError`."""
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            data = file.read(_CONFIGURATION_LIMIT_BYTES)
    except OSError as error:
        raise UsageError(
            f"the bundle has no configuration that can be read: {path}: {os.strerror(error.errno or 0)}",
            code="bundle-configuration",
            remedy="name the bundle's directory with --bundle; `contain oci spec` writes a config.json to begin with",
        ) from None
    config = parse_configuration(data)
    root = config.root if config.root.startswith("/") else os.path.join(bundle, config.root)
    try:
        root = os.path.realpath(root, strict=True)
    except OSError as error:
        raise UsageError(f"root.path: {root}: {os.strerror(error.errno or 0)}", code="bundle-configuration") from None
    if not os.path.isdir(root):
        raise UsageError(f"root.path: {root} is no directory", code="bundle-configuration")
    return data, config, root


def compile_filter(section: object) -> tuple[bytes | None, int]:
    """``linux.seccomp`` compiled for this machine, and the flags for seccomp(2)."""
    if section is None:
        return None, 0
    from contain.linux.seccomp import compile_policy
    from contain.linux.syscall_table import syscall_table
    from contain.runtime_spec.seccomp import parse_filter

    policy, flags = parse_filter(section)
    return compile_policy(policy, syscall_table(os.uname().machine)), flags


def available_capabilities() -> int:
    """The mask of what this process can hand on."""
    with open("/proc/self/status") as file:
        rows = dict(line.split(":\t", 1) for line in file if line.startswith("Cap"))
    return int(rows["CapPrm"], 16) & int(rows["CapBnd"], 16)


def refuse_absent_profile(process: Process) -> None:
    """`NotSupported` for an AppArmor profile on a machine without AppArmor: the container would be less confined than was asked."""
    if not process.apparmor_profile:
        return
    enabled = ""
    with contextlib.suppress(OSError), open("/sys/module/apparmor/parameters/enabled") as file:
        enabled = file.read().strip()
    if enabled != "Y":
        raise refused("process.apparmorProfile", f"is {process.apparmor_profile!r}, and this machine has no AppArmor")


def grant_capabilities(config: Configuration, process: Process) -> Process:
    """What of a process's capabilities there is to give; the rest is said on standard error. A user namespace has all of its own."""
    if config.has("user"):
        return process
    granted, missing = grant(process, available_capabilities())
    if missing:
        sys.stderr.write(
            f"warning: this runtime does not have {', '.join(name_capabilities(missing))}: the container does without\n"
        )
    return granted


def listen_descriptors(preserve_fds: int) -> tuple[int, tuple[str, ...]]:
    """How many descriptors from 3 on go to the program, and what it is told of them (sd_listen_fds(3)). Raises `UsageError`."""
    text = os.environ.get("LISTEN_FDS", "")
    listening = int(text) if text.isdigit() and len(text) < 5 else 0
    count = preserve_fds + listening
    for number in range(3, 3 + count):
        try:
            os.fstat(number)
        except OSError:
            raise UsageError(
                f"descriptor {number} was to be handed on (--preserve-fds, LISTEN_FDS), and is not open",
                code="bundle-descriptors",
            ) from None
    return count, (f"LISTEN_FDS={listening}", "LISTEN_PID=1") if listening else ()


def create(request: CreateRequest) -> tuple[Record, Launching]:
    """Make the container; its process waits. Raises our errors; then nothing of it is left. The caller closes what comes back."""
    bundle = os.path.realpath(request.bundle)
    data, config, root = read_bundle(bundle)
    terminal = config.process is not None and config.process.terminal
    if terminal and not (request.console_socket or request.keep_terminal):
        raise UsageError(
            "cannot allocate tty if the runtime will detach without setting console socket",
            code="bundle-console",
            remedy="name a socket with --console-socket, or set process.terminal to false",
        )
    if request.console_socket and not terminal:
        raise UsageError(
            "--console-socket is given, and process.terminal is not true", code="bundle-console", remedy="leave one of them out"
        )
    if config.process is not None:
        refuse_absent_profile(config.process)
        config = replace(config, process=grant_capabilities(config, config.process))
    program, flags = compile_filter(config.seccomp)
    kept, environment = listen_descriptors(request.preserve_fds)
    spaces = open_namespaces(config)
    place = Place(request.root, request.container_id)
    place.make()
    lock = place.lock()
    record = Record(
        container_id=request.container_id,
        version=config.version,
        bundle=bundle,
        root=root,
        owner=os.geteuid(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        annotations=config.annotations,
    )
    groups = Groups(version=1, places=())
    launching: Launching | None = None
    made_pid_file = False
    try:
        place.write("config.json", data)
        place.write_record(record)
        groups = place_groups(config.cgroups_path, request.container_id)
        record = replace(record, groups=groups.places, group_version=groups.version, own_process_namespace=config.makes("pid"))
        place.write_record(record)  # first: whoever deletes what a killed runtime left must know where to look
        groups = make_groups(groups, config.resources, required=bool(config.cgroups_path))
        record = replace(record, groups=groups.places)
        plan = plan_bundle(
            config,
            bundle=bundle,
            root=root,
            groups=groups,
            filter_program=program,
            filter_flags=flags,
            no_pivot=request.no_pivot,
            new_keyring=not request.no_new_keyring,
        )
        listener = _listen(place)
        joins = open_joins(groups)
        around = Surroundings(
            joins=tuple(joins),
            spaces=spaces,
            listener=listener.fileno(),
            kept=kept,
            oom_score_adjustment=config.process.oom_score_adjustment if config.process else None,
            environment=environment,
        )
        before = record
        launching = launch_first(
            plan, config, around, state=lambda process_id, status: render_state(before, status, process_id=process_id)
        )
        listener.close()
        for descriptor in (*joins, *(number for _, number in spaces)):
            os.close(descriptor)
        record = replace(record, process_id=launching.process_id, start_time=read_start_time(launching.process_id))
        if has_hooks_outside(config):
            launching.hear(b"mounted")
            for name in ("prestart", "createRuntime"):
                run_hooks(name, config.hooks_of(name), render_state(record, CREATING))
            launching.say(b"hooked")
        launching.hear(b"ready")
        if request.console_socket:
            _hand_over_terminal(request.console_socket, launching)
        if request.pid_file:
            _write_pid_file(request.pid_file, launching.process_id)
            made_pid_file = True
        place.write_record(record)
        launching.say(b"commit")
    except BaseException:
        if launching is not None:
            launching.close()
            _end(launching.process_id)
        kill_all(groups, signal.SIGKILL)
        remove_groups(groups)
        if made_pid_file:
            with contextlib.suppress(OSError):
                os.unlink(request.pid_file)
        place.remove()
        raise
    finally:
        os.close(lock)
    return record, launching


def _end(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)


def _listen(place: Place) -> socket.socket:
    """The socket for ``start``, by a short path: sun_path takes 108 bytes (unix(7))."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(place.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{START_SOCKET}")
        listener.listen(1)
    finally:
        os.close(directory)
    return listener


def _connect(path: str, kind: int) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, kind)
    directory = -1
    try:
        directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError:
        connection.close()
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    return connection


def _hand_over_terminal(path: str, launching: Launching) -> None:
    """The terminal's main side to whoever listens at ``--console-socket``, as SCM_RIGHTS (unix(7))."""
    try:
        with _connect(path, socket.SOCK_STREAM) as connection:
            socket.send_fds(connection, [launching.terminal_name.encode()], [launching.terminal])
    except OSError as error:
        raise HostError(
            "--console-socket: the terminal cannot be handed over",
            call="connect",
            path=path,
            errno=error.errno or 0,
            code="bundle-console",
        ) from error


def _write_pid_file(path: str, process_id: int) -> None:
    directory, name = os.path.split(path)
    aside = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(aside, "w") as file:
            file.write(str(process_id))
        os.rename(aside, path)
    except OSError as error:
        raise HostError(
            "--pid-file cannot be written", call="open", path=path, errno=error.errno or 0, code="bundle-state"
        ) from error


def hand_over_terminal(path: str, launching: Launching) -> None:
    """`_hand_over_terminal` for ``exec``."""
    _hand_over_terminal(path, launching)


def write_pid_file(path: str, process_id: int) -> None:
    """A process id, whole or not at all. Raises `HostError`."""
    _write_pid_file(path, process_id)


def start(place: Place) -> None:
    """Tell the waiting process to start its program. Raises what it raised; `Conflict` where there is none that waits."""
    lock = place.lock()
    try:
        record = place.read_record()
        status = place.read_status(record)
        if status != CREATED:
            why = (
                "cannot start a container that has stopped"
                if status == STOPPED
                else f"cannot start an already {status} container"
            )
            raise Conflict(why, code="bundle-state-conflict")
        if is_paused(record):
            raise Conflict("cannot start a paused container: resume it first", code="bundle-state-conflict")
        path = place.path(START_SOCKET)
        try:
            connection = _connect(path, socket.SOCK_SEQPACKET)
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                raise Conflict("cannot start an already running container", code="bundle-state-conflict") from None
            raise
        with connection:
            data, going = b"", False
            with contextlib.suppress(ConnectionResetError):
                data = connection.recv(_MESSAGE_LIMIT)
                if data == GOING:
                    going, data = True, connection.recv(_MESSAGE_LIMIT)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if not going and not data:
            raise HostError("the container's first process was killed before it became the program", code="bundle-set-up")
        if data:
            process = place.read_configuration().process
            raise_not_executed(data, process.arguments[0] if process else "")
        hooks = place.read_hooks("poststart")
        if hooks:
            try:
                run_hooks("poststart", hooks, render_state(record, RUNNING), tolerant=True)
            except ContainError:
                if is_alive(record):
                    _end(record.process_id)
                raise
    finally:
        os.close(lock)

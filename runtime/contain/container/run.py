"""Run one container to its end: workspace, control group, network, launch, wait, clean up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from contain.annotations import TYPE_CHECKING
from contain.container.confine import (
    filter_of,
    find_devices,
    find_shared_ipc,
    raise_hard_limits,
    rules_for,
    set_out_of_memory_score,
)
from contain.container.door import has_tty_group, verify_identity, warn_of_limits
from contain.container.launch import Launched, launch
from contain.container.lifecycle.ended import ExitState, exit_state
from contain.container.network.wiring import find_wiring
from contain.container.plan import HOST_ROOT, LaunchPlan, Workspace, plan_launch, stub_paths
from contain.container.storage import Storage, fill_root, storage_for
from contain.container.workspaces import hold_directory, workspaces
from contain.errors import HostError, NotSupported
from contain.linux.cgroups import (
    EVERY,
    Cgroup,
    make_cgroup,
    probe_hierarchies,
    read_counters,
    remove_cgroup,
    remove_later_groups,
    select_hierarchies,
    used_controllers,
)
from contain.linux.usernamespace import is_rootless
from contain.operations import MakeMountsPrivate, ShareMount
from contain.paths import HostPath, run_home
from contain.spec import ContainerSpec, IdMapping, Sharing
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.container.network.attendant import Attendant
    from contain.linux.devices import DeviceRule
    from contain.linux.idranges import IdRange

_SCRATCH_BYTES = 2 << 30  # of memory, used as it is written


def new_container_id() -> str:
    """64 random hexadecimal digits, as Docker's."""
    return os.urandom(32).hex()


def make_skeleton(directory: HostPath, spec: ContainerSpec, links: tuple[tuple[str, str], ...] = ()) -> None:
    """Empty mount points for everything that is mounted inside, to lie below all layers; and links: (path, what it points to)."""
    directory.mkdir(mode=0o755, parents=True)
    for path, is_directory in stub_paths(spec):
        place = str(directory) + path
        if is_directory:
            os.makedirs(place, mode=0o755, exist_ok=True)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    if links:
        from contain.container.files.host_view import make_links

        make_links(directory, links)


def seccomp_program() -> bytes:
    """The default policy for this machine."""
    from contain.linux.seccomp import compile_default_policy

    try:
        return compile_default_policy()
    except KeyError:
        raise HostError(
            f"there is no system call policy for the architecture {os.uname().machine!r} yet", code="architecture"
        ) from None


@dataclass(slots=True, kw_only=True)
class Running:
    """A container that runs now: what its starter holds. ``attendant``: the process that serves beside it."""

    spec: ContainerSpec
    launched: Launched
    cgroup: Cgroup
    attendant: Attendant | None = None


@contextlib.contextmanager
def open_workspace(spec: ContainerSpec, home: HostPath) -> Iterator[Workspace]:
    """A directory for one container below the run-time state; nothing of it is left afterwards."""
    with hold_directory(workspaces(home) / spec.container_id) as directory:
        yield Workspace(directory=directory, skeleton=directory / "skeleton")


def plan_for(spec: ContainerSpec, workspace: Workspace) -> LaunchPlan:
    """The launch plan on this machine."""
    spec = with_all_devices(spec)
    return plan_launch(spec, workspace, probe_hierarchies(used_controllers(spec.limits)), filter_of(spec, None))


def device_rules(spec: ContainerSpec) -> tuple[DeviceRule, ...] | None:
    """Which devices a container may open; None where its user namespace is what forbids all others."""
    if spec.user_namespace.mapping is not IdMapping.HOST and not spec.devices and not spec.device_rules:
        return None
    from contain.linux.devices import DEFAULT_DEVICE_RULES

    return rules_for(spec, DEFAULT_DEVICE_RULES)


def with_all_devices(spec: ContainerSpec) -> ContainerSpec:
    """With ``--privileged``: the devices that this machine has now."""
    if not spec.confinement.privileged:
        return spec
    named = {device.target for device in spec.devices}
    return replace(spec, devices=(*spec.devices, *(each for each in find_devices() if each.target not in named)))


@contextlib.contextmanager
def hold_ids(spec: ContainerSpec, workspace: Workspace, home: HostPath) -> Iterator[IdRange]:
    """This machine's ids for a container of its own range. Raises `HostError`."""
    from contain.host import parse_kernel_release
    from contain.linux.idmap import refuse_old_kernel
    from contain.linux.idranges import hold_range

    if is_rootless():
        raise NotSupported(
            "--userns=auto as an ordinary user: ids are handed out by the machine's root only",
            code="userns-not-supported",
            remedy="leave it out: every container has a user namespace of its own, with your ids",
        )
    refuse_old_kernel(parse_kernel_release(os.uname().release))
    with hold_range(workspace.directory, spec.user_namespace.size, run_home=home) as ids:
        yield ids


@contextlib.contextmanager
def start(
    spec: ContainerSpec,
    workspace: Workspace,
    *,
    stdio: tuple[int, int, int],
    home: HostPath,
    store: HostPath | None = None,
    started: Callable[[int], None] | None = None,
    window: tuple[int, int] | None = None,
) -> Iterator[Running]:
    """Start a container in a prepared workspace. Leaving the block kills what is left of it and removes groups and network.

    A skeleton that is there already is used: containers with the same mount points can share one. ``store``: where named networks
    and other containers are on record; without it there is the default network only. ``window``: rows and columns of its terminal.
    """
    wiring = find_wiring(spec, home=home, store=store)
    spec = wiring.spec
    every = probe_hierarchies(EVERY)
    hierarchies = select_hierarchies(every, used_controllers(spec.limits))
    spec = with_all_devices(spec)
    verify_identity(spec.identity)
    if spec.limits.pids is not None:
        warn_of_limits(home)
    if spec.user_namespace.mapping is IdMapping.HOST and is_rootless():
        raise NotSupported(
            "--userns=host as an ordinary user is not supported: all your containers would stand in one user namespace",
            code="userns-not-supported",
            remedy="leave it out: every container has a user namespace of its own, with your ids",
        )
    links: tuple[tuple[str, str], ...] = ()
    if HOST_ROOT in spec.layers:
        from contain.container.files.host_view import divide_host_root

        spec, links = divide_host_root(spec)
    if not workspace.skeleton.exists():
        make_skeleton(workspace.skeleton, spec, links)
    with contextlib.ExitStack() as cleanup:
        for descriptor in wiring.joined:
            cleanup.callback(_close_quietly, descriptor)
        if spec.user_namespace.mapping is IdMapping.AUTO:
            workspace = replace(workspace, ids=cleanup.enter_context(hold_ids(spec, workspace, home)))
        plan = plan_launch(spec, workspace, hierarchies, filter_of(spec, home), tty_group=has_tty_group())
        ipc: int | None = None
        if spec.ipc is Sharing.CONTAINER:
            other = find_shared_ipc(spec, store)
            ipc = os.open(f"/proc/{other}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
            cleanup.callback(_close_quietly, ipc)
            share = ShareMount(process_id=other, source="/dev/shm", path=str(workspace.shared_memory))
            plan = replace(plan, outside=(*(plan.outside or (MakeMountsPrivate(),)), share))
        cgroup = make_cgroup(hierarchies, spec.container_id, spec.limits, devices=device_rules(spec))
        cleanup.callback(remove_later_groups, every, spec.container_id)
        cleanup.callback(remove_cgroup, cgroup)
        joins = cgroup.open_joins()
        for descriptor in joins:
            cleanup.callback(_close_quietly, descriptor)

        def prepare(process_id: int) -> dict[str, object]:
            answer: dict[str, object] = {} if window is None else {"window": window}
            answer |= wiring.wire(process_id, workspace, cleanup)
            set_out_of_memory_score(process_id, spec)
            raise_hard_limits(process_id, spec)
            if started is not None:
                started(process_id)
            return answer

        launched = launch(
            plan,
            program=spec.arguments[0],
            stdio=stdio,
            joins=joins,
            network=spec.network,
            prepare=prepare,
            terminal=spec.terminal,
            configure=wiring.configure,
            joined=wiring.joined,
            ipc=ipc,
        )
        cleanup.callback(launched.close)
        try:
            yield Running(spec=spec, launched=launched, cgroup=cgroup, attendant=wiring.attendant)
        finally:
            if launched.wait_status is None:
                launched.send_signal(9)
                launched.wait()


def _close_quietly(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def finish(running: Running) -> ExitState:
    """Wait for the end and read why."""
    status = running.launched.wait()
    return exit_state(status, read_counters(running.cgroup), running.spec.limits.memory_bytes)


def keep_in_memory(workspace: Workspace) -> Workspace:
    """The same with a place in memory for what the container writes."""
    scratch = workspace.directory / "scratch"
    scratch.mkdir()
    return replace(workspace, scratch=scratch, scratch_bytes=_SCRATCH_BYTES, scratch_inodes=1_000_000)


def run(spec: ContainerSpec, *, stdin: int, stdout: int, stderr: int, home: HostPath | None = None) -> ExitState:
    """Run a container in the foreground on the caller's descriptors until its program ends. Everything is cleaned up afterwards.

    Raises `CommandNotStarted` (its ``exit_status`` is 126 or 127), `HostError`.
    """
    home = run_home() if home is None else home
    with open_workspace(spec, home) as plain:
        workspace = replace(plain, volatile=True)
        if spec.upper is None:
            found = storage_for(spec.layers, home, thrown_away=True)
            if found is Storage.MEMORY:
                workspace = keep_in_memory(workspace)
            elif found is Storage.COPY:
                spec = replace(spec, upper=plain.directory / "upper", copied=True)
                fill_root(spec, lasting=False)
        with start(spec, workspace, stdio=(stdin, stdout, stderr), home=home) as running:
            return finish(running)

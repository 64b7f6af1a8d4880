"""A container's root as one descriptor, for ``contain cp``: with its volumes and host paths, whether it runs or not.

One that runs: the root of its first process. One that does not: its layers, what it wrote and its mounts are put together in a mount
namespace that a small process holds as long as they are needed; the container cannot be started meanwhile. Nothing is ever looked up
in a root from here by a path of this machine: only beneath the descriptor (CVE-2018-15664).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence

from contain.container.lifecycle.records import ContainerRecord, Records, open_process
from contain.container.plan import HOST_ROOT, Workspace, plan_root
from contain.errors import Conflict, HostError, NotSupported
from contain.linux import syscalls
from contain.linux.usernamespace import IdMap, read_id_maps
from contain.operations import MakeHostDirectory, MakeMountsPrivate, MountBind, MountCopiedRoot, MountRoot, Operation
from contain.paths import HostPath
from contain.spec import Bind, ContainerSpec, Volume
from contain.values import dataclass

_NOBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """How a container's ids stand on this machine: its user namespace's maps, or None where the numbers are the same."""

    users: IdMap | None = None
    groups: IdMap | None = None

    def inside(self, user_id: int, group_id: int) -> tuple[int, int]:
        """What the container sees of an owner on this machine."""
        return _inside(self.users, user_id), _inside(self.groups, group_id)

    def outside(self, user_id: int, group_id: int) -> tuple[int, int]:
        """The owner on this machine. Raises `HostError` for one that the container does not have."""
        return _outside(self.users, user_id), _outside(self.groups, group_id)


def _inside(known: IdMap | None, number: int) -> int:
    if known is None:
        return number
    return next((inner + number - outer for inner, outer, count in known.pieces if outer <= number < outer + count), _NOBODY)


def _outside(known: IdMap | None, number: int) -> int:
    if known is None:
        return number
    for inner, outer, count in known.pieces:
        if inner <= number < inner + count:
            return outer + number - inner
    raise HostError(f"the container has no id {number}", code="id-not-mapped", remedy="leave out -a")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRoot:
    """``descriptor``: of the root directory; all paths are opened beneath it."""

    descriptor: int
    owners: Owners
    read_only: bool


@contextlib.contextmanager
def open_root(records: Records, record: ContainerRecord, *, home: HostPath, writing: bool) -> Iterator[ContainerRoot]:
    """A container's root as long as the block runs. Raises `Conflict`, `NotSupported` for one on this machine's root that does not
    run."""
    if record.process_id is not None:
        with _running_root(record) as root:
            yield root
        return
    from contain.container.lifecycle.respecify import parse_spec

    spec = parse_spec(record.details)
    if HOST_ROOT in spec.layers:
        raise NotSupported(
            f"{record.name} stands on this machine's root: what it wrote is in its own memory only", code="container-on-host"
        )
    held = records.hold(record.container_id)
    if held is None:
        raise Conflict(f"container {record.name} is being started or removed by somebody else", code="container-busy")
    try:
        with _put_together(spec, home, writing=writing) as descriptor:
            yield ContainerRoot(descriptor=descriptor, owners=Owners(), read_only=spec.read_only)
    finally:
        os.close(held)


@contextlib.contextmanager
def _running_root(record: ContainerRecord) -> Iterator[ContainerRoot]:
    from contain.container.execute import verify_own_root

    with contextlib.ExitStack() as held:
        held.callback(os.close, open_process(record))
        try:
            verify_own_root(record)
            descriptor = os.open(f"/proc/{record.process_id}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, descriptor)
            users, groups = read_id_maps(str(record.process_id))
            os.close(open_process(record))  # it still runs, so all that was read was its own
        except FileNotFoundError as error:
            raise Conflict(f"container {record.container_id[:12]} has just ended", code="not-running") from error
        yield ContainerRoot(
            descriptor=descriptor,
            owners=Owners(users=users, groups=groups),
            read_only=bool(record.details.get("read_only")),
        )


def plan_resting_root(spec: ContainerSpec, workspace: Workspace) -> tuple[Operation, ...]:
    """Of what starts the container, that which makes its root out of what is kept: layers, volumes, host paths. Pure."""
    kept = {str(mount.target) for mount in spec.mounts if isinstance(mount, (Bind, Volume))}
    return tuple(
        operation
        for operation in plan_root(spec, workspace, ())
        if isinstance(operation, (MakeMountsPrivate, MakeHostDirectory, MountRoot, MountCopiedRoot))
        or (isinstance(operation, MountBind) and operation.target in kept)
    )


@contextlib.contextmanager
def _put_together(spec: ContainerSpec, home: HostPath, *, writing: bool) -> Iterator[int]:
    from contain.container.run import make_skeleton, open_workspace

    with open_workspace(spec, home) as workspace:
        make_skeleton(workspace.skeleton, spec)
        operations = plan_resting_root(spec, workspace)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            ours.close()
            _hold_mounts(operations, theirs, read_only=spec.read_only or not writing)
        theirs.close()
        descriptor = -1
        try:
            said, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
            if not descriptors:
                raise HostError(
                    f"the root of {spec.name} could not be put together: {said.decode(errors='replace')}",
                    code="container-set-up",
                )
            descriptor = descriptors[0]
            yield descriptor
        finally:
            if descriptor >= 0:
                os.close(descriptor)
            ours.close()
            os.waitpid(child, 0)


def _hold_mounts(operations: Sequence[Operation], channel: socket.socket, *, read_only: bool) -> None:
    """In a process of its own: make the mounts, hand their root over, and hold them until the other side is done."""
    try:
        from contain.linux.perform import Performer

        syscalls.unshare(syscalls.CLONE_NEWNS)
        performer = Performer()
        for operation in operations:
            performer.perform(operation)
        upper = next(operation for operation in operations if isinstance(operation, (MountRoot, MountCopiedRoot)))
        place = upper.path if isinstance(upper, MountCopiedRoot) else upper.upper
        root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # what covers it now
        if read_only:
            syscalls.mount_setattr(root, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
        socket.send_fds(channel, [b"root"], [root])
        os.close(root)
        channel.recv(1)
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(str(error).encode()[:2000])
    finally:
        os._exit(0)

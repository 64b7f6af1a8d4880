"""User namespaces that translate ids, and mounts seen through them (``--userns=auto``).

A mount with translated owners shows the files of a store as the container's own: on disk a file belongs to 0:0, inside to root, for
the rest of the machine's processes the container's root is somebody without a name. Only a process with CAP_SYS_ADMIN where the file
system was mounted may make one, so this is done before the container's user namespace is entered.

Source: mount_setattr(2), user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator

from contain.annotations import TYPE_CHECKING
from contain.errors import HostError
from contain.linux import syscalls

if TYPE_CHECKING:
    from contain.linux.idranges import IdRange

_REMEDY = "leave out --userns=auto, or keep the store and its volumes on ext4, xfs or btrfs, on Linux 5.19 or newer"


def make_mapped_namespace(ids: IdRange) -> int:
    """A descriptor of a new user namespace, in which 0 and up are ``ids``. The process must have one thread."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(ours)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(theirs, b"x")
            os.close(theirs)
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(theirs)
        if not os.read(ours, 1):
            raise HostError("this machine gives no user namespace", call="unshare", code="no-user-namespace")
        for kind in ("uid", "gid"):
            with open(f"/proc/{child}/{kind}_map", "w") as file:
                file.write(f"0 {ids.first} {ids.size}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ours)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def clone_mapped(source: str, namespace: int, *, recursive: bool = False) -> int:
    """A detached copy of the mount at ``source`` whose owners are translated by a user namespace. ``recursive``: with what is mounted
    below, which is not translated. Raises `HostError` (code ``idmap-not-supported``) where the file system cannot do that."""
    flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
    tree = syscalls.open_tree(-100, source, flags)
    try:
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_IDMAP, recursive=False, user_namespace=namespace)
    except OSError as error:
        os.close(tree)
        if error.errno in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
            raise HostError(
                f"--userns=auto: the file system of {source} cannot be mounted with translated owners",
                call="mount_setattr",
                path=source,
                errno=error.errno,
                remedy=_REMEDY,
                code="idmap-not-supported",
            ) from error
        raise
    return tree


@contextlib.contextmanager
def creating_as(user_id: int, group_id: int) -> Iterator[None]:
    """What this thread makes in the block belongs to others, with all of root's rights: where a file system has translated owners,
    root itself is nobody and can make nothing (setfsuid(2), capabilities(7))."""
    if (user_id, group_id) == (0, 0):
        yield
        return
    with open("/proc/self/status") as file:
        permitted = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    syscalls.set_file_ids(user_id, group_id)
    try:
        syscalls.capset(permitted, permitted)  # the change took those about files out of the effective set
        yield
    finally:
        syscalls.set_file_ids(os.geteuid(), os.getegid())


def refuse_old_kernel(release: tuple[int, int]) -> None:
    """`HostError` before Linux 5.19: overlay does not know translated layers there."""
    if release < (5, 19):
        raise HostError(
            f"--userns=auto needs Linux 5.19, where overlay takes layers with translated owners; this is {release[0]}.{release[1]}",
            code="idmap-not-supported",
            remedy="leave out --userns=auto, or upgrade the kernel",
        )

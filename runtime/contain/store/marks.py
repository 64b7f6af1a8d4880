"""How a layer says "gone": whiteouts and opaque directories, in an archive and on disk; and which attributes are part of a
layer.

In an archive an empty file ``.wh.x`` says that ``x`` of the lower layers is gone, ``.wh..wh..opq`` that all of its directory is
(image-spec ``layer.md``). On disk it is overlay's way: the character device 0:0, and the attribute ``user.overlay.opaque=y``
(kernel, ``overlayfs.rst``). Where the store's file system lets nobody make that device, as an overlay does not, a socket without
any permission stands in for it: no layer holds sockets, so it can be nothing else. Only we understand it, not the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from functools import cache

from contain.beneath import file_system_magic

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARK = b".wh..wh..opq"
OPAQUE_XATTR = "user.overlay.opaque"
_CAPABILITY = b"security.capability"
_FUSE = 0x65735546  # FUSE_SUPER_MAGIC, statfs(2)
_OVERLAY_PREFIXES = (b"user.overlay.", b"trusted.overlay.")


def is_whiteout(found: os.stat_result) -> bool:
    """Whether this is the mark for "the lower layers' file is gone": overlay's, or what stands in for it."""
    return (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0) or is_stand_in(found)


def is_stand_in(found: os.stat_result) -> bool:
    """Whether this is a whiteout that the kernel's overlay would show as what it is, a socket."""
    return found.st_mode == stat.S_IFSOCK


def make_whiteout(directory: int, name: bytes) -> bool:
    """Make the mark; whether it is a stand-in. Raises `OSError`: EEXIST, and what else keeps a file from being made."""
    if file_system_magic(directory) != _FUSE or not _is_fuse_overlayfs(os.fstat(directory).st_dev):
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP):
                raise
        else:
            return False
    os.mknod(name, stat.S_IFSOCK, 0, dir_fd=directory)
    return True


@cache
def _is_fuse_overlayfs(device: int) -> bool:
    """It takes a device 0:0 for a whiteout of its own: it is made, and nothing is there. Source: proc_pid_mountinfo(5)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.partition(" - ") for line in file]
    return any(left.split()[2] == wanted and right.startswith("fuse.fuse-overlayfs ") for left, _, right in lines)


def is_opaque(directory: int) -> bool:
    """Whether overlay shows nothing of the lower layers in this directory (a descriptor)."""
    for name in (OPAQUE_XATTR, "trusted.overlay.opaque"):
        try:
            if os.getxattr(directory, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise
    return False


def is_overlays(name: bytes) -> bool:
    """Whether an extended attribute is overlay's own bookkeeping."""
    return name.startswith(_OVERLAY_PREFIXES)


def keeps_xattr(name: bytes) -> bool:
    """Whether an extended attribute is part of a layer: all but overlay's own and ``security.*`` other than capabilities,
    which describe another machine's mounts and policies."""
    if name.startswith(b"security."):
        return name == b"security.capability"
    return not is_overlays(name)


def read_xattrs(parent: int, name: bytes) -> Mapping[bytes, bytes]:
    """The attributes that a layer keeps, sorted by name; capabilities in the form that does not depend on a user namespace."""
    path = b"/proc/self/fd/%d/%s" % (parent, name)  # only the last component can be a link, and it is not followed
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return {}
        raise
    if not names:
        return {}
    kept = sorted(filter(keeps_xattr, map(os.fsencode, names)))
    found = {key: os.getxattr(path, key, follow_symlinks=False) for key in kept}
    if _CAPABILITY in found:
        found[_CAPABILITY] = _portable_capability(found[_CAPABILITY])
    return found


def _portable_capability(value: bytes) -> bytes:
    """Revision 3 with root id 0, which a container in a user namespace writes, as the equivalent revision 2
    (capabilities(7), vfs_cap_data)."""
    if len(value) == 24 and value[3] == 3 and value[20:24] == bytes(4):
        return value[:3] + b"\x02" + value[4:20]
    return value

"""How a layer says "gone": whiteouts and opaque directories, in an archive and on disk; and which attributes are part of a
layer.

In an archive an empty file ``.wh.x`` says that ``x`` of the lower layers is gone, ``.wh..wh..opq`` that all of its directory is
(image-spec ``layer.md``). On disk it is overlay's way: the character device 0:0, and the attribute ``user.overlay.opaque=y``
(kernel, ``overlayfs.rst``).
"""

from __future__ import annotations

import errno
import os
import stat

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARK = b".wh..wh..opq"
OPAQUE_XATTR = "user.overlay.opaque"
_OVERLAY_PREFIXES = (b"user.overlay.", b"trusted.overlay.")


def is_whiteout(found: os.stat_result) -> bool:
    """Whether this is overlay's mark for "the lower layers' file is gone"."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


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

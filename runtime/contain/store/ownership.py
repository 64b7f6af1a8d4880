"""Whom files belong to on disk and in a layer, for root and for an ordinary user.

Root: the same numbers. An ordinary user can own files only as themself, so their own ids stand for 0:0 in layers, and any other
owner is refused by name rather than squashed: two stores would disagree about the same image.
"""

from __future__ import annotations

import errno
import os

from contain.errors import HostError
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """``user_id`` and ``group_id`` of the ordinary user, or None for root, who needs no translation."""

    user_id: int | None = None
    group_id: int | None = None

    @staticmethod
    def of_this_process() -> Ownership:
        """The rule for the user that this process runs as."""
        if os.geteuid() == 0:
            return Ownership()
        return Ownership(user_id=os.geteuid(), group_id=os.getegid())

    def to_disk(self, user_id: int, group_id: int, path: bytes) -> tuple[int, int] | None:
        """What to give to chown(2), or None when a new file has the right owner anyway."""
        if self.user_id is None:
            # New files get the effective ids, except the group below a set-group-ID directory; none is made before the end.
            return (user_id, group_id) if (user_id, group_id) != (0, 0) or os.getegid() != 0 else None
        if (user_id, group_id) != (0, 0):
            shown = path.decode("utf-8", "backslashreplace")
            raise HostError(
                f"'{shown}' belongs to {user_id}:{group_id}, and an ordinary user can make files of one owner only",
                call="chown",
                remedy="run as root",
                code="store-needs-root",
            )
        return None

    def to_layer(self, user_id: int, group_id: int) -> tuple[int, int]:
        """The owner that a file on disk has in a layer."""
        if self.user_id is None:
            return user_id, group_id
        return (0 if user_id == self.user_id else user_id), (0 if group_id == self.group_id else group_id)


def explain_unmakeable(error: OSError, path: str, source: str) -> HostError | None:
    """Why a file cannot be made on this disk by this user; None where that is not what stood in the way. ``path``: as it is to be
    shown; ``source``: the image or layer that has it."""
    if error.errno in (errno.EPERM, errno.EACCES) or (error.errno == errno.EINVAL and os.geteuid() == 0):
        return HostError(
            f"this user may not make {path} as the {source} has it",
            errno=error.errno,
            remedy="run as root, or have subordinate ids: see docs/rootless.md",
            code="store-needs-root",
        )
    if error.errno == errno.EOPNOTSUPP:
        return HostError(
            f"the file system of the store cannot hold {path} as the {source} has it (extended attributes)",
            errno=error.errno,
            remedy="set CONTAIN_HOME to a directory on ext4, xfs or btrfs",
            code="store-file-system",
        )
    return None

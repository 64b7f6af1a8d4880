"""Where the store is, as text: for what must answer before ``pathlib`` is imported. Decides a name; creates nothing."""

from __future__ import annotations

import os

from contain.annotations import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


_SYS_ADMIN = 21  # capabilities(7)


_caller: list[int] = []  # at most one


def caller_id() -> int:
    """The user whose files and settings count: who this process was before it became root of a user namespace."""
    return _caller[0] if _caller else os.getuid()


def remember_caller() -> None:
    """Note who this process is, before it becomes somebody else."""
    _caller[:] = [os.getuid()]


def needs_door() -> bool:
    """Whether this process must become root of a user namespace before it may make containers: an ordinary user, and root in a
    container that took CAP_SYS_ADMIN away."""
    if os.geteuid() != 0:
        return True
    try:
        with open("/proc/self/status", "rb") as file:
            found = file.read().partition(b"CapEff:")[2].split(None, 1)
        return not int(found[0], 16) >> _SYS_ADMIN & 1
    except (OSError, ValueError, IndexError):
        return False


def find_store_home(environ: Mapping[str, str], *, user_id: int) -> str:
    """The store's directory: ``$CONTAIN_HOME``, else ``/var/lib/contain`` for root, else ``$XDG_DATA_HOME/contain``.

    Source: XDG Base Directory Specification (``$XDG_DATA_HOME`` defaults to ``~/.local/share``; relative values are ignored).
    """
    if environ.get("CONTAIN_HOME"):
        return os.path.join(os.getcwd(), environ["CONTAIN_HOME"])
    if user_id == 0:
        return "/var/lib/contain"
    data = environ.get("XDG_DATA_HOME", "")
    base = data if data.startswith("/") else os.path.join(environ.get("HOME", os.path.expanduser("~")), ".local/share")
    return os.path.join(base, "contain")

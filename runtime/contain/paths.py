"""Host paths and container paths are different types, and where this machine keeps contain's things.

Decides names only; creates nothing.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from contain.home import find_store_home

HostPath = Path
ContainerPath = PurePosixPath


def store_home(environ: dict[str, str] | None = None, *, user_id: int | None = None) -> HostPath:
    """The store's directory: `contain.home.find_store_home`."""
    environ = dict(os.environ) if environ is None else environ
    return Path(find_store_home(environ, user_id=os.getuid() if user_id is None else user_id))


def run_home(environ: dict[str, str] | None = None, *, user_id: int | None = None) -> HostPath:
    """Run-time state (workspaces of containers, network leases): ``run`` below the store.

    Not below ``/run``: that is often a memory file system, on which an overlay's upper directory needs Linux 6.6. What is stale
    after a reboot is swept like what a killed process leaves.
    """
    return store_home(environ, user_id=user_id) / "run"

"""A container that does nothing, to see whether one can be made here, and what stands in the way if not.

Every step of a real start is taken, up to the program, which does not exist. The trial runs in a process of its own, so that an
ordinary user can ask without going through the door.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile

from contain.errors import ContainError
from contain.paths import ContainerPath, HostPath
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """``works``; if not, ``message`` and ``remedy``. ``ids``: how many there are inside."""

    works: bool
    ids: int = 0
    message: str = ""
    remedy: str = ""


def try_container() -> Trial:
    """Try it. Leaves nothing but, at most, the store's own directories."""
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(read)
        answer: dict[str, object] = {"works": False, "message": "the trial ended early"}
        try:
            answer = _try()
        except ContainError as error:
            answer = {"works": False, "message": error.message, "remedy": error.remedy}
        except BaseException as error:
            answer = {"works": False, "message": f"{type(error).__name__}: {error}"}
        finally:
            with contextlib.suppress(OSError):
                os.write(write, json.dumps(answer).encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    return Trial(**(json.loads(data) if data else {"works": False, "message": "the trial was killed"}))


def _try() -> dict[str, object]:
    from contain.container.door import enter_store
    from contain.container.launch import CommandNotStarted
    from contain.container.run import new_container_id, run
    from contain.container.workspaces import sweep
    from contain.linux.capabilities import DEFAULT_CAPABILITIES
    from contain.linux.usernamespace import read_id_maps
    from contain.paths import run_home
    from contain.spec import ContainerSpec, Identity, Limits, Network

    enter_store()
    home = run_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(home)
    identifier = new_container_id()
    with tempfile.TemporaryDirectory(dir=home, prefix="trial-") as tree:
        spec = ContainerSpec(
            container_id=identifier,
            name=identifier[:12],
            image_digest="",
            image_name="",
            layers=(HostPath(tree),),
            upper=None,
            arguments=("/nothing",),
            environment=(),
            working_directory=ContainerPath("/"),
            identity=Identity(),
            hostname="trial",
            mounts=(),
            network=Network.NONE,
            limits=Limits(pids=None),
            read_only=False,
            terminal=False,
            stop_signal=15,
            capabilities=DEFAULT_CAPABILITIES,
        )
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(CommandNotStarted):
            run(spec, stdin=null, stdout=null, stderr=null, home=home)
    return {"works": True, "ids": read_id_maps()[0].count}

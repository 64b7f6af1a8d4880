"""``--init`` in the plan: who stays as the first process is as confined as the program, and everything else is the program's."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from contain.container.plan import Workspace, plan_launch
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.operations import BecomeUser, InstallSeccomp, Operation, StayAsInit, render_operation
from contain.spec import ContainerSpec, Identity, Limits, Network

WORKSPACE = Workspace(directory=Path("/run/c"), skeleton=Path("/run/c/skeleton"))


def start(**changes: Any) -> tuple[Operation, ...]:
    values: dict[str, Any] = {
        "container_id": "c" * 64,
        "name": "web",
        "image_digest": "sha256:" + "1" * 64,
        "image_name": "app",
        "layers": (Path("/layer"),),
        "upper": Path("/upper"),
        "arguments": ("server",),
        "environment": (),
        "working_directory": PurePosixPath("/"),
        "identity": Identity(user_id=1000, group_id=1000, groups=(1000,)),
        "hostname": "box",
        "mounts": (),
        "network": Network.NONE,
        "limits": Limits(),
        "read_only": False,
        "terminal": False,
        "stop_signal": 15,
        "capabilities": DEFAULT_CAPABILITIES,
    }
    return plan_launch(ContainerSpec(**{**values, **changes}), WORKSPACE, (), bytes(80)).start


@pytest.mark.parametrize("terminal", [False, True])
def test_the_first_process_gives_up_what_the_program_gives_up(terminal: bool) -> None:
    plain, first = start(terminal=terminal), start(terminal=terminal, init=True)
    assert isinstance(first[0], StayAsInit)
    assert first[1:] == plain
    confining = tuple(operation for operation in plain if isinstance(operation, (BecomeUser, InstallSeccomp)))
    assert len(confining) == 2
    assert first[0].confinement == confining


def test_without_it_nobody_stays() -> None:
    assert not any(isinstance(operation, StayAsInit) for operation in start())


def test_the_plan_shows_it_in_one_line() -> None:
    assert render_operation(start(init=True)[0]) == "StayAsInit confinement=['BecomeUser', 'InstallSeccomp']"

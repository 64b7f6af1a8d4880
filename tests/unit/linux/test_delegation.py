"""Where groups may be made: at the top for root, below what was delegated for everybody else."""

from __future__ import annotations

import pytest

from contain.linux.delegation import find_delegated, parse_own_groups

OWN = (
    "12:pids:/user/ann\n4:cpu,cpuacct:/user\n1:name=systemd:/user.slice/x.scope\n"
    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/a:b\n"
)


def test_own_groups_are_read_by_controller_also_with_colons_in_their_names() -> None:
    found = parse_own_groups(OWN)
    assert found["pids"] == "/user/ann"
    assert found["cpu"] == found["cpuacct"] == "/user"
    assert found[""] == "/user.slice/user-1000.slice/user@1000.service/app.slice/a:b"


@pytest.mark.parametrize(
    ("may", "root", "own", "found"),
    [
        ({"/cg"}, "/", "/user/ann/deep", "/cg"),
        ({"/cg/user/ann", "/cg/user/ann/deep"}, "/", "/user/ann/deep", "/cg/user/ann"),
        ({"/cg/user/ann/deep"}, "/", "/user/ann/deep", "/cg/user/ann/deep"),
        ({"/cg/user"}, "/", "/user/ann/deep", None),  # a group between is somebody else's: nobody may move a process there
        (set(), "/", "/user/ann", None),
        (set(), "/", "/", None),
        ({"/cg/a"}, "/docker/x", "/docker/x/a", "/cg/a"),
        ({"/cg/../outside"}, "/", "/../outside", None),
    ],
)
def test_the_topmost_group_of_ones_own_is_taken(may: set[str], root: str, own: str, found: str | None) -> None:
    assert find_delegated("/cg", root, own, may.__contains__) == found

"""Which cause is named where the kernel refuses a step, and which remedy."""

from __future__ import annotations

import errno

import pytest

from contain.linux.obstacles import Surroundings, explain, parse_masked
from contain.values import replace

PLAIN = Surroundings(user_id=1000, capabilities=0)
ROOT = Surroundings(user_id=0)
DOCKER = Surroundings(user_id=0, capabilities=0xA80425FB, has_filter=True, container="docker", masked=("/proc/acpi",))


@pytest.mark.parametrize(
    ("step", "number", "facts", "cause", "remedy"),
    [
        ("unshare(0x10000000)", errno.ENOSPC, PLAIN, "switched off", "user.max_user_namespaces=10000"),
        ("unshare", errno.EPERM, replace(PLAIN, most_user_namespaces=0), "switched off", "user.max_user_namespaces=10000"),
        ("unshare", errno.EPERM, replace(PLAIN, unprivileged_user_namespaces=False), "unprivileged_userns_clone", "=1"),
        ("unshare", errno.EPERM, replace(PLAIN, in_chroot=True), "chroot", "leave the chroot"),
        (
            "unshare",
            errno.EPERM,
            replace(PLAIN, apparmor_restricts=True),
            "AppArmor",
            "apparmor_restrict_unprivileged_userns=0",
        ),
        ("write uid_map", errno.EACCES, replace(PLAIN, apparmor_restricts=True), "AppArmor", "userns,"),
        ("BringLoopbackUp", errno.EPERM, replace(PLAIN, apparmor_restricts=True), "AppArmor", "run as root"),
        ("unshare", errno.EPERM, DOCKER, "a Docker container", "--privileged"),
        ("mount", errno.EPERM, DOCKER, "a system call filter keeps", "seccomp=unconfined"),
        ("unshare", errno.EPERM, replace(DOCKER, container="podman"), "a podman container", "unmask=ALL"),
        ("unshare", errno.EPERM, replace(DOCKER, container="kubernetes"), "a pod", "procMount: Unmasked"),
        ("unshare", errno.EPERM, replace(ROOT, capabilities=0), "missing capabilities", "--privileged"),
        (
            "MountFilesystem kind=proc target=/proc",
            errno.EPERM,
            DOCKER,
            "hides parts of /proc (/proc/acpi)",
            "systempaths=unconfined",
        ),
        ("SetResourceLimit name=nofile", errno.EPERM, PLAIN, "CAP_SYS_RESOURCE", "ulimit -H"),
        ("MountBind", errno.ENOSYS, replace(PLAIN, kernel=(4, 18)), "Linux 4.18", "5.12"),
    ],
)
def test_a_cause_is_named_with_its_remedy(step: str, number: int, facts: Surroundings, cause: str, remedy: str) -> None:
    found = explain(step, number, facts)
    assert found is not None
    assert cause in found.cause
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("step", "number", "facts"),
    [
        ("MountBind source=/x", errno.ENOENT, DOCKER),
        ("MountFilesystem kind=proc target=/proc", errno.EPERM, PLAIN),
        ("unshare", errno.EPERM, ROOT),
        ("MountBind", errno.ENOSYS, PLAIN),
    ],
)
def test_no_cause_is_named_without_a_fact_that_speaks_for_it(step: str, number: int, facts: Surroundings) -> None:
    assert explain(step, number, facts) is None


def test_what_hides_parts_of_proc_is_told_from_what_does_not() -> None:
    lines = [
        "22 27 0:21 / /proc rw - proc proc rw",
        "23 22 0:5 /null /proc/kcore rw - devtmpfs dev rw",
        "24 22 0:30 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw",
        "25 27 0:31 / /sys/firmware ro - tmpfs none ro",
        "26 27 0:32 / /process rw - tmpfs none rw",
        "",
    ]
    assert parse_masked("\n".join(lines)) == ("/proc/kcore", "/sys/firmware")

"""Make an ordinary user root of a user namespace of its own, so that one code serves both: owners can be set, overlays be mounted.

With subordinate ids (``/etc/subuid``, ``/etc/subgid``, and the programs newuidmap and newgidmap) there are several ids inside, else
only root, which is the user. Source: user_namespaces(7), subuid(5), newuidmap(1).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess

from contain.errors import HostError
from contain.linux import syscalls


def parse_subordinate_ids(text: str, user: str, user_id: int) -> tuple[int, int] | None:
    """The first range (start, count) of a user in the text of /etc/subuid or /etc/subgid, or None."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(user_id)) and fields[1].isdigit() and fields[2].isdigit():
            return int(fields[1]), int(fields[2])
    return None


def _ranges() -> tuple[tuple[int, int], tuple[int, int]] | None:
    if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        return None
    user_id = os.getuid()
    try:
        user = pwd.getpwuid(user_id).pw_name
        with open("/etc/subuid") as users, open("/etc/subgid") as groups:
            found = [parse_subordinate_ids(file.read(), user, user_id) for file in (users, groups)]
    except (OSError, KeyError):
        return None
    return (found[0], found[1]) if found[0] is not None and found[1] is not None else None


def _map_with_programs(process_id: int, user_id: int, group_id: int, ranges: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    for program, own, (start, count) in (("newuidmap", user_id, ranges[0]), ("newgidmap", group_id, ranges[1])):
        command = [program, str(process_id), "0", str(own), "1", "1", str(start), str(count)]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            return False
    return True


def become_root() -> None:
    """Enter a new user and mount namespace as its root. The process must have one thread. Raises `HostError`."""
    user_id, group_id, ranges = os.geteuid(), os.getegid(), _ranges()
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    helper = 0
    if ranges is not None:
        helper = os.fork()  # stays outside: only from there may the ids be mapped
        if helper == 0:
            os.read(ready_read, 1)
            mapped = _map_with_programs(os.getppid(), user_id, group_id, ranges)
            os.write(done_write, b"y" if mapped else b"n")
            os._exit(0)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        if helper:
            os.kill(helper, 9)
            os.waitpid(helper, 0)
        raise HostError(
            "this machine gives ordinary users no user namespace",
            call="unshare",
            errno=error.errno or 0,
            remedy="run as root; or: sysctl -w user.max_user_namespaces=10000 and, on Ubuntu, "
            "kernel.apparmor_restrict_unprivileged_userns=0",
            code="no-user-namespace",
        ) from error
    mapped = False
    if helper:
        os.write(ready_write, b"x")
        mapped = os.read(done_read, 1) == b"y"
        os.waitpid(helper, 0)
    for descriptor in (ready_read, ready_write, done_read, done_write):
        os.close(descriptor)
    if not mapped:
        for path, text in (("setgroups", "deny"), ("uid_map", f"0 {user_id} 1"), ("gid_map", f"0 {group_id} 1")):
            with open(f"/proc/self/{path}", "w") as file:
                file.write(text)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")

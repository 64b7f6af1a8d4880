"""Make an ordinary user root of a user namespace of its own, so that one code serves both: owners can be set, overlays be mounted.

With subordinate ids (``/etc/subuid``, ``/etc/subgid``, and the programs newuidmap and newgidmap) there are several ids inside, else
only root, which is the user. Source: user_namespaces(7), subuid(5), newuidmap(1).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from contain.errors import HostError
from contain.linux import syscalls
from contain.values import dataclass

_NS_GET_USERNS, _NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704  # ioctl_ns(2)
_EVERY_ID = (1 << 32) - 1
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # its inode everywhere: linux/proc_ns.h, PROC_USER_INIT_INO

MORE_IDS = (
    "install newuidmap (Debian: uidmap), and as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
)
"""The remedy where one id is not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """Which ids there are in a user namespace: (first inside, first outside, how many) for each piece (user_namespaces(7))."""

    pieces: tuple[tuple[int, int, int], ...]

    @property
    def count(self) -> int:
        """How many ids there are."""
        return sum(count for _, _, count in self.pieces)

    def has(self, number: int) -> bool:
        """Whether the id exists inside."""
        return any(first <= number < first + count for first, _, count in self.pieces)


def parse_id_map(text: str) -> IdMap:
    """From the text of ``/proc/PID/uid_map`` or ``gid_map``."""
    rows = [tuple(map(int, line.split())) for line in text.splitlines()]
    return IdMap(pieces=tuple((row[0], row[1], row[2]) for row in rows if len(row) == 3))


def read_id_maps(process: str = "self") -> tuple[IdMap, IdMap]:
    """The users' and the groups' ids of a process's namespace."""
    found = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{process}/{name}") as file:
            found.append(parse_id_map(file.read()))
    return found[0], found[1]


def is_rootless() -> bool:
    """Whether this process is not root of the machine itself: an ordinary user, or root of a user namespace."""
    return os.geteuid() != 0 or os.stat("/proc/self/ns/user").st_ino != _FIRST_USER_NAMESPACE


def may_set_groups() -> bool:
    """Whether this namespace lets supplementary groups be given up: with one id only it does not (user_namespaces(7))."""
    try:
        with open("/proc/self/setgroups") as file:
            return file.read().strip() != "deny"
    except OSError:
        return True


def parse_subordinate_ids(text: str, user: str, user_id: int) -> tuple[int, int] | None:
    """The first range (start, count) of a user in the text of /etc/subuid or /etc/subgid, or None."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(user_id)) and fields[1].isdigit() and fields[2].isdigit():
            return int(fields[1]), int(fields[2])
    return None


def subordinate_ranges() -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The user's ranges of users and groups; None where there are none, or nobody who may use them, and for root."""
    if os.geteuid() == 0:
        return None
    import pwd
    import shutil

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
    import subprocess

    for program, own, (start, count) in (("newuidmap", user_id, ranges[0]), ("newgidmap", group_id, ranges[1])):
        command = [program, str(process_id), "0", str(own), "1", "1", str(start), str(count)]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            return False
    return True


def _map_all(process_id: int) -> bool:
    """Root of a container that has CAP_SETUID and CAP_SETGID may give all its ids away, one to one."""
    for name, found in zip(("uid_map", "gid_map"), read_id_maps(), strict=True):
        text = "".join(f"{inside} {inside} {count}\n" for inside, _, count in found.pieces)
        try:
            with open(f"/proc/{process_id}/{name}", "w") as file:
                file.write(text)
        except OSError:
            return False
    return True


def verify_one_thread() -> None:
    """Raise `HostError` where this process has several threads: it cannot enter a user namespace then (unshare(2), setns(2))."""
    if len(os.listdir("/proc/self/task")) > 1:
        raise HostError(
            "this process has several threads, so it cannot become root of a user namespace",
            code="several-threads",
            remedy="start it inside: contain unshare PROGRAM ...",
        )


def become_root() -> None:
    """Enter a new user and mount namespace as its root. The process must have one thread. Raises `HostError`."""
    verify_one_thread()
    user_id, group_id, ranges = os.geteuid(), os.getegid(), subordinate_ranges()
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    helper = 0
    if ranges is not None or user_id == 0:
        helper = os.fork()  # stays outside: only from there may the ids be mapped
        if helper == 0:
            os.read(ready_read, 1)
            outside = os.getppid()
            mapped = _map_all(outside) if ranges is None else _map_with_programs(outside, user_id, group_id, ranges)
            os.write(done_write, b"y" if mapped else b"n")
            os._exit(0)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        if helper:
            os.kill(helper, 9)
            os.waitpid(helper, 0)
        raise _no_user_namespace("unshare", error) from error
    mapped = False
    if helper:
        os.write(ready_write, b"x")
        mapped = os.read(done_read, 1) == b"y"
        os.waitpid(helper, 0)
    for descriptor in (ready_read, ready_write, done_read, done_write):
        os.close(descriptor)
    if not mapped:
        if read_id_maps()[0].pieces:
            raise HostError(
                "newgidmap does not give this user the ids that newuidmap gave",
                code="id-map-refused",
                remedy="/etc/subgid needs the same line as /etc/subuid, and newgidmap the set-user-ID bit or its capability",
            )
        try:
            for path, text in (("setgroups", "deny"), ("uid_map", f"0 {user_id} 1"), ("gid_map", f"0 {group_id} 1")):
                with open(f"/proc/self/{path}", "w") as file:
                    file.write(text)
        except OSError as error:
            raise _no_user_namespace("write uid_map", error) from error
    try:
        _be_root()
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    except OSError as error:
        raise _no_user_namespace("mount", error) from error


def _no_user_namespace(call: str, error: OSError) -> HostError:
    from contain.linux.obstacles import explain, read_surroundings

    found = explain(call, error.errno or 0, read_surroundings())
    return HostError(
        "this machine gives this user no user namespace that can be used" + (f": {found.cause}" if found else ""),
        call=call,
        errno=error.errno or 0,
        remedy=found.remedy if found else "run as root; `contain doctor` says what this machine has",
        code="no-user-namespace",
    )


def _be_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if may_set_groups():
        os.setgroups([])  # the user's own groups would be nobody's here, and those of every container


def open_namespace(process_id: int) -> int | None:
    """A descriptor of a process's user namespace, if this ordinary user made it here; else None."""
    try:
        found = os.open(f"/proc/{process_id}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _owner(found) == os.geteuid() and _leads_here(found, _NS_GET_PARENT):
            return found
    except OSError:
        pass
    os.close(found)
    return None


def _owner(namespace: int) -> int:
    answer = fcntl.ioctl(namespace, _NS_GET_OWNER_UID, struct.pack("I", 0))
    return int(struct.unpack("I", answer)[0])


def belongs_here(namespace: int) -> bool:
    """Whether a namespace of another kind belongs to the user namespace that this process is in. Raises OSError."""
    return _leads_here(namespace, _NS_GET_USERNS)


def _leads_here(namespace: int, request: int) -> bool:
    answer = fcntl.ioctl(namespace, request)
    try:
        return os.path.samestat(os.fstat(answer), os.stat("/proc/self/ns/user"))
    finally:
        os.close(answer)


def join_as_root(namespace: int) -> bool:
    """Enter a user namespace of this user's as its root, with a mount namespace of this machine's mounts of now. The process must have
    one thread. False if the kernel refuses."""
    verify_one_thread()
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EINVAL):
            return False
        raise
    syscalls.unshare(syscalls.CLONE_NEWNS)
    _be_root()
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    return True


def start_ticks(process_id: int) -> int | None:
    """When a process started, in the kernel's ticks since the machine did (proc_pid_stat(5)); None if it is gone or only waits
    for its parent to take note of its end."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{process_id}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[19])
    return None


def owns_network() -> bool:
    """Whether this process may make links where it is: its network namespace belongs to its user namespace (ioctl_ns(2))."""
    if os.geteuid() != 0:
        return False
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = fcntl.ioctl(descriptor, 0xB701)  # NS_GET_USERNS
    except OSError:
        return False  # an outer one, out of sight
    finally:
        os.close(descriptor)
    try:
        return os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    finally:
        os.close(owner)

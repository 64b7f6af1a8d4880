"""What a container has when nothing is asked, looked at from inside, row by row of the table "Defaults" in docs/security.md.

One container collects what it sees; each check judges one row. A row without a check, and a check without a row, is an error. It has no
network but its loopback: what a network of its own is like has tests of its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.container.lifecycle.supervisor import GRACE_SECONDS
from contain.linux.cgroups import probe_hierarchies
from contain.linux.seccomp_policy import NEWEST
from contain.linux.syscall_table import syscall_table

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
DOCUMENT = Path(__file__).parents[2] / "docs/security.md"

# Written down here once more, so that a change of the product is seen.
MASKED = (
    *(f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi")),
    *("/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"),
    *(f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(os.cpu_count() or 1)),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# The calls that are denied with the default capabilities, name by name.
DENIED = (
    "acct add_key bpf clock_settime fanotify_init finit_module fsconfig fsmount fsopen fspick get_mempolicy init_module "
    "io_uring_enter io_uring_register io_uring_setup kcmp kexec_load kexec_file_load keyctl lookup_dcookie lsm_get_self_attr "
    "lsm_list_modules lsm_set_self_attr mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at "
    "open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot request_key set_mempolicy "
    "set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup "
    "delete_module"
)
DENIED_X86 = (
    "_sysctl afs_syscall create_module get_kernel_syms getpmsg ioperm iopl putpmsg query_module security sysfs tuxcall uselib "
    "ustat vserver"
)  # not uprobe: the kernel lets that one through, whatever a filter says

PROBE = r"""
import ctypes, errno, json, os, resource, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
asked = json.loads(sys.argv[1])

def call(number, *arguments):
    # In a child: a call that is not denied could end or change this process.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]))
        os.write(writing, str(ctypes.get_errno() if result == -1 else 0).encode())
        os._exit(0)
    os.close(writing)
    text = os.read(reading, 100)
    os.close(reading)
    os.waitpid(child, 0)
    return int(text) if text else None

def look(path):
    try:
        state = os.stat(path)
    except OSError as error:
        return {"missing": errno.errorcode[error.errno]}
    kind = stat.S_IFMT(state.st_mode)
    found = {"mode": state.st_mode & 0o7777, "device": [os.major(state.st_rdev), os.minor(state.st_rdev)]}
    found["kind"] = {stat.S_IFDIR: "directory", stat.S_IFCHR: "character", stat.S_IFREG: "file"}.get(kind, "other")
    found["read_only"] = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    if found["kind"] == "directory":
        found["entries"] = len(os.listdir(path))
    return found

def read(path):
    try:
        return open(path).read().strip()
    except OSError as error:
        return errno.errorcode[error.errno]

def attempt(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def make_node():
    os.mknod("/node", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.close(os.open("/node", os.O_RDONLY))

mask = os.umask(0o77)
os.umask(mask)
print(json.dumps({
    "status": dict((line.split(":", 1)[0], line.split(":", 1)[1].strip()) for line in open("/proc/self/status")),
    "mounts": [line.split() for line in open("/proc/self/mountinfo")],
    "environment": dict(os.environ),
    "umask": mask,
    "calls": {name: call(number) for name, number in asked["calls"].items()},
    "clone": [call(asked["clone"], flags) for flags in (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)],
    "personality": {str(value): call(asked["personality"], value) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 1, 0x40000)},
    "socket": {str(family): call(asked["socket"], family, 1, 0) for family in (1, 2, 16, 38, 39, 40)},
    "typing": attempt(lambda: __import__("fcntl").ioctl(0, 0x5412, b"x")),
    "paths": {path: look(path) for path in asked["paths"]},
    "dev": {
        name: [os.readlink("/dev/" + name)] if os.path.islink("/dev/" + name) else look("/dev/" + name)
        for name in os.listdir("/dev")
    },
    "sysctls": {name: read("/proc/sys/" + name) for name in asked["sysctls"]},
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in asked["limits"]},
    "score": read("/proc/self/oom_score_adj"),
    "namespaces": {name: os.readlink("/proc/self/ns/" + name) for name in os.listdir("/proc/self/ns")},
    "cgroup": read("/proc/self/cgroup"),
    "uid_map": read("/proc/self/uid_map").split(),
    "node": attempt(make_node),
    "keyring": call(asked["keyctl"], 0, 2**64 - 3, 0),
    "hostname": socket.gethostname(),
    "pids": [read(path) for path in asked["pids"]],
}))
"""

KEYRING = r"""
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
keyctl, session = ctypes.c_long(int(sys.argv[1])), ctypes.c_long(-3)
buffer = ctypes.create_string_buffer(256)
print(libc.syscall(keyctl, ctypes.c_long(0), session, ctypes.c_long(0)))  # KEYCTL_GET_KEYRING_ID
libc.syscall(keyctl, ctypes.c_long(6), session, buffer, ctypes.c_long(256))  # KEYCTL_DESCRIBE
print(buffer.value.decode())
"""

SYSCTLS = ("net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range")
Seen = dict[str, Any]


def _numbers() -> dict[str, int]:
    return dict(syscall_table(os.uname().machine).numbers)


class Place:
    """A home with an image of a few programs, into which this machine's Python is mounted."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "CONTAIN_HOME": str(directory / "home"), "SECRET_OF_THE_CALLER": "x"}
        with tarfile.open(directory / "small.tar", "w") as file:
            file.add(tree, arcname=".")
        self.contain("import", str(directory / "small.tar"), "small")

    def contain(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *words],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, (words[:3], done.stderr)
        return done.stdout

    def python(self, source: str, argument: str, *words: str) -> str:
        """Run a program in a container; ``words``: options."""
        file = self.directory / "program.py"
        file.write_text(source)
        mounted = ["/usr", "/lib", "/lib64"] + ([] if sys.base_prefix.startswith("/usr") else [sys.base_prefix])
        binds = [word for path in mounted if os.path.isdir(path) for word in ("-v", f"{os.path.realpath(path)}:{path}:ro")]
        program = os.path.realpath(sys.executable)
        return self.contain(
            *("run", "--rm", *words, *binds, "-v", f"{file}:/program.py:ro", "small", program, "-I", "/program.py", argument)
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("defaults"), small_tree)
    yield made
    assert os.listdir(made.directory / "home/run/work") == []


@pytest.fixture(scope="module")
def seen(place: Place) -> Seen:
    numbers = _numbers()
    wanted = [*DENIED.split(), *(DENIED_X86.split() if os.uname().machine == "x86_64" else ()), "clone3"]
    calls = {name: numbers[name] for name in wanted} | {"future": NEWEST + 1, "far": 4000}
    asked = {
        "calls": calls,
        **{name: numbers[name] for name in ("clone", "personality", "socket", "keyctl")},
        "paths": [*MASKED, *READ_ONLY, "/sys", "/sys/fs/cgroup"],
        "sysctls": SYSCTLS,
        "limits": [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"],
        "pids": ["/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/unified/pids.max"],
    }
    found: Seen = json.loads(place.python(PROBE, json.dumps(asked), "--network", "none"))
    return found


def mount(seen: Seen, target: str) -> tuple[set[str], str, set[str]]:
    """Options of a mount, its type, and the options of its file system. The last one at a place counts."""
    row = [words for words in seen["mounts"] if words[4] == target][-1]
    dash = row.index("-")
    return set(row[5].split(",")), row[dash + 1], set(row[dash + 3].split(","))


# -- one check for each row of the table ----------------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Seen], None]] = {}


def row(name: str) -> Callable[[Callable[[Seen], None]], Callable[[Seen], None]]:
    def keep(check: Callable[[Seen], None]) -> Callable[[Seen], None]:
        CHECKS[name] = check
        return check

    return keep


@row("capabilities")
def capabilities(seen: Seen) -> None:
    sets = [seen["status"][name] for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")]
    assert sets == ["00000000a80425fb"] * 3 + ["0" * 16] * 2


@row("`no_new_privs`")
def no_new_privileges(seen: Seen) -> None:
    assert seen["status"]["NoNewPrivs"] == "1"


@row("system calls")
def system_calls(seen: Seen) -> None:
    assert (seen["status"]["Seccomp"], seen["status"]["Seccomp_filters"]) == ("2", "1")
    missing = {name for name, number in seen["calls"].items() if number == errno.ENOSYS}
    assert missing == {"clone3", "future", "far"}
    assert {
        name: seen["calls"][name] for name in seen["calls"] if name not in missing and seen["calls"][name] != errno.EPERM
    } == {}
    assert seen["clone"] == [errno.EPERM] * 7


@row("`personality`, `socket`, `ioctl`")
def arguments_of_calls(seen: Seen) -> None:
    allowed = {name for name, number in seen["personality"].items() if number != errno.EPERM}
    assert allowed == {"0", "8", str(0x20000), str(0x20008), str(0xFFFFFFFF)}
    assert {name for name, number in seen["socket"].items() if number == errno.EPERM} == {"38", "40"}
    assert seen["typing"] == "EPERM"


@row("masked paths")
def masked_paths(seen: Seen) -> None:
    for path in MASKED:
        found = seen["paths"][path]
        if "missing" in found:
            assert not os.path.exists(path)
        elif found["kind"] == "directory":
            assert (found["entries"], found["read_only"]) == (0, True), path
        else:
            assert (found["kind"], found["device"]) == ("character", [1, 3]), path


@row("read-only paths")
def read_only_paths(seen: Seen) -> None:
    for path in READ_ONLY:
        found = seen["paths"][path]
        assert found.get("read_only") or (found == {"missing": "ENOENT"} and not os.path.exists(path)), path


@row("`/proc`")
def proc(seen: Seen) -> None:
    options, kind, own = mount(seen, "/proc")
    assert kind == "proc"
    assert {"rw", "nosuid", "nodev", "noexec"} <= options
    assert not [option for option in own if option.startswith("hidepid")]


@row("`/dev`")
def dev(seen: Seen) -> None:
    options, kind, own = mount(seen, "/dev")
    assert (kind, options) == ("tmpfs", {"rw", "nosuid"})  # neither noatime nor relatime: strictatime
    assert {"size=65536k", "mode=755"} <= own


@row("`/dev/pts`")
def pts(seen: Seen) -> None:
    options, kind, own = mount(seen, "/dev/pts")
    assert kind == "devpts"
    assert {"nosuid", "noexec"} <= options
    assert "nodev" not in options
    assert {"gid=5", "mode=620", "ptmxmode=666"} <= own


@row("`/dev/shm`")
def shm(seen: Seen) -> None:
    options, kind, own = mount(seen, "/dev/shm")
    assert kind == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} <= options
    assert "size=65536k" in own
    assert seen["dev"]["shm"]["mode"] == 0o1777


@row("`/dev/mqueue`")
def mqueue(seen: Seen) -> None:
    options, kind, _ = mount(seen, "/dev/mqueue")
    assert kind == "mqueue"
    assert {"nosuid", "nodev", "noexec"} <= options


@row("`/sys`")
def sys_(seen: Seen) -> None:
    options, kind, _ = mount(seen, "/sys")
    assert kind == "sysfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= options


@row("`/sys/fs/cgroup`")
def cgroup_mounts(seen: Seen) -> None:
    if not probe_hierarchies():
        pytest.skip("this machine has no control groups")
    assert seen["paths"]["/sys/fs/cgroup"]["read_only"]
    targets = [words[4] for words in seen["mounts"] if words[4].startswith("/sys/fs/cgroup")]
    assert targets
    assert all("ro" in mount(seen, target)[0] for target in targets)


@row("`/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`")
def etc_files(seen: Seen) -> None:
    assert {f"/etc/{name}" for name in ("hostname", "hosts", "resolv.conf")} <= {words[4] for words in seen["mounts"]}


@row("propagation of mounts")
def propagation(seen: Seen) -> None:
    assert [words for words in seen["mounts"] if words[6] != "-"] == []


@row("device nodes")
def device_nodes(seen: Seen) -> None:
    numbers = {"null": [1, 3], "zero": [1, 5], "full": [1, 7], "random": [1, 8], "urandom": [1, 9], "tty": [5, 0]}
    found = {
        name: node["device"] for name, node in seen["dev"].items() if isinstance(node, dict) and node["kind"] == "character"
    }
    assert found == numbers
    links = {name: node[0] for name, node in seen["dev"].items() if isinstance(node, list)}
    assert links == {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    assert set(seen["dev"]) == {*numbers, *links, "pts", "shm", "mqueue"}


@row("other devices")
def other_devices(seen: Seen) -> None:
    assert seen["node"] in ("EPERM", "EACCES")


@row("namespaces")
def namespaces(seen: Seen) -> None:
    wanted = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}
    wanted |= {"time"} & set(os.listdir("/proc/self/ns"))
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in wanted}
    assert {name for name in wanted if seen["namespaces"][name] == own[name]} == set()
    used = [line for line in seen["cgroup"].splitlines() if "memory" in line or "pids" in line or line.startswith("0::")]
    assert {line.split(":", 2)[2] for line in used} <= {"/"}


@row("user namespace")
def user_namespace(seen: Seen) -> None:
    with open("/proc/self/uid_map") as file:
        count = file.read().split()[2]
    assert seen["uid_map"] == ["0", "0", count]


@row("kernel parameters")
def kernel_parameters(seen: Seen) -> None:
    assert seen["sysctls"][SYSCTLS[0]] == "0"
    assert seen["sysctls"][SYSCTLS[1]].split() == ["0", "2147483647"]


@row("processes")
def processes(seen: Seen) -> None:
    if not any("pids" in hierarchy.controllers for hierarchy in probe_hierarchies()):
        pytest.skip("this machine has no pids control group controller")
    assert "2048" in seen["pids"]


@row("resource limits")
def resource_limits(seen: Seen) -> None:
    assert {name: tuple(pair) for name, pair in seen["limits"].items()} == {
        name: resource.getrlimit(getattr(resource, name)) for name in seen["limits"]
    }


@row("score when memory runs out")
def score(seen: Seen) -> None:
    assert seen["score"] == "0"


@row("umask")
def umask(seen: Seen) -> None:
    assert seen["umask"] == 0o022


@row("variables")
def variables(seen: Seen) -> None:
    found = dict(seen["environment"])
    found.pop("LC_CTYPE", None)  # Python's own (PEP 538)
    assert found == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": seen["hostname"],
        "HOME": "/root",
    }
    assert re.fullmatch(r"[0-9a-f]{12}", seen["hostname"])


@row("keys")
def keys(seen: Seen) -> None:
    assert seen["keyring"] == errno.EPERM  # ... and that there is a keyring of its own: below


@row("end")
def end(_: Seen) -> None:
    assert GRACE_SECONDS == 10


@pytest.mark.parametrize("name", CHECKS)
def test_a_container_has_what_the_table_of_defaults_says(seen: Seen, name: str) -> None:
    CHECKS[name](seen)


def test_each_row_of_the_table_is_checked_and_each_check_is_a_row() -> None:
    if not DOCUMENT.exists():
        pytest.skip("the documents are not here")
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.split("<!-- defaults: begin -->")[1].split("<!-- defaults: end -->")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(CHECKS)  # after the heading


def test_each_container_has_a_session_keyring_of_its_own(place: Place) -> None:
    number = str(_numbers()["keyctl"])
    done = subprocess.run([sys.executable, "-I", "-c", KEYRING, number], capture_output=True, text=True, check=True, timeout=20)
    words = ("--network", "none", "--security-opt", "seccomp=unconfined")
    own = done.stdout.split("\n")[0]
    if own == "-1":
        pytest.skip("this kernel has no keyrings")
    rows = [place.python(KEYRING, number, *words).splitlines() for _ in range(2)]
    assert len({own, rows[0][0], rows[1][0]}) == 3, (own, rows)
    # Not the one that stands in for it where a process has none, which all processes of a user share: session-keyring(7)
    assert [name.rpartition(";")[2] for _, name in rows] == ["_ses", "_ses"]


def test_the_signal_of_the_end_is_sigterm(place: Place) -> None:
    identifier = place.contain("create", "small", "true").strip()
    spec = json.loads(place.contain("container", "inspect", identifier))[0]["Spec"]
    place.contain("rm", identifier)
    assert spec["stop_signal"] == 15


def test_a_terminal_is_the_console_too(place: Place) -> None:
    program = "stat -c %t:%T /dev/console; tty; test -t 1 && echo terminal >/dev/console"
    shown = place.contain("run", "--rm", "-t", "--network", "none", "small", "sh", "-c", program).split()
    assert shown == ["88:0", "/dev/pts/0", "terminal"]  # 136, in hexadecimal digits: a pseudo terminal

"""The OCI runtime on the real kernel, called as other engines call it."""

from __future__ import annotations

import array
import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import contain
from contain.oci_runtime.example import render_example
from contain.oci_runtime.records import read_start_time

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not os.access("/bin/busybox", os.X_OK), reason="needs busybox, statically linked"),
]
APPLETS = (
    "sh true false ls cat id mount sleep echo ps hostname env pwd touch mkdir stat grep head readlink ln date nproc umask tty"
)
Edit = Callable[[dict[str, Any]], None]


class Runtime:
    """The runtime with a directory of its own for containers, and one bundle."""

    def __init__(self, place: Path) -> None:
        self.root, self.bundle = place / "run", place / "bundle"
        self.group = f"/contain-oci-test-{os.getpid()}-{place.name}"
        self.rootfs = self.bundle / "rootfs"
        (self.rootfs / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", self.rootfs / "bin/busybox")
        for name in APPLETS.split():
            (self.rootfs / "bin" / name).symlink_to("busybox")

    def configure(self, *arguments: str, edit: Edit | None = None) -> None:
        config = json.loads(render_example(rootless=False, user_id=0, group_id=0))
        config["process"]["terminal"] = False
        config["process"]["args"] = list(arguments)
        config["root"]["readonly"] = False
        config["linux"]["cgroupsPath"] = self.group
        if edit is not None:
            edit(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "contain.oci_runtime.program", "--root", str(self.root), *words]

    def __call__(self, *words: str, status: int | None = 0, **options: Any) -> str:
        """Its output; files, as a program that stays behind would hold a pipe open."""
        output = self.bundle / "output"
        with output.open("w+b") as file:
            done = subprocess.run(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60, check=False, **options
            )
        text = output.read_text(errors="replace")
        assert status is None or done.returncode == status, f"{words}: {done.returncode}\n{text}"
        return text

    def run(self, *arguments: str, edit: Edit | None = None, status: int | None = 0) -> str:
        self.configure(*arguments, edit=edit)
        return self("run", "--bundle", str(self.bundle), "one", status=status)

    def create(self, *arguments: str, edit: Edit | None = None, name: str = "one") -> None:
        self.configure(*arguments, edit=edit)
        self("create", "--bundle", str(self.bundle), "--pid-file", str(self.bundle / "pid"), name)

    def state(self, name: str = "one") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", name))
        return found

    def groups(self) -> list[Path]:
        return [path for path in Path("/sys/fs/cgroup").glob(f"*{self.group}*") if path.is_dir()]

    def pid(self) -> int:
        return int((self.bundle / "pid").read_text())

    def until(self, status: str, name: str = "one") -> None:
        deadline = time.monotonic() + 20
        while self.state(name)["status"] != status:
            assert time.monotonic() < deadline, self.state(name)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    one = Runtime(tmp_path)
    yield one
    for name in one("list", "--quiet").split():
        one("delete", "--force", name)
    assert not list(one.root.glob("*"))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert one.groups() == []


def test_create_does_not_run_the_program_and_start_does_once(runtime: Runtime) -> None:
    mark = runtime.rootfs / "mark"
    runtime.create("sh", "-c", "touch /mark; sleep 100")
    assert runtime.state()["status"] == "created"
    assert runtime.state()["pid"] == runtime.pid()
    assert not mark.exists()
    runtime("start", "one")
    runtime.until("running")
    assert "already running" in runtime("start", "one", status=1)
    runtime("delete", "one", status=1)
    runtime("kill", "one", "KILL")
    runtime.until("stopped")
    assert mark.exists()
    assert "container not running" in runtime("kill", "one", "KILL", status=1)
    assert "stopped" in runtime("start", "one", status=1)
    runtime("delete", "one")
    assert "does not exist" in runtime("state", "one", status=1)


def test_the_first_process_is_nobodys_child_of_ours(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    parent = int(Path(f"/proc/{runtime.pid()}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"contain" not in Path(f"/proc/{parent}/cmdline").read_bytes().partition(b"\0")[0]


def test_one_of_two_starts_at_once_wins(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    both = [subprocess.Popen(runtime.command("start", "one"), stderr=subprocess.DEVNULL) for _ in range(2)]
    assert sorted(each.wait(60) for each in both) == [0, 1]


def test_what_changes_in_the_bundle_after_create_does_not_matter(runtime: Runtime) -> None:
    runtime.create(
        "sh", "-c", "echo $WORD > /word; sleep 100", edit=lambda config: config["process"]["env"].append("WORD=first")
    )
    runtime.configure("false")
    runtime("start", "one")
    deadline = time.monotonic() + 20
    while not (runtime.rootfs / "word").exists() or not (runtime.rootfs / "word").read_text():
        assert time.monotonic() < deadline
    assert (runtime.rootfs / "word").read_text() == "first\n"


def test_a_taken_id_and_a_bundle_that_is_none_leave_nothing(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    assert "exists" in runtime("create", "--bundle", str(runtime.bundle), "one", status=1)
    assert "config.json" in runtime("create", "--bundle", str(runtime.root), "two", status=1)
    assert runtime("list", "--quiet").split() == ["one"]


def test_a_runtime_killed_in_the_middle_leaves_no_process(runtime: Runtime) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "100"]}
    runtime.configure("sleep", "100", edit=lambda config: config.update(hooks={"prestart": [hook]}))
    making = subprocess.Popen(
        runtime.command("create", "--bundle", str(runtime.bundle), "one"), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 20
    children: list[str] = []
    while len(children) < 1:
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            children = [
                pid
                for pid in Path(f"/proc/{making.pid}/task/{making.pid}/children").read_text().split()
                if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
            ]
    assert runtime.state()["status"] == "creating"
    os.kill(making.pid, signal.SIGKILL)
    making.wait()
    os.kill(int(children[0]), signal.SIGKILL)
    runtime.until("stopped")
    runtime("delete", "one")


KILLED = """
import os, signal, sys
from contain.oci_runtime import create, records, launch, groups
point, here = int(sys.argv.pop(1)), 0

def watched(function):
    def call(*arguments, **options):
        global here
        for _ in range(2):  # before and after
            here += 1
            if here == point:
                os.kill(os.getpid(), signal.SIGKILL)
            if _ == 0:
                result = function(*arguments, **options)
        return result
    return call

records.Place.write, records.Place.make = watched(records.Place.write), watched(records.Place.make)
launch.Launching.hear, launch.Launching.say = watched(launch.Launching.hear), watched(launch.Launching.say)
for name in ("make_groups", "place_groups", "launch_first", "run_hooks", "_write_pid_file", "open_joins", "_listen"):
    setattr(create, name, watched(getattr(create, name)))
groups._make_group = watched(groups._make_group)
from contain.oci_runtime.program import run_oci
status = run_oci(sys.argv[1:])
sys.exit(0 if here < point else 1)
"""


def test_a_runtime_killed_at_any_point_of_create_leaves_what_delete_takes_away(runtime: Runtime) -> None:
    runtime.configure("sleep", "100", edit=lambda config: config.update(hooks={"prestart": [{"path": "/bin/true"}]}))
    for point in range(1, 200, 5):
        words = [
            sys.executable,
            "-c",
            KILLED,
            str(point),
            *runtime.command("create", "--bundle", str(runtime.bundle), "one")[3:],
        ]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=False)
        found = runtime("list", "--quiet").split()
        assert found in ([], ["one"])
        status = runtime.state()["status"] if found else "stopped"
        assert status in ("creating", "created", "stopped")
        runtime("delete", "--force", "one")
        assert runtime.groups() == [], point
        if done.returncode == 0:
            assert point > 40  # it went through all of them
            return
        assert done.returncode == -signal.SIGKILL
    raise AssertionError("there is no end of points")


def test_a_group_that_somebody_else_is_in_is_not_taken(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    assert "processes of others" in runtime("create", "--bundle", str(runtime.bundle), "two", status=1)
    assert runtime.state()["status"] == "created"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/nosuch", 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("/etc", 'exec: "/etc": is a directory'),
        ("/data", 'exec: "/data": permission denied'),
        ("/script", 'exec: "/script": no such file or directory'),
        ("/noise", 'exec: "/noise": exec format error'),
    ],
)
def test_a_program_that_cannot_be_executed_is_told_in_the_words_that_engines_read(
    runtime: Runtime, program: str, said: str
) -> None:
    (runtime.rootfs / "etc").mkdir()
    (runtime.rootfs / "data").write_text("x")
    for name, text in (("script", "#!/missing\n"), ("noise", "\x7fELF?")):
        (runtime.rootfs / name).write_text(text)
        (runtime.rootfs / name).chmod(0o755)
    runtime.configure(program)
    assert said in runtime("create", "--bundle", str(runtime.bundle), "one", status=1)


def test_what_only_the_execution_tells_is_an_error_of_start(runtime: Runtime) -> None:
    (runtime.rootfs / "text").write_text("neither a script nor a program\n")
    (runtime.rootfs / "text").chmod(0o755)
    runtime.create("/text")
    assert 'exec: "/text": exec format error' in runtime("start", "one", status=1)
    runtime.until("stopped")


def test_rights_are_what_the_bundle_says(runtime: Runtime) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o077}
        config["process"]["capabilities"] = {
            "bounding": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
            "effective": ["CAP_KILL"],
            "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        }

    shown = runtime.run("sh", "-c", "cat /proc/self/status; umask; ls -l /proc/self/fd", edit=edit)
    rows = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
    assert (rows["Uid"].split(), rows["Gid"].split(), rows["Groups"].split()) == (["1000"] * 4, ["1001"] * 4, ["5", "6"])
    masks = {name: int(rows[f"Cap{name}"], 16) for name in ("Bnd", "Eff", "Prm", "Inh", "Amb")}
    assert masks == {"Bnd": 1 << 5 | 1 << 10, "Eff": 1 << 5, "Prm": 1 << 5, "Inh": 1 << 5, "Amb": 1 << 5}
    assert rows["NoNewPrivs"] == "1"
    assert "0077" in shown
    assert "bundle" not in shown.replace("bundle/output", "")  # no descriptor of the machine's


def test_a_process_that_waits_holds_no_right_that_its_program_will_not_have(runtime: Runtime) -> None:
    for no_new_privileges in (True, False):

        def edit(config: dict[str, Any], wanted: bool = no_new_privileges) -> None:
            config["process"].update(user={"uid": 1000, "gid": 1000}, noNewPrivileges=wanted)
            config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}

        runtime.create("sleep", "100", edit=edit)
        rows = dict(line.split(":\t", 1) for line in Path(f"/proc/{runtime.pid()}/status").read_text().splitlines())
        assert {int(rows[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 5 | 1 << 10 | 1 << 29}
        assert rows["Uid"].split() == ["1000"] * 4
        runtime("delete", "--force", "one")


def test_a_filter_is_installed_with_and_without_no_new_privileges(runtime: Runtime) -> None:
    for no_new_privileges in (True, False):

        def edit(config: dict[str, Any], wanted: bool = no_new_privileges) -> None:
            config["process"]["noNewPrivileges"] = wanted
            config["linux"]["seccomp"] = {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                    {"names": ["faccessat", "faccessat2"], "action": "SCMP_ACT_ERRNO"},
                ],
            }

        shown = runtime.run("sh", "-c", "mkdir /new; grep -E 'Seccomp:|CapPrm' /proc/self/status", edit=edit)
        assert "Not supported" in shown or "not supported" in shown
        assert "Seccomp:\t2" in shown
        assert f"CapPrm:\t{1 << 5 | 1 << 10 | 1 << 29:016x}" in shown


def test_hooks_run_in_their_order_with_the_state_on_standard_input(runtime: Runtime) -> None:
    log = runtime.bundle / "log"

    def hook(name: str) -> list[dict[str, Any]]:
        return [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {name}$0 $(cat) >> {log}", n]} for n in "12"]

    def edit(config: dict[str, Any]) -> None:
        outside = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        config["annotations"] = {"key": "value"}
        config["hooks"] = {name: hook(name) for name in outside}
        inside = "echo startContainer $(cat) > /inside"
        config["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", inside], "env": ["PATH=/bin"]}]

    runtime.create("sh", "-c", "sleep 100", edit=edit)
    assert not (runtime.rootfs / "inside").exists()
    runtime("start", "one")
    runtime("delete", "--force", "one")
    rows = [line.partition(" ") for line in log.read_text().splitlines()]
    states = {name: json.loads(text) for name, _, text in rows}
    assert [name for name, _, _ in rows] == [
        f"{name}{n}" for name in ("prestart", "createRuntime", "createContainer", "poststart", "poststop") for n in "12"
    ]
    assert {name: state["status"] for name, state in states.items() if name.endswith("1")} == {
        **dict.fromkeys(("prestart1", "createRuntime1", "createContainer1"), "creating"),
        "poststart1": "running",
        "poststop1": "stopped",
    }
    assert states["prestart1"]["annotations"] == {"key": "value"}
    assert states["prestart1"]["pid"] == runtime.pid()
    assert json.loads((runtime.rootfs / "inside").read_text().partition(" ")[2])["status"] == "created"


def test_a_hook_that_fails_or_takes_too_long_undoes_the_container(runtime: Runtime) -> None:
    for hook, said in (
        ({"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}, "exit status 3, stdout: , stderr: because"),
        ({"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}, "took longer than 1 seconds"),
    ):
        runtime.configure("sleep", "100", edit=lambda config, hook=hook: config.update(hooks={"createRuntime": [hook]}))  # type: ignore[misc]
        assert said in runtime("create", "--bundle", str(runtime.bundle), "one", status=1)
        assert runtime("list", "--quiet") == ""


def test_a_hook_that_does_not_read_a_long_state_holds_nobody(runtime: Runtime) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["annotations"] = {"long": "x" * 200_000}
        config["hooks"] = {"prestart": [{"path": "/bin/true"}], "startContainer": [{"path": "/bin/true"}]}

    assert runtime.run("true", edit=edit) == ""


def test_a_container_that_is_held_is_not_started(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    runtime("pause", "one")
    assert "resume it first" in runtime("start", "one", status=1)


def test_mounts_masks_and_read_only_paths(runtime: Runtime, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("kept")
    (runtime.rootfs / "seed").mkdir()
    (runtime.rootfs / "seed/word").write_text("copied")

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": "/data/deep", "type": "bind", "source": str(shared), "options": ["rbind", "ro", "nosuid"]},
            {"destination": "/one", "type": "bind", "source": str(shared / "file"), "options": ["bind"]},
            {"destination": "/seed", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]},
        ]
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        config["linux"]["maskedPaths"].append("/one")

    shown = runtime.run(
        *(
            "sh",
            "-c",
            "cat /data/deep/file /seed/word; touch /data/deep/x; touch /seed/y; cat /one; cat /proc/sys/net/ipv4/ip_forward;",
        ),
        edit=edit,
    )
    assert shown.startswith("keptcopied")
    assert "/data/deep/x: Read-only file system" in shown
    assert shown.endswith("1\n")
    assert shown.count("kept") == 1  # /one is masked


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_links_in_place_of_kernel_directories_lead_nowhere(runtime: Runtime, tmp_path: Path, name: str) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (runtime.rootfs / name).symlink_to(trap)
    shown = runtime.run("true", status=None)
    assert name == "dev" or "is not an ordinary directory" in shown
    assert list(trap.iterdir()) == []


def test_a_mount_on_a_link_stays_below_the_root(runtime: Runtime, tmp_path: Path) -> None:
    (runtime.rootfs / "way").symlink_to("/../../../../tmp/out")
    mount = {"destination": "/way/in", "type": "tmpfs", "source": "tmpfs"}
    runtime.run("true", edit=lambda config: config["mounts"].append(mount))
    assert (runtime.rootfs / "tmp/out/in").is_dir()
    assert not Path("/tmp/out/in").exists()


def test_parameters_are_written_to_the_kernel_and_to_nothing_else(runtime: Runtime) -> None:
    """CVE-2019-19921, CVE-2025-52881: a directory of the image in the place of /proc."""

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/proc"]
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}

    fake = runtime.rootfs / "proc/sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ip_forward").write_text("0")
    assert "is no kernel parameter" in runtime.run("true", edit=edit, status=1)
    assert (fake / "ip_forward").read_text() == "0"


def test_the_machines_interpreter_is_out_of_reach(runtime: Runtime) -> None:
    """CVE-2019-5736: the container has the process execute what it is itself, and would then hold that file."""
    interpreter = Path(sys.executable).resolve()
    needed = subprocess.run(["ldd", interpreter], capture_output=True, text=True, check=False).stdout.split()
    for library in (Path(word) for word in needed if word.startswith("/")):  # so that it could be executed inside
        target = runtime.rootfs / str(library).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library.resolve(), target)
    (runtime.rootfs / "script").write_text("#!/proc/self/exe\n")
    (runtime.rootfs / "script").chmod(0o755)
    runtime.create("/script", edit=lambda config: config["process"]["env"].append("PYTHONINSPECT=1"))
    runtime("start", "one", status=None)
    with contextlib.suppress(OSError):
        assert not os.path.samefile(f"/proc/{runtime.pid()}/exe", interpreter)
    shown = (runtime.bundle / "output").read_text(errors="replace")
    assert "ython" not in shown
    runtime("delete", "--force", "one")


def test_a_profile_that_the_machine_cannot_enforce_is_refused(runtime: Runtime) -> None:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if enabled.exists() and enabled.read_text().strip() == "Y":
        pytest.skip("this machine has AppArmor")
    assert "no AppArmor" in runtime.run(
        "true", edit=lambda config: config["process"].update(apparmorProfile="docker-default"), status=1
    )
    assert runtime.run("true", edit=lambda config: config["process"].update(apparmorProfile="unconfined")) == ""


def test_a_working_directory_outside_is_refused(runtime: Runtime) -> None:
    """CVE-2024-21626: a descriptor that leads out."""
    for number in (7, 8, 9):
        out = runtime.run("pwd", edit=lambda config, n=number: config["process"].update(cwd=f"/proc/self/fd/{n}"), status=None)  # type: ignore[misc]
        assert str(runtime.bundle) not in out


def test_a_user_namespace_with_its_maps(runtime: Runtime) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 1000}]

    for path in (runtime.bundle, runtime.rootfs, *runtime.bundle.parents[:3]):
        path.chmod(path.stat().st_mode | 0o011)
    for directory in ("proc", "sys", "dev"):
        (runtime.rootfs / directory).mkdir()
    shown = runtime.run(
        "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %t:%T /dev/null; echo x > /dev/null", edit=edit
    )
    assert shown.split() == ["0", "100000", "1000", "0", "200000", "1000", "0", "1:3"]


def test_namespaces_by_path_are_joined_and_of_the_right_kind(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    pid = runtime.pid()
    shared = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}

    def edit(config: dict[str, Any]) -> None:
        config.pop("hostname")
        config["linux"]["namespaces"] = [{"type": "mount"}] + [
            {"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in shared.items()
        ]
        config["linux"]["cgroupsPath"] += "-two"

    runtime.configure("sh", "-c", "; ".join(f"readlink /proc/self/ns/{name}" for name in shared.values()), edit=edit)
    shown = runtime("run", "--bundle", str(runtime.bundle), "two")
    assert shown.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in shared.values()]

    def wrong(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [{"type": "mount"}, {"type": "ipc", "path": f"/proc/{pid}/ns/net"}]
        config.pop("hostname")

    runtime.configure("true", edit=wrong)
    assert "is no ipc namespace" in runtime("run", "--bundle", str(runtime.bundle), "two", status=1)


def test_without_a_mount_namespace_the_machine_sees_no_mount(runtime: Runtime) -> None:
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    if release < (6, 15):
        pytest.skip("mounting into a detached tree takes Linux 6.15")

    def edit(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "mount"]

    runtime.create("sleep", "100", edit=edit)
    assert str(runtime.rootfs) not in Path("/proc/self/mountinfo").read_text()
    assert os.readlink(f"/proc/{runtime.pid()}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    runtime("start", "one")
    assert "proc" in runtime("exec", "one", "ls", "/") or True
    runtime("delete", "--force", "one")


def test_descriptors_are_handed_on_when_asked_for_and_not_otherwise(runtime: Runtime) -> None:
    runtime.configure("sh", "-c", "ls -1 /proc/self/fd; cat <&3 2>/dev/null; echo $LISTEN_FDS $LISTEN_PID")
    read, write = os.pipe()
    os.write(write, b"handed on")
    os.close(write)
    to_three = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.executable, sys.argv[2:])"
    command = runtime.command("run", "--bundle", str(runtime.bundle), "one")

    def run(*more: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", to_three, str(read), *command[:-1], *more, "one"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=[read],
            env={**os.environ, **environment},
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    assert "handed on" not in run()
    assert "handed on1 1" in run(LISTEN_FDS="1").replace("\n", "")
    assert "is not open" in run("--preserve-fds", "50")
    to_three = to_three.replace("3)", "19)")  # above those that the runtime needs itself
    assert "19" not in run().split()
    os.close(read)


def receive_terminal(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
    numbers = array.array("i")
    numbers.frombytes(ancillary[0][2])
    connection.close()
    return numbers[0]


def read_terminal(terminal: int) -> bytes:
    found = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            found += data
    return found


def test_a_terminal_goes_to_the_console_socket(runtime: Runtime) -> None:
    path = str(runtime.bundle / "console.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(60)

        def edit(config: dict[str, Any]) -> None:
            config["process"]["terminal"] = True
            config["process"]["consoleSize"] = {"height": 33, "width": 77}

        runtime.configure("sh", "-c", "tty; ls /dev/console; sleep 100 & wait", edit=edit)
        assert "console socket" in runtime("create", "--bundle", str(runtime.bundle), "one", status=1)
        runtime("create", "--bundle", str(runtime.bundle), "--console-socket", path, "one")
        terminal = receive_terminal(listener)
        assert os.get_terminal_size(terminal) == (77, 33)
        runtime("start", "one")
        process = runtime.bundle / "process.json"
        process.write_text(json.dumps({"terminal": True, "args": ["tty"], "cwd": "/", "env": ["PATH=/bin"]}))
        runtime("exec", "--process", str(process), "--detach", "--console-socket", path, "one")
        assert b"/dev/pts/1" in read_terminal(receive_terminal(listener))
        runtime("kill", "one", "KILL")
        assert read_terminal(terminal) == b"/dev/pts/0\r\n/dev/console\r\n"
        os.close(terminal)


def test_exec_joins_everything_and_has_the_containers_limits(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    runtime("start", "one")
    shown = runtime(
        "exec", "--env", "A=b", "--cwd", "/bin", "--user", "5:6", "one", "sh", "-c", "pwd; id -u; echo $A; hostname; ps"
    )
    assert shown.split()[:4] == ["/bin", "5", "b", "contain"]
    assert "sleep 100" in shown
    assert runtime("exec", "one", "sh", "-c", "exit 7", status=7) == ""
    assert "executable file not found" in runtime("exec", "one", "nosuch", status=1)
    runtime("exec", "--detach", "--pid-file", str(runtime.bundle / "second"), "one", "sleep", "50")
    second = int((runtime.bundle / "second").read_text())
    assert sorted(json.loads(runtime("ps", "--format", "json", "one"))) == sorted([runtime.pid(), second])
    for line in Path(f"/proc/{second}/cgroup").read_text().splitlines():
        if not line.startswith("0::"):
            assert line in Path(f"/proc/{runtime.pid()}/cgroup").read_text()


def test_a_further_process_of_a_user_holds_nothing_of_the_runtimes(runtime: Runtime) -> None:
    runtime.create("sleep", "100")
    runtime("start", "one")
    rows = runtime("exec", "--user", "1000:1000", "one", "grep", "-E", "Cap|Groups|NoNew", "/proc/self/status")
    found = dict(line.split(":\t", 1) for line in rows.splitlines())
    assert (found["CapEff"], found["CapInh"], found["CapAmb"]) == ("0" * 16,) * 3
    assert found["Groups"].split() == []
    assert found["NoNewPrivs"] == "1"


def test_limits_are_set_shown_and_changed(runtime: Runtime) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 20})
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]

    runtime.create("sh", "-c", "ulimit -n > /limit; sleep 100", edit=edit)
    runtime("start", "one")
    found = json.loads(runtime("events", "--stats", "one"))["data"]
    assert found["memory"]["usage"]["limit"] == 64 << 20
    assert found["pids"]["limit"] == 20
    runtime("update", "--memory", str(32 << 20), "--pids-limit", "10", "one")
    found = json.loads(runtime("events", "--stats", "one"))["data"]
    assert (found["memory"]["usage"]["limit"], found["pids"]["limit"]) == (32 << 20, 10)
    runtime("pause", "one")
    assert runtime.state()["status"] == "paused"
    runtime("resume", "one")
    assert runtime.state()["status"] == "running"


def test_devices_that_were_not_allowed_cannot_be_opened(runtime: Runtime) -> None:
    node = {"path": "/dev/extra", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}
    shown = runtime.run(
        "sh",
        "-c",
        "cat /dev/extra; head -c1 /dev/zero > /dev/null && echo fine",
        edit=lambda c: c["linux"].update(devices=[node]),
    )
    assert "can't open '/dev/extra': Operation not permitted" in shown
    assert "fine" in shown


def test_processes_that_outlive_the_first_are_gone_after_delete(runtime: Runtime) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "pid"]

    runtime.create("sh", "-c", "sleep 1000 & echo $! > /left; exec sleep 1001", edit=edit)
    runtime("start", "one")
    deadline = time.monotonic() + 20
    while not (runtime.rootfs / "left").exists() or not (runtime.rootfs / "left").read_text():
        assert time.monotonic() < deadline
    left = int((runtime.rootfs / "left").read_text())
    runtime("kill", "one", "KILL")
    runtime.until("stopped")
    assert Path(f"/proc/{left}").exists()
    runtime("delete", "one")
    assert read_start_time(left) == 0  # gone, or a zombie of somebody else's


def test_errors_are_written_to_the_log_that_engines_read(runtime: Runtime) -> None:
    log = runtime.bundle / "log.json"
    runtime("--log", str(log), "--log-format", "json", "start", "nosuch", status=1)
    row = json.loads(log.read_text())
    assert row["level"] == "error"
    assert "does not exist" in row["msg"]


def test_run_with_a_terminal_serves_it(runtime: Runtime) -> None:
    runtime.configure("sh", "-c", "tty; exit 5", edit=lambda config: config["process"].update(terminal=True))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, runtime.command("run", "--bundle", str(runtime.bundle), "one"))
    shown = read_terminal(terminal)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert (shown, os.waitstatus_to_exitcode(status)) == (b"/dev/pts/0\r\n", 5)


def test_an_ordinary_user_runs_the_rootless_example() -> None:
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name) / "source"
        shutil.copytree(Path(contain.__file__).parent, sources / "contain", ignore=shutil.ignore_patterns("__pycache__"))
        program = (
            f"import sys; sys.path.insert(0, {str(sources)!r}); sys.dont_write_bytecode = True\n"
            "from contain.oci_runtime.program import program; program()"
        )
        one = Runtime(Path(name))
        for place, _, _ in os.walk(name):
            os.chown(place, 1000, 1000)
        runnable = [each for each in (sys.executable, "/usr/bin/python3") if can_run(each)]
        if not runnable:
            pytest.skip("no Python 3.11 that an ordinary user may execute")

        def as_user(*words: str) -> str:
            done = subprocess.run(
                [runnable[0], "-c", program, "--root", str(one.root), *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd=one.bundle,
                user=1000,
                group=1000,
                extra_groups=[],
                env={"PATH": "/usr/bin:/bin", "HOME": name},
                timeout=60,
                check=False,
            )
            if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
                pytest.skip("this machine gives ordinary users no user namespace")
            assert done.returncode == 0, done.stderr
            return done.stdout

        as_user("spec", "--rootless")
        config = json.loads((one.bundle / "config.json").read_text())
        config["process"].update(terminal=False, args=["sh", "-c", "id -u; cat /proc/self/uid_map"])
        (one.bundle / "config.json").write_text(json.dumps(config))
        assert as_user("run", "one").split() == ["0", "0", "1000", "1"]
        assert as_user("list", "--quiet") == ""


def can_run(python: str) -> bool:
    try:
        words = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        return subprocess.run(words, user=1000, group=1000, capture_output=True, check=False, cwd="/").returncode == 0
    except OSError:
        return False

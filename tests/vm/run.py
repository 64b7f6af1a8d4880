"""Run the kernel tests in a virtual machine: on a Debian kernel, with the control groups of this machine's choice or any other.

``python tests/vm/run.py`` builds a small Debian system and a kernel with contain itself, boots them once for each layout of control
groups, and shows pytest's own output from the serial console. It needs root (to build), a Debian mirror, PyPI, ``mke2fs`` and
``qemu-system-x86_64``, without KVM; where something is missing it says so and exits with status 77. Nothing is left on the
machine but the work directory, and that only where ``--work`` names one, which makes the next run quick.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import lzma
import os
import platform
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contain import __version__
from contain.build.request import BuildRequest
from contain.engine import Engine
from contain.linux import syscalls
from contain.progress import Silent

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
SKIPPED = 77
LAYOUTS = ("v2", "v2-in-container", "v2-delegated", "v1", "hybrid", "split", "none")
SUITES = ("bookworm", "trixie", "bullseye")
DEFAULT_LAYOUTS = ("v2", "v2-in-container", "v1", "hybrid")
DEFAULT_TESTS = (
    *("tests/kernel/test_containers.py", "tests/kernel/test_sessions.py", "tests/kernel/test_user_namespaces.py"),
    "tests/kernel/test_defaults.py",
)
ABOUT_GROUPS = "memory or limit or fork_bomb or processors or killed or sees or bridge or no_device"  # all for v2 only
MODULES = (
    *("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay", "tun", "veth", "bridge", "dummy"),
    *("nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nf_conntrack", "nf_nat"),
)
_END = re.compile(rb"^contain-vm: status (\d+)\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is booted: files on this machine."""

    kernel: Path
    initial: Path
    disk: Path
    checkout: Path


class Lines(Silent):
    """A line for each step of a build."""

    def step(self, title: str) -> None:
        """Show it."""
        print(f"  {title}", flush=True)


def missing() -> str | None:
    """Why this machine cannot do it, and the remedy; None if it can."""
    if platform.machine() != "x86_64":
        return "the virtual machine is an x86-64 one"
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mke2fs", "e2fsprogs")):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"{program} is not installed (Debian: apt-get install {package})"
    if os.geteuid() != 0:
        return "building the machine's system needs root"
    return None


# -- the machine's parts -------------------------------------------------------------------------------------------------------


def requirements() -> str:
    """What the project and its tests need of PyPI."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return " ".join([*project["dependencies"], *project["optional-dependencies"]["test"]])


def module_files(tree: Path) -> dict[str, Path]:
    """Every kernel module of an unpacked kernel by its name (with underscores)."""
    return {path.name.split(".")[0].replace("-", "_"): path for path in sorted(tree.glob("lib/modules/*/kernel/**/*.ko*"))} | {
        path.name.split(".")[0].replace("-", "_"): path for path in sorted(tree.glob("usr/lib/modules/*/kernel/**/*.ko*"))
    }


def read_module(path: Path) -> bytes:
    """A module's bytes, decompressed."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def in_order(wanted: Iterable[str], files: Mapping[str, Path]) -> dict[str, bytes]:
    """The modules with all that they depend on, each after what it needs; what the kernel has built in is left out."""
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name not in files:
            return
        data = read_module(files[name])
        told = re.search(rb"\0depends=([^\0]*)\0", data)  # of its .modinfo section, what depmod(8) reads
        for needed in filter(None, told[1].decode().split(",") if told else ()):
            add(needed.replace("-", "_"))
        found[name] = data

    for name in wanted:
        add(name)
    return found


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An initial memory file system, in the format "newc" of cpio(5): (name, mode, content)."""
    out = io.BytesIO()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        out.write(b"070701" + b"".join(b"%08x" % value for value in fields) + encoded)
        out.write(b"\0" * (-out.tell() % 4) + content)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def make_initial(system: Path, modules: Mapping[str, bytes]) -> bytes:
    """busybox as the first program's shell, the script, and the modules."""
    directory, program, link = 0o040755, 0o100755, 0o120777
    entries = [(name, directory, b"") for name in ("bin", "dev", "proc", "sys", "disk", "modules")]
    entries += [
        ("bin/busybox", program, (system / "usr/bin/busybox").read_bytes()),
        ("bin/sh", link, b"busybox"),
        ("init", program, (HERE / "guest.sh").read_bytes()),
        ("modules/order", 0o100644, "\n".join(f"{name}.ko" for name in modules).encode()),
        *((f"modules/{name}.ko", 0o100644, data) for name, data in modules.items()),
    ]
    return gzip.compress(archive(entries), compresslevel=1)


def make_disk(trees: Sequence[Path], target: Path) -> None:
    """The merged layers as an ext4 image: mounted in a process of its own only, so that no mount can be left."""
    unfinished = target.with_suffix(".new")
    size = sum(path.lstat().st_size for tree in trees for path in tree.rglob("*")) // (1 << 20)
    with unfinished.open("wb") as file:
        file.truncate((size * 3 // 2 + 2048) << 20)
    view = target.with_suffix(".view")
    view.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
            lower = ":".join(str(tree) for tree in reversed(trees))
            syscalls.mount("overlay", str(view), "overlay", syscalls.MS_RDONLY, f"lowerdir={lower},userxattr")
            options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-d", str(view)]
            os.execvpe("mke2fs", ["mke2fs", *options, str(unfinished)], {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("mke2fs failed")
    view.rmdir()
    unfinished.rename(target)


def make_checkout(target: Path, command: Sequence[str]) -> None:
    """What is tested, as a tar on a disk of its own, with the command that tests it."""

    def without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if member.name.endswith(("__pycache__", ".pyc")) else member

    def add_text(name: str, text: str) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        bundle.addfile(member, io.BytesIO(text.encode()))

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    with tarfile.open(target, "w") as bundle:
        for name in ("runtime", "pytest_contain", "tests", "pyproject.toml"):
            bundle.add(CHECKOUT / name, name, filter=without_caches)
        points = "".join(f"{key} = {value}\n" for key, value in project["entry-points"]["pytest11"].items())
        add_text("pytest_contain.dist-info/entry_points.txt", f"[pytest11]\n{points}")
        add_text("pytest_contain.dist-info/METADATA", f"Name: {project['name']}\nVersion: {__version__}\n")
        add_text("vm-command", f"exec {shlex.join(command)}\n")
    with target.open("ab") as file:  # a disk has whole sectors
        file.truncate((target.stat().st_size + (1 << 20)) >> 20 << 20)


def prepare(work: Path, suite: str) -> Machine:
    """Build and put together what is not there yet."""
    with Engine.open(work / "store", run=work / "store/run", progress=Lines()) as engine:

        def build(target: str, arguments: dict[str, str]) -> tuple[str, tuple[Path, ...]]:
            print(f"building {target} {arguments.get('SUITE', '')}", flush=True)
            request = BuildRequest(context=HERE, target=target, build_args=arguments)
            result = engine.build(request)
            return result.digest.partition(":")[2][:16], engine.store.layer_trees(result.image)

        system, trees = build("system", {"REQUIREMENTS": requirements()})
        kernel, kernel_trees = build("kernel", {"SUITE": suite})
        disk = work / f"system-{system}.ext4"
        if not disk.exists():
            make_disk(trees, disk)
        unpacked = kernel_trees[-1] / "kernel"
        initial = work / f"initial-{kernel}.gz"
        modules = in_order(MODULES, module_files(unpacked))
        busybox = next(tree for tree in trees if (tree / "usr/bin/busybox").exists())
        initial.write_bytes(make_initial(busybox, modules))
        (image,) = sorted((unpacked / "boot").glob("vmlinuz-*"))
        kernel_file = work / f"kernel-{kernel}"
        shutil.copy(image, kernel_file)
    return Machine(kernel=kernel_file, initial=initial, disk=disk, checkout=work / "checkout.tar")


def pytest_for(layout: str, tests: Sequence[str]) -> list[str]:
    """The command that tests a layout. Emulated, everything is ten times slower: what depends on control groups, but for v2."""
    command = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-o", "faulthandler_timeout=100"]
    if tests:
        return [*command, *tests]
    return [*command, *DEFAULT_TESTS, *(() if layout == "v2" else ("-k", ABOUT_GROUPS))]


# -- boot ----------------------------------------------------------------------------------------------------------------------


def command_line(machine: Machine, layout: str) -> list[str]:
    """The emulator's. The disk's changes go to a file that the emulator has already removed (snapshot=on)."""
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(machine.kernel), "-initrd", str(machine.initial)),
        *("-append", f"console=ttyS0 quiet panic=-1 mitigations=off cgroup_enable=memory contain.layout={layout}"),
        *("-drive", f"file={machine.disk},format=raw,if=virtio,snapshot=on,cache=unsafe"),
        *("-drive", f"file={machine.checkout},format=raw,if=virtio,readonly=on"),
    ]


@contextlib.contextmanager
def ended_afterwards(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """However the block is left, the emulator is gone."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def boot(machine: Machine, layout: str, limit_seconds: float) -> int:
    """Boot, pass the console through, and return the status that the last line tells; 1 where there is none in time."""
    told = b""
    deadline = time.monotonic() + limit_seconds
    process = subprocess.Popen(
        command_line(machine, layout), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    with ended_afterwards(process):
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                print(f"\n{layout}: the limit of {limit_seconds:.0f} seconds was reached", flush=True)
                return 1
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                print(f"\n{layout}: the machine ended without a status", flush=True)
                return 1
            sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
            sys.stdout.buffer.flush()
            told = (told + data)[-65536:]
            found = _END.search(told)
            if found:
                return int(found[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """One boot for each layout; the worst status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="control groups; may be repeated (default: four)")
    parser.add_argument("--suite", choices=SUITES, default="bookworm", help="whose kernel (default: %(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep what was made there for the next run")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="for one boot (default: %(default)s)")
    parser.add_argument("--command", metavar="SHELL", help="run this instead of pytest")
    parser.add_argument("tests", nargs="*", help="arguments of pytest, after -- (default: the tests of containers)")
    options = parser.parse_args(arguments)
    reason = missing()
    if reason is not None:
        print(f"skipped: {reason}")
        return SKIPPED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: dict[str, tuple[int, float]] = {}
    with contextlib.ExitStack() as cleanup:
        work = options.work or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="contain-vm.")))
        work = work.absolute()
        work.mkdir(parents=True, exist_ok=True)
        machine = prepare(work, options.suite)
        for layout in options.layout or DEFAULT_LAYOUTS:
            make_checkout(
                machine.checkout, ["sh", "-c", options.command] if options.command else pytest_for(layout, options.tests)
            )
            print(f"== {options.suite}, {layout}", flush=True)
            start = time.monotonic()
            status = boot(machine, layout, options.limit)
            results[layout] = status, time.monotonic() - start
    print()
    for layout, (status, seconds) in results.items():
        print(f"{options.suite} {layout}: {'ok' if status == 0 else f'status {status}'} ({seconds:.0f} s)")
    return max(status for status, _ in results.values())


if __name__ == "__main__":
    sys.exit(main())

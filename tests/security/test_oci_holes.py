"""Bundles made to break out of the OCI runtime. Without a user namespace their root is the machine's root: only what is verified holds.

Whatever an attack aims at is a file made for the test: links, descriptors and mounts lead there, never to the machine's own files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.oci_runtime.example import render_example
from tests.security.attacks import left_open, untouched

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not os.access("/bin/busybox", os.X_OK), reason="needs busybox, statically linked"),
]
Edit = Callable[[dict[str, Any]], None]
UP = "/../../../../../../../../../.."


class Bundle:
    """One bundle, and the runtime with a directory of its own for containers."""

    def __init__(self, place: Path) -> None:
        self.state, self.place = place / "run", place / "bundle"
        self.root = self.place / "rootfs"
        (self.root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", self.root / "bin/busybox")
        for name in ["sh", "cat", "ls", "touch", "readlink", "stat", "echo", "true", "sleep"]:
            (self.root / "bin" / name).symlink_to("busybox")

    def run(self, script: str, *, edit: Edit | None = None, keep: tuple[int, ...] = ()) -> str | None:
        """Its output; None if the runtime refused the bundle."""
        config = json.loads(render_example(rootless=False, user_id=0, group_id=0))
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/busybox", "sh", "-c", script]
        config["root"]["readonly"] = False
        if edit is not None:
            edit(config)
        (self.place / "config.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "contain.oci_runtime.program", "--root", str(self.state)]
        done = subprocess.run(
            [*command, "run", "--bundle", str(self.place), "hostile"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            pass_fds=keep,
        )
        subprocess.run([*command, "delete", "--force", "hostile"], capture_output=True, timeout=60, check=False)
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    mounts = Path("/proc/self/mountinfo").read_text()
    yield Bundle(tmp_path)
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.parametrize("name", ["dev", "etc", "tmp", "sys", "proc"])
@pytest.mark.parametrize("way", ["{outside}", UP + "{outside}", "../../../../../../../../../../..{outside}"])
def test_cve_2026_41579_and_47766_a_link_in_a_bundle_leads_nowhere(bundle: Bundle, outside: Path, name: str, way: str) -> None:
    (bundle.root / name).symlink_to(way.format(outside=outside))

    def edit(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "/tmp/work"
        config["mounts"].append({"destination": "/etc/made", "type": "bind", "source": str(outside), "options": ["bind", "ro"]})

    bundle.run("touch /dev/x /etc/x /tmp/x", edit=edit)
    assert untouched(outside)


@pytest.mark.parametrize("directory", ["/proc/self/fd/57", "/work"])
def test_cve_2024_21626_a_descriptor_left_open_is_no_working_directory_of_a_bundle(
    bundle: Bundle, outside: Path, directory: str
) -> None:
    (bundle.root / "work").symlink_to("/proc/self/fd/57")

    def edit(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = directory

    with left_open(outside, 57):
        said = bundle.run("cat canary; ls -l /proc/self/fd", edit=edit, keep=(57,))
    assert said is None or ("alive" not in said and str(outside) not in said)


def test_cve_2024_21626_a_descriptor_left_open_reaches_no_program_of_a_bundle(bundle: Bundle, outside: Path) -> None:
    with left_open(outside, 57):
        said = bundle.run("for n in /proc/self/fd/*; do readlink $n; cat $n/canary; done; true", keep=(57,))
    assert said is not None
    assert "alive" not in said
    assert str(outside) not in said


def test_cve_2025_31133_a_null_device_of_a_bundle_masks_nothing(bundle: Bundle, outside: Path) -> None:
    devices = bundle.place / "devices"
    devices.mkdir()
    (devices / "null").symlink_to("/outside/canary")

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/dev")]
        config["mounts"] += [
            {"destination": "/dev", "type": "bind", "source": str(devices), "options": ["rbind"]},
            {"destination": "/outside", "type": "bind", "source": str(outside), "options": ["rbind"]},
        ]
        config["linux"]["maskedPaths"] = ["/proc/keys"]

    said = bundle.run("stat -c %t:%T /proc/keys; cat /proc/keys", edit=edit)
    assert said is None or said == "1:3\n"
    assert untouched(outside)


def test_cve_2025_52881_a_parameter_is_written_to_the_kernel_or_not_at_all(bundle: Bundle, outside: Path) -> None:
    """/proc is a volume here: what stands at a parameter's name in it must not be written."""
    fake = outside / "sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ping_group_range").write_text("untouched")

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/proc"]
        config["mounts"].insert(0, {"destination": "/proc", "type": "bind", "source": str(outside), "options": ["rbind"]})
        config["linux"]["sysctl"] = {"net.ipv4.ping_group_range": "0 0"}
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []

    bundle.run("true", edit=edit)
    assert (fake / "ping_group_range").read_text() == "untouched"


@pytest.mark.parametrize("way", ["link", "script", "name"])
def test_cve_2019_5736_the_program_of_the_runtime_is_never_executed_inside(bundle: Bundle, way: str) -> None:
    (bundle.root / "link").symlink_to("/proc/self/exe")
    who = "import os; print('executed', os.readlink('/proc/self/exe'))"
    (bundle.root / "script").write_text(f"#!/proc/self/exe\n{who}\n")
    (bundle.root / "script").chmod(0o755)
    libraries = [path for path in ("/usr", "/lib", "/lib64", sys.base_prefix) if os.path.isdir(path)]

    def edit(config: dict[str, Any]) -> None:
        program = {"link": "/link", "script": "/script", "name": "/proc/self/exe"}[way]
        config["process"]["args"] = [program] if way == "script" else [program, "-I", "-c", who]
        for path in libraries:
            source = os.path.realpath(path)
            config["mounts"].append({"destination": path, "type": "bind", "source": source, "options": ["rbind", "ro"]})
        config["process"]["rlimits"] = [{"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]  # a program that executes itself

    said = bundle.run("", edit=edit)
    assert said is None or "executed" not in said


def test_cve_2022_29162_nothing_is_inheritable_that_the_bundle_does_not_name(bundle: Bundle) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["capabilities"] = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}

    said = bundle.run("cat /proc/self/status", edit=edit)
    assert said is not None
    rows = dict(line.split(":\t") for line in said.splitlines() if line.startswith("Cap"))
    assert rows == {"CapInh": "0" * 16, "CapAmb": "0" * 16, **dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), "0" * 15 + "1")}


def test_the_runtimes_environment_stays_outside_of_bundles(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_HOST", "secret-of-the-host")
    said = bundle.run("cat /proc/self/environ /proc/1/environ; true")
    with contextlib.suppress(FileNotFoundError):
        said = f"{said}{(bundle.place / 'output').read_text()}"
    assert said is not None
    assert "secret-of-the-host" not in said

"""The other engines: a Docker daemon of our own while we measure, bundles for the low-level runtimes.

Nothing of either is left afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def run(*command: str, directory: Path | None = None, **environment: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout.strip()


def docker_program() -> str | None:
    """The client that came with the daemon: the one beside it, if there is one there."""
    beside = "/usr/bin/docker"
    return beside if os.access(beside, os.X_OK) else shutil.which("docker")


def _answers(docker: str, host: str) -> bool:
    command = [docker, "--host", host, "version"]
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


@contextlib.contextmanager
def open_docker(work: Path, *, rules: bool = False) -> Iterator[list[str] | None]:
    """The beginning of a docker command, of the daemon that runs already or of one that is started for us; None if there is none.

    Ours has its data below ``work``. It makes no packet filter rules, since they would outlive it, and a container's start costs none;
    with ``rules`` it does, and is never one that ran before: for a network namespace that is thrown away.
    """
    docker, daemon = docker_program(), shutil.which("dockerd")
    if docker is None:
        yield None
        return
    usual = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not rules and _answers(docker, usual):
        yield [docker, "--host", usual]
        return
    if daemon is None:
        yield None
        return
    host = f"unix://{work}/docker.sock"
    had_link = Path("/sys/class/net/docker0").exists()
    groups = {path for path in _CGROUPS.glob("*/docker") if path.is_dir()}
    command = [daemon, "--data-root", str(work / "docker"), "--exec-root", str(work / "exec"), "--host", host]
    command += ["--pidfile", str(work / "docker.pid")]
    command += [] if rules else ["--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    with (work / "dockerd.log").open("wb") as log:
        process = subprocess.Popen([*command, "--userland-proxy=false"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(150):
            if process.poll() is not None or _answers(docker, host):
                break
            time.sleep(0.2)
        yield [docker, "--host", host] if process.poll() is None else None
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not had_link:
            subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
        for path in set(_CGROUPS.glob("*/docker")) - groups:
            for below in sorted(path.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()
            with contextlib.suppress(OSError):
                path.rmdir()
        for path in work.glob("exec/**/*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        unmount_below(work)


def unmount_below(place: Path) -> None:
    """Take away every mount below a directory, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [line.split()[4] for line in lines]
    for point in sorted((p for p in points if p.startswith(f"{place}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)


def make_bundle(place: Path, root: Path, runtime: str) -> None:
    """An OCI bundle that runs ``true`` on an unpacked root file system, otherwise as the runtime itself proposes."""
    place.mkdir()
    run(runtime, "spec", "--bundle", str(place))
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config["process"].update(terminal=False, args=["true"])
    config["root"] = {"path": str(root), "readonly": False}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")


def versions() -> list[tuple[str, str]]:
    """Name and version of every peer that is installed."""
    found = []
    for name, command in (
        ("docker", (docker_program() or "docker", "version", "--format", "{{.Client.Version}}")),
        ("podman", ("podman", "--version")),
        ("runc", ("runc", "--version")),
        ("crun", ("crun", "--version")),
        ("bwrap", ("bwrap", "--version")),
    ):
        if shutil.which(command[0]) is not None:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            lines = done.stdout.strip().splitlines()
            found.append((name, lines[0].split()[-1] if lines else "unknown"))
    return found

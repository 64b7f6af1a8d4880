"""``contain info`` and ``contain version``: this engine and this machine, under Docker's names. Reads only.

Source: docker/cli ``docs/reference/commandline/{info,version}.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from contain import __version__
from contain.annotations import Any

_API_VERSION = "1.45"  # whose shapes and words the answers have


def add_version_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.Server.Version}}'")


def version(options: argparse.Namespace) -> int:
    """A line, or what a template makes of it. There is no daemon: client and server are one program."""
    if options.format is None:
        sys.stdout.write(f"contain {__version__}\n")
        return 0
    machine = os.uname()
    part = {
        "Version": __version__,
        "ApiVersion": _API_VERSION,
        "MinAPIVersion": _API_VERSION,
        "GitCommit": "",
        "Os": "linux",
        "Arch": _architecture(machine.machine),
        "KernelVersion": machine.release,
        "Experimental": False,
    }
    return _write(options.format, {"Client": part, "Server": part})


def _architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _write(template: str, document: dict[str, Any]) -> int:
    from contain.cli.templates import render_rows

    sys.stdout.write(render_rows(template, [document], headings={}))
    return 0


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.ServerVersion}}'")


def info(options: argparse.Namespace) -> int:
    """Lines ``Name: value``, or what a template makes of them."""
    from contain.cli.templates import check_template
    from contain.engine import Engine

    check_template(options.format)
    with Engine.open() as engine:
        document = _document(engine)
    if options.format is not None:
        return _write(options.format, document)
    for name, value in document.items():
        parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else (value,)
        sys.stdout.write(f"{name}: {', '.join(map(str, parts))}".rstrip() + "\n")
    return 0


def _document(engine: Any) -> dict[str, Any]:
    from contain.container.processes import is_paused
    from contain.container.storage import choose_kept, parse_storage, probe_ground
    from contain.linux.cgroups import probe_hierarchies
    from contain.linux.usernamespace import is_rootless

    records = engine.records.all()
    paused = sum(map(is_paused, records))
    running = sum(record.state in ("running", "restarting") for record in records) - paused
    machine = os.uname()
    hierarchies = probe_hierarchies()
    release = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    memory = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal:")), "0")
    options = ["name=seccomp,profile=builtin", "name=userns", "name=no-new-privileges"]
    return {
        "ID": "",
        "Containers": len(records),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": len(records) - running - paused,
        "Images": len(engine.images()),
        "Driver": choose_kept(parse_storage(os.environ), probe_ground(engine.home)).value,
        "ServerVersion": __version__,
        "DockerRootDir": str(engine.home),
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "1" if any(hierarchy.version == 1 for hierarchy in hierarchies) else "2",
        "CgroupControllers": sorted({name for hierarchy in hierarchies for name in hierarchy.controllers}),
        "LoggingDriver": "json-file",
        "DefaultRuntime": "contain",
        "SecurityOptions": [*options, *(["name=rootless"] if is_rootless() else [])],
        "KernelVersion": machine.release,
        "OperatingSystem": release.get("PRETTY_NAME", "").strip('"'),
        "OSType": "linux",
        "Architecture": machine.machine,
        "NCPU": os.cpu_count() or 1,
        "MemTotal": int(memory) << 10,
        "Name": machine.nodename,
        "Swarm": {"LocalNodeState": "inactive"},
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

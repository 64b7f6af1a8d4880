"""A whole environment as a literal, from which each test derives its second side by one seeded difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from contain.environment import Environment, FileFact, Identity, Package
from contain.environment.facts import Value, frozen

Change = Callable[..., Environment]


def regular(content: str, *, mode: int = 0o644, package: str = "") -> FileFact:
    return FileFact(kind="file", mode=mode, uid=0, gid=0, size_bytes=10, digest=f"sha256:{content}", package=package)


DIRECTORY = FileFact(kind="directory", mode=0o755, uid=0, gid=0)


@pytest.fixture
def place() -> Environment:
    packages: dict[str, dict[str, tuple[Package, ...]]] = {
        "dpkg": {
            "openssl": (Package(version="3.0.15-1", place="amd64"),),
            "tzdata": (Package(version="2024a-0", place="all"),),
            "coreutils": (Package(version="9.1-1", place="amd64"),),
        },
        "apk": {"busybox": (Package(version="1.36.1-r2", place="x86_64"),)},
        "python": {
            "requests": (Package(version="2.31.0", place="/usr/local/lib/python3.11/site-packages"),),
            "pyyaml": (Package(version="6.0.1", place="/usr/local/lib/python3.11/site-packages"),),
        },
        "npm": {"npm": (Package(version="10.2.4", place="/usr/local/lib/node_modules"),)},
    }
    facts: dict[str, dict[str, Value]] = {
        "os-release": {
            "ID": "debian",
            "VERSION_ID": "12",
            "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)",
            "debian_version": "12.5",
        },
        "libc": {"flavour": "glibc"},
        "locales": {"installed": ("C.utf8", "de_DE.utf8")},
        "users": {"root": "0:0:/root:/bin/bash", "app": "1000:1000:/home/app:/bin/sh"},
        "groups": {"root": "0:", "app": "1000:"},
        "image-config": {
            "user": "app",
            "working directory": "/app",
            "command": ("python3", "-m", "app"),
            "platform": "linux/amd64",
        },
        "image-environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "MODE": "strict"},
        "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "MODE": "strict", "LANG": "C.UTF-8", "HOSTNAME": "one"},
        "locale": {"LANG": "C.UTF-8", "effective": "C.UTF-8", "preferred encoding": "UTF-8"},
        "time-zone": {"TZ": "UTC", "names": ("UTC", "UTC"), "UTC offset in July": "+00:00", "zone database": "2024a"},
        "interpreter": {"version": "3.11.2 (main)", "flags": (), "default encoding": "utf-8", "OpenSSL": "OpenSSL 3.0.15"},
        "sys-path": {"sys.path": ("/usr/lib/python311.zip", "/usr/lib/python3.11", "/usr/local/lib/python3.11/site-packages")},
        "importable": {"requests": "2.31.0 (/usr/local/lib/python3.11/site-packages)"},
        "process": {"user id": "1000", "umask": "0022", "effective capabilities": "0000"},
        "limits": {"memory": "unlimited", "cpu": "unlimited", "processes": "unlimited"},
        "ulimits": {"nofile": "1048576 (hard 1048576)", "stack": "8388608 (hard unlimited)"},
        "cpu": {
            "count": "8",
            "usable count": "8",
            "model": "Xeon",
            "features": ("avx", "avx2", "sse4_2"),
            "architecture": "x86_64",
        },
        "kernel": {"release": "6.1.0", "system": "Linux"},
        "mounts": {"/": "overlay", "/dev/shm": "tmpfs nosuid nodev", "size of /dev/shm": "64 MiB"},
        "dns": {"name servers": ("10.0.0.2",), "options": ("ndots:0",)},
    }
    files = {
        "/": DIRECTORY,
        "/etc/passwd": regular("passwd"),
        "/etc/machine-id": regular("id"),
        "/usr/bin/openssl": regular("o1", mode=0o755, package="dpkg:openssl"),
        "/usr/lib/libssl.so.3": regular("o2", package="dpkg:openssl"),
        "/usr/bin/ls": regular("ls", mode=0o755, package="dpkg:coreutils"),
        "/usr/local/bin/tool": regular("tool", mode=0o755),
        "/usr/local/bin/python": FileFact(kind="symlink", mode=0o777, uid=0, gid=0, target="python3.11"),
        "/usr/local/lib/python3.11/site-packages/requests/api.py": regular("api", package="python:requests"),
        "/usr/local/lib/python3.11/site-packages/requests/__pycache__/api.cpython-311.pyc": regular(
            "pyc", package="python:requests"
        ),
        "/var/log/dpkg.log": regular("log"),
    }
    return Environment(
        name="ci",
        kind="image",
        identity=Identity(
            manifest_digest="sha256:" + "a" * 64, config_digest="sha256:" + "b" * 64, diff_ids=("sha256:" + "c" * 64,)
        ),
        packages=frozen({manager: frozen(found) for manager, found in packages.items()}),
        facts=frozen({name: frozen(found) for name, found in facts.items()}),
        files=frozen(files),
        file_scope="all",
    )


@pytest.fixture
def change() -> Change:
    """``change(place, facts={"dimension/key": value}, packages={"manager/name": version}, files={path: fact}, ...)``; None removes.

    The result is another image (other digests) called "deployment".
    """

    def apply(
        place: Environment,
        *,
        facts: Mapping[str, Value | None] | None = None,
        packages: Mapping[str, Package | None] | None = None,
        files: Mapping[str, FileFact | None] | None = None,
        **fields: object,
    ) -> Environment:
        new_facts = {name: dict(found) for name, found in place.facts.items()}
        for where, value in (facts or {}).items():
            dimension, _, key = where.partition("/")
            new_facts[dimension].pop(key, None)
            if value is not None:
                new_facts[dimension][key] = value
        new_packages = {name: dict(found) for name, found in place.packages.items()}
        for where, package in (packages or {}).items():
            manager, _, name = where.partition("/")
            new_packages[manager].pop(name, None)
            if package is not None:
                new_packages[manager][name] = (package,)
        new_files = dict(place.files)
        for path, fact in (files or {}).items():
            new_files.pop(path, None)
            if fact is not None:
                new_files[path] = fact
        identity = Identity(
            manifest_digest="sha256:" + "d" * 64, config_digest="sha256:" + "e" * 64, diff_ids=("sha256:" + "f" * 64,)
        )
        changed = replace(
            place,
            name="deployment",
            identity=identity,
            facts=frozen({name: frozen(found) for name, found in new_facts.items()}),
            packages=frozen({name: frozen(found) for name, found in new_packages.items()}),
            files=frozen(new_files),
        )
        return replace(changed, **fields)  # type: ignore[arg-type]

    return apply

"""The base ``host``: this machine's own root, without layers.

Its tree is ``/`` itself, which is why an image on top of it carries the label `HOST_LABEL` with a fingerprint of the machine: it can be
used where the fingerprint is the same. Light: every command that starts a container asks here where an image's trees are.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.errors import Conflict
from contain.oci import Image, ImageConfig
from contain.paths import HostPath

if TYPE_CHECKING:
    from contain.store import Store

HOST_NAME = "docker.io/library/host"
HOST_LABEL = "org.pytest-contain.host-fingerprint"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def host_fingerprint(root: HostPath = Path("/")) -> str:
    """What tells two states of this machine's root apart: the release, the package databases, the Python packages.

    Not every file: a change that no package database notices is not seen. That is the price of a base without a copy.
    """
    import hashlib

    digest = hashlib.sha256()
    for name in ("etc/os-release", "var/lib/dpkg/status", "lib/apk/db/installed", "var/lib/pacman/local/ALPM_DB_VERSION"):
        path = root / name
        digest.update(f"{name}\0".encode())
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    for pattern in ("var/lib/rpm/*", "usr/lib/sysimage/rpm/*"):
        for path in sorted(root.glob(pattern)):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    for place in ("usr/lib/python3*/dist-packages", "usr/lib/python3*/site-packages", "usr/local/lib/python3*/*-packages"):
        for path in sorted(root.glob(place)):
            names = sorted(name for name in os.listdir(path) if name.endswith((".dist-info", ".egg-info")))
            digest.update("\n".join([str(path.relative_to(root)), *names, ""]).encode())
    return "sha256:" + digest.hexdigest()


def host_config() -> ImageConfig:
    """The config of the ``host`` base."""
    from contain.registry.platform import host_platform

    return ImageConfig(
        platform=host_platform(),
        created="2000-01-01T00:00:00Z",
        environment=(("PATH", DEFAULT_PATH),),
        labels={HOST_LABEL: host_fingerprint()},
    )


def is_on_host(config: ImageConfig) -> bool:
    """Whether an image stands on this machine's root instead of layers of its own."""
    return HOST_LABEL in config.labels


def image_trees(image: Image, store: Store) -> tuple[HostPath, ...]:
    """All trees that make an image's root, lowest first: `with_host_root`."""
    return with_host_root(image.config, store.layer_trees(image))


def with_host_root(config: ImageConfig, trees: tuple[HostPath, ...]) -> tuple[HostPath, ...]:
    """An image's trees, with ``/`` itself below those of an image built ``FROM host``.

    Raises `Conflict` (code ``host-changed``) if such an image was built on another state of the machine or another machine.
    """
    if not is_on_host(config):
        return trees
    if config.labels[HOST_LABEL] != host_fingerprint():
        raise Conflict(
            "this image was built on another machine's root, or this machine's packages have changed since",
            code="host-changed",
            remedy="build it again",
        )
    return (Path("/"), *trees)

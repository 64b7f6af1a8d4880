"""What one container is, with nothing left open: the value between "what was asked" and "what is done".

A `ContainerSpec` has no defaults that depend on the machine or the image: `contain.container.resolve` filled them in.
"""

from __future__ import annotations

from enum import Enum

from contain.paths import ContainerPath, HostPath
from contain.values import dataclass

DEFAULT_PIDS_LIMIT = 2048
"""Processes per container unless asked otherwise; Docker sets none, podman 2048. A fork bomb must end inside its container."""


class Network(Enum):
    """What a container can reach."""

    NONE = "none"  # its own namespace with loopback only
    HOST = "host"  # the host's namespace, shared
    BRIDGE = "bridge"  # its own namespace, a veth to contain's bridge, outbound through NAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory at a container path."""

    source: HostPath
    target: ContainerPath
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOnWrite:
    """Host directories, one over the other (highest first), at a container path: readable there, and what is written is kept in
    the container and thrown away with it."""

    sources: tuple[HostPath, ...]
    target: ContainerPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A fresh memory file system at a container path. ``size_bytes`` 0: the kernel's default."""

    target: ContainerPath
    size_bytes: int = 0
    mode: int = 0o1777


Mount = Bind | CopyOnWrite | Tmpfs


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use. None: no limit of its own."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = DEFAULT_PIDS_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Numeric user, group and supplementary groups, as seen inside."""

    user_id: int = 0
    group_id: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything about one container.

    ``layers``: extracted layer trees, lowest first, that make its root. ``upper``: a directory of the caller's that receives
    what is written (a build step's layer), or None for one that is thrown away with the container.
    """

    container_id: str  # 64 hexadecimal digits
    name: str
    image_digest: str
    image_name: str
    layers: tuple[HostPath, ...]
    upper: HostPath | None
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    working_directory: ContainerPath
    identity: Identity
    hostname: str
    mounts: tuple[Mount, ...]
    network: Network
    limits: Limits
    read_only: bool
    terminal: bool
    stop_signal: int
    capabilities: frozenset[str]
    labels: tuple[tuple[str, str], ...] = ()

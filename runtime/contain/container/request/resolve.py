"""From what was asked of an image to the spec of one container: the image's config under the request's overrides. Pure.

Rules: Docker's. ``--entrypoint`` drops the image's command as well; arguments replace the command only; variables of the request beat
the image's; PATH, HOME, HOSTNAME and, with a terminal, TERM are always set; nothing comes from the host's environment.
"""

from __future__ import annotations

import re
import signal

from contain.annotations import TYPE_CHECKING
from contain.container.request.asked import Surroundings
from contain.container.request.idmapping import check_identity
from contain.container.request.keeping import Keeping
from contain.errors import UsageError
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.oci import ImageConfig
from contain.paths import ContainerPath, HostPath
from contain.spec import (
    SHARED_MEMORY_BYTES,
    ContainerSpec,
    Identity,
    Limits,
    Mount,
    Network,
    Networking,
    PortRequest,
    ResourceLimit,
    UserNamespace,
)
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.container.request.mounts import MountRequest, VolumesFrom

_SIGNAL_NUMBER = r"[1-9][0-9]?"
_HOSTNAME = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?"  # the kernel takes 64 bytes: uname(2)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What ``contain run`` was asked; None or empty: as the image says."""

    image: str
    arguments: tuple[str, ...] = ()
    entrypoint: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount | MountRequest, ...] = ()
    volumes_from: tuple[VolumesFrom, ...] = ()
    working_directory: str | None = None
    user: str | None = None
    hostname: str | None = None
    name: str | None = None
    network: Network = Network.BRIDGE
    limits: Limits = Limits()
    read_only: bool = False
    terminal: bool = False
    interactive: bool = False
    input_once: bool = False
    keeping: Keeping = Keeping()
    labels: tuple[tuple[str, str], ...] = ()
    capabilities: frozenset[str] = DEFAULT_CAPABILITIES
    resource_limits: tuple[ResourceLimit, ...] = ()
    shared_memory_bytes: int = SHARED_MEMORY_BYTES
    stop_signal: str | None = None
    publish: tuple[PortRequest, ...] = ()
    publish_all: bool = False
    extra_hosts: tuple[tuple[str, str], ...] = ()
    name_servers: tuple[str, ...] = ()
    networking: Networking = Networking()
    user_namespace: UserNamespace = UserNamespace()
    surroundings: Surroundings = Surroundings()
    container_id: str = ""  # one that its caller made; else a new one


def parse_signal(text: str) -> int:
    """``SIGTERM``, ``TERM`` or a number of signal(7); `UsageError` otherwise."""
    if re.fullmatch(_SIGNAL_NUMBER, text) and int(text) <= 64:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise UsageError(f"invalid signal: {text}", code="bad-signal", remedy="for example SIGTERM, TERM or 15") from None


def check_name(name: str) -> str:
    """A container's name, or `UsageError` in Docker's words."""
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", code="bad-container-name"
        )
    return name


def resolve_command(config: ImageConfig, arguments: tuple[str, ...], entrypoint: str | None) -> tuple[str, ...]:
    """The program and its arguments. Raises `UsageError` when neither image nor request names a program."""
    if entrypoint is not None:
        command = ((entrypoint,) if entrypoint else ()) + arguments
    else:
        command = (config.entrypoint or ()) + (arguments or config.command or ())
    if not command or not command[0]:
        raise UsageError(
            "no command specified", code="no-command", remedy="name a program after the image, or give the image a CMD"
        )
    return command


def resolve_spec(
    request: RunRequest,
    *,
    container_id: str,
    name: str,
    image_digest: str,
    config: ImageConfig,
    layers: tuple[HostPath, ...],
    upper: HostPath | None,
    identity: Identity,
    home: str,
    store: HostPath | None = None,
    inherited: tuple[Mount, ...] = (),
    image_volumes: bool = False,
) -> ContainerSpec:
    """One container of an image. ``identity`` and ``home`` come from the image's account files. ``store``: where volumes lie;
    ``inherited``: mounts of other containers; ``image_volumes``: the image's own are made too."""
    check_identity(request.user_namespace, identity)
    hostname = request.hostname or container_id[:12]
    if not re.fullmatch(_HOSTNAME, hostname):
        raise UsageError(
            f"invalid hostname format: {hostname}", code="bad-hostname", remedy="letters, digits, '-', '_' and '.', at most 64"
        )
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    if request.terminal:
        variables["TERM"] = "xterm"
    around = request.surroundings
    variables.update(() if around.unset_all else config.environment)
    for name in around.unset:
        variables.pop(name, None)
    variables.update(request.environment)
    directory = ContainerPath(request.working_directory or config.working_directory or "/")
    if not directory.is_absolute():
        raise UsageError(
            f"the working directory {str(directory)!r} is invalid, it needs to be an absolute path", code="bad-workdir"
        )
    if directory.parts[1:2] == ("proc",) or ".." in directory.parts:
        raise UsageError(f"the working directory {str(directory)!r} may not lie below /proc or hold '..'", code="bad-workdir")
    arguments = resolve_command(config, request.arguments, request.entrypoint)
    if any("\0" in text for text in (*arguments, *variables, *variables.values(), str(directory))):
        raise UsageError("a program's arguments, variables and directory cannot hold the character NUL", code="bad-arguments")
    exposed = tuple(dict.fromkeys((*config.exposed_ports, *request.networking.exposed)))
    ports: tuple[PortRequest, ...] = ()
    if request.publish or request.publish_all:
        from contain.container.network.ports import resolve_ports

        ports = resolve_ports(request.publish, exposed=exposed, publish_all=request.publish_all)
    mounts: tuple[Mount, ...] = ()
    declared = config.volumes if image_volumes else ()
    if request.mounts or declared or inherited:
        from contain.container.request.mounts import resolve_mounts

        mounts = resolve_mounts(
            request.mounts, declared=declared, inherited=inherited, container_id=container_id, home=store or HostPath("/")
        )
    return ContainerSpec(
        container_id=container_id,
        name=name,
        image_digest=image_digest,
        image_name=request.image,
        layers=layers,
        upper=upper,
        arguments=arguments,
        environment=tuple(variables.items()),
        working_directory=directory,
        identity=identity,
        hostname=hostname,
        mounts=mounts,
        network=request.network,
        limits=request.limits,
        read_only=request.read_only,
        terminal=request.terminal,
        interactive=request.interactive,
        input_once=request.input_once,
        restart=request.keeping.restart,
        health=request.keeping.check_of(config),
        log=request.keeping.log,
        stop_grace_seconds=request.keeping.stop_grace_seconds,
        init=request.keeping.init,
        stop_signal=parse_signal(request.stop_signal or config.stop_signal or "SIGTERM"),
        capabilities=request.capabilities,
        resource_limits=request.resource_limits,
        shared_memory_bytes=request.shared_memory_bytes,
        labels=tuple({**config.labels, **dict(request.labels)}.items()),
        ports=ports if request.network is Network.BRIDGE else (),
        extra_hosts=request.extra_hosts,
        name_servers=request.name_servers,
        networking=replace(request.networking, exposed=exposed),
        user_namespace=request.user_namespace,
        confinement=around.confinement,
        sysctls=around.sysctls,
        devices=around.devices,
        device_rules=around.device_rules,
        ipc=around.ipc,
        ipc_container=around.ipc_container,
        uts=around.uts,
        cgroup_namespace=around.cgroup_namespace,
        domain_name=around.domain_name,
        umask=around.umask,
        out_of_memory_score=around.out_of_memory_score,
        annotations=around.annotations,
    )

"""An ordinary user's way out of the default network: a program beside the container (`contain.linux.uplink`), or its loopback only."""

from __future__ import annotations

import os

from contain.annotations import TYPE_CHECKING
from contain.container.door import warn_once
from contain.container.network.etc_files import write_etc
from contain.container.plan import Workspace
from contain.errors import HostError, NotSupported
from contain.linux.ports import hold_ports
from contain.linux.uplink import (
    ADDRESS,
    NAME_SERVER,
    UplinkProgram,
    find_uplink_program,
    namespaces_of,
    open_uplink,
    own_address,
    write_uplink_lease,
)
from contain.paths import HostPath
from contain.spec import ContainerSpec

if TYPE_CHECKING:
    from contextlib import ExitStack


class Uplinked:
    """A `contain.container.network.wiring.Wiring`, for the default network alone. Raises `NotSupported` for links, `HostError` for
    ports without a program."""

    joined: tuple[int, ...] = ()
    configure = None
    attendant = None

    def __init__(self, spec: ContainerSpec, *, home: HostPath) -> None:
        _refuse_links(spec)
        self.spec, self._home, self._program = spec, home, find_uplink_program()
        if not self._program.path:
            if spec.ports:
                raise HostError(
                    f"ports cannot be published for an ordinary user: {self._program.why}",
                    code="no-uplink",
                    remedy=self._program.remedy,
                )
            _warn(self._program, home)

    def wire(self, process_id: int, workspace: Workspace, cleanup: ExitStack) -> dict[str, object]:
        """See `contain.container.network.wiring.Wiring`."""
        cleanup.callback(self._leave, workspace)
        if not self._program.path:
            write_etc(workspace, self.spec, None)
            return {}
        held = hold_ports(self.spec.ports)
        ports = tuple(port for port in held.ports if not port.is_ipv6)
        held.close()  # the program binds them itself
        uplink = open_uplink(self._program, namespaces_of(process_id), workspace.directory, ports)
        cleanup.callback(uplink.close)
        write_uplink_lease(workspace.directory, ports)
        write_etc(workspace, self.spec, ADDRESS, own_address(), (NAME_SERVER,))
        return {}

    def _leave(self, workspace: Workspace) -> None:
        """Off the networks that it was connected to while it ran."""
        if os.path.exists(self._home / "networks"):
            from contain.container.network.enclosed import leave_enclave

            leave_enclave(self.spec.container_id, workspace, self._home)


def warn_without_uplink(home: HostPath) -> None:
    """Say once that there is loopback only, where there is no program."""
    program = find_uplink_program()
    if not program.path:
        _warn(program, home)


def _warn(program: UplinkProgram, home: HostPath) -> None:
    warn_once(home, "no-uplink", f"containers have their loopback only: {program.why}; {program.remedy}")


def _refuse_links(spec: ContainerSpec) -> None:
    """Each container is alone there."""
    if any(endpoint.links for endpoint in spec.networking.endpoints):
        raise NotSupported(
            "--link on the default network as an ordinary user: containers do not reach each other there",
            code="network-option-not-supported",
            remedy="put both on one network of your own: contain network create NAME",
        )

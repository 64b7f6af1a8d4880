"""An ordinary user's networks of one's own: root's way over bridges, in the enclave (`contain.container.network.enclave`).

What comes to published ports is carried by the container's attendant, from sockets in the machine's network namespace; the rest is as
for root.
"""

from __future__ import annotations

import os

from contain.annotations import TYPE_CHECKING
from contain.container.network import enclave
from contain.container.network.attendant import Attendant, start_attendant
from contain.container.network.networking import RESOLVER_NOTE, Networking, leave
from contain.container.plan import Workspace
from contain.linux.leases import myself
from contain.linux.network import read_bridges
from contain.linux.ports import hold_ports
from contain.paths import HostPath

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from contain.container.network.attendant import Duties


class EnclosedAttendant(Attendant):
    """A container's attendant in the enclave, which it keeps. If it was the last one there, the networks went with it: then to start it
    again is to put the container on its networks again. ``start``: does either; the process id of a child of the caller."""

    def __init__(self, start: Callable[[], int], duties: Duties, first_process: int, note: HostPath) -> None:
        self._start_again = start
        number = start()
        super().__init__(number, os.pidfd_open(number), duties, first_process, note)

    def revive(self) -> None:
        """See `Attendant.revive`."""
        if not self.is_replaced():
            self.process_id = self._start_again()
            self.descriptor = os.pidfd_open(self.process_id)


class Enclosed:
    """A `contain.container.network.wiring.Wiring`."""

    joined: tuple[int, ...] = ()
    configure = None

    def __init__(self, networking: Networking, *, home: HostPath) -> None:
        self.attendant: Attendant | None = None
        self.spec, self._networking, self._home = networking.spec, networking, home
        if networking.has_places:
            enclave.warn_without_outside(home)

    def wire(self, process_id: int, workspace: Workspace, cleanup: ExitStack) -> dict[str, object]:
        """See `contain.container.network.wiring.Wiring`."""
        held = hold_ports(self.spec.ports, served=True)
        cleanup.callback(held.close)
        cleanup.callback(self._end, workspace)
        if not self._networking.has_places:
            self._networking.put_on(process_id, workspace, held)
            return {}
        owner, enclosure = myself(), enclave.enclosure_of(self._home)
        note = workspace.directory / RESOLVER_NOTE

        def work() -> int:
            if is_on_networks(self.spec.container_id, self._home):  # only the attendant has ended
                duties = self._networking.duties(held, (), enclosure=enclosure)
                return start_attendant(duties, process_id, note=note).process_id
            wired = self._networking.put_on(process_id, workspace, held, enclosure=enclosure, owner=owner)
            assert wired.attendant is not None
            return wired.attendant.process_id

        duties = self._networking.duties(held, (), enclosure=enclosure)
        self.attendant = EnclosedAttendant(lambda: int(enclave.inside(self._home, work)), duties, process_id, note)
        return {}

    def _end(self, workspace: Workspace) -> None:
        """Off all networks, as long as there still is the attendant, which may be the last in the enclave."""
        try:
            leave_enclave(self.spec.container_id, workspace, self._home)
        finally:
            if self.attendant is not None:
                self.attendant.close()


def is_on_networks(container_id: str, home: HostPath) -> bool:
    """Whether a container is on any network at this moment, by the lease files."""
    return any(container_id in record.leases for _, record in read_bridges(home))


def leave_enclave(container_id: str, workspace: Workspace, home: HostPath) -> None:
    """Take a container that has ended off all networks in the enclave, if it is on any."""
    if is_on_networks(container_id, home):
        enclave.inside(home, lambda: leave(container_id, workspace, home), connected=False)

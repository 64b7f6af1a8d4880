"""How a container gets at its network: over bridges, here or in an ordinary user's enclave, through a program of that user, or not at
all. Chooses; each way is a module of its own, and a container without a network needs none of them."""

from __future__ import annotations

from contain.annotations import TYPE_CHECKING, Protocol
from contain.container.network.etc_files import write_etc
from contain.container.plan import Workspace
from contain.linux.usernamespace import owns_network
from contain.paths import HostPath
from contain.spec import DEFAULT_NETWORK, ContainerSpec, Network

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from contain.container.network.attendant import Attendant

    class Wiring(Protocol):
        """What a container that is about to start has of networks."""

        @property
        def spec(self) -> ContainerSpec:
            """The container, with what its networks tell it."""

        @property
        def joined(self) -> tuple[int, ...]:
            """Descriptors of the network namespace that is shared, and of the user namespace that it belongs to; the caller closes
            them."""

        @property
        def configure(self) -> Callable[[str, str, int, str], None] | None:
            """Sets up an interface from within."""

        @property
        def attendant(self) -> Attendant | None:
            """The process that serves beside the container once it is wired, if there is one that can be started again."""

        def wire(self, process_id: int, workspace: Workspace, cleanup: ExitStack) -> dict[str, object]:
            """Put the container with this first process on its networks; what the first process is to be told. ``cleanup`` undoes
            it."""


class Unwired:
    """Loopback only, or the machine's own network: nothing to do but the files of /etc."""

    joined: tuple[int, ...] = ()
    configure = None
    attendant = None

    def __init__(self, spec: ContainerSpec) -> None:
        self.spec = spec

    def wire(self, process_id: int, workspace: Workspace, cleanup: ExitStack) -> dict[str, object]:  # noqa: ARG002
        """See `Wiring`."""
        write_etc(workspace, self.spec, None)
        return {}


def find_wiring(spec: ContainerSpec, *, home: HostPath, store: HostPath | None) -> Wiring:
    """The way of this container on this machine, as it is at this moment. Raises `NotFound`, `Conflict`, `NotSupported`,
    `UsageError`, `HostError`."""
    if spec.network in (Network.NONE, Network.HOST):
        return Unwired(spec)
    own = spec.network is Network.CONTAINER or owns_network()
    if not own and not is_enclosed(spec):
        from contain.container.network.uplinked import Uplinked

        return Uplinked(spec, home=home)
    from contain.container.network.networking import find

    found = find(spec, home=home, store=store)
    if own:
        return found
    from contain.container.network.enclosed import Enclosed

    return Enclosed(found, home=home)


def is_enclosed(spec: ContainerSpec) -> bool:
    """Whether an ordinary user's container is on networks of one's own, or on none and can be put on some."""
    networking = spec.networking
    return networking.disconnected or any(endpoint.network != DEFAULT_NETWORK for endpoint in networking.endpoints)


def warn_of_network(spec: ContainerSpec, home: HostPath) -> None:
    """Say once that a container reaches nothing outside, where that is so. Call it while somebody reads what is said."""
    if spec.network is not Network.BRIDGE or owns_network():
        return
    if is_enclosed(spec):
        from contain.container.network.enclave import warn_without_outside

        warn_without_outside(home)
    else:
        from contain.container.network.uplinked import warn_without_uplink

        warn_without_uplink(home)

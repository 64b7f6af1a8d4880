"""What a change of a container's record means to somebody who watches: Docker's names of events. Pure; `contain.store.journal` keeps
them. Source: docker/cli ``docs/reference/commandline/system_events.md``, moby ``daemon/events.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from contain.annotations import TYPE_CHECKING, Any
from contain.container.network.predefined import DRIVERS
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord


def attributes_of(record: ContainerRecord, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every event of a container says: its image and name, and its labels."""
    labels = {str(name): str(value) for name, value in record.details.get("labels", ())}
    return {**labels, **(more or {}), "image": record.image_name, "name": record.name}


def changes(before: ContainerRecord, after: ContainerRecord) -> list[tuple[str, dict[str, str]]]:
    """The events between two states of a record, in order."""
    found: list[tuple[str, dict[str, str]]] = []
    if after.name != before.name:
        found.append(("rename", {"oldName": f"/{before.name}"}))
    if after.state == "running" and before.state != "running":
        found.append(("start", {}))
    if before.state == "running" and after.state != "running":
        if after.out_of_memory:
            found.append(("oom", {}))
        status = after.last_status if after.status is None else after.status
        more = {"exitCode": str(137 if status is None else status)}
        if before.started_seconds and after.finished_seconds:
            more["execDuration"] = str(max(0, int(after.finished_seconds - before.started_seconds)))
        found.append(("die", more))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What happens to a network or volume because a container starts or ends."""

    kind: str
    action: str
    identity: str
    attributes: Mapping[str, str]


def around_start(record: ContainerRecord, network_id: Callable[[str], str]) -> list[Around]:
    """What comes before its start: its networks, then its volumes. ``network_id``: of a network's name, empty for one that is not
    there any more."""
    found = [network_event("connect", name, network_id(name), record.container_id) for name in network_names(record.details)]
    for row in _volumes(record.details):
        more = {
            "container": record.container_id,
            "destination": str(row["target"]),
            "driver": "local",
            "propagation": "",
            "read/write": "false" if row.get("read_only") else "true",
        }
        found.append(Around(kind="volume", action="mount", identity=str(row["name"]), attributes=more))
    return [each for each in found if each.identity]


def around_end(record: ContainerRecord, network_id: Callable[[str], str]) -> list[Around]:
    """What comes after its end."""
    found = [network_event("disconnect", name, network_id(name), record.container_id) for name in network_names(record.details)]
    for row in _volumes(record.details):
        more = {"container": record.container_id, "driver": "local"}
        found.append(Around(kind="volume", action="unmount", identity=str(row["name"]), attributes=more))
    return [each for each in found if each.identity]


def network_event(action: str, name: str, network_id: str, container_id: str) -> Around:
    """A container comes onto a network or leaves it."""
    more = {"container": container_id, "name": name, "type": DRIVERS.get(name, "bridge")}
    return Around(kind="network", action=action, identity=network_id, attributes=more)


def network_names(details: Mapping[str, Any]) -> Sequence[str]:
    """The networks that a container is on while it runs; none of its own for one that shares another container's."""
    network, networking = str(details.get("network", "")), details.get("networking") or {}
    if network == "bridge":
        named = [str(each["network"]) for each in networking.get("endpoints") or ()]
        return named or ([] if networking.get("disconnected") else ["bridge"])
    return [network] if network in DRIVERS else []


def _volumes(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in details.get("mounts", ()) if "anonymous" in row]

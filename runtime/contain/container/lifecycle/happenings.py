"""What a change of a container's record means to somebody who watches: Docker's names of events. Pure; `contain.store.journal` keeps
them. Source: docker/cli ``docs/reference/commandline/system_events.md``, moby ``daemon/events.go``.
"""

from __future__ import annotations

from collections.abc import Mapping

from contain.annotations import TYPE_CHECKING

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

"""A container's state as other programs read it (runtime.md "State", schema/state-schema.json), and what this runtime can do. Pure."""

from __future__ import annotations

from contain.oci_runtime.records import PAUSED, RUNNING, STOPPED, Record
from contain.runtime_spec.document import render_json


def render_state(record: Record, status: str, *, process_id: int | None = None) -> bytes:
    """One JSON object. A status of ours that the specification does not have stays: it may have further ones."""
    number = record.process_id if process_id is None else process_id
    state: dict[str, object] = {"ociVersion": record.version, "id": record.container_id, "status": status}
    if status != STOPPED:
        state["pid"] = number
    state["bundle"] = record.bundle
    if record.annotations:
        state["annotations"] = dict(record.annotations)
    return render_json(state).encode()


def render_listed(record: Record, status: str) -> dict[str, object]:
    """What ``state`` and ``list --format json`` show: the specification's members, and those that other runtimes add."""
    return {
        "ociVersion": record.version,
        "id": record.container_id,
        "pid": record.process_id if status != STOPPED else 0,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.root,
        "created": record.created,
        "annotations": dict(record.annotations),
        "owner": "",
    }


def can_be_signalled(status: str) -> bool:
    """Whether ``kill`` has somebody to tell."""
    return status in (RUNNING, PAUSED, "created")

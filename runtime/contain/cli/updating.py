"""``contain update``: other limits and another restart policy for containers that are there, running or not."""

from __future__ import annotations

import argparse

from contain.annotations import TYPE_CHECKING, Any
from contain.cli.names import each_name
from contain.errors import Conflict, UsageError

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord
    from contain.spec import Limits


def add_update_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    from contain.cli.limits import add_limit_arguments

    add_limit_arguments(parser)
    parser.add_argument("--restart", metavar="POLICY", help="no, on-failure[:N], always or unless-stopped")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def named_limits(limits: Limits, *, pids: bool) -> dict[str, Any]:
    """The fields that were asked for. ``pids``: the limit of processes was, too."""
    from contain.values import asdict

    named: dict[str, Any] = {
        name: value
        for name, value in asdict(limits).items()
        if value not in (None, "", (), []) and name not in ("pids", "out_of_memory_kill", "block")
    }
    if pids:
        named["pids"] = limits.pids
    return named


def merge_limits(known: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """What a record says afterwards: no limit is None there."""
    merged = {**known, **named}
    if (merged.get("pids") or 0) < 1:
        merged["pids"] = None
    return merged


def update(options: argparse.Namespace) -> int:
    """Takes effect at once where it runs, and at each later start."""
    from contain.cli.limits import parse_given_limits
    from contain.container.lifecycle.restarts import parse_restart
    from contain.engine import Engine
    from contain.linux.cgroups import update_limits
    from contain.spec import Limits
    from contain.values import asdict, replace

    given = parse_given_limits(options)
    named = named_limits(given, pids=options.pids_limit is not None)
    policy = None if options.restart is None else parse_restart(options.restart)
    if not named and policy is None:
        raise UsageError(
            "you must provide one or more flags when using this command",
            code="bad-arguments",
            remedy="see `contain update --help`",
        )
    with Engine.open() as engine:
        records = engine.records

        def change(name: str) -> None:
            record = records.find(name)
            if policy is not None and record.remove and policy.name != "no":
                raise Conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                    code="bad-restart-policy",
                )
            if named and record.process_id is not None:
                update_limits(record.container_id, replace(Limits(pids=None), **_writable(named)))

            def written(before: ContainerRecord) -> ContainerRecord:
                details = dict(before.details)
                details["limits"] = merge_limits(details.get("limits") or {}, named)
                if policy is not None:
                    details["restart"] = asdict(policy)
                return replace(before, details=details)

            records.tell(records.update(record.container_id, written), "update")

        return each_name(options.containers, change)


def _writable(named: dict[str, Any]) -> dict[str, Any]:
    """For the kernel, no limit of processes is -1."""
    return {**named, **({"pids": -1} if "pids" in named and (named["pids"] or 0) < 1 else {})}

"""Flags that say what a container may use: of ``run`` and ``create``, and of ``update``.

Source: docker/cli ``docs/reference/commandline/container_run.md``, ``container_update.md``. The values are texts until `parse_limits`,
so that a bad one is told in Docker's words.
"""

from __future__ import annotations

import argparse
import os

from contain.annotations import TYPE_CHECKING
from contain.spec import DEFAULT_PIDS_LIMIT, Limits

if TYPE_CHECKING:
    from contain.spec import BlockLimit

_BLOCK = (
    ("blkio_weight_device", "weight", "--blkio-weight-device", "DEV:WEIGHT"),
    ("device_read_bps", "read_bps", "--device-read-bps", "DEV:RATE"),
    ("device_write_bps", "write_bps", "--device-write-bps", "DEV:RATE"),
    ("device_read_iops", "read_iops", "--device-read-iops", "DEV:N"),
    ("device_write_iops", "write_iops", "--device-write-iops", "DEV:N"),
)


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that a living container can be given too."""
    parser.add_argument("-m", "--memory", metavar="SIZE", help="memory, for example 512m")
    parser.add_argument("--memory-swap", metavar="SIZE", help="memory and swap together (default: no swap; -1: no limit)")
    parser.add_argument("--memory-reservation", metavar="SIZE", help="memory that it keeps when others want it")
    parser.add_argument("--cpus", metavar="N", help="processors, for example 1.5")
    parser.add_argument("-c", "--cpu-shares", metavar="N", help="weight against others, usually 1024")
    parser.add_argument("--cpu-period", metavar="MICROSECONDS", help="of --cpu-quota")
    parser.add_argument("--cpu-quota", metavar="MICROSECONDS", help="processor time in each period (-1: no limit)")
    parser.add_argument("--cpuset-cpus", metavar="LIST", help="processors that it may use, for example 0-2,5")
    parser.add_argument("--cpuset-mems", metavar="LIST", help="memory nodes that it may use")
    parser.add_argument("--pids-limit", metavar="N", help=f"processes (default {DEFAULT_PIDS_LIMIT}; -1: no limit)")
    parser.add_argument("--blkio-weight", metavar="N", help="weight against others at block devices, 10 to 1000")


def add_first_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that only a new container can be given."""
    parser.add_argument("--memory-swappiness", metavar="N", help="0 to 100 (control groups version 1)")
    parser.add_argument("--oom-kill-disable", action="store_true", help="wait for memory (control groups version 1)")
    for _, _, flag, metavar in _BLOCK:
        parser.add_argument(flag, action="append", default=[], metavar=metavar, help=argparse.SUPPRESS)


def _cpus(text: str) -> float:
    from contain.container.request.asked import bad_value

    whole, _, rest = text.partition(".")
    if not (whole + rest).isdigit() or not (whole + rest).isascii():
        raise bad_value(text, "--cpus", f"failed to parse {text} as a rational number")
    if len(rest) > 9:
        raise bad_value(text, "--cpus", "value is too precise")
    return float(text)


def parse_limits(options: argparse.Namespace) -> Limits:
    """The limits that a new container has. Raises `UsageError` in Docker's words."""
    given = {name: value for name, value in vars(options).items() if value not in (None, [], False)}
    names = ("memory", "cpus", "pids_limit", "cpu", "cpuset", "memory_", "oom_kill", "blkio", "device_read", "device_write")
    if not any(name.startswith(names) for name in given):
        return Limits()
    limits = parse_given_limits(options)
    if "pids_limit" not in given:
        return limits
    from contain.values import replace

    return replace(limits, pids=limits.pids if limits.pids is not None and limits.pids > 0 else None)


def parse_given_limits(options: argparse.Namespace) -> Limits:
    """The limits that are named; the limit of processes as it was said, below 1 for none, or the default."""
    from contain.container.request import asked

    def size(name: str, flag: str) -> int | None:
        text = getattr(options, name, None)
        if text is None:
            return None
        return -1 if text == "-1" and name == "memory_swap" else asked.parse_bytes(text, flag)

    def number(name: str, flag: str) -> int | None:
        text = getattr(options, name, None)
        return None if text is None else asked.parse_integer(text, flag)

    processors, nodes = getattr(options, "cpuset_cpus", None) or "", getattr(options, "cpuset_mems", None) or ""
    if processors:
        asked.parse_processors(processors, _online("cpu"), what="cpuset cpus", flag="--cpuset-cpus")
    if nodes:
        asked.parse_processors(nodes, _online("node"), what="cpuset mems", flag="--cpuset-mems")
    block: list[BlockLimit] = [
        asked.parse_block_limit(kind, text, flag) for name, kind, flag, _ in _BLOCK for text in getattr(options, name, ())
    ]
    pids = number("pids_limit", "--pids-limit")
    swappiness = number("memory_swappiness", "--memory-swappiness")
    weight, shares, period = (
        number("blkio_weight", "--blkio-weight"),
        number("cpu_shares", "--cpu-shares"),
        number("cpu_period", "--cpu-period"),
    )
    limits = Limits(
        memory_bytes=size("memory", "--memory") or None,
        memory_swap_bytes=size("memory_swap", "--memory-swap") or None,
        memory_reservation_bytes=size("memory_reservation", "--memory-reservation") or None,
        memory_swappiness=None if swappiness == -1 else swappiness,
        out_of_memory_kill=not getattr(options, "oom_kill_disable", False),
        cpus=None if getattr(options, "cpus", None) is None else _cpus(options.cpus) or None,
        cpu_shares=shares or None,
        cpu_period_microseconds=period or None,
        cpu_quota_microseconds=number("cpu_quota", "--cpu-quota") or None,
        processors=processors,
        memory_nodes=nodes,
        block_weight=weight or None,
        block=tuple(block),
        pids=DEFAULT_PIDS_LIMIT if pids is None else pids,
    )
    return asked.verify_limits(limits, processors=os.cpu_count() or 1)


def _online(kind: str) -> frozenset[int]:
    from contain.container.request.asked import parse_list

    try:
        with open(f"/sys/devices/system/{kind}/online") as file:
            return parse_list(file.read())
    except OSError:
        return frozenset((0,)) if kind == "node" else frozenset(range(os.cpu_count() or 1))

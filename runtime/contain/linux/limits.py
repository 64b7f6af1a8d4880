"""What is written to a control group for a container's limits, and what its files say afterwards. Decides; writes nothing.

Version 1's files and version 2's, with the conversions of runc (opencontainers/cgroups ``utils.go``), so that the same flag means the
same here. What a kernel has no file for cannot be limited by it: that is an error, by the option's name, never a silence.
Sources: kernel ``cgroup-v1/*.rst``, ``cgroup-v2.rst``.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator

from contain.errors import HostError, UsageError
from contain.spec import DEFAULT_PIDS_LIMIT, BlockLimit, Limits

CPU_PERIOD_MICROSECONDS = 100_000
_LEAST_QUOTA_MICROSECONDS = 1000
_THROTTLES = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}

Writes = Iterator[tuple[str, str]]
Present = Callable[[str], bool]


def needed_controllers(limits: Limits) -> dict[str, str]:
    """The controllers that what was asked for needs, by version 1's names, each with the option that asks for it. A
    limit of processes that is the default needs none."""
    found: dict[str, str] = {}
    asked = (
        ("memory", "--memory", limits.memory_bytes is not None),
        ("memory", "--memory-swap", limits.memory_swap_bytes is not None),
        ("memory", "--memory-reservation", limits.memory_reservation_bytes is not None),
        ("memory", "--memory-swappiness", limits.memory_swappiness is not None),
        ("memory", "--oom-kill-disable", not limits.out_of_memory_kill),
        ("cpu", "--cpus", limits.cpus is not None),
        ("cpu", "--cpu-shares", limits.cpu_shares is not None),
        ("cpu", "--cpu-period", limits.cpu_period_microseconds is not None),
        ("cpu", "--cpu-quota", limits.cpu_quota_microseconds is not None),
        ("pids", "--pids-limit", limits.pids not in (None, DEFAULT_PIDS_LIMIT)),
        ("cpuset", "--cpuset-cpus", bool(limits.processors)),
        ("cpuset", "--cpuset-mems", bool(limits.memory_nodes)),
        ("blkio", "--blkio-weight", limits.block_weight is not None),
        *(("blkio", _block_option(each), True) for each in limits.block),
    )
    for controller, option, wanted in asked:
        if wanted:
            found.setdefault(controller, option)
    return found


def _block_option(limit: BlockLimit) -> str:
    if limit.kind == "weight":
        return "--blkio-weight-device"
    way, _, unit = limit.kind.partition("_")
    return f"--device-{way}-{unit}"


def shares_to_weight(shares: int) -> int:
    """``cpu.weight`` (1 to 10000) for ``cpu.shares`` (2 to 262144): a curve through (2, 1), (1024, 100) and (262144, 10000)."""
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def block_weight_to_io(weight: int) -> int:
    """``io.weight`` (1 to 10000) for a block weight (10 to 1000)."""
    return 1 + (weight - 10) * 9999 // 990


def _lacks(option: str, why: str) -> HostError:
    return HostError(
        f"{option} cannot be set: {why}", code="cgroup-refused", remedy=f"leave {option} out, or run with another kernel"
    )


def device_number(limit: BlockLimit) -> str:
    """``major:minor`` of a limit's block device. Raises `UsageError`."""
    try:
        state = os.stat(limit.device)
    except OSError as error:
        raise UsageError(f"{_block_option(limit)}: {limit.device}: {error.strerror}", code="bad-limit") from None
    if not stat.S_ISBLK(state.st_mode):
        raise UsageError(f"{_block_option(limit)}: {limit.device} is not a block device", code="bad-limit")
    return f"{os.major(state.st_rdev)}:{os.minor(state.st_rdev)}"


def plan_memory(version: int, limits: Limits, present: Present) -> Writes:
    """The memory controller's files and values."""
    if version == 1:
        if limits.memory_bytes is not None:
            yield "memory.limit_in_bytes", str(limits.memory_bytes)
        both = "memory.memsw.limit_in_bytes"
        if limits.memory_swap_bytes is not None and not present(both):
            raise _lacks("--memory-swap", "this kernel does not count swap (swapaccount=1)")
        swap = limits.memory_bytes if limits.memory_swap_bytes is None else limits.memory_swap_bytes
        if swap is not None and present(both):
            yield both, str(swap)
        if limits.memory_reservation_bytes is not None:
            yield "memory.soft_limit_in_bytes", str(limits.memory_reservation_bytes)
        if limits.memory_swappiness is not None:
            yield "memory.swappiness", str(limits.memory_swappiness)
        if not limits.out_of_memory_kill:
            yield "memory.oom_control", "1"
        return
    if limits.memory_swappiness is not None:
        raise _lacks("--memory-swappiness", "control groups version 2 have no such file")
    if not limits.out_of_memory_kill:
        raise _lacks("--oom-kill-disable", "control groups version 2 have no such file")
    if limits.memory_bytes is not None:
        yield "memory.max", "max" if limits.memory_bytes < 0 else str(limits.memory_bytes)
    if limits.memory_swap_bytes is not None and not present("memory.swap.max"):
        raise _lacks("--memory-swap", "this kernel does not count swap")
    if limits.memory_bytes is not None and present("memory.swap.max"):
        swap = limits.memory_swap_bytes
        endless = limits.memory_bytes < 0 or (swap is not None and swap < 0)
        yield "memory.swap.max", "max" if endless else str(0 if swap is None else swap - limits.memory_bytes)
    elif limits.memory_swap_bytes is not None and limits.memory_swap_bytes < 0:
        yield "memory.swap.max", "max"
    if limits.memory_reservation_bytes is not None:
        yield "memory.low", str(limits.memory_reservation_bytes)


def plan_processors(version: int, limits: Limits) -> Writes:
    """The cpu controller's files and values."""
    period, quota = limits.cpu_period_microseconds, limits.cpu_quota_microseconds
    if limits.cpus is not None:
        period = CPU_PERIOD_MICROSECONDS
        quota = max(_LEAST_QUOTA_MICROSECONDS, int(limits.cpus * CPU_PERIOD_MICROSECONDS))
    if limits.cpu_shares is not None:
        yield (
            ("cpu.shares", str(limits.cpu_shares)) if version == 1 else ("cpu.weight", str(shares_to_weight(limits.cpu_shares)))
        )
    if version == 1:
        if period is not None:
            yield "cpu.cfs_period_us", str(period)
        if quota is not None:
            yield "cpu.cfs_quota_us", str(quota)
    elif period is not None or quota is not None:
        shown = "max" if quota is None or quota <= 0 else str(quota)
        yield "cpu.max", f"{shown} {CPU_PERIOD_MICROSECONDS if period is None else period}"


def plan_block(version: int, limits: Limits, present: Present) -> Writes:
    """The blkio or io controller's files and values."""
    weight_file = next(
        (
            name
            for name in (("blkio.weight", "blkio.bfq.weight") if version == 1 else ("io.bfq.weight", "io.weight"))
            if present(name)
        ),
        None,
    )
    if limits.block_weight is not None:
        if weight_file is None:
            raise _lacks("--blkio-weight", "this kernel has no scheduler of block devices that knows weights")
        weight = block_weight_to_io(limits.block_weight) if weight_file == "io.weight" else limits.block_weight
        yield weight_file, str(weight)
    for each in limits.block:
        number = device_number(each)
        if each.kind == "weight":
            name = "blkio.weight_device" if weight_file == "blkio.weight" else weight_file
            if name is None or not present(name):
                raise _lacks("--blkio-weight-device", "this kernel has no scheduler of block devices that knows weights")
            yield name, f"{number} {block_weight_to_io(each.value) if name == 'io.weight' else each.value}"
        elif version == 1:
            name = f"blkio.throttle.{each.kind}_device"
            if not present(name):
                raise _lacks(_block_option(each), "this kernel cannot throttle block devices")
            yield name, f"{number} {each.value}"
        else:
            yield "io.max", f"{number} {_THROTTLES[each.kind]}={each.value}"


def plan_limits(version: int, controllers: frozenset[str], limits: Limits, present: Present) -> list[tuple[str, str]]:
    """(file, value) in the order in which they are written to a group of these controllers. ``present``: whether it has a file."""
    writes: list[tuple[str, str]] = []
    if "memory" in controllers:
        writes += plan_memory(version, limits, present)
    if "pids" in controllers and limits.pids is not None:
        writes.append(("pids.max", "max" if limits.pids <= 0 else str(limits.pids)))
    if "cpu" in controllers:
        writes += plan_processors(version, limits)
    if "cpuset" in controllers:
        if limits.processors:
            writes.append(("cpuset.cpus", limits.processors))
        if limits.memory_nodes:
            writes.append(("cpuset.mems", limits.memory_nodes))
    if controllers & {"blkio", "io"}:
        writes += plan_block(version, limits, present)
    return writes

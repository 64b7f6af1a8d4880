"""``linux.resources``: limits as values, and as the files of control groups of either version. Pure.

Sources: config-linux.md "Control groups"; the kernel's ``cgroup-v1/*.rst`` and ``cgroup-v2.rst``; the conversions of shares and
weights are those of runc, which other engines count on.
"""

from __future__ import annotations

from contain.linux.devices import DeviceRule
from contain.runtime_spec.reading import Table, refused, wrong
from contain.values import dataclass

DEFAULT_RULES = (
    *(DeviceRule(allow=True, kind=kind, access="m") for kind in "cb"),
    *(DeviceRule(allow=True, kind="c", major=1, minor=minor) for minor in (3, 5, 7, 8, 9)),
    *(DeviceRule(allow=True, kind="c", major=5, minor=minor) for minor in (0, 1, 2)),
    DeviceRule(allow=True, kind="c", major=136),
)
"""What every container may: make nodes, and use the default devices and its terminals. They come after the bundle's rules, as with
other runtimes; tun is not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFile:
    """``value`` goes into the file ``name`` of the controller's group. ``optional``: where the kernel has no such file, fine."""

    controller: str
    name: str
    value: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of one container. None: not asked for. -1: no limit."""

    memory_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_and_swap_bytes: int | None = None
    kernel_memory_bytes: int | None = None
    kernel_tcp_bytes: int | None = None
    swappiness: int | None = None
    oom_killer_off: bool | None = None
    check_before_update: bool = False
    cpu_shares: int | None = None
    cpu_quota_microseconds: int | None = None
    cpu_burst_microseconds: int | None = None
    cpu_period_microseconds: int | None = None
    realtime_runtime_microseconds: int | None = None
    realtime_period_microseconds: int | None = None
    cpu_idle: int | None = None
    cpus: str = ""
    memory_nodes: str = ""
    pids: int | None = None
    block_weight: int | None = None
    block_leaf_weight: int | None = None
    block_device_weights: tuple[tuple[str, int | None, int | None], ...] = ()
    block_throttles: tuple[tuple[str, str, int], ...] = ()  # ("read_bps_device", "8:0", rate)
    huge_pages: tuple[tuple[str, int], ...] = ()
    network_class: int | None = None
    network_priorities: tuple[tuple[str, int], ...] = ()
    remote_memory: tuple[tuple[str, int | None, int | None], ...] = ()
    unified: tuple[tuple[str, str], ...] = ()
    devices: tuple[DeviceRule, ...] = ()


_THROTTLES = {
    "throttleReadBpsDevice": "read_bps_device",
    "throttleWriteBpsDevice": "write_bps_device",
    "throttleReadIOPSDevice": "read_iops_device",
    "throttleWriteIOPSDevice": "write_iops_device",
}
_IO_KEYS = {"read_bps_device": "rbps", "write_bps_device": "wbps", "read_iops_device": "riops", "write_iops_device": "wiops"}


def parse_device_rule(table: Table) -> DeviceRule:
    """One of ``linux.resources.devices``."""
    kind, access = table.text("type", "") or "a", table.text("access", "") or "rwm"
    if kind not in ("a", "b", "c", "u"):
        raise wrong(table.place("type"), f"{kind!r} is none of a, b, c, u")
    if set(access) - set("rwm"):
        raise wrong(table.place("access"), f"{access!r} holds more than r, w and m")
    major, minor = (table.number(name, -1, low=-1, high=2**32 - 1) for name in ("major", "minor"))
    return DeviceRule(
        allow=table.flag("allow", None),
        kind="c" if kind == "u" else kind,
        major=None if major == -1 else major,
        minor=None if minor == -1 else minor,
        access="".join(letter for letter in "rwm" if letter in access),
    )


def _numbers(table: Table) -> str:
    return f"{table.number('major', low=0, high=2**32 - 1)}:{table.number('minor', low=0, high=2**32 - 1)}"


def parse_resources(table: Table | None) -> Resources:
    """Check and convert. Raises `UsageError`, `NotSupported`."""
    if table is None:
        return Resources()
    empty = Table({}, table.where)
    memory, cpu, pids = (table.table(name) or empty for name in ("memory", "cpu", "pids"))
    block, network = (table.table(name) or empty for name in ("blockIO", "network"))
    least = {"low": -1, "high": 2**63 - 1}
    throttles = [
        (name, _numbers(each), each.number("rate", low=0))
        for member, name in _THROTTLES.items()
        for each in block.tables(member)
    ]
    limit, both = memory.optional_number("limit", **least), memory.optional_number("swap", **least)
    if both is not None and both > 0 and limit is not None and limit > both:
        raise wrong(memory.place("swap"), f"memory and swap together ({both}) cannot be less than memory ({limit})")
    return Resources(
        memory_bytes=limit or None,
        memory_reservation_bytes=memory.optional_number("reservation", **least) or None,
        memory_and_swap_bytes=both or None,
        kernel_memory_bytes=memory.optional_number("kernel", **least) or None,
        kernel_tcp_bytes=memory.optional_number("kernelTCP", **least) or None,
        swappiness=memory.optional_number("swappiness", low=0, high=100),
        oom_killer_off=memory.optional_flag("disableOOMKiller"),
        check_before_update=memory.flag("checkBeforeUpdate"),
        cpu_shares=cpu.optional_number("shares", low=0, high=2**63 - 1) or None,
        cpu_quota_microseconds=cpu.optional_number("quota", **least) or None,
        cpu_burst_microseconds=cpu.optional_number("burst", low=0, high=2**63 - 1),
        cpu_period_microseconds=cpu.optional_number("period", low=0, high=2**63 - 1) or None,
        realtime_runtime_microseconds=cpu.optional_number("realtimeRuntime", **least) or None,
        realtime_period_microseconds=cpu.optional_number("realtimePeriod", low=0, high=2**63 - 1) or None,
        cpu_idle=cpu.optional_number("idle", low=0, high=1),
        cpus=cpu.text("cpus", ""),
        memory_nodes=cpu.text("mems", ""),
        pids=pids.optional_number("limit", **least) or None,
        block_weight=block.optional_number("weight", low=0, high=1000) or None,
        block_leaf_weight=block.optional_number("leafWeight", low=0, high=1000) or None,
        block_device_weights=tuple(
            (
                _numbers(each),
                each.optional_number("weight", low=0, high=1000),
                each.optional_number("leafWeight", low=0, high=1000),
            )
            for each in block.tables("weightDevice")
        ),
        block_throttles=tuple(throttles),
        huge_pages=tuple((_page_size(each), each.number("limit", low=0)) for each in table.tables("hugepageLimits")),
        network_class=network.optional_number("classID", low=0, high=2**32 - 1),
        network_priorities=tuple(
            (each.text("name"), each.number("priority", low=0, high=2**32 - 1)) for each in network.tables("priorities")
        ),
        remote_memory=tuple(
            (name, each.optional_number("hcaHandles", low=0), each.optional_number("hcaObjects", low=0))
            for name, each in table.table_map("rdma")
        ),
        unified=table.text_map("unified"),
        devices=tuple(parse_device_rule(each) for each in table.tables("devices")),
    )


def _page_size(table: Table) -> str:
    size = table.text("pageSize")
    if not size[:-2].isdigit() or size[-2:] not in ("KB", "MB", "GB"):
        raise wrong(table.place("pageSize"), f"{size!r} is not written like 64KB, 2MB or 1GB")
    return size


def any_limits(resources: Resources) -> bool:
    """Whether anything is asked for."""
    return resources != Resources()


def device_rules(resources: Resources) -> tuple[DeviceRule, ...]:
    """The bundle's rules and the default ones; none where the bundle has none, which restricts nothing."""
    return (*resources.devices, *DEFAULT_RULES) if resources.devices else ()


def plan_first_version(resources: Resources) -> tuple[GroupFile, ...]:
    """The files of version 1, in the order in which they must be written."""
    if resources.unified:
        raise refused("linux.resources.unified", "needs control groups of version 2; this machine mounts version 1")
    found: list[GroupFile] = []

    def put(controller: str, name: str, value: int | str | None, *, optional: bool = False) -> None:
        if value is not None and value != "":
            found.append(GroupFile(controller=controller, name=f"{controller}.{name}", value=str(value), optional=optional))

    put("memory", "limit_in_bytes", resources.memory_bytes)
    put("memory", "memsw.limit_in_bytes", resources.memory_and_swap_bytes)
    put("memory", "soft_limit_in_bytes", resources.memory_reservation_bytes)
    put("memory", "kmem.tcp.limit_in_bytes", resources.kernel_tcp_bytes, optional=True)
    put("memory", "swappiness", resources.swappiness)
    if resources.oom_killer_off is not None:
        put("memory", "oom_control", int(resources.oom_killer_off), optional=not resources.oom_killer_off)
    put("cpu", "shares", resources.cpu_shares)
    put("cpu", "cfs_period_us", resources.cpu_period_microseconds)
    put("cpu", "cfs_quota_us", resources.cpu_quota_microseconds)
    put("cpu", "cfs_burst_us", resources.cpu_burst_microseconds)
    put("cpu", "rt_period_us", resources.realtime_period_microseconds)
    put("cpu", "rt_runtime_us", resources.realtime_runtime_microseconds)
    put("cpu", "idle", resources.cpu_idle)
    put("cpuset", "cpus", resources.cpus)
    put("cpuset", "mems", resources.memory_nodes)
    if resources.pids is not None:
        put("pids", "max", "max" if resources.pids < 0 else resources.pids)
    put("blkio", "weight", resources.block_weight)
    put("blkio", "leaf_weight", resources.block_leaf_weight)
    for numbers, weight, leaf in resources.block_device_weights:
        put("blkio", "weight_device", None if weight is None else f"{numbers} {weight}")
        put("blkio", "leaf_weight_device", None if leaf is None else f"{numbers} {leaf}")
    for name, numbers, rate in resources.block_throttles:
        put("blkio", f"throttle.{name}", f"{numbers} {rate}")
    for size, limit in resources.huge_pages:
        put("hugetlb", f"{size}.limit_in_bytes", limit)
        put("hugetlb", f"{size}.rsvd.limit_in_bytes", limit, optional=True)
    put("net_cls", "classid", resources.network_class)
    for name, priority in resources.network_priorities:
        put("net_prio", "ifpriomap", f"{name} {priority}")
    for name, handles, objects in resources.remote_memory:
        put("rdma", "max", _remote_memory(name, handles, objects))
    for rule in device_rules(resources):
        # what the group above may not, cannot be allowed: that is less, and no error
        put("devices", "allow" if rule.allow else "deny", rule.render(), optional=rule.allow)
    return tuple(found)


def _remote_memory(name: str, handles: int | None, objects: int | None) -> str:
    words = ((f"{key}={number}") for key, number in (("hca_handle", handles), ("hca_object", objects)) if number is not None)
    return " ".join((name, *words))


def weight_of_shares(shares: int) -> int:
    """``cpu.weight`` (1 to 10000) for ``cpu.shares`` (2 to 262144), linearly, as runc converts."""
    shares = min(max(shares, 2), 262144)
    return 1 + ((shares - 2) * 9999) // 262142


def weight_of_block_weight(weight: int) -> int:
    """``io.weight`` (1 to 10000) for ``blkio.weight`` (10 to 1000), linearly, as runc converts."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def _limited(value: int) -> str:
    return "max" if value < 0 else str(value)


def plan_second_version(resources: Resources) -> tuple[GroupFile, ...]:
    """The files of version 2, in order. Devices are not files there: see `Resources.devices`."""
    for asked, name in (
        (resources.realtime_runtime_microseconds, "realtimeRuntime"),
        (resources.realtime_period_microseconds, "realtimePeriod"),
    ):
        if asked is not None:
            raise refused(f"linux.resources.cpu.{name}", "needs control groups of version 1")
    if resources.network_class is not None or resources.network_priorities:
        raise refused("linux.resources.network", "needs control groups of version 1")
    found: list[GroupFile] = []

    def put(controller: str, name: str, value: int | str | None, *, optional: bool = False) -> None:
        if value is not None and value != "":
            found.append(GroupFile(controller=controller, name=f"{controller}.{name}", value=str(value), optional=optional))

    both, limit = resources.memory_and_swap_bytes, resources.memory_bytes
    if both is not None:
        if both >= 0 and (limit is None or limit < 0):
            raise wrong("linux.resources.memory.swap", "needs memory.limit beside it: version 2 counts swap alone")
        put("memory", "swap.max", "max" if both < 0 else both - (limit or 0), optional=both < 0 or both == limit)
    put("memory", "max", None if limit is None else _limited(limit))
    put("memory", "low", None if (low := resources.memory_reservation_bytes) is None else _limited(low))
    put("cpu", "weight", None if resources.cpu_shares is None else weight_of_shares(resources.cpu_shares))
    put("cpu", "idle", resources.cpu_idle)
    quota, period = resources.cpu_quota_microseconds, resources.cpu_period_microseconds
    if quota is not None or period is not None:
        put("cpu", "max", f"{'max' if quota is None or quota < 0 else quota} {period or 100000}")
    put("cpu", "max.burst", resources.cpu_burst_microseconds)
    put("cpuset", "cpus", resources.cpus)
    put("cpuset", "mems", resources.memory_nodes)
    put("pids", "max", None if resources.pids is None else _limited(resources.pids))
    if resources.block_weight is not None:
        put("io", "bfq.weight", resources.block_weight, optional=True)
        put("io", "weight", f"default {weight_of_block_weight(resources.block_weight)}", optional=True)
    for numbers, weight, _ in resources.block_device_weights:
        put("io", "bfq.weight", None if weight is None else f"{numbers} {weight}")
    for name, numbers, rate in resources.block_throttles:
        put("io", "max", f"{numbers} {_IO_KEYS[name]}={rate or 'max'}")
    for size, amount in resources.huge_pages:
        put("hugetlb", f"{size}.max", amount)
        put("hugetlb", f"{size}.rsvd.max", amount, optional=True)
    for name, handles, objects in resources.remote_memory:
        put("rdma", "max", _remote_memory(name, handles, objects))
    for name, value in resources.unified:
        controller, dot, rest = name.partition(".")
        if not dot or "/" in name:
            raise wrong("linux.resources.unified", f"{name!r} is no file of a control group")
        for line in value.splitlines():
            put(controller, rest, line)
    return tuple(found)

"""The ``process`` of a bundle, and the process file of ``exec``: who runs what, with which rights. Pure."""

from __future__ import annotations

from contain.linux.capabilities import CAPABILITY_NUMBERS
from contain.runtime_spec.reading import ID_LIMIT, Table, refused, wrong
from contain.values import dataclass, replace

RLIMITS = {
    name: number
    for number, name in enumerate(
        [
            "CPU",
            "FSIZE",
            "DATA",
            "STACK",
            "CORE",
            "RSS",
            "NPROC",
            "NOFILE",
            "MEMLOCK",
            "AS",
            "LOCKS",
            "SIGPENDING",
            "MSGQUEUE",
            "NICE",
            "RTPRIO",
            "RTTIME",
        ]
    )
}
"""Names without ``RLIMIT_``: the numbers of getrlimit(2) on x86-64 and arm64."""

SCHEDULERS = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1,
    "SCHED_FLAG_RECLAIM": 2,
    "SCHED_FLAG_DL_OVERRUN": 4,
    "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilitySets:
    """Five bit masks (capabilities(7))."""

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimit:
    """One of setrlimit(2); ``number`` is its RLIMIT. The largest 64-bit number is no limit."""

    name: str
    number: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """sched_setattr(2)."""

    policy: int
    nice: int = 0
    priority: int = 0
    flags: int = 0
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A program to run inside."""

    arguments: tuple[str, ...]
    environment: tuple[str, ...] = ()
    directory: str = "/"
    terminal: bool = False
    console_size: tuple[int, int] | None = None  # height, width
    user_id: int = 0
    group_id: int = 0
    groups: tuple[int, ...] = ()
    umask: int | None = None
    capabilities: CapabilitySets | None = None  # None: no change but for what a change of user does
    limits: tuple[ResourceLimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adjustment: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: int | None = None  # as ioprio_set(2) packs it
    first_affinity: tuple[int, ...] | None = None
    final_affinity: tuple[int, ...] | None = None


def capability_mask(names: tuple[str, ...], where: str) -> int:
    """The bit mask of names with ``CAP_``. Unknown ones are ignored, as the specification demands ("SHOULD be ignored")."""
    mask = 0
    for name in names:
        if not name.startswith("CAP_") or name != name.upper():
            raise wrong(where, f"{name!r} is no capability; they are written like CAP_CHOWN")
        number = CAPABILITY_NUMBERS.get(name[4:])
        if number is not None:
            mask |= 1 << number
    return mask


def parse_cpu_list(text: str, where: str) -> tuple[int, ...]:
    """``0-3,7`` (cpuset(7), list format) as numbers."""
    found: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or len(part) > 12:
            raise wrong(where, f"{text!r} is no list of processors such as 0-3,7")
        low, high = int(first), int(last or first)
        if low > high or high > 8191:
            raise wrong(where, f"{text!r} is no list of processors such as 0-3,7")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def _limit(table: Table) -> ResourceLimit:
    kind = table.text("type")
    name = kind.removeprefix("RLIMIT_")
    if not kind.startswith("RLIMIT_") or name not in RLIMITS:
        raise wrong(table.place("type"), f"{kind!r} is no resource limit of getrlimit(2)")
    soft, hard = (table.number(member, low=-1) for member in ("soft", "hard"))
    soft, hard = (2**64 - 1 if value == -1 else value for value in (soft, hard))
    if soft > hard:
        raise wrong(table.place("soft"), f"the soft limit {soft} is above the hard limit {hard}")
    return ResourceLimit(name=name, number=RLIMITS[name], soft=soft, hard=hard)


def _scheduler(table: Table) -> Scheduler:
    policy = table.choice("policy", SCHEDULERS)
    flags = 0
    for flag in table.texts("flags"):
        if flag not in SCHEDULER_FLAGS:
            raise wrong(table.place("flags"), f"{flag!r} is none of {', '.join(SCHEDULER_FLAGS)}")
        flags |= SCHEDULER_FLAGS[flag]
    return Scheduler(
        policy=SCHEDULERS[policy],
        nice=table.number("nice", 0, low=-20, high=19),
        priority=table.number("priority", 0, low=0, high=99),
        flags=flags,
        runtime=table.number("runtime", 0, low=0),
        deadline=table.number("deadline", 0, low=0),
        period=table.number("period", 0, low=0),
    )


def parse_process(table: Table) -> Process:
    """Check and convert one process. Raises `UsageError`, `NotSupported`."""
    table.refuse("commandLine")
    arguments = table.texts("args")
    if not arguments:
        raise wrong(table.place("args"), "must hold at least the program")
    environment = table.texts("env")
    user = table.table("user") or Table({}, table.place("user"))
    size = table.table("consoleSize")
    sets = table.table("capabilities")
    limits = tuple(_limit(each) for each in table.tables("rlimits"))
    if len({limit.name for limit in limits}) != len(limits):
        raise wrong(table.place("rlimits"), "a type stands there twice")
    scheduler, io_priority, affinity = table.table("scheduler"), table.table("ioPriority"), table.table("execCPUAffinity")
    return Process(
        arguments=arguments,
        environment=environment,
        directory=table.absolute("cwd"),
        terminal=table.flag("terminal"),
        console_size=(size.number("height", low=0, high=65535), size.number("width", low=0, high=65535)) if size else None,
        user_id=user.number("uid", 0, low=0, high=ID_LIMIT),
        group_id=user.number("gid", 0, low=0, high=ID_LIMIT),
        groups=user.numbers("additionalGids", low=0, high=ID_LIMIT),
        umask=user.optional_number("umask", low=0, high=0o777),
        capabilities=None
        if sets is None
        else CapabilitySets(
            **{
                name: capability_mask(sets.texts(name), sets.place(name))
                for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
            }
        ),
        limits=limits,
        no_new_privileges=table.flag("noNewPrivileges"),
        oom_score_adjustment=table.optional_number("oomScoreAdj", low=-1000, high=1000),
        apparmor_profile=table.text("apparmorProfile", "").removeprefix("unconfined"),
        selinux_label=table.text("selinuxLabel", ""),
        scheduler=_scheduler(scheduler) if scheduler else None,
        io_priority=_io_priority(io_priority) if io_priority else None,
        first_affinity=_affinity(affinity, "initial"),
        final_affinity=_affinity(affinity, "final"),
    )


def _io_priority(table: Table) -> int:
    return IO_CLASSES[table.choice("class", IO_CLASSES)] << 13 | table.number("priority", 0, low=0, high=7)


def _affinity(table: Table | None, name: str) -> tuple[int, ...] | None:
    return parse_cpu_list(table.text(name), table.place(name)) if table is not None and table.has(name) else None


def refuse_labels(process: Process, *, where: str = "process") -> None:
    """A security module that we do not drive."""
    if process.selinux_label:
        raise refused(f"{where}.selinuxLabel")


def grant(process: Process, available: int) -> tuple[Process, int]:
    """The process with the capabilities that the runtime itself has, and the mask of those that it asked for in vain. The
    specification wants a warning then, not an error (config.md "Linux Process")."""
    sets = process.capabilities
    if sets is None:
        return process, 0
    asked = {name: getattr(sets, name) for name in ("bounding", "effective", "inheritable", "permitted", "ambient")}
    missing = 0
    for mask in asked.values():
        missing |= mask & ~available
    if not missing:
        return process, 0
    return replace(process, capabilities=CapabilitySets(**{name: mask & available for name, mask in asked.items()})), missing


def name_capabilities(mask: int) -> tuple[str, ...]:
    """Names with ``CAP_``, in the order of their numbers."""
    return tuple(f"CAP_{name}" for name, number in CAPABILITY_NUMBERS.items() if mask >> number & 1)

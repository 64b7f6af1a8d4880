"""How a container's program ended: from what the kernel says to what people and scripts are told. Pure."""

from __future__ import annotations

import os

from contain.linux.cgroups import CgroupCounters
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitState:
    """How a container's first process ended. ``status`` is what ``docker run`` would exit with."""

    status: int
    signal: int | None = None
    out_of_memory: bool = False
    memory_limit_bytes: int | None = None
    pids_limit_hits: int = 0

    def describe(self) -> str:
        """For people: why it ended, if not by itself."""
        if self.out_of_memory:
            limit = f" of {self.memory_limit_bytes >> 20} MiB" if self.memory_limit_bytes else ""
            return f"killed: the memory limit{limit} was reached"
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return f"exit status {self.status}"


def exit_state(wait_status: int, counters: CgroupCounters, memory_limit_bytes: int | None) -> ExitState:
    """From a wait status and the counters to what is reported."""
    code = os.waitstatus_to_exitcode(wait_status)
    number = -code if code < 0 else None
    return ExitState(
        status=128 + number if number is not None else code,
        signal=number,
        out_of_memory=counters.out_of_memory_kills > 0 and (number == 9 or code == 137),
        memory_limit_bytes=memory_limit_bytes,
        pids_limit_hits=counters.pids_limit_hits,
    )

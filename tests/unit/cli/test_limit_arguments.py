"""Flags about what a container may use: from words to limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.cli.arguments import Parser
from contain.cli.limits import parse_limits
from contain.cli.run import add_run_arguments
from contain.errors import NotSupported, UsageError
from contain.spec import BlockLimit, Limits


def limits(*words: str) -> Limits:
    parser = Parser(prog="contain run")
    add_run_arguments(parser)
    return parse_limits(parser.parse_args([*words, "image"]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), Limits()),
        (("--memory", "64m"), Limits(memory_bytes=64 << 20)),
        (("-m", "0"), Limits()),
        (("--memory", "64m", "--memory-swap", "-1"), Limits(memory_bytes=64 << 20, memory_swap_bytes=-1)),
        (("--memory", "64m", "--memory-swap", "128m"), Limits(memory_bytes=64 << 20, memory_swap_bytes=128 << 20)),
        (("--memory-swappiness", "0"), Limits(memory_swappiness=0)),
        (("--memory-swappiness", "-1"), Limits()),
        (("--oom-kill-disable",), Limits(out_of_memory_kill=False)),
        (("--cpus", "0.5"), Limits(cpus=0.5)),
        (("--cpus", "0"), Limits()),
        (("-c", "512"), Limits(cpu_shares=512)),
        (("--cpu-shares", "0"), Limits()),
        (("--cpu-quota", "-1"), Limits(cpu_quota_microseconds=-1)),
        (("--pids-limit", "10"), Limits(pids=10)),
        (("--pids-limit", "-1"), Limits(pids=None)),
        (("--pids-limit", "0"), Limits(pids=None)),
        (
            ("--device-write-bps", "/dev/sda:1kb"),
            Limits(block=(BlockLimit(kind="write_bps", device=Path("/dev/sda"), value=1024),)),
        ),
    ],
)
def test_limits_of_a_new_container(words: tuple[str, ...], expected: Limits) -> None:
    assert limits(*words) == expected


@pytest.mark.parametrize("text", ["", "x", "1/2", "1e3", "-1", "0x1", "1.2.3", "1.0000000001"])
def test_numbers_of_processors_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match='for "--cpus" flag'):
        limits("--cpus", text)


@pytest.mark.parametrize(
    "flag", ["--gpus", "--pid", "--cgroup-parent", "--runtime", "--volume-driver", "--storage-opt", "--tz"]
)
def test_flags_that_are_not_carried_out_are_refused_by_name(flag: str) -> None:
    with pytest.raises(NotSupported, match=f"^{flag} is not supported: ") as caught:
        limits(flag, "x")
    assert caught.value.remedy


def test_a_refused_flag_without_a_value_does_not_take_the_next_word() -> None:
    with pytest.raises(NotSupported, match="--rootfs"):
        limits("--rootfs")

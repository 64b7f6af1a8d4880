"""The flags of ``contain build`` that are about its RUN instructions: secrets, agents, permissions, network, hosts, limits."""

from __future__ import annotations

import argparse
import os

from contain.annotations import TYPE_CHECKING
from contain.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from contain.build.run.options import RunOptions

_REFUSED = {
    "cgroup_parent": ("--cgroup-parent", "the containers of a build have control groups of their own"),
    "isolation": ("--isolation", "it exists on Windows only"),
    "memory": ("--memory", "limit the whole command instead: systemd-run --scope -p MemoryMax=1G contain build ..."),
    "memory_swap": (
        "--memory-swap",
        "limit the whole command instead: systemd-run --scope -p MemorySwapMax=1G contain build ...",
    ),
    "cpu_quota": ("--cpu-quota", "limit the whole command instead: systemd-run --scope -p CPUQuota=50% contain build ..."),
    "cpu_period": ("--cpu-period", "limit the whole command instead: systemd-run --scope -p CPUQuota=50% contain build ..."),
    "cpu_shares": ("--cpu-shares", "limit the whole command instead: nice contain build ..."),
    "cpuset_cpus": ("--cpuset-cpus", "limit the whole command instead: taskset -c 0-1 contain build ..."),
    "cpuset_mems": ("--cpuset-mems", "limit the whole command instead: numactl"),
    "security_opt": ("--security-opt", "RUN --security=insecure and --allow security.insecure are what there is"),
    "device": ("--device", "steps get no devices of this machine"),
}


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="id=NAME,src=FILE",
        help="for RUN --mount=type=secret; env=VARIABLE takes a variable instead of a file; may be repeated",
    )
    parser.add_argument(
        "--ssh",
        action="append",
        default=[],
        metavar="ID[=SOCKET|KEY,...]",
        help="for RUN --mount=type=ssh; 'default' alone is the agent at $SSH_AUTH_SOCK; may be repeated",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="let RUN ask for network.host or security.insecure; may be repeated",
    )
    parser.add_argument(
        "--network", metavar="MODE", help="of RUN that names none: default, none, host (which allows network.host)"
    )
    parser.add_argument(
        "--add-host", action="append", default=[], metavar="NAME:ADDRESS", help="a line of /etc/hosts for RUN; may be repeated"
    )
    parser.add_argument("--shm-size", metavar="SIZE", help="size of /dev/shm for RUN (default: 64m)")
    parser.add_argument(
        "--ulimit",
        action="append",
        default=[],
        metavar="NAME=SOFT[:HARD]",
        help="a limit of setrlimit(2) for RUN; may be repeated",
    )
    for name, (flag, _) in _REFUSED.items():
        parser.add_argument(flag, dest=name, help=argparse.SUPPRESS)


def run_options(options: argparse.Namespace) -> RunOptions:
    """What the flags say. Raises `UsageError` (``bad-arguments``, ``bad-value``, ``secret-unreadable``),
    `NotSupported` (``flag-not-supported``)."""
    from types import MappingProxyType

    from contain.build.run.options import (
        NETWORK_HOST,
        RunOptions,
        parse_build_network,
        parse_entitlements,
        parse_extra_host,
        parse_resource_limit,
        parse_secret,
        parse_shared_memory,
        parse_ssh,
    )

    for name, (flag, remedy) in _REFUSED.items():
        if getattr(options, name) is not None:
            raise NotSupported(f"contain build {flag} is not supported yet", code="flag-not-supported", remedy=remedy)
    secrets = [parse_secret(text) for text in options.secret]
    for secret in secrets:  # a cached step never looks: a misspelt path would be found out on another day
        if secret.path and not os.path.exists(secret.path):
            raise UsageError(
                f"the secret {secret.id!r} cannot be read from {secret.path!r}: No such file or directory",
                code="secret-unreadable",
                remedy=f"pass it: --secret id={secret.id},src=FILE",
            )
    agents = [parse_ssh(text) for text in options.ssh]
    network = parse_build_network(options.network or "default")
    allowed = parse_entitlements(options.allow)
    made = RunOptions(
        secrets=MappingProxyType({secret.id: secret for secret in secrets}),
        ssh=MappingProxyType({agent.id: agent for agent in agents}),
        # who says so on the command line allows it, as docker buildx has it
        allowed=allowed | {NETWORK_HOST} if network == "host" else allowed,
        network=network,
        extra_hosts=tuple(parse_extra_host(text) for text in options.add_host),
        resource_limits=tuple(parse_resource_limit(text) for text in options.ulimit),
    )
    if options.shm_size is None:
        return made
    from contain.values import replace

    return replace(made, shared_memory_bytes=parse_shared_memory(options.shm_size))

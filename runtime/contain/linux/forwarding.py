"""What on this machine keeps containers on a bridge from the outside, as far as it can be seen. Changes nothing."""

from __future__ import annotations

import os

from contain.errors import HostError
from contain.linux import nftables
from contain.linux.bridges import FORWARDING, forwarding_is_on
from contain.linux.rtnetlink import NETLINK_NETFILTER, NetlinkSocket
from contain.values import dataclass

_CAP_NET_ADMIN = 12
_HOOK_FORWARD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about this machine that stands in the way of the bridge network; ``fatal``: it cannot work at all."""

    code: str
    message: str
    remedy: str
    fatal: bool


def probe_forwarding() -> list[Finding]:
    """What on this machine keeps containers on the bridge from the outside, as far as it can be seen. Changes nothing."""
    findings: list[Finding] = []
    if not _has_net_admin():
        findings.append(
            Finding(
                code="network-permission",
                message="this process lacks CAP_NET_ADMIN",
                remedy="run as root; `--network none` and `--network host` need no permission",
                fatal=True,
            )
        )
        return findings
    if not forwarding_is_on() and not os.access(FORWARDING, os.W_OK):
        findings.append(
            Finding(
                code="network-setting",
                message="net.ipv4.ip_forward is 0 and cannot be changed here (/proc/sys is read-only)",
                remedy="sysctl -w net.ipv4.ip_forward=1 on the host itself",
                fatal=True,
            )
        )
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as tables:
            chains = nftables.list_base_chains(tables)
            passed = {"filter"} if nftables.has_docker_chain(tables) else set()  # by rules that each bridge gets there
    except HostError as error:
        findings.append(Finding(code="network-kernel", message=error.message, remedy=error.remedy, fatal=True))
        return findings
    findings.extend(
        Finding(
            code="network-forward-policy",
            message=f"the nftables table {chain.table} drops forwarded packets by default (chain {chain.name})",
            remedy=" ; ".join(
                f"nft insert rule ip {chain.table} {chain.name} {key} {name} accept"
                for name in ("contain0", "'\"ctb*\"'")
                for key in ("iifname", "oifname")
            )
            + " (with firewalld or ufw: let them forward what comes from and goes to these interfaces)",
            fatal=False,
        )
        for chain in chains
        if chain.hook == _HOOK_FORWARD and chain.drops_by_default and chain.table not in passed
    )
    if "filter" in _text_of("/proc/net/ip_tables_names").split():
        findings.append(
            Finding(
                code="network-legacy-iptables",
                message="legacy iptables rules are loaded beside nftables; if their FORWARD chain drops, containers have no network",
                remedy="look with `iptables-legacy -S FORWARD`; if need be `iptables-legacy -I FORWARD -i contain0 -j ACCEPT`, the "
                "same with -o, and both with ctb+",
                fatal=False,
            )
        )
    return findings


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def _has_net_admin() -> bool:
    for line in _text_of("/proc/thread-self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False

"""Which name servers this machine asks, and what of that a container's ``/etc/resolv.conf`` says.

Decides (pure) what is usable from inside; reads the machine's two files. Asks no name server.
"""

from __future__ import annotations

from contain.linux.leases import number_of
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverConfiguration:
    """A container's ``/etc/resolv.conf``, and what had to be left out of the host's."""

    text: str
    warnings: tuple[str, ...] = ()


def plan_resolver(host_text: str, stub_text: str) -> ResolverConfiguration:
    """A container's resolv.conf from the host's; ``stub_text`` is systemd-resolved's file of real servers, "" if there is none.

    A server on the host's loopback cannot be reached from a container, nor an IPv6 one without IPv6. No public server is put in
    their place: that would send names somewhere that nobody chose. Source: resolv.conf(5).
    """
    servers, others, left_out = _usable_servers(host_text)
    if not servers and stub_text:
        servers, others, more = _usable_servers(stub_text)
        left_out += more
    warnings: tuple[str, ...] = ()
    if not servers:
        which = f": {', '.join(left_out)} cannot be reached from a container" if left_out else ""
        warnings = (f"the host's resolv.conf names no usable nameserver{which}; names will not resolve in containers",)
    lines = [*others, *(f"nameserver {server}" for server in servers)]
    return ResolverConfiguration(text="".join(f"{line}\n" for line in lines), warnings=warnings)


def _usable_servers(text: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    others: list[str] = []
    left_out: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] != "nameserver":
            if words[0] in ("search", "domain", "options", "sortlist"):
                others.append(" ".join(words))
        elif len(words) > 1:
            try:
                usable = number_of(words[1]) >> 24 not in (0, 127)
            except OSError:
                usable = False
            (servers if usable else left_out).append(words[1])
    return servers, others, left_out


def plan_upstream(host_text: str) -> tuple[str, ...]:
    """The servers that this machine itself asks, on its loopback and of IPv6 too: for whoever asks from its own network namespace.
    resolv.conf(5): at most three; without any, the one at loopback."""
    servers = [words[1] for line in host_text.splitlines() if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]
    return tuple(servers[:3]) or ("127.0.0.1",)


def read_upstream() -> tuple[str, ...]:
    """`plan_upstream` of this machine's file."""
    return plan_upstream(_text_of("/etc/resolv.conf"))


def read_resolver() -> ResolverConfiguration:
    """The resolv.conf for containers on the bridge of this host."""
    return plan_resolver(_text_of("/etc/resolv.conf"), _text_of("/run/systemd/resolve/resolv.conf"))


def host_servers() -> list[str]:
    """The machine's name servers that a container on the bridge can reach."""
    return _usable_servers(_text_of("/etc/resolv.conf"))[0]


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""

"""The files that are mounted over a container's /etc: hosts, hostname, resolv.conf."""

from __future__ import annotations

from collections.abc import Sequence

from contain.container.plan import Workspace
from contain.spec import ContainerSpec, Network

RESOLVER_ADDRESS = "127.0.0.11"  # Docker's
HOST_GATEWAY = "host-gateway"
"""In ``--add-host NAME:host-gateway``: this machine. Docker's word."""


def render_hosts(hostname: str, address: str | None, extra: Sequence[tuple[str, str]] = ()) -> str:
    """The text of /etc/hosts. ``extra``: (name, address)."""
    own = f"{address}\t{hostname}\n" if address else f"127.0.1.1\t{hostname}\n"
    return (
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" + "".join(f"{where}\t{name}\n" for name, where in extra) + own
    )


def render_resolver(
    host_text: str,
    servers: Sequence[str],
    *,
    search: Sequence[str] | None = None,
    options: Sequence[str] | None = None,
    named: bool = False,
) -> str:
    """A resolv.conf with these servers instead of its own, if there are any; search domains and options stay where none are given
    (resolv.conf(5)). ``named``: every name is asked for as it is first, since names of containers have no dots."""
    lines = host_text.splitlines()
    if servers:
        lines = [line for line in lines if not line.startswith("nameserver")]
    if search is not None:
        lines = [line for line in lines if not line.startswith(("search", "domain"))]
        if [*search] not in ([], ["."]):
            lines.insert(0, "search " + " ".join(search))
    own = [word for line in lines if line.startswith("options") for word in line.split()[1:]] if options is None else [*options]
    if named and not any(word.startswith("ndots:") for word in options or ()):
        own = [*(word for word in own if not word.startswith("ndots:")), "ndots:0"]
    if named or options is not None:
        lines = [line for line in lines if not line.startswith("options")]
        lines += ["options " + " ".join(own)] if own else []
    return "".join(f"{line}\n" for line in [*lines, *(f"nameserver {server}" for server in servers)])


def write_etc(
    workspace: Workspace,
    spec: ContainerSpec,
    address: str | None,
    gateway: str = "127.0.0.1",
    name_servers: Sequence[str] = (),
    *,
    named: bool = False,
) -> None:
    """The files that are mounted over /etc: hosts, hostname, and the host's resolver where there is a network.

    ``gateway``: this machine, seen from the container. ``name_servers``: instead of the host's. ``named``: on a network with
    names, where a resolver of ours answers.
    """
    extra = [(name, gateway if where == HOST_GATEWAY else where) for name, where in spec.extra_hosts]
    workspace.etc.mkdir(mode=0o755, exist_ok=True)
    resolver = ""
    if spec.network is not Network.NONE:
        from contain.linux.resolver import read_resolver

        resolver = read_resolver().text
    servers = (RESOLVER_ADDRESS,) if named else spec.name_servers or name_servers
    resolver = render_resolver(resolver, servers, search=spec.networking.search, options=spec.networking.options, named=named)
    for name, text in (
        ("hosts", render_hosts(spec.hostname, address, extra)),
        ("hostname", spec.hostname + "\n"),
        ("resolv.conf", resolver),
    ):
        path = workspace.etc / name
        path.write_text(text)
        path.chmod(0o644)

"""The options of ``run`` and ``create`` about networks: which ones, names and addresses on them, published ports, name servers."""

from __future__ import annotations

import argparse
import sys

from contain.annotations import Any
from contain.spec import Network, Networking


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""

    def several(*flags: str, metavar: str, text: str) -> None:
        parser.add_argument(*flags, action="append", default=[], metavar=metavar, help=text)

    several(
        *("--network", "--net"),
        metavar="NAME",
        text="none, host, bridge (the default), container:NAME, or a network's name (several with several --network)",
    )
    several(*("--network-alias", "--net-alias"), metavar="NAME", text="one more name on that network")
    parser.add_argument("--ip", default="", metavar="IP", help="its address on that network")
    parser.add_argument("--ip6", default="", metavar="IP", help="its IPv6 address on that network")
    parser.add_argument("--mac-address", default="", metavar="MAC", help="its hardware address on that network")
    several("--link", metavar="CONTAINER[:ALIAS]", text="reach another container, by a name of its own")
    several("--add-host", metavar="NAME:IP", text="a line of /etc/hosts")
    several("--dns", metavar="IP", text="a name server instead of this machine's")
    several("--dns-search", metavar="DOMAIN", text="a search domain instead of this machine's; '.' for none")
    several(*("--dns-option", "--dns-opt"), metavar="OPTION", text="an option of resolv.conf instead of this machine's")
    several(*("-p", "--publish"), metavar="[IP:][HOST:]PORT[/udp]", text="make a port of it one of this machine")
    parser.add_argument("-P", "--publish-all", action="store_true", help="publish each exposed port at a free one")
    several("--expose", metavar="PORT[/udp]", text="name a port that -P publishes and links tell of")


def parse_networks(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of a `RunRequest`. Raises `UsageError`, `NotSupported`."""
    asked = (
        "network",
        "network_alias",
        "ip",
        "ip6",
        "mac_address",
        "link",
        "add_host",
        "dns",
        "dns_search",
        "dns_option",
        "publish",
    )
    if not any(getattr(options, name) for name in (*asked, "publish_all", "expose")):
        return {}
    if options.network in (["none"], ["host"]) and not any(
        getattr(options, name) for name in (*asked[1:], "publish_all", "expose")
    ):
        return {"network": Network(options.network[0])}
    from contain.container.network.endpoints import Asked, resolve_networks
    from contain.container.network.hosts import parse_add_host, parse_dns, parse_dns_option, parse_dns_search
    from contain.container.network.links import parse_link
    from contain.container.network.ports import parse_expose, parse_publish

    publish = tuple(request for value in options.publish for request in parse_publish(value))
    kind, container, endpoints = resolve_networks(
        Asked(
            networks=tuple(options.network),
            aliases=tuple(options.network_alias),
            address=options.ip,
            address6=options.ip6,
            hardware_address=options.mac_address,
            links=tuple(parse_link(text) for text in options.link),
            publishes=bool(publish) or options.publish_all,
            exposes=bool(options.expose),
            hostname=options.hostname is not None,
            name_servers=bool(options.dns),
            extra_hosts=bool(options.add_host),
        )
    )
    if kind is Network.HOST and (publish or options.publish_all):
        sys.stderr.write("WARNING: Published ports are discarded when using host network mode\n")
    return {
        "network": kind,
        "networking": Networking(
            endpoints=endpoints,
            container=container,
            search=parse_dns_search(options.dns_search) if options.dns_search else None,
            options=parse_dns_option(options.dns_option) if options.dns_option else None,
            exposed=tuple(port for text in options.expose for port in parse_expose(text)),
        ),
        "publish": publish,
        "publish_all": options.publish_all,
        "extra_hosts": tuple(parse_add_host(value) for value in options.add_host),
        "name_servers": parse_dns(options.dns, ipv6=kind is Network.HOST or any(e.network != "bridge" for e in endpoints)),
    }

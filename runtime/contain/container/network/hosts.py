"""``--add-host`` and ``--dns``: lines of a container's /etc/hosts and /etc/resolv.conf that the caller gives. Pure.

Source of forms and words: Docker's ``docker run`` reference; resolv.conf(5), hosts(5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, ip_address

from contain.container.network.etc_files import HOST_GATEWAY
from contain.errors import NotSupported, UsageError

_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?"
_OPTION = r"[A-Za-z0-9-]{1,32}(:[A-Za-z0-9./-]{1,32})?"
_MOST_SERVERS = 3


def parse_add_host(text: str) -> tuple[str, str]:
    """``NAME:ADDRESS`` or ``NAME=ADDRESS``; the address may be IPv6, in brackets too, or ``host-gateway``. Raises `UsageError`."""
    found = re.search("[:=]", text)
    name, address = (text[: found.start()], text[found.end() :]) if found else ("", "")
    if not re.fullmatch(_NAME, name):
        raise UsageError(f'bad format for add-host: "{text}"', code="bad-add-host", remedy="write --add-host NAME:ADDRESS")
    if address == HOST_GATEWAY:
        return name, address
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    try:
        return name, str(ip_address(address))
    except ValueError:
        raise UsageError(
            f'invalid IP address in add-host: "{address}"', code="bad-add-host", remedy="write --add-host NAME:ADDRESS"
        ) from None


def parse_dns_search(values: Sequence[str]) -> tuple[str, ...]:
    """The domains of ``--dns-search``; ``.`` alone for none. Raises `UsageError`."""
    for text in values:
        if text != "." and (not re.fullmatch(_NAME, text) or ".." in text):
            raise UsageError(f"{text} is not a valid domain", code="bad-dns", remedy="for example --dns-search example.org")
    return tuple(values)


def parse_dns_option(values: Sequence[str]) -> tuple[str, ...]:
    """The options of ``--dns-option``, as resolv.conf(5) has them. Raises `UsageError`."""
    for text in values:
        if not re.fullmatch(_OPTION, text):
            raise UsageError(f"invalid --dns-option {text!r}", code="bad-dns", remedy="for example ndots:2 or timeout:1")
    return tuple(values)


def parse_dns(values: Sequence[str], *, ipv6: bool = False) -> tuple[str, ...]:
    """The addresses of ``--dns``, at most three, which is all that resolvers ask. Raises `UsageError`, `NotSupported` for IPv6 where
    the container has none (``ipv6``: it may have)."""
    for text in values:
        try:
            IPv4Address(text)
        except AddressValueError:
            try:
                ip_address(text)
            except ValueError:
                raise UsageError(
                    f"{text} is not an ip address", code="bad-dns", remedy="for example --dns 192.0.2.53"
                ) from None
            if ipv6:
                continue
            raise NotSupported(
                f"--dns {text}: containers on the default network have no IPv6",
                code="dns-not-supported",
                remedy="give a server's IPv4 address",
            ) from None
    if len(values) > _MOST_SERVERS:
        raise UsageError(
            f"--dns was given {len(values)} times, and programs ask {_MOST_SERVERS} servers at most (resolv.conf(5))",
            code="bad-dns",
            remedy=f"give {_MOST_SERVERS} or fewer",
        )
    return tuple(values)

"""What to do when an answer is not simply the answer: redirects, failures worth another try, proxies, partial bodies.

Values in, values out; sends nothing, waits for nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urljoin, urlsplit

from contain.errors import IntegrityError, RegistryError
from contain.registry.configuration import is_loopback
from contain.values import dataclass

MOST_REDIRECTS = 5
MOST_ATTEMPTS = 5
MOST_ATTEMPTS_UNANSWERED = 2  # to a host that takes connections and says nothing
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Trouble(enum.Enum):
    """How a request failed without a usable answer."""

    UNREACHABLE = "unreachable"  # no connection: name not found, refused, no route, the proxy says no
    NOT_TLS = "not-tls"  # the other side does not speak TLS
    CERTIFICATE = "certificate"  # it does, but nobody we trust vouches for it
    BROKEN = "broken"  # the connection was there and went away, or fell silent
    STATUS = "status"  # it answered, with a status of `RETRIED_STATUSES`


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed attempt. ``answered``: this host has given an answer before. ``retry_after``: that header's text."""

    trouble: Trouble
    answered: bool = False
    retry_after: str = ""
    status: int = 0


def plan_retry(failure: Failure, *, attempt: int, jitter: float, now: datetime) -> float | None:
    """Seconds to wait before the next attempt, or None to give up. ``attempt`` counts the failed ones so far, from 1;
    ``jitter`` is a random number in 0..1.

    A host that was never reached is given up at once, so that whoever asked can look elsewhere. ``Retry-After`` is obeyed up
    to `LONGEST_RETRY_AFTER_SECONDS`; who asks for more patience gets none.
    """
    if failure.trouble in (Trouble.NOT_TLS, Trouble.CERTIFICATE) or attempt >= MOST_ATTEMPTS:
        return None
    if not failure.answered and (failure.trouble is Trouble.UNREACHABLE or attempt >= MOST_ATTEMPTS_UNANSWERED):
        return None
    back_off = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * float(1 << (attempt - 1))) * (0.5 + jitter / 2)
    asked = parse_retry_after(failure.retry_after, now=now)
    if asked is None:
        return back_off
    return None if asked > LONGEST_RETRY_AFTER_SECONDS else max(asked, back_off)


def parse_retry_after(text: str, *, now: datetime) -> float | None:
    """Seconds from a ``Retry-After`` header (RFC 9110 section 10.2.3: a number or a date); None if there is none."""
    text = text.strip()
    if re.match(r"^\d{1,9}$", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Where to go next. ``same_origin``: scheme, host and port are those that the credentials are for."""

    url: str
    same_origin: bool


def plan_redirect(
    *, first_url: str, url: str, location: str, hops: int, insecure: bool = False, crossed: bool = False
) -> Redirect:
    """Follow ``location`` from ``url``. ``first_url`` is the request's original URL, ``crossed`` says that an earlier hop left
    its origin: who has left never carries credentials again.

    Raises `RegistryError` (code ``registry-bad-redirect``) past `MOST_REDIRECTS`, for anything but HTTP, and for a step from
    HTTPS to plain HTTP unless ``insecure``.
    """

    def bad(why: str) -> RegistryError:
        return RegistryError(f"{urlsplit(first_url).netloc} redirects {why}", code="registry-bad-redirect")

    if hops >= MOST_REDIRECTS:
        raise bad(f"more than {MOST_REDIRECTS} times")
    if not location:
        raise bad("to nowhere")
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        same = origin(parts) == origin(urlsplit(first_url))
    except ValueError as error:
        raise bad(f"to what is no URL: {location[:200]!r}") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise bad(f"to what is no plain web address: {parts.scheme}://{parts.hostname or ''}")
    if parts.scheme == "http" and urlsplit(url).scheme == "https" and not insecure:
        raise bad(f"from HTTPS to plain HTTP at {parts.netloc}")
    return Redirect(url=target, same_origin=same and not crossed)


def origin(parts: SplitResult) -> tuple[str, str, int | None]:
    """Scheme, host and port, the default port filled in. Raises ValueError for a port that is no number."""
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme)


def plan_resume(*, offset: int, size: int, status: int, content_range: str, content_length: str, label: str) -> int:
    """How many bytes of the body to pass over, when ``offset`` of ``size`` are here already and the rest was asked for.

    Raises `IntegrityError` (code ``blob-size-mismatch``) if the answer announces bytes that do not fit.
    """

    def bad(why: str) -> IntegrityError:
        return IntegrityError(f"{label}: {why}", code="blob-size-mismatch")

    start = 0
    if status == 206:
        match = re.match(r"^bytes (\d+)-(\d+)/(\d+|\*)$", content_range.strip())
        if match is None or int(match[1]) != offset or match[3] not in ("*", str(size)):
            raise bad(f"asked for bytes from {offset} of {size}, was answered {content_range[:80]!r}")
        start = offset
    if re.match(r"^\d+$", content_length) and int(content_length) > size - start:
        raise bad(f"should have {size - start} bytes, the registry announces {content_length}")
    return offset - start


def choose_proxy(url: str, environ: Mapping[str, str]) -> str:
    """The proxy for a URL from ``HTTP(S)_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` (small letters first), or "" for none.

    ``NO_PROXY`` is a list of ``*``, domains (with all below them), addresses, networks, each with an optional port.
    Loopback is never proxied. Source: Go's ``golang.org/x/net/http/httpproxy``, which Docker uses.
    """

    def setting(name: str) -> str:
        return environ.get(name.lower()) or environ.get(name.upper()) or ""

    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if is_loopback(host) or _bypassed(host, parts.port or _DEFAULT_PORTS.get(parts.scheme), setting("no_proxy")):
        return ""
    proxy = setting(f"{parts.scheme}_proxy") or setting("all_proxy")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _bypassed(host: str, port: int | None, no_proxy: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    for entry in no_proxy.lower().replace(",", " ").split():
        if entry == "*":
            return True
        name, _, entry_port = entry.rpartition(":") if re.search(r"[^:]:\d+$|\]:\d+$", entry) else (entry, "", "")
        if entry_port and entry_port != str(port):
            continue
        name = name.strip("[]")
        if address is not None:
            try:
                if address in ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        elif host == name.lstrip("*.") or host.endswith("." + name.lstrip("*.")):
            return True
    return False

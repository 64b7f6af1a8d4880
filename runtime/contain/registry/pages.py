"""Lists that come in pages: tags, referrers. `next_page` decides; `list_tags` asks.

Source: OCI distribution-spec 1.1 "Content discovery", RFC 8288 (``Link``).
"""

from __future__ import annotations

import json
import re

from contain.errors import IntegrityError
from contain.reference import Reference, is_tag
from contain.registry.client import ApiRequest
from contain.registry.configuration import Endpoint
from contain.registry.policy import plan_redirect
from contain.registry.session import RegistrySession
from contain.values import replace

LARGEST_PAGE_BYTES = 4 << 20
MOST_PAGES = 1000
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel\s*=\s*"?next\b')


def next_page(link: str, url: str, endpoint: Endpoint) -> str:
    """Where a list goes on, from a ``Link`` header (maybe relative to ``url``); "" if it ends here. Another host's pages are
    not followed: they are not that registry's word."""
    match = _NEXT.search(link)
    if match is None:
        return ""
    target = plan_redirect(first_url=url, url=url, location=match[1], hops=0, insecure="http" in endpoint.schemes)
    return target.url if target.same_origin and target.url != url else ""


def list_tags(session: RegistrySession, reference: Reference) -> tuple[str, ...]:
    """All tags of a repository, sorted. Raises `NotFound`, `RegistryError`, `IntegrityError` (code ``bad-tag-list``)."""
    name = f"the tags of {reference.domain}/{reference.path}"
    request = ApiRequest(method="GET", repository=reference.path, path="tags/list")
    found: set[str] = set()
    for _ in range(MOST_PAGES):
        served = session.client.read(session.endpoint, request, limit_bytes=LARGEST_PAGE_BYTES, name=name)
        found.update(parse_tags(served.data, name=name))
        following = next_page(served.link, served.url, session.endpoint)
        if not following:
            break
        request = replace(request, url=following)
    return tuple(sorted(found))


def parse_tags(data: bytes, *, name: str) -> tuple[str, ...]:
    """The tags of one page. Raises `IntegrityError` (code ``bad-tag-list``)."""
    try:
        tags = json.loads(data)["tags"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise IntegrityError(f"{name}: the registry's answer is no list", code="bad-tag-list") from error
    if not isinstance(tags, list | None) or not all(isinstance(tag, str) and is_tag(tag) for tag in tags or ()):
        raise IntegrityError(f"{name}: what the registry lists are no tags", code="bad-tag-list")
    return tuple(tags or ())

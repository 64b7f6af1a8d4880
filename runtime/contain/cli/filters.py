"""``--filter`` of the commands that list and prune: texts to values by key, and what labels and names let through. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from contain.errors import UsageError


def parse_filters(
    values: Sequence[str], known: Sequence[str], *, choices: Mapping[str, tuple[tuple[str, ...], str]]
) -> dict[str, list[str]]:
    """``KEY=VALUE`` texts by key. ``choices``: for keys that take few words, these and the remedy where it is none of them.

    Raises `UsageError` (code ``bad-filter``).
    """
    found: dict[str, list[str]] = {key: [] for key in known}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"bad format of filter {text!r} (expected name=value)", code="bad-filter")
        if key not in found:
            raise UsageError(f"invalid filter {key!r}", code="bad-filter", remedy=f"there are {', '.join(known)}")
        if key in choices and value.lower() not in choices[key][0]:
            raise UsageError(f"invalid filter '{key}={value}'", code="bad-filter", remedy=choices[key][1])
        found[key].append(value)
    return found


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether ``NAME`` is there, or ``NAME=VALUE``."""
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def passes_labels(labels: Mapping[str, str], wanted: Sequence[str], unwanted: Sequence[str]) -> bool:
    """All that must be there are, and none of the others."""
    return all(has_label(labels, text) for text in wanted) and not any(has_label(labels, text) for text in unwanted)


def matches_name(name: str, pattern: str) -> bool:
    """Whether a part of a name is the text, or the regular expression finds it. Raises `UsageError` (code ``bad-filter``)."""
    try:
        return pattern in name or re.search(pattern, name) is not None
    except re.error as error:
        raise UsageError(f"invalid filter 'name={pattern}'", code="bad-filter") from error

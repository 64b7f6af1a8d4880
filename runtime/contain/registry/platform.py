"""Which image of an index runs on a platform. Pure, but for `host_platform`, which asks ``uname``.

Source: the variant rules of https://github.com/containerd/platforms (``compare.go``, ``defaults.go``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from contain.errors import NotFound, UsageError
from contain.oci import Descriptor, Platform

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES = {name: known for name, known in _MACHINES.items() if not name.startswith("armv")}
_IMPLIED_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_VARIANT = re.compile(r"^v(\d+)(?:\.(\d+))?$")


def host_platform(machine: str | None = None) -> Platform:
    """The platform of this machine, from ``uname -m``."""
    machine = os.uname().machine if machine is None else machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(os="linux", architecture=architecture, variant=variant)


def parse_platform(text: str) -> Platform:
    """Parse ``os/architecture[/variant]`` or ``architecture``. Raises `UsageError` (code ``bad-platform``)."""
    parts = text.split("/")
    if not all(re.match(r"^[a-z0-9_.-]+$", part) for part in parts) or len(parts) > 3:
        raise UsageError(
            f"{text!r} is not a platform", code="bad-platform", remedy="write for example linux/amd64 or linux/arm/v7"
        )
    if len(parts) == 1:
        parts = ["linux", *parts]
    architecture, variant = _ALIASES.get(parts[1], (parts[1], ""))
    return Platform(os=parts[0], architecture=architecture, variant=parts[2] if len(parts) == 3 else variant)


def _variant(platform: Platform) -> tuple[int, int] | None:
    text = platform.variant or _IMPLIED_VARIANT.get(platform.architecture, "")
    match = _VARIANT.match(text)
    return (int(match[1]), int(match[2] or 0)) if match else None


def runs_on(offered: Platform, wanted: Platform) -> bool:
    """Whether an image for ``offered`` runs on ``wanted``: same system and architecture, and a variant no newer."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    mine, theirs = _variant(wanted), _variant(offered)
    if mine is None or theirs is None:
        return offered.variant == wanted.variant
    return theirs <= mine


def choose_platform(descriptors: Sequence[Descriptor], wanted: Platform, *, name: str) -> Descriptor:
    """The entry of an index with the newest variant that runs on ``wanted``; the first written among equals.

    A sole entry without a platform is taken as it is: its config says later what it is. Raises `NotFound` (code
    ``platform-not-in-image``), listing what there is.
    """
    fitting = [item for item in descriptors if item.platform is not None and runs_on(item.platform, wanted)]
    if fitting:
        return max(fitting, key=lambda item: (item.platform and _variant(item.platform)) or (0, 0))
    if len(descriptors) == 1 and descriptors[0].platform is None:
        return descriptors[0]
    offered = sorted(
        {str(item.platform) for item in descriptors if item.platform is not None and item.platform.os != "unknown"}
    )
    raise NotFound(
        f"{name} has no image for {wanted}",
        code="platform-not-in-image",
        remedy=f"it has {', '.join(offered)}" if offered else "its index names no platform",
    )

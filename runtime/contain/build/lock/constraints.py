"""What a RUN is told about the locked versions, so that it takes them while they can still be had. Values to text.

A constraint never adds a package: pip and apt use it where they would choose a version. It reaches the container as files below
``/dev/contain`` and variables, as the machine's certificates do: no trace in the layer, no part of the key. What a step installed in
spite of it is compared afterwards, so a constraint that does nothing costs nothing.

Sources: pip, "Constraints Files" (``PIP_CONSTRAINT``); uv, ``UV_CONSTRAINT``; apt_preferences(5), "How APT Interprets Priorities".
"""

from __future__ import annotations

import re

from contain.annotations import TYPE_CHECKING
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.build.lock.compare import LockedStep

_PRIORITY = 1001  # apt_preferences(5): at least 1000 installs the version even if that is a downgrade
_PLAIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.+:~!_-]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Texts for pip's constraints file and apt's preferences; empty: nothing to say."""

    pip: str = ""
    apt: str = ""

    def __bool__(self) -> bool:
        return bool(self.pip or self.apt)


NO_CONSTRAINTS = Constraints()


def constraints_of(step: LockedStep) -> Constraints:
    """What the lock says about the packages that this step installed. Those of several versions, or from no index, are left out."""
    pip = [f"{name}=={version}\n" for name, version in sorted(step.packages.get("python", {}).items()) if _PLAIN.match(version)]
    apt = [
        f"Package: {name}\nPin: version {version}\nPin-Priority: {_PRIORITY}\n\n"
        for name, version in sorted(step.packages.get("dpkg", {}).items())
        if _PLAIN.match(version)
    ]
    return Constraints(pip="".join(pip), apt="".join(apt))

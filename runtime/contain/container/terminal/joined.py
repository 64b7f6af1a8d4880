"""Which of the caller's standard streams and signals are joined to a container. A value; does nothing."""

from __future__ import annotations

from contain.container.terminal.detach_keys import DEFAULT_DETACH_KEYS, parse_detach_keys
from contain.values import dataclass

_DEFAULT_KEYS = parse_detach_keys(DEFAULT_DETACH_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """``keys``: what lets go of a terminal. ``signals``: those of this process are passed on."""

    stdin: bool
    stdout: bool = True
    stderr: bool = True
    keys: bytes = _DEFAULT_KEYS
    signals: bool = True

    @property
    def descriptors(self) -> tuple[int | None, int | None, int | None]:
        """Standard input, output and error, or None for each that is not joined."""
        return 0 if self.stdin else None, 1 if self.stdout else None, 2 if self.stderr else None

"""Verbs that take several names: each is done for itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from contain.errors import ContainError, NotFound


def each_name(names: Sequence[str], action: Callable[[str], None], *, missing_ok: bool = False) -> int:
    """Do it for every name, and print the name; an error of one does not stop the others. 1 if there was one. ``missing_ok``: that
    there is no such thing is none."""
    status = 0
    for name in names:
        try:
            action(name)
        except ContainError as error:
            if not (missing_ok and isinstance(error, NotFound)):
                sys.stderr.write(f"Error: {error}\n")
                status = 1
                continue
        sys.stdout.write(f"{name}\n")
    return status

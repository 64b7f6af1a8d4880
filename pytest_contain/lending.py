"""The host's pytest, for environments that have none (being written)."""

from __future__ import annotations


def refuse_unsupported_python(python: tuple[int, ...], *, environment: str) -> None:
    """Raise `UsageError` if the host's pytest cannot run on that Python."""

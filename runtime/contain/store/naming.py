"""What a name pointed at over time, and which image `contain rollback` puts back. Pure.

Theory of operation. A name's history is only ever added to. Read from its beginning it is a stack, like that of an editor's undo:
building, pulling, loading and tagging put an image on top, taking the name away puts "nothing" there, and a rollback takes
off what lies above the image that it put back. So a second rollback goes one step further back, and what is built after a
rollback lies on what was rolled back to. What a rollback took off is still in the history, and can be named to be put on top
again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from contain.errors import Conflict, NotFound
from contain.values import dataclass

ROLLBACK = "rollback"
"""The source of rows that a rollback adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecord:
    """One row of a name's history. ``digest`` is None when the name was taken away; ``present``: the image is still here."""

    digest: str | None
    source: str
    set_seconds: int
    present: bool


def fold_history(oldest_first: Sequence[tuple[str | None, str]]) -> tuple[str | None, ...]:
    """The stack: what the name points at is last, what a rollback returns to before it."""
    stack: list[str | None] = []
    for digest, source in oldest_first:
        if source == ROLLBACK and digest in stack:
            while stack[-1] != digest:
                stack.pop()
        elif not stack or stack[-1] != digest:
            stack.append(digest)
    return tuple(stack)


def choose_rollback(
    name: str, oldest_first: Sequence[tuple[str | None, str]], *, present: Collection[str], to: str | None
) -> str:
    """The digest that the name shall point at: the one before, or the one of its history that begins with ``to``.

    Raises `NotFound` (``image-not-found`` for a name without a history; ``no-earlier-image``; ``not-in-history``;
    ``rolled-back-image-gone`` when prune or rmi removed the image), `Conflict` (``ambiguous-digest``; ``already-there`` when
    the name points at it now).
    """
    if not oldest_first:
        raise NotFound(f"No such image: {name}, now or before", code="image-not-found")
    stack = fold_history(oldest_first)
    current = stack[-1] if stack else None
    if to is None:
        target = next((digest for digest in reversed(stack[:-1]) if digest is not None and digest != current), None)
        if target is None:
            raise NotFound(
                f"{name} pointed at no other image before",
                code="no-earlier-image",
                remedy=f"`contain tag --history {name}` shows all that it pointed at; --to names one",
            )
    else:
        target = _find(name, {digest for digest, _ in oldest_first if digest is not None}, to)
        if target == current:
            raise Conflict(f"{name} points at {target} now", code="already-there")
    if target not in present:
        raise NotFound(
            f"{name} was {target}, and that image is not here any more",
            code="rolled-back-image-gone",
            remedy=f"`contain tag --history {name}` shows what is; --to names one",
        )
    return target


def _find(name: str, known: Collection[str], beginning: str) -> str:
    digits = beginning.removeprefix("sha256:")
    found = [digest for digest in sorted(known) if digits and digest.removeprefix("sha256:").startswith(digits)]
    if not found:
        raise NotFound(
            f"{name} never pointed at {beginning}",
            code="not-in-history",
            remedy=f"`contain tag --history {name}` shows what it pointed at; `contain tag IMAGE {name}` gives the name to any",
        )
    if len(found) > 1:
        raise Conflict(
            f"{len(found)} images of {name} begin with {beginning}", code="ambiguous-digest", remedy="write more digits"
        )
    return found[0]

"""``--chown`` against an image's own account files. Text to numbers; reads nothing.

Source of the rules: BuildKit's ``solver/llbsolver/file/user_linux.go``: a user's name alone brings the user's group, a number alone is
user and group.
"""

from __future__ import annotations

from contain.errors import SourceSpan, UsageError

_LARGEST_ID = 2**32 - 2


def parse_owner(text: str, passwd: str, group: str, *, span: SourceSpan | None = None) -> tuple[int, int]:
    """``user``, ``user:group``, ``:group``, names or numbers. Raises `UsageError` (codes ``bad-chown``, ``no-such-user``)."""
    user_text, colon, group_text = text.partition(":")
    if not text or (colon and not group_text):
        raise UsageError(f"--chown={text!r} is not USER, USER:GROUP, or numbers", code="bad-chown", span=span)
    user_id = group_id = 0
    if user_text:
        number = _number(user_text, span)
        row = next((row for row in _rows(passwd, 4) if row[0] == user_text), None)
        if row is not None and number is None:
            user_id, group_id = int(row[2]), int(row[3])
        elif number is not None:
            user_id = group_id = number
        else:
            raise UsageError(
                f"--chown: the image has no user {user_text!r}",
                code="no-such-user",
                span=span,
                remedy="create the user in an earlier RUN, or give a number",
            )
    if group_text:
        number = _number(group_text, span)
        row = next((row for row in _rows(group, 3) if row[0] == group_text), None)
        if number is None and row is None:
            raise UsageError(
                f"--chown: the image has no group {group_text!r}",
                code="no-such-user",
                span=span,
                remedy="create the group in an earlier RUN, or give a number",
            )
        group_id = number if number is not None else int(row[2]) if row is not None else 0
    return user_id, group_id


def _number(text: str, span: SourceSpan | None) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise UsageError(f"--chown: {text} is larger than any id", code="bad-chown", span=span)
    return int(text)


def _rows(text: str, least: int) -> list[list[str]]:
    rows = [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]
    return [row for row in rows if len(row) >= least and all(field.isdigit() for field in row[2:least])]

"""Who a container's program runs as: Docker's USER syntax against the image's own user and group files.

The files are data of an image that nobody vouches for: they are read through a view that never leaves the layers, with a size cap
(CVE-2024-9676, CVE-2026-47262), and numbers are parsed strictly (CVE-2024-40635).
"""

from __future__ import annotations

from collections.abc import Sequence

from contain.errors import ContainError, UsageError
from contain.paths import HostPath
from contain.spec import Identity
from contain.values import replace

_LARGEST_ID = 2**31 - 1
_MOST_DIGITS = 20
_FILE_LIMIT_BYTES = 4 << 20


def _number(text: str, what: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if not _is_id(text):
        raise UsageError(f"{what} id {text[:20]} is out of range: the largest is {_LARGEST_ID}", code="bad-user")
    return int(text)


def _is_id(text: str) -> bool:
    """Whether a text is an id that the kernel has; rows with others are as good as absent."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) <= _LARGEST_ID


def _rows(text: str) -> list[list[str]]:
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def parse_identity(user: str, passwd: str, group: str) -> Identity:
    """``name``, ``uid``, ``name:group``, ``uid:gid`` or nothing (root) against the texts of /etc/passwd and /etc/group.

    With a group given, those of /etc/group are dropped; a number that no row has is taken as it is, with group 0. The primary group
    is always one of the supplementary ones: a process that gives it up (setgid(2)) must not lose what the group is denied.
    Raises `UsageError` (code ``bad-user``).
    """
    name, colon, group_name = user.partition(":")
    if (colon and not group_name) or (not name and user):
        raise UsageError(f"the user {user!r} is not of the form name, uid, name:group or uid:gid", code="bad-user")
    name = name or "0"
    users = [row for row in _rows(passwd) if len(row) >= 4 and _is_id(row[2]) and _is_id(row[3])]
    groups = [row for row in _rows(group) if len(row) >= 4 and _is_id(row[2])]
    number = _number(name, "user")
    row = next((row for row in users if row[0] == name or (number is not None and int(row[2]) == number)), None)
    if row is None and number is None:
        raise UsageError(
            f"unable to find user {name}: no matching entries in passwd file",
            code="bad-user",
            remedy="create the user in the image, or give a number",
        )
    user_id = int(row[2]) if row is not None else number or 0
    if group_name:
        group_number = _number(group_name, "group")
        found = next((row for row in groups if row[0] == group_name), None)
        if found is None and group_number is None:
            raise UsageError(f"unable to find group {group_name}: no matching entries in group file", code="bad-user")
        group_id = int(found[2]) if found is not None else group_number or 0
        return Identity(user_id=user_id, group_id=group_id, groups=(group_id,))
    if row is None:
        return Identity(user_id=user_id, group_id=0, groups=(0,))
    supplementary = {int(row[3]), *(int(entry[2]) for entry in groups if row[0] in entry[3].split(","))}
    return Identity(user_id=user_id, group_id=int(row[3]), groups=tuple(sorted(supplementary)))


def add_groups(identity: Identity, names: Sequence[str], group: str) -> Identity:
    """``--group-add``: groups by name or number, the names of the text of /etc/group. Raises `UsageError` (code ``bad-user``)."""
    rows = {row[0]: int(row[2]) for row in _rows(group) if len(row) >= 3 and _is_id(row[2])}
    found = set(identity.groups)
    for name in names:
        number = rows.get(name, _number(name, "group"))
        if number is None:
            raise UsageError(f"Unable to find group {name}: no matching entries in group file", code="bad-user")
        found.add(number)
    return replace(identity, groups=tuple(sorted(found)))


def home_of(identity: Identity, passwd: str) -> str:
    """The home directory in the text of /etc/passwd, else ``/``."""
    for row in _rows(passwd):
        if len(row) >= 6 and _is_id(row[2]) and int(row[2]) == identity.user_id:
            return row[5] or "/"
    return "/root" if identity.user_id == 0 else "/"


def read_account_files(trees: Sequence[HostPath]) -> tuple[str, str]:
    """The texts of the image's /etc/passwd and /etc/group; empty where there are none."""
    from contain.store import RootView

    view = RootView(tuple(trees))
    texts = []
    for path in ("/etc/passwd", "/etc/group"):
        try:
            texts.append(view.read(path, limit_bytes=_FILE_LIMIT_BYTES).decode("utf-8", "replace"))
        except ContainError:
            texts.append("")
    return texts[0], texts[1]


def resolve_identity(user: str, trees: Sequence[HostPath]) -> Identity:
    """`parse_identity` against an image's layer trees, lowest first."""
    return parse_identity(user, *read_account_files(trees))

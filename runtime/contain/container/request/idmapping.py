"""What ``--userns`` means: text to value, and whether a user fits into the ids that a container has. Pure.

Words are Docker's (``host``, nothing) and podman's (``auto``, ``private``, ``host``; podman-run(1)). What we cannot do is refused by
name.
"""

from __future__ import annotations

from collections.abc import Mapping

from contain.annotations import Any
from contain.errors import NotSupported, UsageError
from contain.spec import DEFAULT_ID_COUNT, Identity, IdMapping, UserNamespace

_LARGEST_SIZE = 1 << 28
_NOT_SUPPORTED = ("keep-id", "nomap", "container", "ns", "pod")


def parse_user_namespace(text: str) -> UserNamespace:
    """``private`` or nothing, ``auto[:size=N]``, ``host``. Raises `UsageError` (code ``bad-userns``), `NotSupported`."""
    mode, colon, rest = text.partition(":")
    if mode in ("", "private", "host"):
        if colon:
            raise UsageError(f"--userns {text!r}: {mode or 'nothing'} takes no options", code="bad-userns")
        return UserNamespace(mapping=IdMapping.HOST if mode == "host" else IdMapping.PRIVATE)
    if mode == "auto":
        size = DEFAULT_ID_COUNT
        for option in rest.split(",") if colon else ():
            key, _, value = option.partition("=")
            if key in ("uidmapping", "gidmapping"):
                raise NotSupported(f"--userns=auto: the option {key} is not supported", code="userns-not-supported")
            if key != "size":
                raise UsageError(
                    f"--userns {text!r}: unknown option {key!r}", code="bad-userns", remedy="for example auto:size=1024"
                )
            if (
                not (value.isascii() and value.isdigit())
                or len(value) > len(str(_LARGEST_SIZE))
                or not 0 < int(value) <= _LARGEST_SIZE
            ):
                raise UsageError(
                    f"--userns: the size {value[:20]!r} is not a number from 1 to {_LARGEST_SIZE}", code="bad-userns"
                )
            size = int(value)
        return UserNamespace(mapping=IdMapping.AUTO, size=size)
    if mode in _NOT_SUPPORTED:
        raise NotSupported(
            f"--userns={mode} is not supported",
            code="userns-not-supported",
            remedy="there are private (the default), auto[:size=N] and host",
        )
    raise UsageError(
        f"invalid USER mode: {text[:40]}", code="bad-userns", remedy="private (the default), auto[:size=N] or host"
    )


def render_user_namespace(details: Mapping[str, Any]) -> str:
    """Docker's ``UsernsMode`` of a container on record, in the flag's own words; empty for the default."""
    found = details.get("user_namespace") or {}
    match found.get("mapping"):
        case IdMapping.AUTO.value:
            return f"auto:size={found['size']}"
        case IdMapping.HOST.value:
            return "host"
        case _:
            return ""


def check_identity(namespace: UserNamespace, identity: Identity) -> None:
    """`UsageError` (code ``bad-user``) if the container has no such user or group."""
    if namespace.mapping is not IdMapping.AUTO:
        return
    largest = max(identity.user_id, identity.group_id, *identity.groups, 0)
    if largest >= namespace.size:
        raise UsageError(
            f"the container has the ids 0 to {namespace.size - 1}, so that it cannot run as user or group {largest}",
            code="bad-user",
            remedy=f"--userns=auto:size={largest + 1}",
        )

"""A bundle's mounts: the words of mount(8) as what the mount calls take. Pure. Source: config.md "Linux mount options"."""

from __future__ import annotations

from contain.runtime_spec.reading import Table, refused, wrong
from contain.values import dataclass

# Attributes of one mount: mount_setattr(2)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _ATIME, _NOATIME, _STRICTATIME, _NODIRATIME, _NOSYMFOLLOW = (
    0x1,
    0x2,
    0x4,
    0x8,
    0x70,
    0x10,
    0x20,
    0x80,
    0x200000,
)
_ATTRIBUTES: dict[str, tuple[int, int]] = {  # word: (set, clear)
    "ro": (_RDONLY, 0),
    "rw": (0, _RDONLY),
    "nosuid": (_NOSUID, 0),
    "suid": (0, _NOSUID),
    "nodev": (_NODEV, 0),
    "dev": (0, _NODEV),
    "noexec": (_NOEXEC, 0),
    "exec": (0, _NOEXEC),
    "noatime": (_NOATIME, _ATIME),
    "atime": (0, _ATIME),
    "relatime": (0, _ATIME),
    "norelatime": (_STRICTATIME, _ATIME),
    "strictatime": (_STRICTATIME, _ATIME),
    "nostrictatime": (0, _ATIME),
    "nodiratime": (_NODIRATIME, 0),
    "diratime": (0, _NODIRATIME),
    "nosymfollow": (_NOSYMFOLLOW, 0),
    "symfollow": (0, _NOSYMFOLLOW),
}
_SUPERBLOCK = frozenset(("sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "iversion", "noiversion"))
_IGNORED = frozenset(("defaults", "silent", "loud", "rnorelatime_", "auto", "noauto", "user", "nofail"))
_PROPAGATION = {  # MS_* of mount(2), with and without MS_REC
    word + "": value for word, value in (("unbindable", 1 << 17), ("private", 1 << 18), ("slave", 1 << 19), ("shared", 1 << 20))
}
RECURSIVE = 0x4000  # MS_REC
PROPAGATIONS = {**_PROPAGATION, **{f"r{word}": value | RECURSIVE for word, value in _PROPAGATION.items()}}

MOUNT_OPTIONS = tuple(
    sorted(
        {*_ATTRIBUTES, *(f"r{word}" for word in _ATTRIBUTES), *PROPAGATIONS, *_SUPERBLOCK}
        | {"bind", "rbind", "defaults", "silent", "loud", "tmpcopyup"}
    )
)
"""Every word that this runtime understands by itself; others belong to the file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """``size`` ids from ``inside`` on are those from ``outside`` on (user_namespaces(7))."""

    inside: int
    outside: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleMount:
    """One entry of ``mounts``. ``target`` is a path inside; ``source`` a host path where it binds, else what /proc/mounts shows."""

    target: str
    kind: str = "none"
    source: str = ""
    bind: bool = False
    recursive: bool = False
    set_attributes: int = 0
    clear_attributes: int = 0
    tree_set: int = 0  # the same for all mounts below
    tree_clear: int = 0
    propagation: tuple[int, ...] = ()
    data: tuple[tuple[str, str], ...] = ()
    copy_up: bool = False


def parse_id_maps(tables: list[Table]) -> tuple[IdMap, ...]:
    """``uidMappings`` or ``gidMappings``."""
    high = 2**32 - 1
    return tuple(
        IdMap(
            inside=each.number("containerID", low=0, high=high),
            outside=each.number("hostID", low=0, high=high),
            size=each.number("size", low=0, high=high),
        )
        for each in tables
    )


def parse_mount(table: Table) -> BundleMount:
    """Check and convert one mount. Raises `UsageError`, `NotSupported`."""
    target = table.text("destination")
    if not target:
        raise wrong(table.place("destination"), "must not be empty")
    if not target.startswith("/"):
        target = f"/{target}"  # "SHOULD be absolute"; relative ones are taken from the root
    kind, source = table.text("type", ""), table.text("source", "")
    bind = kind in ("bind", "rbind")
    recursive = copy_up = False
    set_attributes = clear = tree_set = tree_clear = 0
    propagation: list[int] = []
    data: list[tuple[str, str]] = []
    id_map = ""
    for word in table.texts("options"):
        if word in _ATTRIBUTES:
            on, off = _ATTRIBUTES[word]
            set_attributes, clear = (set_attributes & ~off) | on, (clear & ~on) | off
        elif word[:1] == "r" and word[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[word[1:]]
            tree_set, tree_clear = (tree_set & ~off) | on, (tree_clear & ~on) | off
        elif word in PROPAGATIONS:
            propagation.append(PROPAGATIONS[word])
        elif word in ("bind", "rbind"):
            bind, recursive = True, word == "rbind"
        elif word == "tmpcopyup":
            copy_up = True
        elif word in ("idmap", "ridmap"):
            id_map = word
        elif word == "remount":
            raise refused(f"{table.place('options')}: remount")
        elif word in _IGNORED:
            continue
        elif not bind or word in _SUPERBLOCK:
            key, equals, value = word.partition("=")
            data.append((key, value if equals else ""))
    if bind and not source:
        raise wrong(table.place("source"), "a bind mount needs one")
    if copy_up and kind != "tmpfs":
        raise wrong(table.place("options"), "tmpcopyup belongs to a tmpfs")
    if not bind and not kind:
        raise wrong(table.place("type"), "is required where the mount is no bind mount")
    user_map, group_map = parse_id_maps(table.tables("uidMappings")), parse_id_maps(table.tables("gidMappings"))
    if bool(user_map) != bool(group_map):
        raise wrong(table.where, "uidMappings and gidMappings must stand together")
    if user_map or id_map:
        raise refused(f"{table.where}: a mount with mapped ids")
    return BundleMount(
        target=target,
        kind="bind" if bind else kind,
        source=source,
        bind=bind,
        recursive=recursive,
        set_attributes=set_attributes,
        clear_attributes=clear,
        tree_set=tree_set,
        tree_clear=tree_clear,
        propagation=tuple(propagation),
        data=() if bind else tuple(data),
        copy_up=copy_up,
    )

"""Where a container keeps what it writes: through an overlay on the store's disk, through one in memory, or in a copy of its image.

An overlay is quick and shares what it does not change; where the store's file system or the kernel lets nobody have one, what must be
kept is kept in a root of the container's own, a full copy of its image (`contain.store.root_copy`). That is as isolated, but slower and
larger, so it is said by name; nobody has to ask for it. ``CONTAIN_STORAGE`` decides otherwise.

`choose_kept` and `choose_thrown_away` decide, from values; `probe_ground` asks this machine; `storage_for` does both, and says so if
it is a copy; `fill_root` makes one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum

from contain.container.plan import HOST_ROOT, stub_paths
from contain.container.workspaces import hold_directory, memory_takes_attributes, workspaces
from contain.errors import HostError, UsageError
from contain.linux.obstacles import NO_UPPER, filesystem_of
from contain.paths import HostPath
from contain.spec import ContainerSpec
from contain.values import dataclass, replace

VARIABLE = "CONTAIN_STORAGE"
REMEDY = "set CONTAIN_HOME to a directory on ext4, xfs, btrfs or a tmpfs: in a container, on a volume"
_ALWAYS = ("btrfs", "tmpfs", "xfs", "ext4")  # of those that are on no disk of their own: known without a trial


class Storage(Enum):
    """How a container's root is made."""

    OVERLAY = "overlay"
    MEMORY = "memory"
    COPY = "copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the kernel and the store's file system allow. ``kind``: the file system's; ``kernel``: overlays can be mounted;
    ``writable``: onto the store, too; ``memory``: onto memory file systems; ``executable``: programs in the store can be started."""

    kind: str
    kernel: bool = True
    writable: bool = True
    memory: bool = True
    executable: bool = True


def parse_storage(environ: Mapping[str, str]) -> Storage | None:
    """What ``CONTAIN_STORAGE`` asks for; None: whatever works best. Raises `UsageError`."""
    asked = environ.get(VARIABLE, "")
    if not asked:
        return None
    if asked not in (Storage.OVERLAY.value, Storage.COPY.value):
        raise UsageError(f"{VARIABLE}: {asked!r} is neither 'overlay' nor 'copy'", code="bad-setting")
    return Storage(asked)


def choose_kept(asked: Storage | None, ground: Ground, *, stand_ins: bool = False) -> Storage:
    """For what is kept: containers on record, the layer of a RUN. ``stand_ins``: its layers hold whiteouts that the kernel does not
    understand, so that an overlay would show what is removed, whoever asks for it."""
    if stand_ins:
        return Storage.COPY
    return asked or (Storage.OVERLAY if ground.kernel and ground.writable else Storage.COPY)


def choose_thrown_away(asked: Storage | None, ground: Ground, *, stand_ins: bool = False) -> Storage:
    """For what goes with the container."""
    kept = choose_kept(asked, ground, stand_ins=stand_ins)
    memory = ground.kernel and not ground.writable and ground.memory
    return Storage.MEMORY if memory and not stand_ins and asked is not Storage.COPY else kept


def describe_reason(asked: Storage | None, ground: Ground, *, stand_ins: bool = False) -> str:
    """Why there is no overlay, for a message. ``stand_ins``: that they are there is the only reason."""
    if stand_ins:
        return "the image removes files with marks that the kernel's overlay does not know, for want of others in this store"
    if asked is Storage.COPY:
        return f"{VARIABLE}=copy"
    if not ground.kernel:
        return "the kernel has no overlay file system for this user"
    return f"no overlay can be written onto the store's file system, {ground.kind}"


def storage_remedy(asked: Storage | None) -> str:
    """What to do about it."""
    return f"leave out {VARIABLE}=copy" if asked is Storage.COPY else REMEDY


def render_warning(asked: Storage | None, ground: Ground, *, stand_ins: bool = False) -> str:
    """What is said once per command."""
    reason = describe_reason(asked, ground, stand_ins=stand_ins)
    return (
        f"storage by copying ({reason}): each container and each RUN gets a full copy of its image, which takes time and disk; "
        f"{storage_remedy(asked)} (docs/rootless.md, 'Copying')"
    )


# -- this machine -------------------------------------------------------------------------------------------------------------------

_trials: dict[int, tuple[bool, bool]] = {}  # by device: the kernel mounts overlays at all, and onto this
_said: set[str] = set()


def probe_ground(home: HostPath) -> Ground:
    """Of the store, or of where it would be. Costs a look at two files; where these do not say it, a trial."""
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    device = os.stat(place).st_dev
    disk = bool(os.major(device))
    kind = "" if disk else filesystem_of(str(place))
    kernel, writable = True, kind not in NO_UPPER
    if not _has_overlay() or (writable and not disk and kind not in _ALWAYS):
        if device not in _trials:
            _trials[device] = _try_overlay(place)
        kernel, writable = _trials[device]
    if not kernel:
        kind = kind or filesystem_of(str(place))
    memory = memory_takes_attributes()
    return Ground(
        kind=kind,
        kernel=kernel,
        writable=writable and (kind != "tmpfs" or memory),
        memory=memory,
        executable=not os.statvfs(place).f_flag & os.ST_NOEXEC,
    )


def _has_overlay() -> bool:
    with contextlib.suppress(OSError), open("/proc/filesystems") as file:
        return "\toverlay\n" in file.read()
    return True


def _try_overlay(place: HostPath) -> tuple[bool, bool]:
    """Whether overlays can be mounted, and written onto this place: by mounting one there as containers do, in a process of its own."""
    import tempfile

    from contain.linux import syscalls

    try:
        with tempfile.TemporaryDirectory(dir=place, prefix="overlay-trial.") as directory:
            names = [os.path.join(directory, name) for name in ("lower", "upper", "work", "merged")]
            for name in names:
                os.mkdir(name)
            lower, upper, work, merged = names
            with open(os.path.join(lower, "file"), "w"):
                pass
            child = os.fork()
            if child == 0:
                status = 1  # none at all
                try:
                    if os.geteuid():
                        _become_root()
                    syscalls.unshare(syscalls.CLONE_NEWNS)
                    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
                    syscalls.mount("overlay", merged, "overlay", syscalls.MS_RDONLY, f"lowerdir={lower}:{upper},userxattr")
                    syscalls.umount2(merged, syscalls.MNT_DETACH)
                    status = 2  # not onto this
                    data = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
                    syscalls.mount("overlay", merged, "overlay", 0, data)
                    os.unlink(os.path.join(merged, "file"))
                    os.setxattr(upper, "user.overlay.opaque", b"y")
                    status = 0
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return status != 1, status == 0
    except OSError:  # the directory cannot even be written: whoever writes to it will say so
        return True, True


def _become_root() -> None:
    """Of a user namespace with one id (user_namespaces(7))."""
    from contain.linux import syscalls

    maps = (("setgroups", "deny"), ("uid_map", f"0 {os.geteuid()} 1"), ("gid_map", f"0 {os.getegid()} 1"))
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    for name, text in maps:
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def storage_for(
    layers: Sequence[HostPath], home: HostPath, *, thrown_away: bool, say: Callable[[str], object] | None = None
) -> Storage:
    """What a container of these layers gets on this machine; said once if it is a copy. One on the machine's own root gets none: nobody
    copies ``/``. Raises `UsageError`, `HostError`."""
    from contain.store.rootview import has_stand_ins

    asked = parse_storage(os.environ)
    ground = probe_ground(home)
    stand_ins = any(map(has_stand_ins, layers))
    if HOST_ROOT in layers:
        _refuse_host(stand_ins=stand_ins)
        return choose_thrown_away(Storage.OVERLAY, ground) if thrown_away else Storage.OVERLAY
    choose = choose_thrown_away if thrown_away else choose_kept
    found = choose(asked, ground, stand_ins=stand_ins)
    if found is Storage.COPY:
        if not ground.executable:
            raise HostError(
                f"a container's root cannot be a copy below {home}, where no program may be started (mount option noexec)",
                path=str(home),
                remedy=REMEDY,
                code="storage-noexec",
            )
        if "copy" not in _said:
            _said.add("copy")
            only = stand_ins and choose(asked, ground) is not Storage.COPY
            (say or _warn)(render_warning(asked, ground, stand_ins=only))
    return found


def _refuse_host(*, stand_ins: bool) -> None:
    """What such an image removed would be there as a socket, and nobody copies ``/``."""
    if stand_ins:
        raise HostError(
            "an image on this machine's root that removes files cannot be used from a store onto which no overlay can be written",
            remedy=REMEDY,
            code="storage-host-image",
        )


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


@contextlib.contextmanager
def open_plain_layers(spec: ContainerSpec, home: HostPath) -> Iterator[ContainerSpec]:
    """The spec with layers that the kernel's overlay understands, for containers that have nothing but that: the same, or one layer
    that is a copy of them all."""
    from contain.store.root_copy import copy_root
    from contain.store.rootview import has_stand_ins

    if not any(map(has_stand_ins, spec.layers)):
        yield spec
        return
    _refuse_host(stand_ins=HOST_ROOT in spec.layers)
    with hold_directory(workspaces(home) / f"{spec.container_id}-image") as work:
        tree = work / "tree"
        tree.mkdir()
        copy_root(spec.layers, tree)
        yield replace(spec, layers=(tree,))


def fill_root(spec: ContainerSpec, *, lasting: bool) -> None:
    """Make the copy that the spec speaks of. ``lasting``: it is on the disk on return. Until then, and if it fails or is killed,
    there is none under its name. Raises `HostError`."""
    from contain.store.durable import remove_tree, spread_apart, sync_file_system
    from contain.store.root_copy import copy_root

    assert spec.upper is not None
    # A name of its own: ext4 chooses by the name where on the disk the thousands of files will be, and has them apart from those that
    # were removed a moment ago.
    aside = spec.upper.with_name(f"{spec.upper.name}.{os.urandom(8).hex()}")
    spread_apart(aside.parent)
    aside.mkdir(mode=0o700)
    try:
        copy_root(spec.layers, aside, stubs=stub_paths(spec))
        if lasting:
            sync_file_system(aside)
        os.rename(aside, spec.upper)
    except BaseException:
        remove_tree(aside)
        raise

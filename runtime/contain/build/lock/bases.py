"""Looks bases up as a lock pins them: by digest in the store, then in the registry, then the locked state of a Debian archive, then
by name, and then it must be the same one.
"""

from __future__ import annotations

from collections.abc import Callable

from contain.annotations import TYPE_CHECKING
from contain.build.bases import BaseFinder, FoundBase
from contain.build.host_root import HOST_NAME, image_trees
from contain.build.lock.capture import base_moved
from contain.build.lock.compare import Lock, moved_error
from contain.build.record.tracing import base_name
from contain.build.request import BaseSource
from contain.errors import NotFound, RegistryError
from contain.oci import Image, Platform
from contain.progress import Progress
from contain.reference import Reference
from contain.values import replace

if TYPE_CHECKING:
    from contain.build.lock.compare import LockedBase
    from contain.store import Store

Pull = Callable[[Reference, Platform, Progress], Image]


def locked_bases(lock: Lock, finder: BaseFinder, *, store: Store, pull: Pull) -> BaseFinder:
    """``finder`` for what the lock does not know; the pinned image for what it does.

    The finder raises `IntegrityError` (code ``lock-moved``) if the pinned image is nowhere to be had: then nothing is built on another
    one.
    """

    def find(reference: Reference, platform: Platform, progress: Progress) -> FoundBase:
        name = base_name(reference.familiar, str(platform), lock.platform)
        locked = lock.bases.get(name)
        if locked is None or locked.platform != str(platform):
            return finder(reference, platform, progress)  # what moved is said when everything is built
        if reference.name != HOST_NAME:
            image = _pinned(reference, locked, platform, progress, store=store, pull=pull)
            if image is None and locked.state:
                from contain.build.debian import provide_debian_state

                image = provide_debian_state(reference, locked.state, store=store, progress=progress)
            if image is not None and image.digest == locked.digest:
                source = BaseSource(name=reference.familiar, digest=image.digest, source=locked.source, local=True)
                progress.note(f"{reference.familiar}: as locked, {image.digest}")
                return FoundBase(image=image, trees=image_trees(image, store), source=source)
        found = finder(reference, platform, progress)
        if found.image.digest != locked.digest:
            rows = base_moved(name, locked, found.image, str(platform), found.source.source, store)
            error = moved_error(lock, rows, built="")
            if locked.state:
                error.remedy = (
                    f"the lock was made from {locked.state}, which neither the mirror nor the archive of earlier states gives "
                    "(`[debian] mirror`, `snapshots`); accept the new one with `contain lock`"
                )
            raise error
        return found

    return find


def _pinned(
    reference: Reference, locked: LockedBase, platform: Platform, progress: Progress, *, store: Store, pull: Pull
) -> Image | None:
    try:
        return store.image(locked.digest)
    except NotFound:
        pass
    try:
        return pull(replace(reference, tag=None, digest=locked.digest), platform, progress)
    except (NotFound, RegistryError) as error:
        progress.note(f"{reference.familiar}: the locked image is not to be had by its digest: {error.message}")
        return None

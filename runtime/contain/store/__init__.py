"""Everything that lasts, on disk: blobs, extracted layers, images and their names, the build cache.

`Store` is the way in; `RootView` reads an image's merged root without mounting it. Each is loaded when it is wanted: who only
removes a directory, or starts a container, needs little of this.
"""

from __future__ import annotations

from contain.annotations import TYPE_CHECKING

if TYPE_CHECKING:
    from contain.store.blobs import BlobIngest
    from contain.store.cache import FileDigests, StepRecord
    from contain.store.extract import Extracted, extract_tree
    from contain.store.images import PruneReport, StoredImage
    from contain.store.layers import CommittedLayer
    from contain.store.naming import NameRecord
    from contain.store.rootview import Entry, Kind, RootView
    from contain.store.store import DEFAULT_EPOCH_SECONDS, Store
    from contain.store.tar_reader import TarLimits

__all__ = [
    "DEFAULT_EPOCH_SECONDS",
    "BlobIngest",
    "CommittedLayer",
    "Entry",
    "Extracted",
    "FileDigests",
    "Kind",
    "NameRecord",
    "PruneReport",
    "RootView",
    "StepRecord",
    "Store",
    "StoredImage",
    "TarLimits",
    "extract_tree",
]

_PLACES = {
    "blobs": ("BlobIngest",),
    "cache": ("FileDigests", "StepRecord"),
    "extract": ("Extracted", "extract_tree"),
    "images": ("PruneReport", "StoredImage"),
    "layers": ("CommittedLayer",),
    "naming": ("NameRecord",),
    "rootview": ("Entry", "Kind", "RootView"),
    "store": ("DEFAULT_EPOCH_SECONDS", "Store"),
    "tar_reader": ("TarLimits",),
}


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"contain.store.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

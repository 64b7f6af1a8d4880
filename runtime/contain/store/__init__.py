"""Everything that lasts, on disk: blobs, extracted layers, images and their names, the build cache.

`Store` is the way in; `RootView` reads an image's merged root without mounting it.
"""

from typing import TYPE_CHECKING, Any

from contain.store.blobs import BlobIngest
from contain.store.cache import FileDigests, StepRecord
from contain.store.images import PruneReport, StoredImage
from contain.store.layers import CommittedLayer
from contain.store.naming import NameRecord
from contain.store.rootview import Entry, Kind, RootView
from contain.store.store import DEFAULT_EPOCH_SECONDS, Store

if TYPE_CHECKING:
    from contain.store.extract import Extracted, extract_tree
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


def __getattr__(name: str) -> Any:
    # The extractor is loaded when it is wanted: most commands only read the store.
    if name in ("Extracted", "extract_tree"):
        from contain.store import extract

        return getattr(extract, name)
    if name == "TarLimits":
        from contain.store.tar_reader import TarLimits

        return TarLimits
    raise AttributeError(name)

"""From a name to an image's documents and trees: what starting a container asks of the store. Reads only.

Of its own so that ``contain run`` need not import all that writes to a store.
"""

from __future__ import annotations

import os
import time

from contain.errors import IntegrityError, NotFound, UsageError
from contain.oci.image import Image, digest_of, parse_config, parse_manifest
from contain.paths import HostPath
from contain.reference import Reference, parse_reference
from contain.store.database import Database
from contain.store.layout import Layout
from contain.values import dataclass

_REFRESH_SECONDS = 600
_LARGEST_DOCUMENT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedImage:
    """An image that a name points at, its layer trees, lowest first, and where the name's image came from."""

    image: Image
    trees: tuple[HostPath, ...]
    source: str


def row_name(reference: Reference) -> str:
    """Under which the database has it."""
    if reference.digest is not None:  # never a tag's row: `app:1@sha256:…` says nothing about what `app:1` is
        return f"{reference.name}@{reference.digest}"
    return f"{reference.name}@{reference.digest}" if reference.tag is None else f"{reference.name}:{reference.tag}"


def name_source(database: Database, reference: Reference) -> tuple[str, str] | None:
    """What a name points at, and where that came from. A reference with a digest is found by the digest, whatever its tag says;
    the digest of an index by the name that the pulled image was given."""
    row: list[tuple[object, ...]] = []
    if reference.digest is not None:
        row = database.rows("SELECT digest, source FROM images WHERE digest = ?", (reference.digest,))
    if not row:
        row = database.rows("SELECT digest, source FROM names WHERE name = ?", (row_name(reference),))
    return (str(row[0][0]), str(row[0][1])) if row else None


def is_there(path: HostPath) -> bool:
    """Whether a file of the store is here. Asking counts as use: it will not be pruned within the next hour."""
    try:
        if time.time() - os.stat(path).st_mtime > _REFRESH_SECONDS:
            os.utime(path)
    except FileNotFoundError:
        return False
    return True


def read_blob(layout: Layout, digest: str, *, limit_bytes: int = _LARGEST_DOCUMENT_BYTES) -> bytes:
    """A blob's content, verified again. Raises `NotFound`, `IntegrityError`."""
    path = layout.blob(digest)
    try:
        with open(path, "rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError as error:
        raise NotFound(f"blob {digest} is not in the store", code="blob-not-found") from error
    if len(data) > limit_bytes:
        raise IntegrityError(f"blob {digest} is larger than {limit_bytes} bytes", code="blob-size")
    if digest_of(data) != digest:
        raise IntegrityError(
            f"blob {digest} in the store was changed or damaged",
            remedy=f"remove {path}, then pull or build the image again",
            code="blob-digest",
        )
    return data


def load_image(layout: Layout, digest: str) -> Image:
    """The image of a manifest. Raises `NotFound`, `IntegrityError`."""
    manifest = parse_manifest(read_blob(layout, digest))
    config = parse_config(read_blob(layout, manifest.config.digest))
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"image {digest}: the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}",
            code="bad-manifest",
        )
    return Image(digest=digest, manifest=manifest, config=config)


def layer_tree(layout: Layout, diff_id: str) -> HostPath:
    """A layer's tree. Raises `NotFound`."""
    place = layout.layer(diff_id)
    if not is_there(place / "layer.json"):
        raise NotFound(f"layer {diff_id} is not in the store", code="layer-not-found")
    return place / "tree"


def find_named(home: HostPath, text: str) -> NamedImage | None:
    """The image of a name in the store at ``home``; None where there is no such name, or no store."""
    layout = Layout(home)
    if not layout.database.exists():
        return None
    try:
        reference = parse_reference(text)
    except UsageError:
        return None
    database = Database(layout.database)
    try:
        named = name_source(database, reference)
    finally:
        database.close()
    if named is None:
        return None
    image = load_image(layout, named[0])
    return NamedImage(image=image, trees=tuple(layer_tree(layout, each) for each in image.config.diff_ids), source=named[1])

"""Images and their names, and removing what nothing refers to any more.

An image is a manifest blob, its config blob and its layers; the database says which manifests are images and what they are
called. A name points at one image at a time; what it pointed at before is kept as history.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from contain.errors import Conflict, IntegrityError, NotFound, UsageError
from contain.oci import (
    Descriptor,
    Image,
    ImageConfig,
    Manifest,
    is_digest,
    parse_manifest,
    render_config,
    render_manifest,
)
from contain.oci.image import MEDIA_CONFIG
from contain.paths import HostPath
from contain.reference import Reference, parse_reference
from contain.store.blobs import Blobs
from contain.store.database import Database
from contain.store.durable import remove_tree
from contain.store.layers import Layers
from contain.store.layout import Layout
from contain.store.lookup import load_image, name_source, row_name
from contain.store.naming import ROLLBACK, NameRecord, choose_rollback
from contain.store.referrers import Referrers, StoredReferrer
from contain.values import dataclass, field, replace

GRACE_SECONDS = 3600
"""What was written or used within this time is never removed: its user may not have named it yet."""

_PIECE_BYTES = 1 << 20
_SHORTEST_PREFIX = 4
_PARTIAL_SECONDS = 24 * 3600
_UNUSED_STEP_SECONDS = 7 * 24 * 3600
_PREFIX = re.compile(r"^(?:sha256:)?([0-9a-f]{4,64})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One row of ``contain images``. ``size_bytes``: all layers, uncompressed. ``created_seconds``: when it came into this
    store."""

    digest: str
    names: tuple[str, ...]
    size_bytes: int
    created_seconds: int
    source: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What was removed."""

    images: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    cache_rows: int = 0
    freed_bytes: int = 0
    former_names: tuple[tuple[str, str], ...] = ()  # (digest, name): what a name can no longer be rolled back to


@dataclass(slots=True, kw_only=True)
class _Found:
    """What a set of images refers to."""

    blobs: set[str] = field(default_factory=set)
    layers: set[str] = field(default_factory=set)


class Images:
    """The images of one store."""

    def __init__(self, layout: Layout, database: Database, blobs: Blobs, layers: Layers) -> None:
        self._layout, self._database, self._blobs, self._layers = layout, database, blobs, layers
        self._referrers = Referrers(database, blobs)

    def put(self, config: ImageConfig, layers: Sequence[Descriptor], *, source: str) -> Image:
        """Write manifest and config of an image whose layers are here."""
        config_bytes = render_config(config)
        config_digest = self._blobs.write(config_bytes)
        manifest = Manifest(
            config=Descriptor(media_type=MEDIA_CONFIG, digest=config_digest, size=len(config_bytes)), layers=tuple(layers)
        )
        return self._put(render_manifest(manifest), source=source)

    def put_manifest(self, manifest_bytes: bytes, config_bytes: bytes, *, source: str) -> Image:
        """The same for a manifest that somebody else wrote, byte for byte."""
        manifest = parse_manifest(manifest_bytes)
        if self._blobs.write(config_bytes) != manifest.config.digest:
            raise IntegrityError("the image's config is not the one that its manifest names", code="blob-digest")
        return self._put(manifest_bytes, source=source)

    def _put(self, manifest_bytes: bytes, *, source: str) -> Image:
        with self._layout.collection_barrier(collecting=False):
            digest = self._blobs.write(manifest_bytes)
            image = load_image(self._layout, digest)
            for diff_id in image.config.diff_ids:
                if not self._layers.has(diff_id):
                    raise NotFound(f"layer {diff_id} of the image is not in the store", code="layer-not-found")
            for diff_id, layer in zip(image.config.diff_ids, image.manifest.layers, strict=True):
                self._verify_blob(diff_id, layer)
            now = int(time.time())
            with self._database.transaction() as database:
                database.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", (digest, source, now))
        return image

    def _verify_blob(self, diff_id: str, layer: Descriptor) -> None:
        """That a blob which a manifest pairs with a layer unpacks to it. Otherwise an image could make its own bytes stand for
        a layer of somebody else's, which is read from that blob when it is pushed or saved later. Known pairs are not unpacked
        again; a blob that is not here stands for nothing."""
        if layer.digest == diff_id or not self._blobs.has(layer.digest):
            return
        if (layer.digest, layer.media_type) in self.blobs_of_layer(diff_id):
            return
        if not any(digest == layer.digest for digest, _ in self.blobs_of_layer(diff_id)):
            from contain.store.compression import Decompressed

            found = hashlib.sha256()
            with self._blobs.open(layer.digest) as file, Decompressed(file, ahead=True) as plain:
                while data := plain.read(_PIECE_BYTES):
                    found.update(data)
            if "sha256:" + found.hexdigest() != diff_id:
                raise IntegrityError(
                    f"layer {layer.digest} unpacks to sha256:{found.hexdigest()}, and {diff_id} was promised",
                    code="layer-digest",
                )
        self.record_blob(diff_id, layer.digest, layer.media_type)

    def record_blob(self, diff_id: str, digest: str, media_type: str) -> None:
        """Remember that a blob is known to unpack to a layer."""
        if digest != diff_id:
            with self._database.transaction() as database:
                database.execute("INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?)", (diff_id, digest, media_type))

    def get(self, digest: str) -> Image:
        """Raises `NotFound`."""
        self._require(digest)
        return load_image(self._layout, digest)

    def _require(self, digest: str) -> None:
        if not is_digest(digest) or not self._database.rows("SELECT 1 FROM images WHERE digest = ?", (digest,)):
            raise no_such_image(digest)

    def put_referrer(
        self, subject: str, manifest: bytes, contents: Sequence[bytes], *, artifact_type: str, annotations: Mapping[str, str]
    ) -> str:
        """Keep an artifact with an image; it goes when the image goes. Raises `NotFound` without the image."""
        with self._layout.collection_barrier(collecting=False):
            self._require(subject)
            return self._referrers.put(subject, manifest, contents, artifact_type=artifact_type, annotations=annotations)

    def referrers(self, subject: str) -> tuple[StoredReferrer, ...]:
        """The artifacts about an image, the newest first."""
        return self._referrers.of(subject)

    def trees(self, image: Image) -> tuple[HostPath, ...]:
        """The image's layer trees, lowest first."""
        return tuple(self._layers.tree(diff_id) for diff_id in image.config.diff_ids)

    def list(self) -> tuple[StoredImage, ...]:
        """All images, the newest first."""
        names: dict[str, list[str]] = {}
        for name, digest in self._database.rows("SELECT name, digest FROM names ORDER BY name"):
            names.setdefault(str(digest), []).append(str(name))
        found = []
        for digest, source, added in self._database.rows(
            "SELECT digest, source, added_seconds FROM images ORDER BY added_seconds DESC, digest"
        ):
            size = 0
            labels: dict[str, str] = {}
            with suppress(NotFound, IntegrityError):  # listed, so that it can be removed; using it says what is wrong
                config = load_image(self._layout, str(digest)).config
                labels = dict(config.labels)
                for diff_id in config.diff_ids:
                    size += int(str(self._layers.record(diff_id)["size_bytes"]))
            found.append(
                StoredImage(
                    digest=str(digest),
                    names=tuple(names.get(str(digest), ())),
                    size_bytes=size,
                    created_seconds=int(str(added)),
                    source=str(source),
                    labels=labels,
                )
            )
        return tuple(found)

    def find(self, text: str) -> Image:
        """By name, by digest, or by the beginning of a digest (at least 4 hexadecimal digits, unique). A name wins over a
        digest's beginning."""
        digest = self._find_name(text)
        if digest is None:
            digest = self._find_prefix(text)
        if digest is None:
            raise no_such_image(text)
        return self.get(digest)

    def _find_name(self, text: str) -> str | None:
        try:
            reference = parse_reference(text)
        except UsageError:
            return None
        named = self.name_source(reference)
        return None if named is None else named[0]

    def _find_prefix(self, text: str) -> str | None:
        match = _PREFIX.match(text)
        if match is None:
            return None
        low = "sha256:" + match[1]
        rows = self._database.rows("SELECT digest FROM images WHERE digest >= ? AND digest < ?", (low, low + "g"))
        if len(rows) > 1:
            raise Conflict(
                f"{text} is the beginning of {len(rows)} images' digests",
                code="ambiguous-digest",
                remedy="write more of its digits",
            )
        return str(rows[0][0]) if rows else None

    def tag(self, reference: Reference, digest: str, *, source: str) -> None:
        """Make a name point at an image. Raises `NotFound` when there is no such image."""
        name = row_name(reference)
        with self._layout.collection_barrier(collecting=False), self._database.transaction() as database:
            if database.execute("SELECT 1 FROM images WHERE digest = ?", (digest,)).fetchone() is None:
                raise no_such_image(digest)
            before = database.execute("SELECT digest, source FROM names WHERE name = ?", (name,)).fetchone()
            now = int(time.time())
            database.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", (name, digest, source, now))
            if before != (digest, source):
                database.execute(
                    "INSERT INTO name_history (name, digest, source, set_seconds) VALUES (?, ?, ?, ?)",
                    (name, digest, source, now),
                )

    def untag(self, reference: Reference) -> str | None:
        """Take a name away; returns what it pointed at, or None. The image stays."""
        name = row_name(reference)
        with self._database.transaction() as database:
            row = database.execute("DELETE FROM names WHERE name = ? RETURNING digest", (name,)).fetchone()
            if row is None:
                return None
            database.execute(
                "INSERT INTO name_history (name, digest, source, set_seconds) VALUES (?, NULL, 'untag', ?)",
                (name, int(time.time())),
            )
            return str(row[0])

    def name_source(self, reference: Reference) -> tuple[str, str] | None:
        """`contain.store.lookup.name_source`."""
        return name_source(self._database, reference)

    def history(self, reference: Reference) -> tuple[NameRecord, ...]:
        """What a name pointed at over time, the newest first."""
        rows = self._database.rows(
            "SELECT digest, source, set_seconds, digest IN (SELECT digest FROM images) FROM name_history WHERE name = ?"
            " ORDER BY id DESC",
            (row_name(reference),),
        )
        return tuple(
            NameRecord(
                digest=None if row[0] is None else str(row[0]),
                source=str(row[1]),
                set_seconds=int(str(row[2])),
                present=bool(row[3]),
            )
            for row in rows
        )

    def rollback(self, reference: Reference, *, to: str | None) -> tuple[str | None, str]:
        """Make a name point at what it pointed at before: `contain.store.naming.choose_rollback`. Returns both digests, that of
        before first. The name gets back the source that the image had under it, too.

        In one transaction: two rollbacks at once are two rollbacks one after the other.
        """
        name = row_name(reference)
        with self._layout.collection_barrier(collecting=False), self._database.transaction() as database:
            rows = database.execute("SELECT digest, source FROM name_history WHERE name = ? ORDER BY id", (name,)).fetchall()
            present = {
                row[0]
                for row in database.execute(
                    "SELECT digest FROM images WHERE digest IN (SELECT digest FROM name_history WHERE name = ?)", (name,)
                )
            }
            before = database.execute("SELECT digest FROM names WHERE name = ?", (name,)).fetchone()
            target = choose_rollback(reference.familiar, rows, present=present, to=to)
            source = next(source for digest, source in reversed(rows) if digest == target and source != ROLLBACK)
            now = int(time.time())
            database.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?)", (name, target, source, now))
            database.execute(
                "INSERT INTO name_history (name, digest, source, set_seconds) VALUES (?, ?, ?, ?)",
                (name, target, ROLLBACK, now),
            )
        return (None if before is None else str(before[0])), target

    def blob_of_layer(self, diff_id: str) -> tuple[str, str] | None:
        """Digest and media type of a stored blob whose uncompressed content is this layer."""
        return next(iter(self.blobs_of_layer(diff_id)), None)

    def blobs_of_layer(self, diff_id: str) -> tuple[tuple[str, str], ...]:
        """The same for all of them."""
        rows = self._database.rows("SELECT digest, media_type FROM layer_blobs WHERE diff_id = ?", (diff_id,))
        return tuple((str(digest), str(media_type)) for digest, media_type in rows if self._blobs.has(str(digest)))

    def former_names(self, digest: str) -> tuple[str, ...]:
        """Names that point at another image now and at this one before: they could be rolled back to it."""
        rows = self._database.rows(
            "SELECT DISTINCT name FROM name_history JOIN names USING (name)"
            " WHERE name_history.digest = ? AND names.digest <> ? ORDER BY name",
            (digest, digest),
        )
        return tuple(str(row[0]) for row in rows)

    def remove(self, digest: str, *, grace_seconds: float, only_unnamed: bool = False) -> PruneReport:
        """Remove an image, its names, and those of its blobs and layers that nothing else refers to. ``only_unnamed``: not when
        it has a name, which somebody else may just have given it."""
        with self._layout.collection_barrier(collecting=True):
            self._require(digest)
            if only_unnamed and self._database.rows("SELECT 1 FROM names WHERE digest = ?", (digest,)):
                return PruneReport()
            try:
                mine = _references(load_image(self._layout, digest))
            except (NotFound, IntegrityError):
                mine = _Found(blobs={digest})  # damaged: what else it had is found by `prune`
            mine.blobs |= self._referrers.blobs_of((digest,))
            with self._database.transaction() as database:
                database.execute(
                    "INSERT INTO name_history (name, digest, source, set_seconds) SELECT name, NULL, 'untag', ? FROM names"
                    " WHERE digest = ?",
                    (int(time.time()), digest),
                )
                database.execute("DELETE FROM names WHERE digest = ?", (digest,))
                database.execute("DELETE FROM images WHERE digest = ?", (digest,))
                self._referrers.forget((digest,))
            used = self._reachable()
            used.layers |= {str(row[0]) for row in self._database.rows("SELECT diff_id FROM steps WHERE diff_id IS NOT NULL")}
            leased = self._layout.leased()
            if digest in leased:
                return PruneReport(images=(digest,))
            return self._delete(
                (digest,),
                mine.blobs - used.blobs - leased,
                mine.layers - used.layers - leased,
                cache_rows=0,
                grace_seconds=grace_seconds,
            )

    def discard(self, blobs: Collection[str], layers: Collection[str]) -> None:
        """Remove those of the blobs and layers that no image, no cached step and no living process needs."""
        with self._layout.collection_barrier(collecting=True):
            used = self._reachable()
            steps = {str(row[0]) for row in self._database.rows("SELECT diff_id FROM steps WHERE diff_id IS NOT NULL")}
            leased = self._layout.leased()
            self._delete(
                (),
                set(blobs) - used.blobs - leased,
                set(layers) - used.layers - steps - leased,
                cache_rows=0,
                grace_seconds=0,
            )

    def prune_unnamed(self, chosen: Collection[str]) -> PruneReport:
        """Remove those of the chosen images that have no name, however young they are, with the blobs and layers that nothing else
        needs, neither another image nor a cached step. What a living process has a lease on stays."""
        with self._layout.collection_barrier(collecting=True):
            leased = self._layout.leased()
            named = {str(row[0]) for row in self._database.rows("SELECT digest FROM names")}
            known = {str(row[0]) for row in self._database.rows("SELECT digest FROM images")}
            gone = sorted(known & set(chosen) - named - leased)
            mine = _Found(blobs=self._referrers.blobs_of(gone))
            for digest in gone:
                mine.blobs.add(digest)
                with suppress(NotFound, IntegrityError):
                    references = _references(load_image(self._layout, digest))
                    mine.blobs |= references.blobs
                    mine.layers |= references.layers
            former = self._former_names(gone)
            with self._database.transaction() as database:
                database.executemany("DELETE FROM images WHERE digest = ?", [(digest,) for digest in gone])
                self._referrers.forget(gone)
            used = self._reachable()
            for digest in leased:
                with suppress(NotFound, IntegrityError):
                    references = _references(load_image(self._layout, digest))
                    used.blobs |= references.blobs
                    used.layers |= references.layers
            used.layers |= {str(row[0]) for row in self._database.rows("SELECT diff_id FROM steps WHERE diff_id IS NOT NULL")}
            blobs, layers = mine.blobs - used.blobs - leased, mine.layers - used.layers - leased
            report = self._delete(tuple(gone), blobs, layers, cache_rows=0, grace_seconds=0)
            return replace(report, former_names=former)

    def prune(self, *, keep: Collection[str], grace_seconds: float) -> PruneReport:
        """Remove images without a name, and every blob, layer and cache row that no remaining image needs.

        ``keep``: digests of images to spare although nobody named them (those of existing containers). What a living process
        has a lease on, and what was written or used within ``grace_seconds``, stays as well.
        """
        with self._layout.collection_barrier(collecting=True):
            now = time.time()
            leased = self._layout.leased()
            spared = set(keep) | leased
            with self._database.transaction() as database:
                gone = [
                    str(row[0])
                    for row in database.execute(
                        "SELECT digest FROM images WHERE added_seconds <= ? AND digest NOT IN (SELECT digest FROM names)",
                        (now - grace_seconds,),
                    )
                    if row[0] not in spared
                ]
                former = self._former_names(gone)
                database.executemany("DELETE FROM images WHERE digest = ?", [(digest,) for digest in gone])
                self._referrers.forget(gone)
            used = self._reachable()
            for digest in leased:
                # A lease may name an image whose row is gone, or a layer; both keep what they name.
                used.blobs.add(digest)
                used.layers.add(digest)
                with suppress(NotFound, IntegrityError):
                    references = _references(load_image(self._layout, digest))
                    used.blobs |= references.blobs
                    used.layers |= references.layers
            blobs = {f"sha256:{path.name}" for path in self._layout.blobs.iterdir()} - used.blobs
            layers = {f"sha256:{path.name}" for path in self._layout.layers.iterdir()} - used.layers
            cache_rows = self._prune_rows(used.layers, now, grace_seconds)
            for path in self._layout.ingest.iterdir():
                with suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > max(_PARTIAL_SECONDS, grace_seconds):
                        path.unlink()
            report = self._delete(tuple(gone), blobs, layers, cache_rows=cache_rows, grace_seconds=grace_seconds)
            return replace(report, former_names=former)

    def _former_names(self, digests: Sequence[str]) -> tuple[tuple[str, str], ...]:
        found = []
        for digest in digests:
            rows = self._database.rows("SELECT DISTINCT name FROM name_history WHERE digest = ? ORDER BY name", (digest,))
            found += [(digest, str(row[0])) for row in rows]
        return tuple(found)

    def _prune_rows(self, layers: set[str], now: float, grace_seconds: float) -> int:
        removed = 0
        with self._database.transaction() as database:
            for key, diff_id, used in database.execute("SELECT key, diff_id, used_seconds FROM steps").fetchall():
                age = now - used
                unused = age >= max(_UNUSED_STEP_SECONDS, grace_seconds) if diff_id is None else diff_id not in layers
                if unused and age >= grace_seconds:
                    database.execute("DELETE FROM steps WHERE key = ?", (key,))
                    removed += 1
            for table in ("file_digests", "directory_digests", "listings"):
                database.execute(f"DELETE FROM {table} WHERE used_seconds < ?", (now - 30 * 24 * 3600,))  # noqa: S608
        return removed

    def reachable_layers(self, digests: Collection[str]) -> set[str]:
        """The layers of all images, and of those named by their digests even if they are no images any more."""
        found = self._reachable()
        for digest in digests:
            with suppress(NotFound, IntegrityError):
                found.layers |= _references(load_image(self._layout, digest)).layers
        return found.layers

    def layer_bytes(self, keep: Collection[str]) -> tuple[int, int]:
        """What the layers of all images take together, each counted once; and of that, what is neither in a named image nor in one
        of ``keep``."""
        named = {str(row[0]) for row in self._database.rows("SELECT digest FROM names")} | set(keep)
        everything: set[str] = set()
        needed: set[str] = set()
        for (digest,) in self._database.rows("SELECT digest FROM images"):
            with suppress(NotFound, IntegrityError):
                layers = set(load_image(self._layout, str(digest)).config.diff_ids)
                everything |= layers
                needed |= layers if digest in named else set()
        sizes = {
            diff_id: int(str(self._layers.record(diff_id)["size_bytes"])) for diff_id in everything if self._layers.has(diff_id)
        }
        return sum(sizes.values()), sum(size for diff_id, size in sizes.items() if diff_id not in needed)

    def shared_bytes(self) -> dict[str, int]:
        """Of each image by its digest: the bytes of its layers that at least one other image has, too."""
        layers: dict[str, tuple[str, ...]] = {}
        for (digest,) in self._database.rows("SELECT digest FROM images"):
            with suppress(NotFound, IntegrityError):
                layers[str(digest)] = load_image(self._layout, str(digest)).config.diff_ids
        holders = Counter(diff_id for diff_ids in layers.values() for diff_id in set(diff_ids))
        return {
            digest: sum(
                int(str(self._layers.record(diff_id)["size_bytes"]))
                for diff_id in diff_ids
                if holders[diff_id] > 1 and self._layers.has(diff_id)
            )
            for digest, diff_ids in layers.items()
        }

    def delete_layers(self, layers: set[str], *, blob_grace_seconds: float) -> PruneReport:
        """Remove layers that the caller, who holds the collection barrier, knows to be in no use; and their packed forms."""
        used = self._reachable()
        blobs = (
            {digest for diff_id in layers for digest, _ in self.blobs_of_layer(diff_id)} - used.blobs - self._layout.leased()
        )
        gone = self._delete((), set(), layers - used.layers, cache_rows=0, grace_seconds=0)
        packed = self._delete((), blobs, set(), cache_rows=0, grace_seconds=blob_grace_seconds)
        return replace(gone, blobs=packed.blobs, freed_bytes=gone.freed_bytes + packed.freed_bytes)

    def _reachable(self) -> _Found:
        found = _Found()
        digests = {str(row[0]) for row in self._database.rows("SELECT digest FROM images")}
        found.blobs |= self._referrers.blobs_of(digests)
        for digest in digests:
            try:
                references = _references(load_image(self._layout, digest))
            except (NotFound, IntegrityError):
                continue  # a damaged image refers to nothing that could be used
            found.blobs |= references.blobs
            found.layers |= references.layers
        return found

    def _delete(
        self, images: tuple[str, ...], blobs: set[str], layers: set[str], *, cache_rows: int, grace_seconds: float
    ) -> PruneReport:
        limit = time.time() - grace_seconds
        freed = 0
        gone_blobs, gone_layers = [], []
        for digest in sorted(blobs):
            path = self._blobs.path(digest)
            with suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime <= limit:
                    path.unlink()
                    freed += found.st_size
                    gone_blobs.append(digest)
        for diff_id in sorted(layers):
            path = self._layers.path(diff_id)
            with suppress(NotFound, FileNotFoundError):
                if (path / "layer.json").stat().st_mtime > limit:
                    continue
                size = int(str(self._layers.record(diff_id)["size_bytes"]))
                with self._layout.scratch("removed") as work:
                    os.rename(path, work / "layer")  # gone at once for everybody, before the long removal
                    remove_tree(work / "layer")
                freed += size
                gone_layers.append(diff_id)
        with self._database.transaction() as database:
            database.executemany("DELETE FROM layer_blobs WHERE digest = ?", [(digest,) for digest in gone_blobs])
        return PruneReport(
            images=images, layers=tuple(gone_layers), blobs=tuple(gone_blobs), cache_rows=cache_rows, freed_bytes=freed
        )


def no_such_image(text: str) -> NotFound:
    """Docker's words: scripts look for them."""
    return NotFound(f"No such image: {text}", code="image-not-found")


def _references(image: Image) -> _Found:
    return _Found(
        blobs={image.digest, image.manifest.config.digest, *(layer.digest for layer in image.manifest.layers)},
        layers=set(image.config.diff_ids),
    )

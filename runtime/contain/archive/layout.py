"""Which images an image file holds: what ``oci-layout`` and ``index.json``, or ``manifest.json``, or both, say, judged and
brought into one form. Reads small documents through `Members`; unpacks nothing, writes nothing.

Every document is checked against the digest and size that lead to it before it is parsed. A file that tells two stories (an OCI
layout and a ``manifest.json`` that name different images) is refused: two readers would load two images.

Sources: OCI image-spec 1.1 ``image-layout.md``; moby ``image/spec/v1.2.md``; the annotation names of containerd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence

from contain.annotations import Any
from contain.archive.members import Members, bad_file, member_name, read_member
from contain.errors import NotSupported, UsageError
from contain.oci import Descriptor, ImageConfig, Platform, digest_of, parse_config, parse_index, parse_manifest
from contain.oci.image import (
    MEDIA_DOCKER_INDEX,
    MEDIA_DOCKER_MANIFEST,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
)
from contain.reference import Reference, parse_reference
from contain.registry.manifests import (
    LARGEST_CONFIG_BYTES,
    LARGEST_MANIFEST_BYTES,
    Kind,
    check_kind,
    check_manifest,
    check_platform,
    pair_layers,
)
from contain.registry.platform import choose_platform, host_platform
from contain.values import dataclass

MOST_INDEXES = 3  # an index in an index in an index
MOST_IMAGES = 1000
CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_ATTESTATION = "vnd.docker.reference.type"
_KINDS = {
    MEDIA_INDEX: Kind.INDEX,
    MEDIA_DOCKER_INDEX: Kind.INDEX,
    MEDIA_MANIFEST: Kind.MANIFEST,
    MEDIA_DOCKER_MANIFEST: Kind.MANIFEST,
}
_HEX_NAME = re.compile(r"(?:^|/)([0-9a-f]{64})(?:\.json)?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLayer:
    """A layer of an image in a file. ``digest``: what the member's bytes must have, or None where the file's format does not
    say; ``diff_id``: what they must have when decompressed."""

    member: str
    diff_id: str
    digest: str | None
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImage:
    """One image of a file. ``manifest`` is None where the format has none."""

    names: tuple[Reference, ...]
    manifest: bytes | None
    config_data: bytes
    config: ImageConfig
    layers: tuple[FileLayer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContents:
    """What a file holds; ``notes`` and ``warnings`` are for the reader."""

    images: tuple[FileImage, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def blob_member(digest: str) -> str:
    """Where a layout keeps a blob."""
    return "blobs/" + digest.replace(":", "/", 1)


def load_json(data: bytes, name: str) -> Any:
    """JSON without a key that stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise bad_file(f"a key stands twice in {name}")
        return found

    try:
        return json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise bad_file(f"{name} is not JSON") from error


def read_contents(members: Members, *, platform: Platform | None) -> FileContents:
    """What a file holds for a platform (default: this machine's).

    Raises `IntegrityError` for what is damaged or ambiguous, `NotFound` (code ``platform-not-in-image``) when no image is for the
    platform, `UsageError` (code ``no-image-in-file``) for a file that is no image file at all.
    """
    names = members.sizes()
    reader = _Reader(members, platform)
    if "index.json" in names and "oci-layout" in names:
        images = reader.layout()
        if "manifest.json" in names:
            _compare(images, reader.docker(), reader.siblings)
    elif "manifest.json" in names:
        images = reader.docker_images()
    elif "repositories" in names or any(name.endswith("/layer.tar") for name in names):
        from contain.archive.legacy import read_legacy

        images = [reader.checked(image) for image in read_legacy(members)]
    elif "index.json" in names or "oci-layout" in names:
        raise bad_file(f"{'oci-layout' if 'index.json' in names else 'index.json'} is missing")
    else:
        raise UsageError(
            "the file holds no image: neither an OCI layout nor a manifest.json",
            code="no-image-in-file",
            remedy="`contain import` makes an image from the archive of a root file system",
        )
    if not images:
        raise UsageError("the file holds no image that could be loaded", code="no-image-in-file")
    return FileContents(images=tuple(images), notes=tuple(reader.notes), warnings=tuple(reader.warnings))


def _compare(images: Sequence[FileImage], described: Sequence[_DockerImage], siblings: Mapping[str, Collection[str]]) -> None:
    """The dual form's second table of contents must not contradict the first, for names that stand in both. ``siblings``: the
    configs of the same image for other platforms; ``manifest.json`` knows only one, that of the machine that wrote the file."""
    first = {str(name): digest_of(image.config_data) for image in images for name in image.names}
    for image in described:
        for name in image.names:
            chosen = first.get(str(name))
            if chosen is not None and image.config_digest not in (chosen, *siblings.get(chosen, ())):
                raise bad_file(f"index.json and manifest.json disagree about what {name.familiar} is")


@dataclass(frozen=True, slots=True, kw_only=True)
class _DockerImage:
    """One entry of ``manifest.json``."""

    names: tuple[Reference, ...]
    config_data: bytes
    config_digest: str
    layers: tuple[str, ...]


class _Reader:
    def __init__(self, members: Members, platform: Platform | None) -> None:
        self._members = members
        self._wanted, self._chosen_by_user = platform or host_platform(), platform is not None
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.siblings: dict[str, set[str]] = {}

    def checked(self, image: FileImage) -> FileImage:
        """The same image, when it is for the platform or at least may be."""
        name = image.names[0].familiar if image.names else "the image"
        warning = check_platform(image.config, wanted=self._wanted, chosen_by_user=self._chosen_by_user, name=name)
        if warning:
            self.warnings.append(warning)
        return image

    # -- OCI layouts -----------------------------------------------------------------------------------------------------------

    def layout(self) -> list[FileImage]:
        """The images of ``index.json``, those of one digest joined."""
        version = load_json(read_member(self._members, "oci-layout", limit_bytes=4096), "oci-layout")
        if not isinstance(version, dict) or version.get("imageLayoutVersion") != "1.0.0":
            raise NotSupported("an OCI layout of another version than 1.0.0", code="not-supported")
        data = read_member(self._members, "index.json", limit_bytes=LARGEST_MANIFEST_BYTES)
        if check_kind(data, media_type=MEDIA_INDEX, name="index.json") is not Kind.INDEX:
            raise bad_file("index.json is no index")
        found = parse_index(data)
        if len(found) > MOST_IMAGES:
            raise bad_file(f"index.json names {len(found)} images; at most {MOST_IMAGES} are read")
        chosen: dict[str, list[Reference]] = {}
        descriptors: dict[str, Descriptor] = {}
        for names, descriptor in self._choose(found):
            descriptors.setdefault(descriptor.digest, descriptor)
            known = chosen.setdefault(descriptor.digest, [])
            known += [name for name in names if name not in known]
        return [self.checked(self._image(descriptors[digest], tuple(names))) for digest, names in chosen.items()]

    def _choose(self, found: Sequence[Descriptor]) -> list[tuple[tuple[Reference, ...], Descriptor]]:
        """One descriptor for each name; those without a name all, unless they are one image for several platforms."""
        groups: dict[str, list[Descriptor]] = {}
        references: dict[str, tuple[Reference, ...]] = {}
        for descriptor in self._images_among(found):
            names = self._names(descriptor)
            key = str(names[0]) if names else ""
            references[key] = names
            if descriptor.digest not in [other.digest for other in groups.setdefault(key, [])]:
                groups[key].append(descriptor)
        chosen = []
        for key, group in groups.items():
            platforms = {str(item.platform) for item in group if item.platform is not None}
            if len(group) > 1 and len(platforms) == len(group):
                chosen.append((references[key], choose_platform(group, self._wanted, name=key or "the file")))
            elif len(group) > 1 and key:
                raise bad_file(f"index.json says {len(group)} times what {references[key][0].familiar} is")
            else:
                chosen += [(references[key], descriptor) for descriptor in group]
        return chosen

    def _images_among(self, found: Sequence[Descriptor]) -> list[Descriptor]:
        """Without attestations and other things that stand in indexes beside images; a note says what was left out."""
        images = []
        for item in found:
            if _ATTESTATION in item.annotations or (item.platform is not None and item.platform.os == "unknown"):
                self.notes.append(f"left out: an attestation ({item.digest[:19]})")
            elif item.media_type not in _KINDS:
                self.notes.append(f"left out: {item.media_type[:100]!r}, which is no image")
            else:
                images.append(item)
        return images

    def _names(self, descriptor: Descriptor) -> tuple[Reference, ...]:
        full, short = descriptor.annotations.get(CONTAINERD_NAME), descriptor.annotations.get(REF_NAME, "")
        if full is None and short and not re.search(r"[:/@]", short):
            self.notes.append(f"{short!r} is a tag without a repository; `contain tag` gives the image a name")
            return ()
        text = full or short
        return _references([text]) if text else ()

    def _image(self, descriptor: Descriptor, names: tuple[Reference, ...]) -> FileImage:
        shown = names[0].familiar if names else descriptor.digest[:19]
        siblings: set[str] = set()
        for _ in range(MOST_INDEXES + 1):
            data = self._blob(descriptor, limit_bytes=LARGEST_MANIFEST_BYTES)
            kind = check_kind(data, media_type="", name=shown)
            if kind is not _KINDS[descriptor.media_type]:
                raise bad_file(f"{shown}: {descriptor.digest} is not of the kind that its index says")
            if kind is Kind.MANIFEST:
                break
            inner = self._images_among(parse_index(data))
            siblings |= self._configs(inner, name=shown)
            descriptor = choose_platform(inner, self._wanted, name=shown)
        else:
            raise bad_file(f"{shown}: more than {MOST_INDEXES} indexes, one within the other")
        manifest = parse_manifest(data)
        check_manifest(manifest, name=shown)
        config_data = self._blob(manifest.config, limit_bytes=LARGEST_CONFIG_BYTES)
        config = parse_config(config_data)
        self.siblings[manifest.config.digest] = siblings
        layers = []
        for layer, diff_id in pair_layers(manifest, config, name=shown):
            member = blob_member(layer.digest)
            self._check_size(member, layer.size)
            layers.append(FileLayer(member=member, diff_id=diff_id, digest=layer.digest, media_type=layer.media_type))
        return FileImage(names=names, manifest=data, config_data=config_data, config=config, layers=tuple(layers))

    def _configs(self, found: Sequence[Descriptor], *, name: str) -> set[str]:
        """The configs of those manifests of an index that the file has. Those of other platforms may be missing."""
        configs = set()
        for item in found:
            if blob_member(item.digest) in self._members.sizes() and _KINDS[item.media_type] is Kind.MANIFEST:
                data = self._blob(item, limit_bytes=LARGEST_MANIFEST_BYTES)
                if check_kind(data, media_type="", name=name) is Kind.MANIFEST:
                    configs.add(parse_manifest(data).config.digest)
        return configs

    def _check_size(self, member: str, size: int) -> None:
        actual = self._members.sizes().get(member)
        if actual is None:
            raise bad_file(f"{member} is missing")
        if actual != size:
            raise bad_file(f"{member} has {actual} bytes, and {size} were promised")

    def _blob(self, descriptor: Descriptor, *, limit_bytes: int) -> bytes:
        member = blob_member(descriptor.digest)
        self._check_size(member, descriptor.size)
        data = read_member(self._members, member, limit_bytes=limit_bytes)
        if digest_of(data) != descriptor.digest:
            raise bad_file(f"{member} has the digest {digest_of(data)}")
        return data

    # -- docker save -------------------------------------------------------------------------------------------------------------

    def docker(self) -> list[_DockerImage]:
        """The entries of ``manifest.json``."""
        value = load_json(read_member(self._members, "manifest.json", limit_bytes=LARGEST_MANIFEST_BYTES), "manifest.json")
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value) or len(value) > MOST_IMAGES:
            raise bad_file("manifest.json is no list of images")
        found = []
        for item in value:
            config_name, tags, layers = item.get("Config"), item.get("RepoTags") or [], item.get("Layers") or []
            if not isinstance(config_name, str) or not _are_texts(tags) or not _are_texts(layers):
                raise bad_file("manifest.json: an image needs Config, RepoTags and Layers")
            name = member_name(config_name.encode())
            data = read_member(self._members, name, limit_bytes=LARGEST_CONFIG_BYTES)
            digest = digest_of(data)
            promised = _HEX_NAME.search(name)
            if promised and digest != f"sha256:{promised[1]}":
                raise bad_file(f"{name} has the digest {digest}")
            found.append(
                _DockerImage(
                    names=_references(tags),
                    config_data=data,
                    config_digest=digest,
                    layers=tuple(member_name(layer.encode()) for layer in layers),
                )
            )
        return found

    def docker_images(self) -> list[FileImage]:
        """The images of ``manifest.json``, each name once."""
        images: dict[str, FileImage] = {}
        owners: dict[str, str] = {}
        for item in self.docker():
            for reference in item.names:
                if owners.setdefault(str(reference), item.config_digest) != item.config_digest:
                    raise bad_file(f"manifest.json says twice what {reference.familiar} is")
            known = images.get(item.config_digest)
            names = (known.names if known else ()) + item.names
            image = self._docker_image(item, tuple(dict.fromkeys(names)))
            if known and known.layers != image.layers:
                raise bad_file(f"manifest.json says twice which layers {item.config_digest} has")
            images[item.config_digest] = image
        return [self.checked(image) for image in images.values()]

    def _docker_image(self, item: _DockerImage, names: tuple[Reference, ...]) -> FileImage:
        config = parse_config(item.config_data)
        if len(config.diff_ids) != len(item.layers):
            raise bad_file(f"manifest.json names {len(item.layers)} layers, the config {len(config.diff_ids)} diff_ids")
        layers = []
        for member, diff_id in zip(item.layers, config.diff_ids, strict=True):
            if member not in self._members.sizes():
                raise bad_file(f"{member} is missing")
            layers.append(FileLayer(member=member, diff_id=diff_id, digest=None, media_type=MEDIA_LAYER))
        return FileImage(names=names, manifest=None, config_data=item.config_data, config=config, layers=tuple(layers))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _references(texts: Sequence[str]) -> tuple[Reference, ...]:
    """Names as references with a tag. A name with nothing but a digest is none: it says only what the content says too."""
    found = []
    for text in texts:
        try:
            reference = parse_reference(text)
        except UsageError as error:
            raise bad_file(f"an image's name is none: {text[:200]!r}") from error
        if reference.tag is not None:
            found.append(Reference(domain=reference.domain, path=reference.path, tag=reference.tag))
    return tuple(dict.fromkeys(found))


def layer_media_type(data: bytes) -> str:
    """The media type of a layer by its first bytes."""
    if data.startswith(b"\x1f\x8b"):
        return MEDIA_LAYER + "+gzip"
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return MEDIA_LAYER + "+zstd"
    return MEDIA_LAYER

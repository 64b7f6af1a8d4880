"""Images as Docker wrote them before version 1.10: a directory for each layer with ``json`` and ``layer.tar``, and
``repositories`` for the names. Such an image has no config: one is made from its layers' documents, as Docker does when it loads
them. Reads through `Members`; writes nothing.

Source: moby ``image/spec/v1.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from contain.annotations import Any
from contain.archive.layout import FileImage, FileLayer, load_json
from contain.archive.members import Members, bad_file, member_name, read_member
from contain.errors import UsageError
from contain.oci import canonical_json, parse_config
from contain.oci.image import MEDIA_LAYER
from contain.reference import Reference, parse_reference
from contain.registry.manifests import LARGEST_CONFIG_BYTES, LARGEST_MANIFEST_BYTES
from contain.store.compression import Decompressed

_PIECE_BYTES = 1 << 20
_MOST_LAYERS = 500
_KEPT = ("architecture", "author", "config", "created", "docker_version", "os", "variant")


def read_legacy(members: Members) -> list[FileImage]:
    """The images of ``repositories``, or the top layers when there is no such file."""
    reader = _Reader(members)
    heads = reader.names() if "repositories" in members.sizes() else dict.fromkeys(reader.tops(), ())
    return [reader.image(top, names) for top, names in heads.items()]


class _Reader:
    def __init__(self, members: Members) -> None:
        self._members = members
        self._documents: dict[str, dict[str, Any]] = {}
        self._diff_ids: dict[str, str] = {}

    def names(self) -> Mapping[str, tuple[Reference, ...]]:
        """Top layers and their names."""
        value = load_json(read_member(self._members, "repositories", limit_bytes=LARGEST_MANIFEST_BYTES), "repositories")
        found: dict[str, tuple[Reference, ...]] = {}
        for repository, tags in value.items() if isinstance(value, dict) else ():
            for tag, top in tags.items() if isinstance(tags, dict) else ():
                try:
                    reference = parse_reference(f"{repository}:{tag}")
                except UsageError as error:
                    raise bad_file(f"repositories: no name of an image: {repository[:100]!r}") from error
                if not isinstance(top, str):
                    raise bad_file("repositories: a tag must name a layer")
                found[top] = (*found.get(top, ()), reference)
        return found

    def tops(self) -> list[str]:
        """Layers that are no other layer's parent."""
        layers = {name.rpartition("/")[0] for name in self._members.sizes() if name.endswith("/layer.tar")}
        return sorted(layers - {self._document(layer).get("parent") for layer in layers})

    def _document(self, layer: str) -> dict[str, Any]:
        if layer not in self._documents:
            name = member_name(f"{layer}/json".encode())
            value = load_json(read_member(self._members, name, limit_bytes=LARGEST_CONFIG_BYTES), name)
            if not isinstance(value, dict):
                raise bad_file(f"{name} is no JSON object")
            if not isinstance(value.get("parent", ""), str | None):
                raise bad_file(f"{name}: a layer's parent is a name")
            self._documents[layer] = value
        return self._documents[layer]

    def _diff_id(self, layer: str) -> str:
        if layer not in self._diff_ids:
            found = hashlib.sha256()
            with self._members.open(member_name(f"{layer}/layer.tar".encode())) as file, Decompressed(file) as plain:
                while data := plain.read(_PIECE_BYTES):
                    found.update(data)
            self._diff_ids[layer] = "sha256:" + found.hexdigest()
        return self._diff_ids[layer]

    def image(self, top: str, names: tuple[Reference, ...]) -> FileImage:
        """The image whose top layer is ``top``."""
        chain: list[str] = []
        layer: object = top
        while layer:
            if not isinstance(layer, str) or layer in chain or len(chain) == _MOST_LAYERS:
                raise bad_file(f"the parents of layer {top[:64]} do not come to an end")
            chain.append(layer)
            layer = self._document(layer).get("parent")
        chain.reverse()
        document = {key: value for key, value in self._document(top).items() if key in _KEPT}
        diff_ids = [self._diff_id(layer) for layer in chain]
        document["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
        document["history"] = [_history(self._document(layer)) for layer in chain]
        data = canonical_json(document)
        layers = tuple(
            FileLayer(member=f"{layer}/layer.tar", diff_id=diff_id, digest=None, media_type=MEDIA_LAYER)
            for layer, diff_id in zip(chain, diff_ids, strict=True)
        )
        return FileImage(names=names, manifest=None, config_data=data, config=parse_config(data), layers=layers)


def _history(document: Mapping[str, Any]) -> dict[str, Any]:
    ran = document.get("container_config")
    command = ran.get("Cmd") if isinstance(ran, dict) else None
    row = {key: document[key] for key in ("created", "author", "comment") if isinstance(document.get(key), str)}
    if isinstance(command, list):
        row["created_by"] = " ".join(str(part) for part in command)
    return row

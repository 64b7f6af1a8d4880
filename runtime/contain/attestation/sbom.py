"""An inventory as a CycloneDX 1.6 bill of materials in JSON. Values to bytes.

The same image gives the same bytes, whatever it is called and whenever this is done: no timestamp, and a serial number that is
made from the bill itself. Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid

from contain.annotations import Any
from contain.attestation.inventory import Component, Inventory, OperatingSystem
from contain.attestation.licences import Licences
from contain.oci import Image, digest_of
from contain.values import dataclass

SPECIFICATION = "1.6"
_TITLE_LABEL = "org.opencontainers.image.title"
_VERSION_LABEL = "org.opencontainers.image.version"
_HASHES = {"sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}
_PREFIX = "contain:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The image that a bill is about."""

    digest: str
    title: str = ""
    version: str = ""
    platform: str = ""
    layers: tuple[str, ...] = ()


def subject_of(image: Image) -> Subject:
    """What a bill says of an image; nothing that could differ between two copies of it, such as its names in a store."""
    return Subject(
        digest=image.digest,
        title=image.config.labels.get(_TITLE_LABEL, ""),
        version=image.config.labels.get(_VERSION_LABEL, ""),
        platform=str(image.config.platform),
        layers=image.config.diff_ids,
    )


def render_sbom(subject: Subject, inventory: Inventory, *, tool_version: str) -> bytes:
    """The bill's bytes, indented, with a newline at the end."""
    components = [*([_system(inventory.system)] if inventory.system else []), *map(_component, inventory.components)]
    _distinct(components)
    reference = f"image:{subject.digest}"
    value: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "contain", "version": tool_version}]},
            "component": _image(subject, reference),
        },
        "components": components,
        "dependencies": [{"ref": reference, "dependsOn": sorted(each["bom-ref"] for each in components)}],
        "compositions": [
            {"aggregate": "incomplete" if inventory.unread else "unknown", "assemblies": [reference]},
        ],
    }
    if inventory.unread:
        value["metadata"]["properties"] = [
            {"name": f"{_PREFIX}unread:{name}", "value": reason} for name, reason in inventory.unread.items()
        ]
    # The serial number names these bytes: another version of contain may find more in the same image.
    value["serialNumber"] = f"urn:uuid:{_uuid(digest_of(_text(value)))}"
    return _text(value)


def _text(value: dict[str, Any]) -> bytes:
    """Names of files may hold bytes that are no text, and JSON inside an image halves of characters: shown as question marks."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _uuid(digest: str) -> uuid.UUID:
    """A UUID made from a digest. Source: RFC 9562, section 5.8 (version 8: custom)."""
    number = int(digest.removeprefix("sha256:")[:32], 16)
    number &= ~(0xF << 76) & ~(0x3 << 62)
    return uuid.UUID(int=number | 0x8 << 76 | 0x2 << 62)


def _image(subject: Subject, reference: str) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "container",
        "bom-ref": reference,
        "name": subject.title or "image",
        "version": subject.version or subject.digest,
        "hashes": [{"alg": "SHA-256", "content": subject.digest.removeprefix("sha256:")}],
        "properties": [
            *([{"name": f"{_PREFIX}platform", "value": subject.platform}] if subject.platform else []),
            *({"name": f"{_PREFIX}layer:{number}", "value": diff_id} for number, diff_id in enumerate(subject.layers, 1)),
        ],
    }
    return value


def _system(system: OperatingSystem) -> dict[str, Any]:
    value = {
        "type": "operating-system",
        "bom-ref": f"system:{system.identity}-{system.version}",
        "name": system.identity,
        "description": system.title,
    }
    if system.version:
        value["version"] = system.version
    return value


def _component(component: Component) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
    }
    if component.manager == "npm" and "/" in component.name:
        value["group"], value["name"] = component.name.split("/", 1)
    if (licences := _licences(component.licences)) is not None:
        value["licenses"] = licences
    hashes = [{"alg": _HASHES[name], "content": text} for name, text in component.checksums.items() if name in _HASHES]
    if hashes:
        value["hashes"] = hashes
    if component.places:
        value["evidence"] = {"occurrences": [{"location": place} for place in component.places]}
    facts = {
        "manager": component.manager,
        "architecture": component.architecture,
        "source-package": component.source,
        "installed-from": component.local,
    }
    value["properties"] = [{"name": f"{_PREFIX}{name}", "value": text} for name, text in sorted(facts.items()) if text]
    return value


def _licences(licences: Licences) -> list[dict[str, Any]] | None:
    if licences.expression:
        return [{"expression": licences.expression}]
    if licences.names:
        return [{"license": {"name": name}} for name in licences.names]
    return None


def _distinct(components: list[dict[str, Any]]) -> None:
    """Give each a reference of its own: one version may come from an index and from a directory."""
    seen: dict[str, int] = {}
    for component in components:
        reference = component["bom-ref"]
        seen[reference] = seen.get(reference, 0) + 1
        if seen[reference] > 1:
            component["bom-ref"] = f"{reference}#{seen[reference]}"

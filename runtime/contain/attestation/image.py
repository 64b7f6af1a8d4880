"""The documents of one image of the store: taken from what is attached, or made. The doer of this package."""

from __future__ import annotations

from types import MappingProxyType

from contain.annotations import TYPE_CHECKING
from contain.attestation.attach import (
    ARTIFACT_PROVENANCE,
    ARTIFACT_SBOM,
    PREDICATE_ANNOTATION,
    Attestation,
    attach,
    attestations_of,
)
from contain.attestation.inventory import Inventory, take_inventory
from contain.attestation.provenance import PREDICATE_TYPE, BuildInputs, render_provenance
from contain.attestation.sbom import render_sbom, subject_of
from contain.errors import NotFound
from contain.oci import Image
from contain.store import RootView
from contain.values import replace

if TYPE_CHECKING:
    from contain.store import Store

_DISTRIBUTION = "pytest-contain"


def tool_version() -> str:
    """The version of contain that makes the documents."""
    from importlib.metadata import version

    return version(_DISTRIBUTION)


def image_inventory(image: Image, store: Store, *, on_host: bool, details: bool = True) -> Inventory:
    """What is installed in an image. ``on_host``: it stands on a machine's own root, of which nothing is listed; the list says so."""
    with RootView(store.layer_trees(image)) as view:
        found = take_inventory(view, details=details)
    if on_host:
        why = "the machine's own root, on which this image stands, is no part of the image"
        found = replace(found, unread=MappingProxyType({**found.unread, "host": why}))
    return found


def image_sbom(image: Image, store: Store, *, on_host: bool, keep: bool = False) -> bytes:
    """An image's bill of materials: the attached one, else a new one. ``keep``: make it anew and attach it."""
    attached = () if keep else attestations_of(store, image.digest, artifact_type=ARTIFACT_SBOM)
    if attached:
        return attached[0].document
    inventory = image_inventory(image, store, on_host=on_host)
    document = render_sbom(subject_of(image), inventory, tool_version=tool_version())
    if keep:
        attach(store, image.digest, document, artifact_type=ARTIFACT_SBOM)
    return document


def attach_provenance(image: Image, store: Store, inputs: BuildInputs) -> Attestation:
    """Keep with an image how it was made."""
    document = render_provenance(image.digest, inputs, tool_version=tool_version())
    annotations = {PREDICATE_ANNOTATION: PREDICATE_TYPE}
    return attach(store, image.digest, document, artifact_type=ARTIFACT_PROVENANCE, annotations=annotations)


def image_provenance(image: Image, store: Store) -> bytes:
    """The newest statement that is attached to an image. Raises `NotFound` (code ``no-provenance``)."""
    for attached in attestations_of(store, image.digest, artifact_type=ARTIFACT_PROVENANCE):
        if attached.annotations.get(PREDICATE_ANNOTATION) == PREDICATE_TYPE:
            return attached.document
    raise NotFound(
        f"nothing is attached to {image.digest} that says how it was made",
        code="no-provenance",
        remedy="build it again with `contain build --provenance`; from the cache that takes no time",
    )

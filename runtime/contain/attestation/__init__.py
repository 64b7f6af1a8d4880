"""What an image says about itself to other people's tools: what is in it (CycloneDX), and how it was made (SLSA provenance).

`take_inventory` reads what is installed, `render_sbom` and `render_provenance` make the documents, `attach` puts a document into
the store as an artifact whose subject is the image, `attestations_of` finds them again. Every document is a function of the
image and its inputs alone: no clock, no random number, no name of a machine.
"""

from contain.attestation.attach import (
    ARTIFACT_PROVENANCE,
    ARTIFACT_SBOM,
    Attestation,
    attach,
    attestations_of,
    render_artifact_manifest,
)
from contain.attestation.image import attach_provenance, image_inventory, image_provenance, image_sbom
from contain.attestation.inventory import Component, Inventory, OperatingSystem, take_inventory
from contain.attestation.provenance import BUILD_TYPE, BUILDER_ID, BuildInputs, Dependency, StepLayer, render_provenance
from contain.attestation.sbom import render_sbom

__all__ = [
    "ARTIFACT_PROVENANCE",
    "ARTIFACT_SBOM",
    "BUILDER_ID",
    "BUILD_TYPE",
    "Attestation",
    "BuildInputs",
    "Component",
    "Dependency",
    "Inventory",
    "OperatingSystem",
    "StepLayer",
    "attach",
    "attach_provenance",
    "attestations_of",
    "image_inventory",
    "image_provenance",
    "image_sbom",
    "render_artifact_manifest",
    "render_provenance",
    "render_sbom",
    "take_inventory",
]

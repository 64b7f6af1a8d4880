"""Image types: descriptors, manifests, configs. Text to value and back; no I/O.

Source of the rules: OCI image-spec 1.1 and, for the extra fields, the Docker image specification v1.2.
"""

from contain.oci.image import (
    Descriptor,
    Healthcheck,
    History,
    Image,
    ImageConfig,
    Manifest,
    Platform,
    canonical_json,
    digest_of,
    is_digest,
    parse_config,
    parse_index,
    parse_json,
    parse_manifest,
    render_config,
    render_manifest,
)

__all__ = [
    "Descriptor",
    "Healthcheck",
    "History",
    "Image",
    "ImageConfig",
    "Manifest",
    "Platform",
    "canonical_json",
    "digest_of",
    "is_digest",
    "parse_config",
    "parse_index",
    "parse_json",
    "parse_manifest",
    "render_config",
    "render_manifest",
]
